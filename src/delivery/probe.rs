//! The way to Target, tried without sending anything: a name's addresses, and a connection with its TLS handshake.
//!
//! The connection is made by the very client that delivers: its proxy, its root certificates, its limits. It is given
//! up as soon as it stands, before any request is written to it.

use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tower_layer::Layer;
use tower_service::Service;

use super::lookup::{self, Lookup};
use super::settings::{Authorities, Settings, TransportError, builder};
use super::transport::{failure, told};
use crate::event::Failure;
use crate::wire::response;

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoWay {
    /// What failed.
    pub failure: Failure,
    /// What the system or the other side says.
    pub detail: String,
}

/// The addresses of a host, and how long the look-up took. It ends within nine tenths of `connect_timeout`.
///
/// # Errors
/// Why there is none, as a sentence.
pub async fn addresses(host: &str, connect_timeout: Duration) -> Result<(Vec<IpAddr>, Duration), String> {
    let began = Instant::now();
    let found = lookup::found(host.to_owned(), connect_timeout).await;
    let mut addresses: Vec<IpAddr> =
        found.map_err(|error| sentence(&error))?.iter().map(|one| one.ip()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok((addresses, began.elapsed()))
}

/// Makes a connection to `url`, through the proxy where there is one, with the TLS handshake where it is https; how
/// long that took. It ends within `connect_timeout`.
///
/// # Errors
/// [`TransportError`]: the settings are wrong; in the inner result [`NoWay`]: no connection was made.
pub async fn connect(settings: &Settings, url: &str) -> Result<Result<Duration, NoWay>, TransportError> {
    let made = Arc::new(AtomicBool::new(false));
    let client = builder(settings, &Authorities::of(settings)?, Lookup::new(settings.connect_timeout))?
        .connector_layer(Stop(Arc::clone(&made)))
        .build()?;
    let began = Instant::now();
    let asked = client.head(url).send().await;
    let took = began.elapsed();
    Ok(match asked {
        _ if made.load(Ordering::Relaxed) => Ok(took),
        Err(error) => Err(NoWay { failure: failure(&error), detail: response::printable(&told(&error)) }),
        // Without a connection there is no answer.
        Ok(_) => Ok(took),
    })
}

fn sentence(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    response::printable(&causes.map(ToString::to_string).collect::<Vec<_>>().join(": "))
}

/// Notes that a connection was made, and ends the request there.
#[derive(Clone)]
struct Stop(Arc<AtomicBool>);

impl<S> Layer<S> for Stop {
    type Service = Stopping<S>;

    fn layer(&self, inner: S) -> Stopping<S> {
        Stopping { inner, made: Arc::clone(&self.0) }
    }
}

#[derive(Clone)]
struct Stopping<S> {
    inner: S,
    made: Arc<AtomicBool>,
}

impl<S, R> Service<R> for Stopping<S>
where
    S: Service<R, Error = Box<dyn Error + Send + Sync>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let (connecting, made) = (self.inner.call(request), Arc::clone(&self.made));
        Box::pin(async move {
            drop(connecting.await?);
            made.store(true, Ordering::Relaxed);
            Err("the connection was only tried".into())
        })
    }
}
