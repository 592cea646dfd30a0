//! A look at what waits, for an operator: in pages, beside the writer, and without changing anything.

use super::Store;
use super::engine::Engine;
use super::error::Failed;
use super::keys::PageKey;
use super::pages::{mark_of_page, walk};
use crate::event::{Entry, Seq, SessionId};
use crate::wire::record::Page;

/// An event that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// What the scheduler knows of it.
    pub entry: Entry,
    /// Its session.
    pub session: SessionId,
}

/// What one look found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// The events that are not settled, in their order.
    pub found: Vec<Sighting>,
    /// Where the next look goes on; `None` behind the last durable event.
    pub next: Option<Seq>,
}

impl Store {
    /// The unsettled events from `from` on and before `end`, until a page ends with at least `max` found. Pages that
    /// cannot be read are passed over: the scan of the queue tells of them. Blocks on the disk.
    ///
    /// # Errors
    /// [`Failed`]: the engine cannot read.
    pub fn survey(&self, from: Seq, end: Seq, max: usize) -> Result<Survey, Failed> {
        self.read(|engine| survey(engine, from, end.min(self.tail()), max))
    }
}

fn survey(engine: &Engine, from: Seq, end: Seq, max: usize) -> Result<Survey, sled::Error> {
    let mut survey = Survey::default();
    let next = walk(engine, from, end, |page, record| {
        look(engine, page, record, from..end, &mut survey)?;
        Ok(survey.found.len() >= max)
    })?;
    survey.next = next;
    Ok(survey)
}

fn look(
    engine: &Engine,
    key: PageKey,
    record: &[u8],
    wanted: std::ops::Range<Seq>,
    survey: &mut Survey,
) -> Result<(), sled::Error> {
    let Some(mark) = mark_of_page(engine, key)? else { return Ok(()) };
    let left = key.left(mark.bits);
    let Ok(page) = Page::decode(record) else { return Ok(()) };
    if left == 0 || page.len() != usize::from(key.count) {
        return Ok(());
    }
    let mut last: Option<SessionId> = None;
    for (position, entry) in page.entries(key.first).enumerate() {
        if left & key.bit(entry.seq) == 0 || !wanted.contains(&entry.seq) {
            continue;
        }
        let Some(text) = page.session(position) else { continue };
        if last.as_ref().is_none_or(|last| last.as_str() != text) {
            last = SessionId::new(text).ok();
        }
        survey.found.extend(last.clone().map(|session| Sighting { entry, session }));
    }
    Ok(())
}
