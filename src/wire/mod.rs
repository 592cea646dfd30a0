//! Pure codecs between bytes and the vocabulary: what producers write and read, and what Target reads and answers.
//!
//! Guarantees: no clock, no socket, no disk; every input may be hostile, and none of it panics.

pub mod controls;
pub mod cookie;
pub mod defaults;
pub mod hash;
mod identifiers;
pub mod object;
pub mod receipt;
pub mod record;
pub mod reply;
pub mod request;
pub mod response;
pub mod submission;

pub use self::identifiers::Identifiers;
