//! The addresses of a host, as the system finds them.
//!
//! Guarantees:
//! - a name server that does not answer is told from a host that does not: the look-up ends before the connection's own
//!   limit;
//! - at most [`MAX_LOOKUPS`] run at once, given-up ones included, so that they never take all blocking threads of the
//!   runtime.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// The most look-ups under way, those that were given up included: half of the threads that the runtime has for what
/// blocks.
pub(super) const MAX_LOOKUPS: usize = 256;

/// Why a host has no address.
#[derive(Debug, Error)]
pub(super) enum LookupError {
    /// No name server answers.
    #[error("no name server answered for {name} within {limit:?}; check /etc/resolv.conf and the network")]
    Silent { name: String, limit: Duration },
    /// The system's answer.
    #[error("the address of {name} is not known")]
    System { name: String, source: io::Error },
}

/// Asks the system for addresses.
#[derive(Clone, Debug)]
pub(super) struct Lookup {
    limit: Duration,
    places: Arc<Semaphore>,
    /// The runtime that it was made in, where there was one: the asker's may end before the system answers.
    runtime: Option<Handle>,
}

impl Lookup {
    /// Look-ups for connections that have to be made within `connect_timeout`.
    pub(super) fn new(connect_timeout: Duration) -> Self {
        // With less than a tenth of it left no connection would be made in time.
        let limit = connect_timeout * 9 / 10;
        Self { limit, places: Arc::new(Semaphore::new(MAX_LOOKUPS)), runtime: Handle::try_current().ok() }
    }

    async fn find(self, name: String) -> Result<Vec<SocketAddr>, LookupError> {
        let limit = self.limit;
        match timeout(limit, self.addresses(name.clone())).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(source)) => Err(LookupError::System { name, source }),
            Err(_) => Err(LookupError::Silent { name, limit }),
        }
    }

    async fn addresses(self, name: String) -> io::Result<Vec<SocketAddr>> {
        let place = self.places.acquire_owned().await.map_err(io::Error::other)?;
        let ask = move || {
            // Held until the system is done, even where nobody waits any more.
            let _place = place;
            // The port of the URL is put in the place of 0.
            Ok((name.as_str(), 0).to_socket_addrs()?.collect())
        };
        let runtime = self.runtime.unwrap_or_else(Handle::current);
        runtime.spawn_blocking(ask).await.map_err(io::Error::other)?
    }
}

impl Resolve for Lookup {
    fn resolve(&self, name: Name) -> Resolving {
        let (lookup, name) = (self.clone(), name.as_str().to_owned());
        Box::pin(async move {
            let found = lookup.find(name).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// The addresses of `name`, looked up as for a connection that has to be made within `connect_timeout`.
pub(super) async fn found(name: String, connect_timeout: Duration) -> Result<Vec<SocketAddr>, LookupError> {
    Lookup::new(connect_timeout).find(name).await
}
