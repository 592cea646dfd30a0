//! The producers' socket: lines in, replies out, in their order.
//!
//! Guarantees:
//! - one reply for every line, in the order of the lines; one bad line harms no other line;
//! - a line is answered `queued` only after the [`Admission`] said that it is stored; where the commit was lost, the
//!   connection closes without a reply, which means "outcome unknown";
//! - a producer that closes without having read its replies loses nothing but these;
//! - a short reply is written by the very thread that stored its line, where everything before it is written; any other
//!   by the connection's task;
//! - memory is bounded: a line by `max_line`; long lines together by `buffer_max_bytes`, until their replies are written;
//!   what one connection has in work by [`MAX_BATCH_BYTES`], the replies that wait on it by [`MAX_REPLY_BYTES`], the
//!   receipts on all of them by [`MAX_SLIP_BYTES`]. At a limit the connection is no longer read.

mod accept;
mod connection;
mod control;
mod counts;
mod framing;
mod listener;
mod outbox;
mod slip;
#[cfg(test)]
mod tests;
mod vacate;

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

pub use self::accept::Failures;
pub use self::control::Control;
pub use self::counts::{Counter, Counts};
pub use self::framing::{Frame, Framer};
pub use self::listener::{BindError, Listener};
pub use self::slip::Slip;
pub use self::vacate::{Obstacle, vacate};
use crate::wire::reply::Replier;
use crate::wire::submission::Submission;

/// The most lines of one connection that are handed on together.
pub const MAX_BATCH_LINES: usize = 256;
/// The most bytes of lines that are handed on together, but for a last line that goes beyond.
pub const MAX_BATCH_BYTES: usize = 16 * 1_024;
/// The most batches of one connection that wait for their replies; then it is not read.
pub const MAX_WAITING_BATCHES: usize = 64;
/// What the replies that wait on one connection may hold, in bytes, but for one batch that alone goes beyond.
pub const MAX_REPLY_BYTES: usize = 256 * 1_024;
/// A line up to this length costs no share of `buffer_max_bytes`.
pub const SHORT_LINE_BYTES: usize = 64 * 1_024;
/// A peer that takes no byte for this long while replies wait is closed.
pub const WRITE_STALL: Duration = Duration::from_secs(30);
/// As [`WRITE_STALL`], from the shutdown on.
pub const WRITE_STALL_AT_SHUTDOWN: Duration = Duration::from_secs(5);
/// What the receipts of all connections may hold until they are written, in bytes; beyond it a line is stored without
/// one, and a receipt comes without its response.
pub const MAX_SLIP_BYTES: usize = 64 * 1_024 * 1_024;
/// How long a connection is read and discarded after the daemon shut down its writing side.
pub const LINGER_AT_SHUTDOWN: Duration = Duration::from_secs(1);

/// Who takes submissions in: the queue, or its stand-in in a test.
pub trait Admission: Clone + Send + Sync + 'static {
    /// Hands on a batch of the connection `producer`, and waits while there is no room for it (back-pressure). `slips` are
    /// the receipts that are asked for, by the position in the batch; `replier` hears what became of
    /// it; where the commit is lost it is dropped.
    fn append(
        &self,
        producer: u64,
        batch: Vec<Submission>,
        slips: Vec<(usize, Slip)>,
        replier: Box<dyn Replier>,
    ) -> impl Future<Output = ()> + Send;
}

/// How the socket behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the socket is made (`ingest.socket`).
    pub socket: PathBuf,
    /// Its permissions (`ingest.mode`).
    pub mode: u32,
    /// Users who may submit, by uid; with `allow_groups` empty too: everybody who can open the socket.
    pub allow_users: Vec<u32>,
    /// Groups who may submit, by gid of the peer.
    pub allow_groups: Vec<u32>,
    /// The most bytes of a line without its end (`ingest.max_line`).
    pub max_line: usize,
    /// The most connections at a time (`ingest.max_connections`).
    pub max_connections: usize,
    /// The most connections of one user at a time (`ingest.max_connections_per_user`).
    pub max_connections_per_user: usize,
    /// A connection that owes and is owed nothing for this long is closed.
    pub idle_timeout: Duration,
    /// A line that was begun must end within this.
    pub line_timeout: Duration,
    /// What all lines over [`SHORT_LINE_BYTES`] may hold together, in bytes (`ingest.buffer_max_bytes`).
    pub buffer_max_bytes: usize,
    /// The most receipts that one connection waits for (`ingest.max_receipts`).
    pub max_receipts: usize,
}
