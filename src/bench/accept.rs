//! How fast submissions are stored, and how soon they are answered.

use std::time::Duration;

use tempfile::TempDir;

use super::load::{Load, Seen};
use super::process::{Daemon, Used};
use super::{Report, Settings, TrialError, limits, micros_each, rate, temporary};

/// So many that next to no batch is full, and nothing is sent meanwhile.
const SESSIONS: u64 = 1_000_000;
/// Nobody listens there; and with this nothing is sent before the measurement is over.
const NOBODY: (&str, &[&str]) = ("http://127.0.0.1:9", &["batch.linger=1h"]);
/// The connections that pipeline, and the lines that each keeps without a reply.
const PIPELINES: (u64, usize) = (16, 256);

pub(super) async fn measure(settings: &Settings, report: &mut Report) -> Result<(), TrialError> {
    let (bytes, time) = (settings.line_bytes, settings.time);
    let folder = temporary(settings)?;
    let one_sync = limits::append(folder.path(), bytes, 1, time).await?.sync;
    for producers in [1, 8, 64_usize] {
        let part = format!("accept, {producers} waiting");
        let load = Load { producers: producers as u64, sessions: SESSIONS, bytes };
        let (folder, mut daemon, before) = started(settings).await?;
        let socket = daemon.socket();
        let seen = daemon.during(load.waiting(&socket, time)).await?;
        let (used, commits) = (daemon.used().await?.since(&before), daemon.commits().await?);
        daemon.end().await?;
        let group = group(&seen, commits);
        tell(report, &part, settings, &seen, &used, group).await?;
        if group < producers {
            // What a commit of all that wait would be.
            let append = limits::append(folder.path(), bytes, producers, time).await?.rate;
            let limit = ("append and sync, all at once", append);
            report.beside(&part, "accepted", "1/s", rate(seen.events, seen.time), limit);
        }
        grouped(report, &part, &seen, commits);
        let alone = limits::Socket::listen(folder.path())?;
        let bare = load.waiting(&alone.path, time).await?;
        beside_the_socket(report, &part, &seen, &bare);
        for (name, share) in [("reply p50", 0.5), ("reply p99", 0.99), ("reply p99.9", 0.999)] {
            report.add(&part, name, "ms", millis(seen.percentile(share)));
        }
    }
    let (connections, window) = PIPELINES;
    let part = format!("accept, {connections} x {window} pipelined");
    let load = Load { producers: connections, sessions: SESSIONS, bytes };
    let (folder, mut daemon, before) = started(settings).await?;
    let socket = daemon.socket();
    let submits = load.pipelined(&socket, window, settings.events, 0);
    let seen = daemon.during(submits).await?;
    let (used, commits) = (daemon.used().await?.since(&before), daemon.commits().await?);
    daemon.end().await?;
    tell(report, &part, settings, &seen, &used, group(&seen, commits)).await?;
    grouped(report, &part, &seen, commits);
    let alone = limits::Socket::listen(folder.path())?;
    let bare = load.pipelined(&alone.path, window, settings.events, 0).await?;
    beside_the_socket(report, &part, &seen, &bare);
    let parsed = limits::parse(bytes, time / 4).await?;
    report.beside(&part, "accepted", "1/s", rate(seen.events, seen.time), ("serde_json, one thread", parsed));

    let half = rate(seen.events, seen.time) / 2.0;
    let (_folder, mut daemon, _) = started(settings).await?;
    // As many events as before.
    let socket = daemon.socket();
    let submits = load.paced(&socket, half, seen.time * 2);
    let paced = daemon.during(submits).await?;
    let commits = daemon.commits().await?;
    daemon.end().await?;
    let part = "accept, half of the highest rate";
    report.beside(part, "accepted", "1/s", rate(paced.events, paced.time), ("asked for", half));
    grouped(report, part, &paced, commits);
    for (name, share) in [("reply p50", 0.5), ("reply p99", 0.99), ("reply p99.9", 0.999)] {
        let limit = ("one append with its sync", millis(one_sync));
        report.beside(part, name, "ms", millis(paced.percentile(share)), limit);
    }
    Ok(())
}

/// How many events shared a commit, as a bare loop can: whole ones, and at least one.
fn group(seen: &Seen, commits: u64) -> usize {
    let half = commits / 2;
    usize::try_from((seen.events + half) / commits.max(1)).unwrap_or(1).max(1)
}

/// A daemon that takes connections, in a folder of its own, and what it used until then.
async fn started(settings: &Settings) -> Result<(TempDir, Daemon, Used), TrialError> {
    let ((endpoint, more), folder) = (NOBODY, temporary(settings)?);
    let mut daemon = Daemon::start(settings, folder.path(), endpoint, more)?;
    drop(daemon.connect().await?);
    let before = daemon.used().await?;
    Ok((folder, daemon, before))
}

async fn tell(
    report: &mut Report,
    part: &str,
    settings: &Settings,
    seen: &Seen,
    used: &Used,
    group: usize,
) -> Result<(), TrialError> {
    let (bytes, time) = (settings.line_bytes, settings.time);
    let folder = temporary(settings)?;
    let accepted = rate(seen.events, seen.time);
    let append = limits::append(folder.path(), bytes, group, time).await?.rate;
    report.beside(part, "accepted", "1/s", accepted, ("append and sync", append));
    let engine = limits::engine(folder.path(), bytes, group, time).await?;
    report.beside(part, "accepted", "1/s", accepted, ("the engine alone", engine));
    costs(report, part, settings, used, seen.events);
    Ok(())
}

/// What the same producers get through the same kind of socket where nothing is done with their lines.
fn beside_the_socket(report: &mut Report, part: &str, seen: &Seen, bare: &Seen) {
    let limit = ("the socket alone", rate(bare.events, bare.time));
    report.beside(part, "accepted", "1/s", rate(seen.events, seen.time), limit);
}

/// How many events shared a commit.
#[expect(clippy::cast_precision_loss, reason = "figures for a person")]
fn grouped(report: &mut Report, part: &str, seen: &Seen, commits: u64) {
    report.add(part, "commits, each with a sync", "1/s", rate(commits, seen.time));
    report.add(part, "events a commit", "", seen.events as f64 / commits.max(1) as f64);
}

/// What `events` cost the daemon.
#[expect(clippy::cast_precision_loss, reason = "figures for a person")]
pub(super) fn costs(report: &mut Report, part: &str, settings: &Settings, used: &Used, events: u64) {
    report.add(part, "user CPU an event", "us", micros_each(used.user, events));
    report.add(part, "system CPU an event", "us", micros_each(used.system, events));
    report.add(part, "peak memory", "MiB", used.peak_bytes as f64 / (1_024.0 * 1_024.0));
    let payload = events.max(1) as f64 * settings.line_bytes as f64;
    report.add(part, "written a byte of payload", "B", used.written as f64 / payload);
}

pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
