//! The way to Target, tried without a request: a name's addresses, and a connection with its TLS handshake.
//!
//! The connection is made by the very client that delivers: its proxy, its root certificates, its limits. It is taken
//! from that as soon as it is there, before any request is written to it. Where both sides agreed on HTTP/2, it stands once
//! the other side has begun to speak that, for which it has as long as a request would wait.

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use hyper::rt::{Read, Write};
use hyper_util::client::legacy::connect::Connection;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower_layer::Layer;
use tower_service::Service;

use super::authorities::Authorities;
use super::lookup::{self, Lookup};
use super::settings::{Settings, TransportError, builder};
use super::transport::{failure, told};
use crate::event::Failure;
use crate::wire::response;

/// How we begin to speak HTTP/2, with settings that have nothing in them.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// How long the head of a frame of HTTP/2 is.
const HEAD_BYTES: usize = 9;
/// The type of a frame of settings, with which the other side begins.
const SETTINGS: u8 = 4;

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
/// long that took. It ends within `connect_timeout`, and with HTTP/2 within the longest silence after that.
///
/// # Errors
/// [`TransportError`]: the settings are wrong; in the inner result [`NoWay`]: no connection was made.
pub async fn connect(settings: &Settings, url: &str) -> Result<Result<Duration, NoWay>, TransportError> {
    let made = Made::default();
    let client = builder(settings, &Authorities::of(settings)?, Lookup::new(settings.connect_timeout))?
        .connector_layer(Stop(Arc::clone(&made)))
        .build()?;
    let began = Instant::now();
    let asked = client.head(url).send().await;
    // Nothing under this lock panics.
    let made = made.lock().unwrap_or_else(PoisonError::into_inner).take();
    let stands = match (made, asked) {
        (Some(Connected::OverHttp2(connection)), _) => {
            speaks_http_2(connection, settings.longest_silence()).await
        }
        // Without a connection there is no answer.
        (Some(Connected::Whole), _) | (None, Ok(_)) => Ok(()),
        (None, Err(error)) => {
            Err(NoWay { failure: failure(&error), detail: response::printable(&told(&error)) })
        }
    };
    Ok(stands.map(|()| began.elapsed()))
}

fn sentence(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    response::printable(&causes.map(ToString::to_string).collect::<Vec<_>>().join(": "))
}

/// A connection that was made.
enum Connected {
    /// It may carry requests.
    Whole,
    /// It may once the other side has begun to speak HTTP/2.
    OverHttp2(Box<dyn Duplex>),
}

/// What is read from and written to.
trait Duplex: Read + Write + Send + Unpin {}

impl<C: Read + Write + Send + Unpin> Duplex for C {}

/// The connection, once it was made. A lock: whoever asked looks once the request is given up.
type Made = Arc<Mutex<Option<Connected>>>;

/// Takes the connection that was made, and ends the request there.
#[derive(Clone)]
struct Stop(Made);

impl<S> Layer<S> for Stop {
    type Service = Stopping<S>;

    fn layer(&self, inner: S) -> Stopping<S> {
        Stopping { inner, made: Arc::clone(&self.0) }
    }
}

#[derive(Clone)]
struct Stopping<S> {
    inner: S,
    made: Made,
}

impl<S, R> Service<R> for Stopping<S>
where
    S: Service<R, Error = Box<dyn Error + Send + Sync>>,
    S::Response: Connection + Duplex + 'static,
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
            let connection = connecting.await?;
            let connected = match connection.connected().is_negotiated_h2() {
                true => Connected::OverHttp2(Box::new(connection)),
                false => Connected::Whole,
            };
            *made.lock().unwrap_or_else(PoisonError::into_inner) = Some(connected);
            Err("the connection was only tried".into())
        })
    }
}

/// Begins to speak HTTP/2; an error says what the other side does instead, or that nothing came within `limit`.
async fn speaks_http_2(connection: Box<dyn Duplex>, limit: Duration) -> Result<(), NoWay> {
    let (mut stream, mut head) = (TokioIo::new(connection), [0; HEAD_BYTES]);
    let exchanged = async {
        stream.write_all(PREFACE).await?;
        stream.flush().await?;
        stream.read_exact(&mut head).await
    };
    let Ok(exchanged) = tokio::time::timeout(limit, exchanged).await else {
        let limit = humantime::format_duration(limit);
        return Err(unspoken(&format!(
            "nothing came within {limit} (target.timeout, target.connect_timeout)"
        )));
    };
    let why = match exchanged {
        Ok(_) if matches!(head, [_, _, _, SETTINGS, ..]) => return Ok(()),
        Ok(_) => format!("it begins with {}", response::printable(&String::from_utf8_lossy(&head))),
        // With TLS 1.3 our end of a handshake is over before the other side's, which may ask for a certificate of ours.
        Err(error) if error.get_ref().is_some_and(|error| error.is::<rustls::Error>()) => {
            return Err(NoWay { failure: Failure::Tls, detail: error.to_string() });
        }
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => "it closes the connection".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(unspoken(&why))
}

fn unspoken(why: &str) -> NoWay {
    let detail = format!("HTTP/2 was agreed on in the TLS handshake, and is not spoken then: {why}");
    NoWay { failure: Failure::Reset, detail }
}
