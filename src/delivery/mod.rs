//! The way to Target: requests out, outcomes back. This folder alone names reqwest.

mod alone;
mod ask;
mod authorities;
mod clients;
mod counts;
mod feed;
mod flusher;
mod lookup;
mod notice;
mod patience;
mod probe;
mod proxy;
mod sending;
mod settings;
#[cfg(test)]
mod simulation;
mod told;
mod transport;

pub use self::alone::client_alone;
pub use self::ask::{Ask, Manner, Operation};
pub use self::authorities::authorities;
pub use self::clients::idle_connections;
pub use self::counts::{Counts, Kind, Latency};
pub use self::feed::{Fate, Feed, Heard};
pub use self::flusher::{Backlog, Edge, Flusher, KnownVisitors};
pub use self::probe::{NoWay, addresses, connect};
pub use self::proxy::Proxy;
pub use self::settings::{GIVE_PEM, Settings, TransportError};
pub use self::transport::Transport;
