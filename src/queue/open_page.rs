//! How submissions become pages of one commit.

use std::sync::Arc;

use super::keys::{MEMBERS, PageKey, cut, part};
use super::pages::{Mark, Members, PageState};
use super::plan::Plan;
use crate::event::{Envelope, Moment, Seq};
use crate::wire::hash;
use crate::wire::record::{Apart, PageBuilder, SMALL_ENVELOPE_BYTES, encode_members};
use crate::wire::submission::{Notification, Submission};

/// The page that a commit is filling.
#[derive(Default)]
pub(super) struct OpenPage {
    page: PageBuilder,
    first: Seq,
    apart: Option<Apart>,
}

impl OpenPage {
    /// The bytes that it holds, which the ledger does not count yet.
    pub(super) fn bytes(&self) -> u64 {
        self.page.bytes() as u64
    }

    /// Adds the events of a submission, and counts them as accepted.
    pub(super) fn add(&mut self, plan: &mut Plan, submission: Submission, now: Moment) {
        let Submission { envelope, notifications, .. } = submission;
        plan.ledger.balance.accepted += notifications.len() as u64;
        self.add_events(plan, &envelope, notifications, now);
    }

    /// Adds events that share an envelope.
    pub(super) fn add_events(
        &mut self,
        plan: &mut Plan,
        envelope: &Arc<Envelope>,
        notifications: Vec<Notification>,
        now: Moment,
    ) {
        let mut apart = None;
        if envelope.members.len() > SMALL_ENVELOPE_BYTES {
            // The submission begins a page and ends one, so that the pages that refer to its envelope are those of its
            // own sequence numbers.
            self.close(plan);
            let first = plan.ledger.next;
            let record = encode_members(&envelope.members);
            for (number, value) in cut(&record) {
                plan.batch.insert(part(MEMBERS, first, number), value);
            }
            plan.ledger.held_bytes += record.len() as u64;
            let events = u16::try_from(notifications.len()).unwrap_or(u16::MAX);
            apart = Some(Apart { first: first.0, events });
        }
        for one in notifications {
            if !self.page.fits(envelope, apart, &one.id, &one.json) {
                self.close(plan);
            }
            if self.page.is_empty() {
                self.first = plan.ledger.next;
                self.apart = apart;
            }
            self.page.push(envelope, apart, now, one.id, one.json);
            plan.ledger.next = plan.ledger.next.next();
            plan.ledger.count(1);
        }
        if apart.is_some() {
            self.close(plan);
        }
    }

    /// Ends the page, if it has an event.
    pub(super) fn close(&mut self, plan: &mut Plan) {
        let page = std::mem::take(&mut self.page);
        if page.is_empty() {
            return;
        }
        let key = PageKey { first: self.first, count: u8::try_from(page.len()).unwrap_or(u8::MAX) };
        let record = page.finish();
        for (number, value) in cut(&record) {
            plan.batch.insert(key.part(number), value);
        }
        let events = page.into_events(key.first);
        for event in events {
            plan.entries.push(hash::entry(&event));
            plan.recent.push(event);
        }
        let bytes = record.len() as u64;
        plan.ledger.held_bytes += bytes;
        let members = self.apart.map_or(Members::Here, Members::Apart);
        plan.fresh.push(PageState { key, mark: Mark::default(), bytes, members });
    }
}
