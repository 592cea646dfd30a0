//! The integration tests: one binary, one file a subject.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    reason = "a test that cannot go on panics"
)]

mod bad_lines;
mod bench;
mod cli;
mod corruption;
mod crash;
mod delivery;
mod demo;
mod extent;
mod figures;
mod floors;
mod load;
mod options;
mod process;
mod readme;
mod receipts;
mod recorder;
mod refusals;
mod support;
mod tls;
