//! The integration tests: one binary, one file a subject.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test that cannot go on panics"
)]

mod crash;
mod delivery;
mod demo;
mod floors;
