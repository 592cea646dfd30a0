//! `target-notifyd`: durable, batching delivery of Adobe Target display and click notifications.

pub mod delivery;
pub mod event;
pub mod ingest;
pub mod schedule;
pub mod wire;
