//! Dead letters: how an event becomes one, and how it goes or comes back.

use super::commit_error::CommitError;
use super::keys::{DEAD, cut, numbered, part};
use super::open_page::OpenPage;
use super::plan::Plan;
use super::space::Room;
use super::store::read_events;
use super::writer::Writer;
use super::{Ledger, Requeued};
use crate::event::{Burial, Event, Moment, Seq};
use crate::wire::record::{DeadLetter, decode_dead, encode_dead};
use crate::wire::submission::Notification;

impl Writer {
    /// Sets events aside, as far as one commit has room for them; how many it came to.
    pub(super) fn bury_some(&mut self, plan: &mut Plan, burials: &[Burial]) -> Result<usize, CommitError> {
        let now = (self.now)();
        for (position, burial) in burials.iter().enumerate() {
            if plan.is_long() {
                return Ok(position);
            }
            self.bury(plan, burial, now)?;
        }
        Ok(burials.len())
    }

    /// Sets an event aside.
    fn bury(&mut self, plan: &mut Plan, burial: &Burial, at: Moment) -> Result<(), CommitError> {
        let Burial { seq, reason, detail } = burial;
        let (seq, reason) = (*seq, *reason);
        let mut read = read_events(&self.engine, seq, &[seq])?;
        if let Some(page) = read.unreadable {
            return self.quarantine(plan, page);
        }
        let Some(event) = read.events.pop().flatten() else { return Ok(()) };
        if !self.settle(plan, seq)? {
            return Ok(());
        }
        // An event whose mark was damaged may have a letter already.
        self.delete(plan, seq)?;
        // The letter lies in the commit that settles its event: a crash leaves both or none.
        let record = encode_dead(&DeadLetter { event, reason, detail: detail.clone(), at });
        for (number, value) in cut(&record) {
            plan.batch.insert(part(DEAD, seq, number), value);
        }
        plan.ledger.held_bytes += record.len() as u64;
        plan.ledger.dead_held += 1;
        plan.buried.push(reason);
        *plan.ledger.balance.set_aside(reason) += 1;
        Ok(())
    }

    /// Makes dead letters events again, at the end of the queue, as far as the queue may hold them, and one commit has
    /// room for them; how many it came to. What is no dead letter, or cannot be read, is passed over.
    pub(super) fn requeue(
        &mut self,
        plan: &mut Plan,
        letters: &[Seq],
    ) -> Result<(Requeued, usize), CommitError> {
        let now = (self.now)();
        let (mut requeued, mut came_to) = (Requeued::default(), 0);
        let mut page = OpenPage::default();
        for seq in letters {
            if plan.is_long() {
                break;
            }
            came_to += 1;
            let Some(letter) = self.letter(plan, *seq)? else { continue };
            if let Some(refusal) = self.no_room(&plan.ledger, letter.event.notification.len() as u64) {
                requeued.refusal = Some(refusal);
                break;
            }
            // The letter goes in the commit that brings its event back: a crash leaves one of the two, never both.
            self.delete(plan, *seq)?;
            let count = plan.ledger.balance.set_aside(letter.reason);
            *count = count.saturating_sub(1);
            let Event { id, notification: json, envelope, .. } = letter.event;
            page.add_events(plan, &envelope, vec![Notification { id, json }], now);
            requeued.moved += 1;
        }
        page.close(plan);
        Ok((requeued, came_to))
    }

    /// Why an event may not come back now.
    fn no_room(&mut self, ledger: &Ledger, bytes: u64) -> Option<String> {
        match self.space.room(bytes) {
            Room::RemovalsOnly(free) => Some(self.space.refusal(free)),
            Room::Enough if ledger.balance.pending() >= self.settings.max_events => Some(format!(
                "the queue holds {} of at most {} events (queue.max_events)",
                ledger.balance.pending(),
                self.settings.max_events
            )),
            Room::Enough => None,
        }
    }

    fn letter(&self, plan: &Plan, seq: Seq) -> Result<Option<DeadLetter>, CommitError> {
        if plan.deleted.contains(&seq) {
            return Ok(None);
        }
        let record = self.engine.joined(&numbered(DEAD, seq))?;
        Ok(record.and_then(|record| decode_dead(&record).ok()))
    }

    /// Removes a dead letter; `false` where there is none. The balance keeps it: it says what became of the event.
    pub(super) fn delete(&mut self, plan: &mut Plan, seq: Seq) -> Result<bool, CommitError> {
        if !plan.deleted.insert(seq) {
            return Ok(false);
        }
        let mut bytes = 0;
        for record in self.engine.parts(&numbered(DEAD, seq)) {
            let (key, value) = record?;
            bytes += value.len() as u64;
            plan.batch.remove(key);
        }
        if bytes > 0 {
            plan.ledger.held_bytes = plan.ledger.held_bytes.saturating_sub(bytes);
            plan.ledger.dead_held = plan.ledger.dead_held.saturating_sub(1);
        }
        Ok(bytes > 0)
    }
}
