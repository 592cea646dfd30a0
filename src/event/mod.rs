//! The vocabulary that all floors share: what an event is, which lane it runs in, and what became of it.
//!
//! Guarantees: the types here are plain data. They know no clock, no JSON, no socket and no disk, and none of
//! them is serialisable: the socket, the disk and Target's wire each have shapes of their own.

mod account;
mod clock;
mod cluster;
mod envelope;
mod ids;
mod moment;
mod outcome;
mod unseen;
mod visible;
mod words;

pub use account::{Account, Balance};
pub use clock::Clock;
pub use cluster::{Cluster, Host, NoHost};
pub use envelope::{Added, Entry, Envelope, Event};
pub use ids::{EventId, Fingerprint, IdHash, InvalidSessionId, Lane, Owner, Seq, SessionId, Visitor};
pub use moment::Moment;
pub use outcome::{Answer, Burial, DeadReason, Failure, Known, Outcome};
pub use unseen::is_unseen;
pub use visible::{Visible, VisibleJson};
pub use words::{count, noun, unwritable};
