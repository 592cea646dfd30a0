//! The integration tests: one binary, one file a subject.
#![expect(clippy::expect_used, clippy::string_slice, reason = "a test that cannot go on panics")]

mod delivery;
mod floors;
