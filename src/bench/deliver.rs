//! From the socket to Target's answer.

use std::time::{Duration, Instant};

use super::accept::costs;
use super::load::Load;
use super::process::Daemon;
use super::server::Server;
use super::{Report, Settings, TrialError, limits, micros_each, rate, system, temporary};

/// The connections that submit, and the lines that each keeps without a reply.
const PRODUCERS: (u64, usize) = (4, 256);
/// The connections of the bare client: the daemon's `delivery.concurrency`.
const CONNECTIONS: usize = 64;

pub(super) async fn measure(settings: &Settings, report: &mut Report) -> Result<(), TrialError> {
    let Settings { events, sessions, .. } = *settings;
    whole(settings, report, "socket to 200", events, sessions, 0).await?;
    whole(settings, report, "socket to 200, one a session", events, events, 1).await
}

#[expect(clippy::cast_precision_loss, reason = "figures for a person")]
async fn whole(
    settings: &Settings,
    report: &mut Report,
    part: &str,
    events: u64,
    sessions: u64,
    each: u64,
) -> Result<(), TrialError> {
    let (bytes, folder) = (settings.line_bytes, temporary(settings)?);
    let mut server = Server::start().await.map_err(system("the bare server cannot listen"))?;
    let endpoint = format!("http://{}", server.address);
    let mut daemon = Daemon::start(settings, folder.path(), &endpoint, &["batch.linger=1s"])?;
    drop(daemon.connect().await?);
    let (before, began) = (daemon.used().await?, Instant::now());
    let (producers, window) = PRODUCERS;
    let socket = daemon.socket();
    let load = Load { producers, sessions, bytes };
    let submits = load.pipelined(&socket, window, events, each);
    let seen = daemon.during(submits).await?;
    daemon.during(server.taken(events)).await?;
    let time = began.elapsed();
    let (used, requests) = (daemon.used().await?.since(&before), server.requests());
    daemon.end().await?;
    let a_request = events as f64 / requests.max(1) as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 50")]
    let typical = a_request.round().max(1.0) as usize;
    let (address, delivered) = (server.address, rate(events, time));
    let body = limits::body(bytes, typical);
    let bare = limits::http(address, &body, CONNECTIONS, settings.time).await?;
    report.beside(part, "delivered", "1/s", delivered, ("bare HTTP client", bare * typical as f64));
    let library = limits::library(address, &body, CONNECTIONS, settings.time).await?;
    report.beside(part, "delivered", "1/s", delivered, ("the HTTP library", library * typical as f64));
    report.add(part, "accepted", "1/s", rate(seen.events, seen.time));
    report.add(part, "requests", "1/s", rate(requests, time));
    report.add(part, "events a request", "", a_request);
    report.add(part, "CPU an event", "us", micros_each(used.processor(), events));
    costs(report, part, settings, &used, events);
    report.add(part, "time", "s", Duration::as_secs_f64(&time));
    Ok(())
}
