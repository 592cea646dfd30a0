//! The integration tests: one binary, one file a subject.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    reason = "a test that cannot go on panics"
)]

mod admin;
mod answers;
mod authority;
mod bad_lines;
mod bench;
mod booted;
mod causes;
mod check;
mod cli;
mod corruption;
mod crash;
mod damage;
mod delivery;
mod demo;
mod dns;
mod edge;
mod extent;
mod far;
mod figures;
mod fixtures;
mod floors;
mod full_disk;
mod fuzz;
mod http2;
mod idle;
mod instructions;
mod kill;
mod load;
mod log_lines;
mod manual;
mod metrics;
mod notifier;
mod options;
mod paths;
mod power;
mod process;
mod producers;
mod readme;
mod receipts;
mod recorder;
mod refusals;
mod send;
mod service;
mod store;
mod support;
mod tls;
mod tls_faults;
mod units;
