//! The durable counters: one small value, written in the same commit as the events that it counts.

use serde::{Deserialize, Serialize};

use crate::event::{Balance, Seq};
use crate::wire::record::{Damage, open, seal};

/// What the queue knows of itself without reading its events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The number that the next event gets.
    pub next: Seq,
    /// How many events became what.
    pub balance: Balance,
    /// The bytes of all stored records: pages, large envelopes and dead letters.
    pub held_bytes: u64,
    /// The dead letters that are held now.
    pub dead_held: u64,
    /// The events that wait, counted one by one as they come and go. Not stored: a start takes it from the balance, and
    /// the first scan holds it against what is there. Before that scan has told of a surplus, more may go than were
    /// promised.
    pub(super) counted: i64,
}

#[derive(Serialize, Deserialize)]
struct Shape {
    next: u64,
    accepted: u64,
    delivered: u64,
    dead: u64,
    expired: u64,
    quarantined: u64,
    held_bytes: u64,
    dead_held: u64,
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self { next: Seq(1), ..Self::default() }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let Balance { accepted, delivered, dead, expired, quarantined } = self.balance;
        let Self { next, held_bytes, dead_held, .. } = *self;
        seal(&Shape { next: next.0, accepted, delivered, dead, expired, quarantined, held_bytes, dead_held })
    }

    pub(super) fn decode(record: &[u8]) -> Result<Self, Damage> {
        let Shape { next, accepted, delivered, dead, expired, quarantined, held_bytes, dead_held } =
            open(record)?;
        let balance = Balance { accepted, delivered, dead, expired, quarantined };
        Ok(Self { next: Seq(next), balance, held_bytes, dead_held, counted: signed(balance.pending()) })
    }

    /// The events that wait, as they were counted.
    #[must_use]
    pub fn counted(&self) -> u64 {
        u64::try_from(self.counted).unwrap_or(0)
    }

    /// This many more events wait.
    pub(super) fn count(&mut self, more: u64) {
        self.counted = self.counted.saturating_add(signed(more));
    }

    /// This many events no longer wait.
    pub(super) fn discount(&mut self, gone: u64) {
        self.counted = self.counted.saturating_sub(signed(gone));
    }

    /// By how much `accepted = delivered + dead + expired + quarantined + pending` does not hold, with the counted
    /// events as those that wait: positive where events are missing.
    #[must_use]
    pub fn imbalance(&self) -> i128 {
        let Balance { accepted, delivered, dead, expired, quarantined } = self.balance;
        let found = [delivered, dead, expired, quarantined].map(i128::from);
        i128::from(accepted) - found.iter().sum::<i128>() - i128::from(self.counted)
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_comes_back_as_it_was() {
        let balance = Balance { accepted: 9, delivered: 3, dead: 2, expired: 1, quarantined: 1 };
        let ledger = Ledger { next: Seq(10), balance, held_bytes: 700, dead_held: 3, counted: 2 };
        assert_eq!(Ledger::decode(&ledger.encode()), Ok(ledger));
        assert_eq!((ledger.balance.pending(), ledger.imbalance()), (2, 0));
        assert_eq!(Ledger { counted: 5, ..ledger }.imbalance(), -3);
        let too_many = Balance { delivered: 9, ..balance };
        assert_eq!(Ledger { balance: too_many, counted: 0, ..ledger }.imbalance(), -4);
    }
}
