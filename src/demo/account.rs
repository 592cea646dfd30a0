//! The account of the demonstration: every event, held against what each side knows of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::producer::Submitted;
use crate::event::Balance;
use crate::sandbox::Totals;
use crate::wire::record::DeadLetter;

/// The most dead letters that are read.
pub(super) const MAX_LETTERS: usize = 100_000;
/// The most dead letters that are printed.
const SHOWN_LETTERS: usize = 10;

/// A dead letter of the demonstration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Letter {
    /// The notification's id.
    pub id: String,
    /// Why it was set aside.
    pub reason: String,
    /// What Target said.
    pub detail: String,
}

/// The account of every event.
#[derive(Clone, Debug, Serialize)]
pub struct Account {
    /// Lines that producers had to submit.
    pub submitted: u64,
    /// Lines that they sent again, because the daemon was killed before it replied.
    pub sent_again: u64,
    /// Lines that were refused, by code.
    pub refused: BTreeMap<String, u64>,
    /// Events that were acknowledged.
    pub acknowledged: u64,
    /// Events that the queue accepted: those acknowledged, and those stored without the reply being heard.
    pub accepted: u64,
    /// Events that Target acknowledged.
    pub delivered: u64,
    /// Events set aside for their age.
    pub expired: u64,
    /// Events that could not be read back.
    pub quarantined: u64,
    /// Events still in the queue.
    pub pending: u64,
    /// Requests that the stand-in saw.
    pub requests: u64,
    /// Deliveries that repeated one that Target had taken, its answer lost.
    pub repeated: u64,
    /// Impressions, each counted once by its `impressionId`.
    pub impressions: u64,
    /// Events set aside with the reason.
    pub dead: Vec<Letter>,
    /// Acknowledged events that are neither delivered nor set aside.
    pub missing: u64,
    /// Events that would count twice: two impressions under one id, or one without a mark.
    pub counted_twice: u64,
}

impl Account {
    pub(super) fn new(
        submitted: Submitted,
        taken: &BTreeMap<String, u32>,
        totals: &Totals,
        balance: Balance,
        letters: Vec<DeadLetter>,
    ) -> Self {
        let dead: Vec<Letter> = letters
            .into_iter()
            .map(|letter| Letter {
                id: letter.event.id.as_str().to_owned(),
                reason: letter.reason.to_string(),
                detail: letter.detail,
            })
            .collect();
        let buried: BTreeSet<&str> = dead.iter().map(|letter| letter.id.as_str()).collect();
        let missing = |id: &&String| !taken.contains_key(*id) && !buried.contains(id.as_str());
        let twice = taken.values().filter(|times| **times > 1).count() as u64;
        Self {
            submitted: submitted.lines,
            sent_again: submitted.again,
            acknowledged: submitted.acknowledged.len() as u64,
            accepted: balance.accepted,
            delivered: balance.delivered,
            expired: balance.expired,
            quarantined: balance.quarantined,
            pending: balance.pending(),
            requests: totals.requests,
            repeated: totals.repeated,
            impressions: totals.impressions,
            missing: submitted.acknowledged.iter().filter(missing).count() as u64,
            counted_twice: twice + totals.unmarked,
            refused: submitted.refused,
            dead,
        }
    }

    /// Whether every line was answered, every acknowledged event is delivered or set aside, and none counts twice.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let refused: u64 = self.refused.values().sum();
        let buried: BTreeSet<&str> = self.dead.iter().map(|letter| letter.id.as_str()).collect();
        let settled = self.delivered + self.dead.len() as u64 + self.expired + self.quarantined;
        self.submitted == self.acknowledged + refused
            && self.accepted >= self.acknowledged
            && self.accepted == settled
            && self.pending + self.quarantined + self.missing + self.counted_twice == 0
            && self.impressions + buried.len() as u64 == self.acknowledged
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused: u64 = self.refused.values().sum();
        let codes: Vec<&str> = self.refused.keys().map(String::as_str).collect();
        let rows = [
            ("submitted", self.submitted, "lines, one event each".to_owned()),
            ("sent again", self.sent_again, "lines without a reply when the daemon was killed".to_owned()),
            ("refused", refused, codes.join(", ")),
            ("acknowledged", self.acknowledged, "events on stable storage".to_owned()),
            ("accepted", self.accepted, "by the queue, with those whose reply was lost".to_owned()),
            ("delivered", self.delivered, format!("in {} requests", self.requests)),
            ("repeated", self.repeated, "deliveries whose first answer was lost".to_owned()),
            ("impressions", self.impressions, "each counted once".to_owned()),
            ("dead letters", self.dead.len() as u64, "refused for good".to_owned()),
            ("expired", self.expired, String::new()),
            ("quarantined", self.quarantined, String::new()),
            ("pending", self.pending, "still in the queue".to_owned()),
            ("missing", self.missing, "acknowledged, and gone".to_owned()),
            ("counted twice", self.counted_twice, String::new()),
        ];
        for (name, count, about) in rows {
            writeln!(f, "{}", format!("{name:>14} {count:>9}  {about}").trim_end())?;
        }
        for letter in self.dead.iter().take(SHOWN_LETTERS) {
            writeln!(f, "  dead letter {}: {}: {}", letter.id, letter.reason, letter.detail)?;
        }
        if self.dead.len() > SHOWN_LETTERS {
            writeln!(f, "  and {} more", self.dead.len() - SHOWN_LETTERS)?;
        }
        match self.is_whole() {
            true => write!(f, "The account is whole: nothing is lost, and nothing counts twice."),
            false => write!(f, "The account is NOT whole."),
        }
    }
}
