//! A small stand-in for Adobe Target's Delivery API, for tests, benchmarks and the demonstration.
//!
//! It serves `POST /rest/v1/delivery` over HTTP/1 and cleartext HTTP/2, at the root as the client's own host
//! and below `/edge{cluster}` as that edge cluster's host, and writes down every notification that it took.
//!
//! Guarantees:
//! - A request is checked by the API's published rules, as far as notifications need them.
//! - A notification is *taken* in one step, in the order of its request, and only by a request that passed
//!   every check; a request is taken whole but for ids that [`Faults::omit`] left out.
//! - [`Faults`] can change at any time; with one seed and one order of requests they strike the same requests
//!   again.
//! - [`Sandbox::stop`] returns once the listener, every connection and every request have ended, hung ones
//!   too.
//!
//! Limits: there is no TLS, and the rules for the parts of a request that carry no notification
//! (`customerIds`, `experienceCloud`, `trace`) are not held. On HTTP/2 a closed connection is a reset stream,
//! and the reset of a cut answer may overtake what was to come before it.

mod answer;
mod check;
mod faults;
mod ledger;
mod mark;
mod server;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub use self::check::POISON;
pub use self::faults::Faults;
pub use self::ledger::{Ledger, Record, Totals};
pub use self::mark::Mark;
use self::server::{State, accept};

/// How a sandbox is set up.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What its randomness starts from.
    pub seed: u64,
    /// How many notifications are remembered; those beyond are only counted.
    pub max_records: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), seed: 0, max_records: 2_000_000 }
    }
}

/// A running stand-in for Target. Dropping it stops it too, without waiting for the end.
#[derive(Debug)]
pub struct Sandbox {
    address: SocketAddr,
    state: Arc<State>,
    tasks: TaskTracker,
    shutdown: DropGuard,
}

impl Sandbox {
    /// Listens and serves, without faults.
    ///
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The system's, where the address cannot be listened on.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let socket = std::net::TcpListener::bind(settings.listen)?;
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from_std(socket)?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::new(settings));
        let shutdown = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(accept(listener, Arc::clone(&state), tasks.clone(), shutdown.clone()));
        Ok(Self { address, state, tasks, shutdown: shutdown.drop_guard() })
    }

    /// The address that it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the faults, from the next request on.
    pub fn faults(&self, faults: Faults) {
        self.state.set_faults(faults);
    }

    /// Everything written down so far. Copies all records: for counts alone there is [`Sandbox::totals`].
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.state.book().ledger().clone()
    }

    /// The counts so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.state.book().ledger().totals().clone()
    }

    /// Closes the listener and all connections, and waits until they have ended.
    pub async fn stop(self) {
        drop(self.shutdown);
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Serves until `until` is cancelled, then stops.
    pub async fn run(self, until: CancellationToken) {
        until.cancelled().await;
        self.stop().await;
    }
}
