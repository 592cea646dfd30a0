//! The stored records: pages of events, large envelopes and dead letters.
//!
//! Guarantees:
//! - a record that was damaged on the disk is told apart from a whole one ([`Damage`]), and reading it never panics;
//! - the shapes here belong to the disk alone; changing the vocabulary changes no stored byte.
//!
//! ```text
//! record   = version u8 · body (postcard) · CRC32C of all before, u32 little-endian
//! page     = envelopes* · events*          an event names its envelope by position
//! members  = the members of one large envelope
//! dead     = reason · moment · detail · a page of one event
//! ```

mod page;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::page::{Apart, PAGE_EVENTS, Page, PageBuilder};
use self::page::{EventShape, PageShape, envelope_shape};
use crate::event::{DeadReason, Event, Moment, Seq};

/// The version of the shapes below.
const VERSION: u8 = 1;
/// What a record takes beside its body, and a page's body beside its envelopes and events, at most.
const FRAME_BYTES: usize = 16;
/// An envelope with more bytes than this is stored once for its submission, apart from the pages.
pub const SMALL_ENVELOPE_BYTES: usize = 1_024;

/// Why a record cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Damage {
    /// It is shorter than any record.
    #[error("it is cut short")]
    Short,
    /// Another version of the program wrote it.
    #[error("it has the version {0}, which this program does not know")]
    Version(u8),
    /// Its checksum is wrong.
    #[error("its checksum is wrong")]
    Checksum,
    /// Its checksum is right, but it has no known shape.
    #[error("it has no known shape")]
    Shape,
}

#[derive(Serialize, Deserialize)]
struct DeadShape<'a> {
    seq: u64,
    reason: u8,
    at: u64,
    detail: &'a str,
    #[serde(borrow)]
    page: PageShape<'a>,
}

/// An event that was set aside, with all that it takes to send it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The event as it was stored.
    pub event: Event,
    /// Why it was set aside.
    pub reason: DeadReason,
    /// What Target or the transport said.
    pub detail: String,
    /// When it was set aside.
    pub at: Moment,
}

/// The record of the members of a large envelope.
#[must_use]
pub fn encode_members(members: &[u8]) -> Vec<u8> {
    seal_of(&serde_bytes::Bytes::new(members), members.len())
}

/// Reads the record of a large envelope.
///
/// # Errors
/// [`Damage`]: it is no whole one.
pub fn decode_members(record: &[u8]) -> Result<&[u8], Damage> {
    open::<&serde_bytes::Bytes>(record).map(|bytes| &**bytes)
}

/// The record of a dead letter.
#[must_use]
pub fn encode_dead(letter: &DeadLetter) -> Vec<u8> {
    let event = &letter.event;
    let page = PageShape {
        envelopes: vec![envelope_shape(&event.envelope, None)],
        events: vec![EventShape {
            envelope: 0,
            arrived: event.arrived.as_micros(),
            id: event.id.as_str(),
            notification: &event.notification,
        }],
    };
    let reason = match letter.reason {
        DeadReason::Refused => 1,
        DeadReason::NotAcknowledged => 2,
        DeadReason::Expired => 3,
        DeadReason::Dropped => 4,
    };
    let detail = &letter.detail;
    seal(&DeadShape { seq: event.seq.0, reason, at: letter.at.as_micros(), detail, page })
}

/// Reads the record of a dead letter.
///
/// # Errors
/// [`Damage`]: it is no whole one.
pub fn decode_dead(record: &[u8]) -> Result<DeadLetter, Damage> {
    let shape: DeadShape<'_> = open(record)?;
    let reason = match shape.reason {
        1 => DeadReason::Refused,
        2 => DeadReason::NotAcknowledged,
        3 => DeadReason::Expired,
        4 => DeadReason::Dropped,
        _ => return Err(Damage::Shape),
    };
    let event = Page(shape.page).event(Seq(shape.seq), 0, None).ok_or(Damage::Shape)?;
    Ok(DeadLetter { event, reason, detail: shape.detail.to_owned(), at: Moment::from_micros(shape.at) })
}

/// Closes a body with its version and checksum.
pub(crate) fn seal(body: &impl Serialize) -> Vec<u8> {
    seal_of(body, 0)
}

/// Closes a body of about `bytes`; more makes it slower, as the record then grows while it is written.
fn seal_of(body: &impl Serialize, bytes: usize) -> Vec<u8> {
    let mut record = Vec::with_capacity(bytes + FRAME_BYTES);
    record.push(VERSION);
    // Plain data into a vector cannot fail; an empty record would be told as damage when it is read.
    let mut record = postcard::to_extend(body, record).unwrap_or_default();
    record.extend_from_slice(&crc32c::crc32c(&record).to_le_bytes());
    record
}

/// Opens what [`seal`] closed.
pub(crate) fn open<'a, T: Deserialize<'a>>(record: &'a [u8]) -> Result<T, Damage> {
    let (sealed, checksum) = record.split_last_chunk::<4>().ok_or(Damage::Short)?;
    let (version, body) = sealed.split_first().ok_or(Damage::Short)?;
    if crc32c::crc32c(sealed) != u32::from_le_bytes(*checksum) {
        return Err(Damage::Checksum);
    }
    if *version != VERSION {
        return Err(Damage::Version(*version));
    }
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(Damage::Shape),
    }
}
