//! The way to Target: requests out, outcomes back. This folder alone names reqwest.

mod transport;

pub use self::transport::{Settings, Transport, TransportError};
