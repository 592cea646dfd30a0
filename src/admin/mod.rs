//! The operator's socket: what the daemon does, why something waits, and what to do about it.
//!
//! One JSON object a line in, with an `op` ([`protocol::Request`]); lines out ([`protocol::Answer`]), the last of which is
//! `done` or `error`. A connection may ask one thing after the other.
//!
//! Guarantees:
//! - only root and the daemon's own user are served, whatever the socket's mode is;
//! - memory is bounded at any backlog: what is listed is read in pages of [`PAGE_EVENTS`] and [`PAGE_BYTES`], each written before
//!   the next one is read, and every list has a most; a slow or silent peer holds nothing but its own connection;
//! - nothing here settles an event but `queue drop`, which makes dead letters of what nobody is sending;
//! - a change is durable before it is answered `done`; a pause or a hold on a full disk is in force then, and its answer says
//!   that it is not stored yet.

mod connection;
mod controls;
mod dead;
mod held;
mod names;
mod office;
pub mod protocol;
mod queue;
mod select;
mod socket;
mod status;
mod tail;

use std::path::PathBuf;
use std::time::Duration;

pub use self::controls::restored;
pub use self::held::restored_sessions;
pub use self::office::{Bury, Office, Refusal};
pub use self::socket::{AdminError, AdminSocket};

/// The most connections at a time.
pub const MAX_CONNECTIONS: usize = 16;
/// The longest request, in bytes.
pub const MAX_LINE_BYTES: u64 = 64 * 1_024;
/// A connection that asks nothing for this long is closed.
pub const IDLE: Duration = Duration::from_secs(600);
/// A peer that takes no byte for this long is closed.
pub const WRITE_STALL: Duration = Duration::from_secs(30);
/// The most lanes, events or dead letters that one request lists.
pub const MAX_LISTED: usize = 10_000;
/// The events or dead letters that are read and held at a time.
pub const PAGE_EVENTS: usize = 1_024;
/// The bytes of them, after which a page has no more.
pub const PAGE_BYTES: usize = 8 * 1_024 * 1_024;

/// How the socket is made (`[admin]` in the configuration).
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where.
    pub socket: PathBuf,
    /// Its permissions.
    pub mode: u32,
}
