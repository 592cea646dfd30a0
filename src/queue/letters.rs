//! Dead letters: how an event becomes one, and how it goes.

use tracing::warn;

use super::Burial;
use super::engine::CommitError;
use super::keys::{self, DEAD, cut, part};
use super::store::read_event;
use super::writer::{Plan, Writer};
use crate::event::{DeadReason, Moment, Seq};
use crate::wire::record::{DeadLetter, encode_dead};

impl Writer {
    /// Sets an event aside.
    pub(super) fn bury(&mut self, plan: &mut Plan, burial: Burial, at: Moment) -> Result<(), CommitError> {
        let Burial { seq, reason, detail } = burial;
        let Some(event) = read_event(&self.engine, seq)? else {
            warn!(%seq, "an event that is to be set aside cannot be read; it stays where it is");
            return Ok(());
        };
        if !self.settle(plan, seq)? {
            return Ok(());
        }
        // The letter lies in the commit that settles its event: a crash leaves both or none.
        let record = encode_dead(&DeadLetter { event, reason, detail, at });
        for (number, value) in cut(&record) {
            plan.batch.insert(part(DEAD, seq, number), value);
        }
        plan.ledger.held_bytes += record.len() as u64;
        plan.ledger.dead_held += 1;
        match reason {
            DeadReason::Expired => plan.ledger.balance.expired += 1,
            _ => plan.ledger.balance.dead += 1,
        }
        Ok(())
    }

    /// Removes a dead letter. The balance keeps it: it says what became of the event.
    pub(super) fn delete(&mut self, plan: &mut Plan, seq: Seq) -> Result<(), CommitError> {
        if !plan.deleted.insert(seq) {
            return Ok(());
        }
        let mut bytes = 0;
        for record in self.engine.from(part(DEAD, seq, 0)) {
            let (key, value) = record?;
            if keys::seq_of(DEAD, &key) != Some(seq) {
                break;
            }
            bytes += value.len() as u64;
            plan.batch.remove(key);
        }
        if bytes > 0 {
            plan.ledger.held_bytes = plan.ledger.held_bytes.saturating_sub(bytes);
            plan.ledger.dead_held = plan.ledger.dead_held.saturating_sub(1);
        }
        Ok(())
    }
}
