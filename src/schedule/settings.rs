//! What the scheduler is configured with.

use std::time::Duration;

use super::Backoff;
use crate::event::{Cluster, Host};

/// The limits and waits of delivery (`[batch]`, `[retry]`, `[delivery]` and `[queue]` in the configuration).
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a batch that may grow waits for more (`batch.linger`).
    pub linger: Duration,
    /// The most events of a batch (`batch.max_events`).
    pub max_events: usize,
    /// The most bytes of a batch's notifications (`batch.max_bytes`); the first always fits.
    pub max_bytes: u64,
    /// The waits between attempts (`[retry]`).
    pub backoff: Backoff,
    /// After this many failures beside a host that serves others, a batch is split (`retry.isolate_after`).
    pub isolate_after: u32,
    /// After this many failures alone, an event is parked (`retry.park_after`).
    pub park_after: u32,
    /// After this many answers that left it out, an event is set aside (`retry.unlisted_max`).
    pub unlisted_max: u32,
    /// The most requests at a time (`delivery.concurrency`).
    pub concurrency: usize,
    /// The most requests to one host while another has work due (`delivery.host_concurrency`).
    pub host_concurrency: usize,
    /// The most edge hosts; sessions of others go to the client's own (`delivery.max_hosts`).
    pub max_hosts: usize,
    /// The most requests a second; 0 is no limit (`delivery.rate_limit`).
    pub rate_limit: u32,
    /// How many failures in a row open a breaker (`delivery.breaker_failures`).
    pub breaker_failures: u32,
    /// The first wait of a breaker (`delivery.breaker_open`).
    pub breaker_open: Duration,
    /// The longest wait of a breaker, and the wait between the probes of a pause (`delivery.breaker_max`).
    pub breaker_max: Duration,
    /// An event that is older when an attempt fails is set aside (`queue.max_age`).
    pub max_age: Duration,
    /// What the index may hold in memory (`queue.index_max_bytes`).
    pub index_max_bytes: u64,
    /// The cluster of sessions that name none (`target.location_hint`).
    pub default_cluster: Option<Cluster>,
    /// Whether requests go to edge hosts at all.
    pub edge_routing: bool,
    /// A slot that is taken for longer is stuck: `target.timeout`, and `stuck_after` for what belongs to a request beside it.
    pub slot_limit: Duration,
    /// After so long without an attempt work that is due is stuck, and so is a store that owes an answer
    /// (`delivery.stuck_after`).
    pub stuck_after: Duration,
}

impl Settings {
    /// The host of an event that names `cluster`, by that and the configuration alone, whatever answers said since.
    #[must_use]
    pub fn own_host(&self, cluster: Option<Cluster>) -> Host {
        let cluster = cluster.or(self.default_cluster).filter(|_| self.edge_routing);
        cluster.map_or(Host::Client, Host::Edge)
    }
}
