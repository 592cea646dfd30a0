//! The way to Target: names, and connections with their TLS handshakes. No request is sent. And where metrics are to be served.

use std::io;
use std::net::IpAddr;

use super::report::Finding;
use crate::daemon::scrape;
use crate::delivery::{NoWay, Proxy, Settings, addresses, connect};
use crate::event::{Cluster, Failure};

/// What is reached for.
pub(super) struct Reach<'a> {
    pub(super) settings: &'a Settings,
    /// The edge cluster of sessions that bring none: its host is tried, too.
    pub(super) location_hint: Option<Cluster>,
}

/// One after the other, each within `target.connect_timeout` but for a server that begins to speak HTTP/2 late.
pub(super) async fn findings(reach: &Reach<'_>) -> Vec<Finding> {
    let settings = reach.settings;
    let own = settings.endpoint.replace("{client}", &settings.client);
    let mut hosts = vec![("target.endpoint", own)];
    if let (Some(edge), Some(cluster)) = (&settings.edge_endpoint, reach.location_hint) {
        hosts.push(("target.edge_endpoint", edge.replace("{cluster}", cluster.as_str())));
    }
    let mut findings = Vec::new();
    // Through a proxy it is the proxy that looks names up, and the proxy's own name that has to be known here.
    let through = |url: &str| settings.proxy.as_ref().filter(|proxy| proxy.takes(url));
    if let Some(proxy) = hosts.iter().find_map(|(_, url)| through(url)) {
        findings.push(name(settings, "target.proxy", proxy.text()).await);
    }
    for (key, url) in hosts {
        let proxy = through(&url);
        if proxy.is_none() {
            let found = name(settings, key, &url).await;
            let known = found.act.is_empty();
            findings.push(found);
            if !known {
                continue;
            }
        }
        findings.push(connection(settings, key, &url, proxy).await);
    }
    findings
}

/// Whether `address` can be listened on. It is tried: what has it is not in one list for all kinds of addresses. `runs` says
/// that a daemon of this configuration does: it has the address itself then.
pub(super) fn metrics(address: &str, runs: bool) -> Finding {
    const KEY: &str = "admin.metrics_listen";
    match scrape::listen(address) {
        Ok(_) => Finding::ok(KEY, format!("{address} can be listened on")),
        Err(error) if runs && error.source.kind() == io::ErrorKind::AddrInUse => {
            Finding::ok(KEY, format!("{address} is in use: the daemon that serves admin.socket runs"))
        }
        Err(error) => Finding::failed(
            KEY,
            format!("{address} cannot be listened on: {}", error.source),
            "choose a free address of this host; ss -ltnp shows who has which",
        ),
    }
}

/// The host and the port of a URL, for people.
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

fn host(url: &str) -> &str {
    let authority = authority(url);
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

async fn name(settings: &Settings, key: &'static str, url: &str) -> Finding {
    let host = host(url).trim_matches(['[', ']']);
    if host.parse::<IpAddr>().is_ok() {
        return Finding::ok(key, format!("{host} is an address"));
    }
    match addresses(host, settings.connect_timeout).await {
        Ok((found, took)) => {
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            Finding::ok(key, format!("{host} is {} ({} ms)", found.join(", "), took.as_millis()))
        }
        Err(why) => {
            Finding::failed(key, why, "getent ahosts shows what this machine knows; see /etc/resolv.conf")
        }
    }
}

async fn connection(settings: &Settings, key: &'static str, url: &str, proxy: Option<&Proxy>) -> Finding {
    let through = proxy.map(|proxy| format!(" through the proxy {proxy}")).unwrap_or_default();
    let is_tls = url.starts_with("https://");
    let what = if is_tls { "TLS handshake with" } else { "connection without TLS to" };
    let limit = humantime::format_duration(settings.connect_timeout);
    let failed = |why: &str, act: &str| {
        Finding::failed(key, format!("no {what} {}{through}: {why}", authority(url)), act)
    };
    match connect(settings, url).await {
        Ok(Ok(took)) => match proxy {
            // Without TLS it is not asked for the way before there is a request.
            Some(proxy) if !is_tls => Finding::warning(
                key,
                format!("the proxy {proxy} is reached; whether {} is, a first request shows", authority(url)),
                "target-notifyd tail --outcome retry shows what is answered, once events are sent",
            ),
            _ => {
                let (whom, took) = (authority(url), took.as_millis());
                Finding::ok(key, format!("{what} {whom}{through}: done in {took} ms; no request was sent"))
            }
        },
        Ok(Err(NoWay { failure: Failure::Timeout, .. })) => failed(
            &format!("no answer within {limit} (target.connect_timeout)"),
            "check the firewall, and target.proxy where one is needed",
        ),
        Ok(Err(NoWay { failure: Failure::Tls, detail })) => failed(&detail, after_tls(&detail)),
        Ok(Err(NoWay { failure: Failure::Reset, detail })) => Finding::failed(
            key,
            format!("{}{through}: {detail}", authority(url)),
            "have what ends TLS there offer http/1.1 alone (ALPN), or speak HTTP/2",
        ),
        Ok(Err(NoWay { failure: Failure::Dns, detail })) => {
            failed(&detail, "check the name, and /etc/resolv.conf")
        }
        Ok(Err(NoWay { detail, .. })) => {
            failed(&detail, "check the address, the firewall, and target.proxy where one is needed")
        }
        Err(error) => failed(&error.to_string(), "check target.proxy and target.ca_file"),
    }
}

/// What helps after a handshake that failed, of which TLS says `why`.
fn after_tls(why: &str) -> &'static str {
    if why.contains("CaUsedAsEndEntity") {
        // As `openssl req -x509` makes it: in target.ca_file it may be already.
        "the server shows an authority's own certificate (CA:TRUE): give it one with CA:FALSE, or one that the authority signed"
    } else if why.contains("UnknownIssuer") {
        "a certificate of an authority of your own, a proxy's perhaps, goes into target.ca_file"
    } else if why.contains("invalid peer certificate") {
        "the server needs a certificate that is valid now and for this name; timedatectl shows whether the clock is right"
    } else {
        "see whether this port serves https, with TLS 1.2 or 1.3, and what is on the way; a proxy goes into target.proxy"
    }
}
