//! How old the events are that wait, by host: the table that `qshape` prints.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::event::Host;

/// The upper bounds of the columns, in minutes; a last column has none.
pub const AGE_MINUTES: [u64; 9] = [5, 10, 20, 40, 80, 160, 320, 640, 1_280];
/// The columns of the table.
const AGE_COLUMNS: usize = AGE_MINUTES.len() + 1;
/// The most hosts with a row of their own; those beyond share one.
const MAX_ROWS: usize = 64;

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ages(BTreeMap<Option<Host>, [u64; AGE_COLUMNS]>);

impl Ages {
    /// Counts an event of `host`.
    pub fn add(&mut self, host: Host, age: Duration) {
        let key = (self.0.contains_key(&Some(host)) || self.0.len() < MAX_ROWS).then_some(host);
        let row = self.0.entry(key).or_default();
        let minutes = age.as_secs() / 60;
        let column = AGE_MINUTES.iter().position(|bound| minutes < *bound).unwrap_or(AGE_MINUTES.len());
        if let Some(count) = row.get_mut(column) {
            *count += 1;
        }
    }

    /// The rows: the host, `None` for all those without a row of their own, and how many are of which age.
    pub fn rows(&self) -> impl Iterator<Item = (Option<Host>, &[u64; AGE_COLUMNS])> {
        self.0.iter().map(|(host, row)| (*host, row))
    }

    /// How many were counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().flatten().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Cluster;

    #[test]
    fn events_stand_in_the_column_of_their_age_and_hosts_beyond_the_most_share_a_row() {
        let mut ages = Ages::default();
        for (minutes, column) in [(0, 0), (4, 0), (5, 1), (19, 2), (1_279, 8), (1_280, 9), (u64::MAX / 60, 9)]
        {
            ages.add(Host::Client, Duration::from_secs(minutes * 60));
            assert!(ages.rows().next().is_some_and(|(_, row)| row[column] > 0), "{minutes} minutes");
        }
        for cluster in 0..200 {
            let cluster = Cluster::parse(&format!("{cluster}")).unwrap();
            ages.add(Host::Edge(cluster), Duration::ZERO);
        }
        assert_eq!(ages.rows().count(), MAX_ROWS + 1);
        assert_eq!(ages.total(), 207);
    }
}
