//! The records of the engine and those of the journal that cover them, in one order.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::ops::{Bound, RangeInclusive};

use sled::IVec;

use super::engine::{Engine, NOTES_OF_READ, Open};
use super::index::{Found, Value};

/// How many records are looked for at once, at first and at most.
const AT_ONCE: (usize, usize) = (8, 64);

/// A record: its key and its value.
pub(super) type Record = (IVec, Value);

/// The records from a key on, and before another one.
pub(super) struct Merged<'e> {
    open: &'e Open,
    /// The records end before this key; `None`: they go on to the last one.
    before: Option<Vec<u8>>,
    /// Where the next look begins; `None` behind the end.
    from: Option<Bound<Vec<u8>>>,
    /// Keys, and what is to be read for them.
    found: VecDeque<Result<(IVec, Found), sled::Error>>,
    at_once: usize,
}

impl<'e> Merged<'e> {
    pub(super) fn new(open: &'e Open, from: Vec<u8>, before: Option<Vec<u8>>) -> Self {
        let from = Some(Bound::Included(from));
        Self { open, before, from, found: VecDeque::new(), at_once: AT_ONCE.0 }
    }

    /// Looks for the next records of both. A record is in the engine before it leaves the journal, so only a look that
    /// read the engine before a segment was given up can miss one; the epoch shows that, and the look is repeated.
    fn look(&mut self, from: &Bound<Vec<u8>>) {
        loop {
            let (epoch, ours) = {
                let index = self.open.journal.index();
                let before = self.before.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
                (index.epoch(), index.within((from.as_ref().map(Vec::as_slice), before), self.at_once))
            };
            let (theirs, horizon, failure) = self.theirs(from, &ours);
            if self.open.journal.index().epoch() != epoch {
                continue;
            }
            self.from = horizon.clone().map(Bound::Excluded);
            let within = |key: &[u8]| horizon.as_deref().is_none_or(|horizon| key <= horizon);
            let mut theirs = theirs.into_iter().peekable();
            for (key, found) in ours.into_iter().filter(|(key, _)| within(key)) {
                while let Some(their) = theirs.next_if(|(their, _)| their.as_ref() < key.as_slice()) {
                    self.found.push_back(Ok(their));
                }
                let _covered = theirs.next_if(|(their, _)| their.as_ref() == key.as_slice());
                if !matches!(found, Found::Removed) {
                    self.found.push_back(Ok((key.into(), found)));
                }
            }
            self.found.extend(theirs.map(Ok));
            if let Some(error) = failure {
                self.found.push_back(Err(error));
                self.from = None;
            }
            return;
        }
    }

    /// The engine's records as far as `ours` reach, how far both were looked for, and what kept the engine from reading
    /// on.
    #[expect(clippy::type_complexity, reason = "three things of one look, taken apart at once")]
    fn theirs(
        &self,
        from: &Bound<Vec<u8>>,
        ours: &[(Vec<u8>, Found)],
    ) -> (Vec<(IVec, Found)>, Option<Vec<u8>>, Option<sled::Error>) {
        // Where there are fewer than were asked for, these are all.
        let end = ours.last().filter(|_| ours.len() >= self.at_once).map(|(key, _)| key.clone());
        let before = self.before.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let upper = end.as_deref().map_or(before, Bound::Included);
        let mut theirs: Vec<(IVec, Found)> = Vec::new();
        for record in self.open.db.range::<&[u8], _>((from.as_ref().map(Vec::as_slice), upper)) {
            match record {
                Ok((key, value)) => {
                    self.open.note(&key, value.len(), NOTES_OF_READ);
                    theirs.push((key, Found::Value(value)));
                }
                Err(error) => {
                    let last = theirs.last().map(|(key, _)| key.to_vec()).unwrap_or_default();
                    return (theirs, Some(last), Some(error));
                }
            }
            if theirs.len() >= self.at_once {
                let last = theirs.last().map(|(key, _)| key.to_vec());
                return (theirs, last, None);
            }
        }
        (theirs, end, None)
    }
}

impl Iterator for Merged<'_> {
    type Item = Result<Record, sled::Error>;

    fn next(&mut self) -> Option<Result<Record, sled::Error>> {
        loop {
            while let Some(found) = self.found.pop_front() {
                match found.map(|(key, found)| (key, found.value())) {
                    Ok((key, Ok(Some(value)))) => return Some(Ok((key, value))),
                    Ok((_, Ok(None))) => {}
                    Ok((_, Err(error))) => return Some(Err(sled::Error::Io(error))),
                    Err(error) => return Some(Err(error)),
                }
            }
            let from = self.from.take()?;
            self.look(&from);
            self.at_once = (self.at_once * 2).min(AT_ONCE.1);
        }
    }
}

impl Engine {
    /// The last record whose key is one of `keys`. What was removed lately is walked over, so `keys` reach no further
    /// than they have to.
    pub(super) fn last_in(&self, keys: RangeInclusive<&[u8]>) -> Result<Option<Record>, sled::Error> {
        let open = self.opened()?;
        loop {
            let epoch = open.journal.index().epoch();
            let found = last_place(open, &keys)?;
            if open.journal.index().epoch() != epoch {
                continue;
            }
            let Some((key, found)) = found else { return Ok(None) };
            return Ok(found.value().map_err(sled::Error::Io)?.map(|value| (key, value)));
        }
    }
}

/// Both orders are walked down together, so that neither is walked further than the other one reaches: what was removed
/// lately may be long in both.
fn last_place(open: &Open, keys: &RangeInclusive<&[u8]>) -> Result<Option<(IVec, Found)>, sled::Error> {
    // Nothing is there beyond the greatest key that the engine has.
    let is_below = keys.start().first() != keys.end().first() || open.journal.index().is_below(keys.start());
    let mut theirs = is_below.then(|| open.db.range::<&[u8], _>(keys.clone()).rev()).into_iter().flatten();
    let mut their = theirs.next().transpose()?;
    if let Some((key, value)) = &their {
        open.note(key, value.len(), NOTES_OF_READ);
    }
    let mut end = Bound::Included(keys.end().to_vec());
    loop {
        let our = open.journal.index().last_to(end.as_ref().map(Vec::as_slice));
        let Some((our, found)) = our.filter(|(our, _)| our.as_slice() >= *keys.start()) else { break };
        let order = their.as_ref().map(|(their, _)| their.as_ref().cmp(our.as_slice()));
        if order == Some(Ordering::Greater) {
            break;
        }
        if !matches!(found, Found::Removed) {
            return Ok(Some((our.into(), found)));
        }
        if order == Some(Ordering::Equal) {
            their = theirs.next().transpose()?;
        }
        end = Bound::Excluded(our);
    }
    Ok(their.map(|(key, value)| (key, Found::Value(value))))
}
