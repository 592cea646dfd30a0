//! Two steps that no release runs: a rehearsal for the tests of the runner on real databases, in builds with debug
//! assertions that are asked for it by the environment (`TARGET_NOTIFYD_REHEARSAL`).
//!
//! The first step marks every record, the second takes the mark off again. A record that a crash made them pass over, or
//! take twice, does not decode afterwards.

use super::{NEWEST, Rewrite, Step};

/// What is put behind a value.
const MARK: &[u8] = b"rehearsed";

/// The steps.
pub(super) const STEPS: &[Step] = &[
    Step {
        to: NEWEST + 1,
        name: "rehearsal: every record is marked",
        rewrite: |key, value| match is_record(key) {
            true => Rewrite::Value([value, MARK].concat()),
            // A value that nobody reads.
            false if key == b"mrehearsal" => Rewrite::Remove,
            false => Rewrite::Keep,
        },
    },
    Step {
        to: NEWEST + 2,
        name: "rehearsal: every mark is taken off",
        rewrite: |key, value| match is_record(key) {
            true => Rewrite::Value(value.strip_suffix(MARK).unwrap_or(b"not marked").to_vec()),
            false => Rewrite::Keep,
        },
    },
];

/// Pages, marks of settled events, envelopes and dead letters; the values of the whole queue stay readable.
fn is_record(key: &[u8]) -> bool {
    key.first().is_some_and(|tag| b"esvd".contains(tag))
}
