//! What cannot be read is moved aside, where no reader looks, and counted to the event.

use tracing::error;

use super::commit_error::CommitError;
use super::keys::{self, MARK, MEMBERS, PAGE, PageKey, numbered};
use super::pages::{self, page_of};
use super::plan::Plan;
use super::writer::Writer;

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
        if let Some(first) = self.left_unused(plan, key)?
            && plan.envelopes.insert(first)
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
}
