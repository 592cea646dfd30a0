//! The HTTP clients that requests are spread over.
//!
//! Over HTTP/2 all requests of one client to a host share a connection, and a server takes only so much of them unread as the
//! window of that connection says: where it is the standard's 64 KiB, and a round trip takes 20 ms, no more than 3 MB a second,
//! however many requests are under way. Each client has a connection of its own.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::{Client, ClientBuilder};

use super::transport::TransportError;

/// How many there are, but for fewer requests under way: more would take a third of a mebibyte each, and with these 64 KiB in
/// 20 ms are 26 MB a second.
const MAX_CLIENTS: usize = 8;

/// All of them, those of its clones included.
#[derive(Clone, Debug)]
pub(super) struct Clients(Arc<(Counted, Vec<Counted>)>);

/// A client, and how many requests it has under way.
#[derive(Debug)]
struct Counted {
    client: Client,
    under_way: AtomicUsize,
}

/// A client that has a request under way, until this is dropped.
#[derive(Debug)]
pub(super) struct Taken<'c>(&'c Counted);

impl Clients {
    /// Makes them for `concurrency` requests under way, with `builder`, which is given each one's even share of those.
    pub(super) fn new(
        concurrency: usize,
        builder: impl Fn(usize) -> Result<ClientBuilder, TransportError>,
    ) -> Result<Self, TransportError> {
        let clients = concurrency.clamp(1, MAX_CLIENTS);
        let made = || -> Result<Counted, TransportError> {
            Ok(Counted { client: builder(concurrency / clients)?.build()?, under_way: AtomicUsize::new(0) })
        };
        let first = made()?;
        let others = (1..clients).map(|_| made()).collect::<Result<_, _>>()?;
        Ok(Self(Arc::new((first, others))))
    }

    /// The one with the fewest requests under way; of several the first, so that few requests need few connections.
    pub(super) fn take(&self) -> Taken<'_> {
        let (first, others) = &*self.0;
        let least =
            others.iter().fold(first, |least, one| if one.count() < least.count() { one } else { least });
        least.under_way.fetch_add(1, Ordering::Relaxed);
        Taken(least)
    }
}

impl Counted {
    fn count(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }
}

impl Deref for Taken<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.0.client
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// The clients, and the share that they were made with.
    fn clients(concurrency: usize) -> (Clients, Vec<usize>) {
        let shares = RefCell::new(Vec::new());
        let builder = |share| {
            shares.borrow_mut().push(share);
            Ok(Client::builder())
        };
        (Clients::new(concurrency, builder).unwrap(), shares.into_inner())
    }

    #[test]
    fn there_are_no_more_clients_than_requests() {
        for (concurrency, expected) in [(64, vec![8; 8]), (15, vec![1; 8]), (3, vec![1; 3]), (0, vec![0])] {
            assert_eq!(clients(concurrency).1, expected, "{concurrency}");
        }
    }

    #[test]
    fn requests_go_to_the_client_with_the_fewest() {
        let clients = clients(64).0;
        let place = |taken: &Taken<'_>| {
            let (first, others) = &*clients.0;
            std::iter::once(first).chain(others).position(|one| std::ptr::eq(one, taken.0)).unwrap()
        };
        let alone = clients.take();
        assert_eq!(place(&alone), 0);
        drop(alone);
        let mut taken: Vec<_> = (0..16).map(|_| clients.take()).collect();
        assert_eq!(taken.iter().map(place).collect::<Vec<_>>(), (0..8).chain(0..8).collect::<Vec<_>>());
        drop(taken.remove(5));
        assert_eq!(place(&clients.take()), 5);
        taken.clear();
        assert_eq!(place(&clients.take()), 0, "who is done counts no more");
    }
}
