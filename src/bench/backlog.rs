//! What a backlog costs: filling it, a restart after SIGKILL, draining it. And what it costs to do nothing.

use std::time::{Duration, Instant};

use futures_util::FutureExt;

use super::accept::costs;
use super::load::Load;
use super::process::Daemon;
use super::server::Server;
use super::{Report, Settings, TrialError, micros_each, rate, system, temporary};

/// The connections that fill, and the lines that each keeps without a reply.
const PRODUCERS: (u64, usize) = (16, 256);
/// Events in a row that each session has.
const EVENTS_A_SESSION: u64 = 10;
/// How long an idle daemon is watched.
const IDLE: Duration = Duration::from_secs(10);
const MIB: f64 = 1_024.0 * 1_024.0;

#[expect(clippy::cast_precision_loss, reason = "figures for a person")]
pub(super) async fn measure(settings: &Settings, report: &mut Report) -> Result<(), TrialError> {
    for events in settings.backlogs.iter().copied() {
        let (bytes, folder) = (settings.line_bytes, temporary(settings)?);
        // Nobody listens there.
        let mut daemon = Daemon::start(settings, folder.path(), "http://127.0.0.1:9", &["batch.linger=1s"])?;
        drop(daemon.connect().await?);
        let before = daemon.used().await?;
        let (producers, window) = PRODUCERS;
        let sessions = events / EVENTS_A_SESSION;
        let socket = daemon.socket();
        let load = Load { producers, sessions, bytes };
        let fills = load.pipelined(&socket, window, events, EVENTS_A_SESSION);
        let seen = daemon.during(fills).await?;
        let part = format!("backlog of {events}, filling");
        report.add(&part, "accepted", "1/s", rate(seen.events, seen.time));
        let used = daemon.used().await?.since(&before);
        report.add(&part, "CPU an event", "us", micros_each(used.processor(), events));
        costs(report, &part, settings, &used, events);
        daemon.kill().await?;

        let part = format!("backlog of {events}, restart");
        let mut server = Server::start().await.map_err(system("the bare server cannot listen"))?;
        let endpoint = format!("http://{}", server.address);
        let began = Instant::now();
        let mut daemon = Daemon::start(settings, folder.path(), &endpoint, &["batch.linger=1s"])?;
        drop(daemon.connect().await?);
        let accepting = Instant::now();
        report.add(&part, "until it accepts", "s", accepting.duration_since(began).as_secs_f64());
        let opened = daemon.used().await?;
        daemon.during(server.taken(1)).await?;
        report.add(&part, "then until it delivers", "s", accepting.elapsed().as_secs_f64());

        let part = format!("backlog of {events}, draining");
        daemon.during(server.taken(events)).await?;
        let (time, used) = (accepting.elapsed(), daemon.used().await?.since(&opened));
        report.add(&part, "delivered", "1/s", rate(events, time));
        report.add(&part, "CPU an event", "us", micros_each(used.processor(), events));
        report.add(&part, "peak memory", "MiB", used.peak_bytes as f64 / MIB);
        daemon.end().await?;
    }
    Ok(())
}

/// What a daemon uses that has nothing to do.
#[expect(clippy::cast_precision_loss, reason = "figures for a person")]
pub(super) async fn idle(settings: &Settings, report: &mut Report) -> Result<(), TrialError> {
    let folder = temporary(settings)?;
    let mut daemon = Daemon::start(settings, folder.path(), "http://127.0.0.1:9", &[])?;
    drop(daemon.connect().await?);
    // What the start left to do is done after the first second.
    daemon.during(tokio::time::sleep(Duration::from_secs(1)).map(Ok)).await?;
    let (before, began) = (daemon.used().await?, Instant::now());
    daemon.during(tokio::time::sleep(IDLE).map(Ok)).await?;
    let used = daemon.used().await?.since(&before);
    report.add("idle", "wake-ups", "1/s", rate(used.waits(), began.elapsed()));
    report.add("idle", "memory", "MiB", used.resident_bytes as f64 / MIB);
    daemon.end().await
}
