//! `target-notifyd`: durable, batching delivery of Adobe Target display and click notifications.
//!
//! # Code map, by floor
//!
//! | floor | module | what it is |
//! | --- | --- | --- |
//! | 7 | [`cli`] | arguments, commands, exit codes |
//! | 6 | [`daemon`] | the parts joined, and the order in which they end |
//! | 5 | [`admin`] | the operator's socket |
//! | 5 | [`telemetry`] | the log |
//! | 5 | [`demo`] | the whole way on one machine, with an account at the end |
//! | 5 | [`mod@bench`] | what this machine does, beside its limits |
//! | 4 | [`config`] | file, environment and arguments to typed settings |
//! | 4 | [`figures`] | what the daemon says of itself in numbers |
//! | 4 | [`service`] | the service manager |
//! | 4 | [`trial`] | this executable as a daemon in a folder of its own |
//! | 3 | [`ingest`] | the producers' socket |
//! | 3 | [`delivery`] | the way to Target |
//! | 3 | [`queue`] | the events on disk, until they are settled |
//! | 3 | [`sandbox`] | a stand-in for Target |
//! | 2 | [`wire`] | pure codecs between bytes and the vocabulary |
//! | 1 | [`schedule`] | pure decisions: lanes, batches, waits, breakers, verdicts |
//! | 0 | [`event`] | the vocabulary |
//!
//! # Invariants
//!
//! - A module imports from lower floors and from itself only; `tests/it/floors.rs` holds that.
//! - [`delivery`] alone names the HTTP client, and [`queue`] alone the storage engine.
//! - Decisions know no clock: the moment and the randomness are arguments.

pub mod admin;
pub mod bench;
pub mod cli;
pub mod config;
mod contents;
pub mod daemon;
pub mod delivery;
pub mod demo;
pub mod event;
#[cfg(test)]
#[path = "../tests/it/extent.rs"]
mod extent;
mod failpoint;
pub mod figures;
pub mod ingest;
pub mod queue;
pub mod sandbox;
pub mod schedule;
pub mod service;
pub mod telemetry;
pub mod trial;
pub mod wire;
