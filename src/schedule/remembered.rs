//! What was learned and is worth keeping for a while: bounded in number and in time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::event::Moment;

/// Values by key, each kept for a time after it was last written or touched; beyond the most, those that were not for
/// the longest time go first.
#[derive(Debug)]
pub struct Remembered<K, V> {
    most: usize,
    keep: Duration,
    values: BTreeMap<K, (V, Moment)>,
    by_age: BTreeSet<(Moment, K)>,
}

impl<K: Ord + Copy, V> Remembered<K, V> {
    /// Keeps at most `most` values, each for `keep`.
    #[must_use]
    pub fn new(most: usize, keep: Duration) -> Self {
        Self { most, keep, values: BTreeMap::new(), by_age: BTreeSet::new() }
    }

    /// The value of `key`, if it is still kept.
    #[must_use]
    pub fn get(&self, now: Moment, key: &K) -> Option<&V> {
        self.values.get(key).filter(|(_, at)| now.since(*at) < self.keep).map(|(value, _)| value)
    }

    /// The value of `key`, if it is still kept, and when it was written.
    #[must_use]
    pub fn get_with_time(&self, now: Moment, key: &K) -> Option<(&V, Moment)> {
        self.values.get(key).filter(|(_, at)| now.since(*at) < self.keep).map(|(value, at)| (value, *at))
    }

    /// Keeps `value` for `key` from now on.
    pub fn insert(&mut self, now: Moment, key: K, value: V) {
        self.forget(now);
        if let Some((_, before)) = self.values.insert(key, (value, now)) {
            self.by_age.remove(&(before, key));
        }
        self.by_age.insert((now, key));
        while self.values.len() > self.most && self.forget_first() {}
    }

    /// Takes the value of `key` out.
    pub fn remove(&mut self, now: Moment, key: &K) -> Option<V> {
        self.forget(now);
        let (value, at) = self.values.remove(key)?;
        self.by_age.remove(&(at, *key));
        Some(value)
    }

    /// All keys and values; those whose time is over may be among them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.values.iter_mut().map(|(key, (value, _))| (key, value))
    }

    /// How many are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    fn forget(&mut self, now: Moment) {
        while self.by_age.first().is_some_and(|(at, _)| now.since(*at) >= self.keep) && self.forget_first() {}
    }

    fn forget_first(&mut self) -> bool {
        let first = self.by_age.pop_first();
        first.is_some_and(|(_, key)| self.values.remove(&key).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_millis(seconds * 1_000)
    }

    #[test]
    fn values_go_with_their_time_and_the_oldest_beyond_the_most() {
        let mut kept = Remembered::new(2, Duration::from_secs(10));
        kept.insert(at(1), 'a', 1);
        kept.insert(at(2), 'b', 2);
        kept.insert(at(3), 'a', 3);
        assert_eq!((kept.get(at(3), &'a'), kept.get(at(3), &'b')), (Some(&3), Some(&2)));
        kept.insert(at(4), 'c', 4);
        assert_eq!((kept.len(), kept.get(at(4), &'b')), (2, None), "the one written longest ago went");
        assert_eq!((kept.get(at(12), &'a'), kept.get(at(13), &'a')), (Some(&3), None));
        assert_eq!((kept.remove(at(13), &'a'), kept.remove(at(13), &'c'), kept.len()), (None, Some(4), 0));
        assert!(kept.is_empty() && kept.by_age.is_empty());
    }
}
