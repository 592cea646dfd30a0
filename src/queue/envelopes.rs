//! Large envelopes, which lie beside the pages that refer to them: when one of them goes.

use std::collections::BTreeSet;

use super::commit_error::CommitError;
use super::keys::{MEMBERS, PAGE, PageKey, cut, numbered, part, seq_of};
use super::pages::walk;
use super::plan::Plan;
use super::writer::Writer;
use crate::event::Seq;
use crate::wire::record::{Apart, Page};
use crate::wire::submission::MAX_NOTIFICATIONS;

impl Writer {
    /// Removes the large envelopes that no page uses any more once those go that the plan removes: they refer to those of
    /// `apart`, and of the pages `unknown` nobody knows.
    pub(super) fn plan_envelopes(
        &self,
        plan: &mut Plan,
        apart: Vec<Apart>,
        unknown: Vec<PageKey>,
    ) -> Result<(), CommitError> {
        let mut unused = BTreeSet::new();
        for apart in apart {
            if !self.in_use(apart, &plan.removed)? {
                unused.insert(Seq(apart.first));
            }
        }
        for page in unknown {
            unused.extend(self.left_unused(plan, page)?);
        }
        unused.into_iter().try_for_each(|first| self.remove_envelope(plan, first))
    }

    /// Removes the large envelope of the submission that begins at `first`.
    fn remove_envelope(&self, plan: &mut Plan, first: Seq) -> Result<(), CommitError> {
        if !plan.envelopes.insert(first) {
            return Ok(());
        }
        let record = self.engine.joined(&numbered(MEMBERS, first))?.unwrap_or_default();
        for (number, _) in cut(&record) {
            plan.batch.remove(part(MEMBERS, first, number));
        }
        plan.ledger.held_bytes = plan.ledger.held_bytes.saturating_sub(record.len() as u64);
        Ok(())
    }

    /// Whether a page other than those removed refers to a large envelope: only those of its own submission do.
    fn in_use(&self, apart: Apart, removed: &BTreeSet<Seq>) -> Result<bool, sled::Error> {
        let end = Seq(apart.first.saturating_add(u64::from(apart.events)));
        for record in self.engine.from(numbered(PAGE, Seq(apart.first))) {
            let (key, _) = record?;
            let Some((page, _)) = PageKey::read(&key).filter(|(page, _)| page.first < end) else { break };
            if !removed.contains(&page.first) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The large envelope to which no page refers once the page `key` is gone. The page itself cannot tell any more.
    pub(super) fn left_unused(&self, plan: &Plan, key: PageKey) -> Result<Option<Seq>, CommitError> {
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
