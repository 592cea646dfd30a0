//! The account of a queue, and whom the queue belongs to.

use super::DeadReason;

/// The Adobe account that a queue's events are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The client code.
    pub client: String,
    /// The IMS organisation id.
    pub organization: String,
}

/// How many events became what, over the life of a queue.
///
/// Invariant: `accepted = delivered + dead + expired + quarantined + pending`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Events whose submission was answered `queued`.
    pub accepted: u64,
    /// Events that Target acknowledged.
    pub delivered: u64,
    /// Events set aside for any reason but age.
    pub dead: u64,
    /// Events set aside because of their age.
    pub expired: u64,
    /// Events that could not be read back from the disk.
    pub quarantined: u64,
}

impl Balance {
    /// How many were set aside for `reason`, and for those that are counted with it.
    pub fn set_aside(&mut self, reason: DeadReason) -> &mut u64 {
        match reason {
            DeadReason::Expired => &mut self.expired,
            DeadReason::Refused | DeadReason::NotAcknowledged | DeadReason::Dropped => &mut self.dead,
        }
    }

    /// The events that must still be in the queue for the account to balance.
    #[must_use]
    pub fn pending(&self) -> u64 {
        let settled = [self.delivered, self.dead, self.expired, self.quarantined];
        settled.iter().fold(self.accepted, |left, part| left.saturating_sub(*part))
    }
}
