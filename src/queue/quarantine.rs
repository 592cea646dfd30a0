//! What cannot be read is moved aside, where no reader looks, and counted to the event.

use tracing::error;

use super::engine::CommitError;
use super::keys::{self, MARK, MEMBERS, PAGE, PageKey, numbered, seq_of};
use super::pages::{self, page_of, walk};
use super::writer::{Plan, Writer};
use crate::event::Seq;
use crate::wire::record::Page;
use crate::wire::submission::MAX_NOTIFICATIONS;

impl Writer {
    /// Moves a page that cannot be read aside, with the events that it had left.
    pub(super) fn quarantine(&mut self, plan: &mut Plan, key: PageKey) -> Result<(), CommitError> {
        if page_of(&self.engine, key.first)? != Some(key) || plan.removed.contains(&key.first) {
            return Ok(());
        }
        // What this very commit settles is counted as that.
        let mark = match plan.touched.remove(&key.first) {
            Some(page) => page.mark,
            None => pages::mark(&self.engine, key)?,
        };
        let left = u64::from(key.left(mark.bits).count_ones());
        self.set_aside(plan, &numbered(PAGE, key.first))?;
        plan.batch.remove(numbered(MARK, key.first));
        plan.ledger.balance.quarantined += left;
        plan.ledger.discount(left);
        plan.removed.insert(key.first);
        if let Some(first) = self.left_alone(plan, key)?
            && plan.alone.insert(first)
        {
            self.set_aside(plan, &numbered(MEMBERS, first))?;
        }
        error!(
            event = "quarantined", page = %key.first, events = left,
            "a page of the queue cannot be read: its events were moved to quarantine. Check the disk: journalctl -k"
        );
        Ok(())
    }

    fn set_aside(&self, plan: &mut Plan, prefix: &[u8]) -> Result<(), CommitError> {
        let mut bytes = 0;
        for record in self.engine.parts(prefix) {
            let (name, value) = record?;
            bytes += value.len() as u64;
            plan.batch.remove(&name);
            plan.batch.insert(keys::quarantine(&name), &*value);
        }
        plan.ledger.held_bytes = plan.ledger.held_bytes.saturating_sub(bytes);
        Ok(())
    }

    /// The large envelope to which no page refers once the page `key` is gone. The page itself cannot tell any more.
    pub(super) fn left_alone(&self, plan: &Plan, key: PageKey) -> Result<Option<Seq>, CommitError> {
        let begin = numbered(MEMBERS, Seq(key.first.0.saturating_sub(MAX_NOTIFICATIONS as u64)));
        let end = [numbered(MEMBERS, key.first), vec![u8::MAX; 2]].concat();
        let last = self.engine.last_in(&*begin..=&*end)?;
        let Some(first) = last.and_then(|(name, _)| seq_of(MEMBERS, &name)) else { return Ok(None) };
        // Only pages of its own submission refer to an envelope; they lie between it and the next one, at most
        // MAX_NOTIFICATIONS events. So the first page left there decides. If it cannot be read, it counts as referring
        // until it is quarantined itself.
        let next = self.engine.from(numbered(MEMBERS, first.next())).next().transpose()?;
        let most = Seq(first.0.saturating_add(MAX_NOTIFICATIONS as u64));
        let end = next.and_then(|(name, _)| seq_of(MEMBERS, &name)).map_or(most, |next| next.min(most));
        let mut used = false;
        walk(&self.engine, first, end, |page, record| {
            if plan.removed.contains(&page.first) {
                return Ok(false);
            }
            let apart = Page::decode(record).map(|page| page.apart());
            used = apart.map_or(true, |apart| apart.is_some_and(|apart| apart.first == first.0));
            Ok(true)
        })?;
        Ok((!used).then_some(first))
    }
}
