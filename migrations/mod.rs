//! The steps that bring a database of an older schema to the newest, and their runner.
//!
//! Guarantees:
//! - the steps are numbered without a gap from schema 1 on, which is checked when the program is compiled;
//! - a commit of the runner is bounded, and holds the place up to which the step has come, so that a crash at any line
//!   repeats nothing that was committed and skips nothing that was not;
//! - the schema's number changes in the commit that ends its step.
//!
//! A step's old and new shapes are frozen inside its own file in this folder; there is none yet.

#[cfg(debug_assertions)]
mod rehearsal;

use tracing::info;

use crate::failpoint::reach;

/// The schema that the first release writes.
const FIRST: u32 = 1;
/// The most records that one commit of a step rewrites.
const COMMIT_RECORDS: usize = 256;

/// What becomes of one record.
#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(
    not(any(test, debug_assertions)),
    expect(dead_code, reason = "there is no step yet; the tests make some up")
)]
pub(crate) enum Rewrite {
    /// It stays as it is.
    Keep,
    /// It gets this value.
    Value(Vec<u8>),
    /// It is removed.
    Remove,
}

/// One step, from schema `to - 1` to schema `to`.
#[derive(Debug)]
pub(crate) struct Step {
    /// The schema that it leads to.
    pub(crate) to: u32,
    /// What it does, for the log.
    pub(crate) name: &'static str,
    /// A pure rewrite of one record, by its key and its value.
    pub(crate) rewrite: fn(&[u8], &[u8]) -> Rewrite,
}

/// All steps, in order; only ever appended to.
pub(crate) const STEPS: &[Step] = &[];

const _: () = assert!(gapless(STEPS), "migrations are numbered without a gap");

/// The schema that this program writes.
pub(crate) const NEWEST: u32 = FIRST + STEPS.len() as u32;

/// The steps that this process runs, with those of the rehearsal where it is asked for.
pub(crate) fn steps(rehearse: bool) -> impl Iterator<Item = &'static Step> {
    #[cfg(debug_assertions)]
    let more = rehearsal::STEPS;
    #[cfg(not(debug_assertions))]
    let more: &[Step] = &[];
    STEPS.iter().chain(more.iter().filter(move |_| rehearse))
}

/// The schema that those steps lead to.
pub(crate) fn newest(rehearse: bool) -> u32 {
    steps(rehearse).last().map_or(FIRST, |step| step.to)
}

#[expect(clippy::indexing_slicing, reason = "checked by the compiler, where iterators are not to be had")]
const fn gapless(steps: &[Step]) -> bool {
    let mut at = 0;
    while at < steps.len() {
        if steps[at].to != FIRST + 1 + at as u32 {
            return false;
        }
        at += 1;
    }
    true
}

/// A key and what it holds.
pub(crate) type Record = (Vec<u8>, Vec<u8>);
/// A key and what it holds, or nothing where it is to be removed.
pub(crate) type Change = (Vec<u8>, Option<Vec<u8>>);

/// What the runner works on.
pub(crate) trait Records {
    /// What reading and writing may fail with.
    type Error;
    /// Up to `count` records behind `key`, in the order of their keys; `None` begins at the first.
    fn behind(&self, key: Option<&[u8]>, count: usize) -> Result<Vec<Record>, Self::Error>;
    /// Writes all `changes` at once and durably, with the schema and the place that a step has come to.
    fn commit(&self, changes: Vec<Change>, schema: u32, place: Option<&[u8]>) -> Result<(), Self::Error>;
}

