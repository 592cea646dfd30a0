//! The HTTP clients that requests are spread over.
//!
//! Over HTTP/2 a client's requests to a host share one connection, and the server's window limits what of them is
//! unread: with 64 KiB and 20 ms that is 3 MB a second. So requests are spread over several clients, each with its own
//! connection.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, PoisonError};

use reqwest::{Client, ClientBuilder};

use super::settings::TransportError;
use crate::event::Host;

/// How many there are: each takes a third of a mebibyte, and with these 64 KiB in 20 ms are 26 MB a second.
const CLIENTS: usize = 8;

/// How many connections to a host are kept for later requests at most, where `concurrency` may be under way
/// (`delivery.concurrency`).
#[must_use]
pub fn idle_connections(concurrency: usize) -> usize {
    share(concurrency).saturating_mul(CLIENTS)
}

/// The most of `concurrency` requests to a host that one of them has under way.
fn share(concurrency: usize) -> usize {
    concurrency.div_ceil(CLIENTS).max(1)
}

/// All of them.
#[derive(Debug)]
pub(super) struct Clients {
    first: Client,
    others: Vec<Client>,
    /// How many requests to a host each has under way; a host without any is not in it.
    under_way: Mutex<HashMap<Host, [usize; CLIENTS]>>,
}

/// A client that has a request to a host under way, until this is dropped.
#[derive(Debug)]
pub(super) struct Taken<'c> {
    clients: &'c Clients,
    client: &'c Client,
    host: Host,
    place: usize,
}

impl Clients {
    /// Makes each of them with `builder`, which is told how many of `concurrency` requests to a host that one has under
    /// way at most.
    pub(super) fn new(
        concurrency: usize,
        builder: impl Fn(usize) -> Result<ClientBuilder, TransportError>,
    ) -> Result<Self, TransportError> {
        let made = || Ok::<_, TransportError>(builder(share(concurrency))?.build()?);
        let (first, others) = (made()?, (1..CLIENTS).map(|_| made()).collect::<Result<_, _>>()?);
        Ok(Self { first, others, under_way: Mutex::default() })
    }

    /// The one with the fewest requests to `host` under way; of several the first, so that few requests need few
    /// connections.
    pub(super) fn take(&self, host: Host) -> Taken<'_> {
        let mut under_way = self.under_way();
        let counts = under_way.entry(host).or_default();
        let least = counts.iter_mut().enumerate().min_by_key(|(_, count)| **count);
        let place = least.map_or(0, |(place, count)| {
            *count += 1;
            place
        });
        let other = place.checked_sub(1).and_then(|place| self.others.get(place));
        Taken { clients: self, client: other.unwrap_or(&self.first), host, place }
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<Host, [usize; CLIENTS]>> {
        // Nothing under this lock panics.
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for Taken<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.client
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut under_way = self.clients.under_way();
        let Some(counts) = under_way.get_mut(&self.host) else { return };
        if let Some(count) = counts.get_mut(self.place) {
            *count = count.saturating_sub(1);
        }
        if counts.iter().all(|count| *count == 0) {
            under_way.remove(&self.host);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::event::Cluster;

    /// The clients, and the shares that they were made with.
    fn clients(concurrency: usize) -> (Clients, Vec<usize>) {
        let shares = RefCell::new(Vec::new());
        let builder = |share| {
            shares.borrow_mut().push(share);
            Ok(Client::builder())
        };
        (Clients::new(concurrency, builder).unwrap(), shares.into_inner())
    }

    #[test]
    fn each_keeps_its_share_of_the_connections() {
        for (concurrency, share) in [(64, 8), (15, 2), (1, 1), (0, 1)] {
            assert_eq!(clients(concurrency).1, [share; CLIENTS], "{concurrency}");
        }
    }

    #[test]
    fn requests_to_a_host_go_to_the_client_with_the_fewest() {
        let clients = clients(64).0;
        let mut taken: Vec<_> = (0..16).map(|_| clients.take(Host::Client)).collect();
        assert_eq!(
            taken.iter().map(|one| one.place).collect::<Vec<_>>(),
            (0..8).chain(0..8).collect::<Vec<_>>()
        );
        let all = std::iter::once(&clients.first).chain(&clients.others);
        assert!(all.zip(&taken).all(|(client, taken)| std::ptr::eq(client, &**taken)));
        drop(taken.remove(5));
        assert_eq!(clients.take(Host::Client).place, 5);
        // A host that is asked once in a while stays with one connection, whatever goes to others.
        let quiet = Host::Edge(Cluster::parse("35").unwrap());
        let asked = [(); 2].map(|()| clients.take(quiet).place);
        assert_eq!(asked, [0, 0]);
        taken.clear();
        assert!(clients.under_way().is_empty(), "what is done counts no more");
    }
}
