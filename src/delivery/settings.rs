//! How Target is reached: the settings, the HTTP client that they ask for, and what may be wrong with them.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Client, ClientBuilder, Url, redirect};
use thiserror::Error;

use super::authorities::Authorities;
use super::lookup::Lookup;
use super::proxy::Proxy;
use super::transport::told;

/// A peer may take this long for an HTTP/2 ping, however short `target.connect_timeout` is.
const SHORTEST_PING: Duration = Duration::from_secs(1);

/// A connection that carries no request for this long carries none any more, and is closed soon. Load balancers close it
/// after 60 s (AWS ALB) or 75 s (nginx): with the client's own 90 s, the first request after a pause could meet a
/// connection that is being closed, and nobody knows then whether it was taken.
pub(super) const LONGEST_IDLE: Duration = Duration::from_secs(50);

/// What to do about a file without certificates.
pub const GIVE_PEM: &str = "give it certificates as PEM";

/// How Target is reached.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The client code (`target.client`).
    pub client: String,
    /// The IMS organisation id (`target.organization_id`).
    pub organization: String,
    /// The client's own host, with `{client}` for the client code (`target.endpoint`).
    pub endpoint: String,
    /// The host of an edge cluster, with `{cluster}`; `None` sends everything to `endpoint`.
    pub edge_endpoint: Option<String>,
    /// The longest a request may take, answer included (`target.timeout`).
    pub timeout: Duration,
    /// The longest a connection may take to be made (`target.connect_timeout`).
    pub connect_timeout: Duration,
    /// Further root certificates as PEM (`target.ca_file`).
    pub ca_file: Option<PathBuf>,
    /// The proxy in force. The HTTP client takes none from the environment by itself.
    pub proxy: Option<Proxy>,
    /// Whether `http://` may go to other hosts than loopback (`target.allow_http`).
    pub allow_http: bool,
    /// The most bytes of an answer after decompression (`delivery.max_answer`).
    pub max_answer: usize,
    /// As many requests are under way at a time, and as many connections to a host are kept for later ones
    /// (`delivery.concurrency`). A reload changes the former alone: the HTTP clients are made for what the start had.
    pub concurrency: usize,
}

impl Settings {
    /// Over HTTP/2 a server that said nothing for this long, while a request waits, is asked for a sign of life.
    fn silence(&self) -> Duration {
        self.timeout / 4
    }

    /// How long it may take for that.
    fn sign_of_life(&self) -> Duration {
        self.connect_timeout.max(SHORTEST_PING)
    }

    /// How long it may say nothing at most before the connection is given up.
    pub(super) fn longest_silence(&self) -> Duration {
        self.timeout.min(self.silence() + self.sign_of_life())
    }
}

/// Why the HTTP client cannot be made from the settings.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TransportError {
    /// An endpoint is no URL.
    #[error("{key} = \"{value}\" is no http or https URL")]
    Url {
        /// The configuration key.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// An endpoint would carry visitors' ids in the clear.
    #[error("{key} = \"{value}\" is not encrypted: use https, or set target.allow_http")]
    Unencrypted {
        /// The configuration key.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// The root certificates cannot be read.
    #[error("target.ca_file {} cannot be read: {source}", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The proxy is none, or one of another kind. It may hold a password, so that it is not repeated.
    #[error("{named} names no http:// or https:// proxy")]
    Proxy {
        /// `target.proxy`, or the variable of the environment.
        named: String,
    },
    /// The file of the root certificates has none, or one that is none.
    #[error("target.ca_file {} {what}: {GIVE_PEM}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Of the system's root certificates none can be used.
    #[error("no root certificates of the system can be read, such as the package ca-certificates has: {0}")]
    System(String),
    /// Of the system's root certificates some cannot be read.
    #[error("some root certificates of the system cannot be read: {0}")]
    SystemPart(String),
    /// The client refuses the settings.
    #[error("the HTTP client cannot be made: {}", told(.0))]
    Client(#[from] reqwest::Error),
}

/// What makes a client that `settings` ask for, which trusts `authorities`; all that have clones of a `lookup` share its
/// limit.
pub(super) fn builder(
    settings: &Settings,
    authorities: &Authorities,
    lookup: Lookup,
) -> Result<ClientBuilder, TransportError> {
    let builder = Client::builder()
        .timeout(settings.timeout)
        .connect_timeout(settings.connect_timeout)
        .pool_idle_timeout(LONGEST_IDLE)
        .dns_resolver(lookup)
        // Over HTTP/2 a request that times out leaves its connection open. One that fell silent would take every
        // later request: a ping that nobody answers, sent while a request waits, ends it.
        .http2_keep_alive_interval(settings.silence())
        .http2_keep_alive_timeout(settings.sign_of_life())
        .redirect(redirect::Policy::none())
        .tls_certs_only(authorities.certificates.iter().cloned());
    Ok(match &settings.proxy {
        Some(proxy) => builder.proxy(proxy.rule()?),
        None => builder.no_proxy(),
    })
}

/// `value` as a URL that may be used.
pub(super) fn checked(key: &'static str, value: &str, allow_http: bool) -> Result<Url, TransportError> {
    let wrong = || TransportError::Url { key, value: value.to_owned() };
    let url = Url::parse(value).map_err(|_| wrong())?;
    if !url.has_host() {
        return Err(wrong());
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if allow_http || is_loopback(&url) => Ok(url),
        "http" => Err(TransportError::Unencrypted { key, value: value.to_owned() }),
        _ => Err(wrong()),
    }
}

/// Whether `url` stays on this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}