/// Runs the `steps` behind `schema` in order; `place` is what the last commit of an interrupted step left.
pub(crate) fn run<R: Records>(
    records: &R,
    steps: impl IntoIterator<Item = &'static Step>,
    schema: u32,
    mut place: Option<Vec<u8>>,
) -> Result<(), R::Error> {
    for step in steps.into_iter().filter(|step| step.to > schema) {
        info!(
            event = "schema_step",
            to = step.to,
            name = step.name,
            "the queue's schema is being brought up to date"
        );
        let mut rewritten = 0_u64;
        loop {
            let found = records.behind(place.as_deref(), COMMIT_RECORDS)?;
            let Some((last, _)) = found.last() else { break };
            place = Some(last.clone());
            let mut changes = Vec::new();
            for (key, value) in found {
                match (step.rewrite)(&key, &value) {
                    Rewrite::Keep => {}
                    Rewrite::Value(value) => changes.push((key, Some(value))),
                    Rewrite::Remove => changes.push((key, None)),
                }
            }
            rewritten += changes.len() as u64;
            reach("migration", "planned");
            records.commit(changes, step.to - 1, place.as_deref())?;
            reach("migration", "committed");
        }
        records.commit(Vec::new(), step.to, None)?;
        place = None;
        info!(event = "schema_current", to = step.to, rewritten, "the queue's schema is up to date");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;

    /// A store in memory that crashes before or after its `crash_at`-th commit.
    #[derive(Default)]
    struct Fake {
        records: RefCell<BTreeMap<Vec<u8>, Vec<u8>>>,
        schema: Cell<u32>,
        place: RefCell<Option<Vec<u8>>>,
        commits: Cell<u32>,
        crash_at: Option<(u32, bool)>,
    }

    impl Records for Fake {
        type Error = ();
        fn behind(&self, key: Option<&[u8]>, count: usize) -> Result<Vec<Record>, ()> {
            let records = self.records.borrow();
            let all = records.iter().filter(|(own, _)| key.is_none_or(|key| own.as_slice() > key));
            Ok(all.take(count).map(|(key, value)| (key.clone(), value.clone())).collect())
        }
        fn commit(&self, changes: Vec<Change>, schema: u32, place: Option<&[u8]>) -> Result<(), ()> {
            self.commits.set(self.commits.get() + 1);
            let crash = self.crash_at.filter(|(at, _)| *at == self.commits.get());
            if crash.is_some_and(|(_, written)| !written) {
                return Err(());
            }
            for (key, value) in changes {
                match value {
                    Some(value) => self.records.borrow_mut().insert(key, value),
                    None => self.records.borrow_mut().remove(&key),
                };
            }
            self.schema.set(schema);
            *self.place.borrow_mut() = place.map(<[u8]>::to_vec);
            if crash.is_some() { Err(()) } else { Ok(()) }
        }
    }

    /// Not idempotent on purpose: a record that is rewritten twice shows.
    const MADE_UP: &[Step] = &[
        Step { to: 2, name: "append", rewrite: |_, value| Rewrite::Value([value, b"+"].concat()) },
        Step {
            to: 3,
            name: "thin out",
            rewrite: |key, value| match key.last() {
                Some(last) if last % 2 == 0 => Rewrite::Remove,
                _ if value == b"x+" => Rewrite::Keep,
                _ => Rewrite::Value(b"wrong".to_vec()),
            },
        },
    ];

    fn fake(crash_at: Option<(u32, bool)>) -> Fake {
        let records = (0..1_000_u16).map(|number| (number.to_be_bytes().to_vec(), b"x".to_vec()));
        Fake { records: RefCell::new(records.collect()), schema: Cell::new(1), crash_at, ..Fake::default() }
    }

    #[test]
    fn the_steps_have_no_gap() {
        assert!(gapless(MADE_UP) && gapless(STEPS));
        assert!(!gapless(&MADE_UP[1..]));
        assert_eq!((NEWEST, newest(false), newest(true)), (1, 1, 3));
    }

    #[test]
    fn a_crash_at_any_commit_repeats_and_skips_nothing() {
        let whole = fake(None);
        run(&whole, MADE_UP, 1, None).unwrap();
        let commits = whole.commits.get();
        assert!(commits > 5 && whole.records.borrow().len() == 500 && whole.schema.get() == 3);
        for at in 1..=commits {
            for written in [false, true] {
                let mut store = fake(Some((at, written)));
                assert_eq!(run(&store, MADE_UP, 1, None), Err(()));
                store.crash_at = None;
                let place = store.place.borrow().clone();
                run(&store, MADE_UP, store.schema.get(), place).unwrap();
                assert_eq!(store.records.borrow().clone(), whole.records.borrow().clone(), "{at} {written}");
                assert_eq!(store.schema.get(), 3);
            }
        }
    }
}
