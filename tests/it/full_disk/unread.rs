//! Disks that do not give back what lies at some place, while the daemon serves.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use tempfile::TempDir;

use super::{Daemon, Stage, balance, burst, burst_of, says, started};
use crate::power::preload::preload;
use crate::process::{LIMIT, Log, end, terminate};
use crate::support::missing;

/// How many events lie at places that cannot be read. Of one the engine may have a copy in memory, or have moved it.
const BAD: usize = 8;
/// The events around each of them, of sessions that have no others: the engine reads its neighbours together with it.
const NEAR: usize = 128;
/// The sessions of all others, of which those wait that have an event among the neighbours all the same.
const OTHERS: usize = 2_000;

/// The events of a queue, of which no request takes those that are bad before thousands of others are delivered. What comes
/// behind them is, in the engine, more than the engine keeps in memory: they have to be read again.
fn stored(stage: &Stage) -> (Vec<String>, BTreeSet<String>) {
    let (mut daemon, log) = stage.start();
    let others = |name: &str, count| {
        burst_of(stage.folder.path(), name, |number| format!("s{}", number % OTHERS), count, 2_000).queued
    };
    let (mut bad, mut all) = (Vec::new(), others("early", 4_000));
    for place in 0..BAD {
        all.extend(others(&format!("between{place}"), 300));
        let name = format!("near{place}");
        all.extend(
            burst_of(stage.folder.path(), &name, |number| format!("near{}", number % 4), NEAR, 2_000).queued,
        );
        bad.push(format!("{name}.{}", NEAR / 2));
    }
    all.extend(others("late", 20_000));
    assert_eq!(all.len(), 4_000 + BAD * (300 + NEAR) + 20_000);
    assert!(terminate(&mut daemon.0).success(), "{:#?}", log.all());
    (bad, all)
}

/// The command of a daemon for which reads fail as `fault` says, while the file is there that is given back.
fn failing(stage: &Stage, queue: &Path, fault: &str) -> (Command, PathBuf) {
    (stage.failing(queue.parent().expect("a folder"), fault), stage.armed())
}

/// The faults of reads at each place where the log has these events.
fn places(queue: &Path, events: &[String]) -> String {
    let log = fs::read(queue.join("events.1/db")).expect("a log");
    let places = |id: &String| {
        let bytes = format!(r#""id":"{id}""#);
        let found: Vec<_> = memmem(&log, bytes.as_bytes()).collect();
        assert!(!found.is_empty(), "{id}");
        found.into_iter().map(|at| format!("read@/db+{at}:1:EIO:ever"))
    };
    events.iter().flat_map(places).collect::<Vec<_>>().join(",")
}

/// Where these bytes are.
fn memmem(all: &[u8], wanted: &[u8]) -> impl Iterator<Item = usize> {
    let windows = all.windows(wanted.len()).enumerate();
    windows.filter(move |(_, window)| *window == wanted).map(|(at, _)| at)
}

/// Starts the daemon, and lets it look at everything once: what it read first is not in memory any more.
fn looked_at(command: &mut Command) -> (Daemon, Log) {
    let (daemon, mut log) = started(command);
    log.says("the account of the queue balances");
    (daemon, log)
}

/// The daemon that ended for its disk lost nothing: the next one, for which it can be read again, delivers all.
fn ended_for_its_disk(stage: &Stage, queue: &Path, mut daemon: Daemon, log: Log, all: &BTreeSet<String>) {
    let ended = end(&mut daemon.0);
    let log = log.all();
    assert_eq!(ended.code(), Some(74), "{log:#?}");
    assert!(says(&log, "the daemon ended"), "{log:#?}");
    let (mut daemon, log) = stage.start();
    stage.taken(all);
    assert!(terminate(&mut daemon.0).success(), "{:#?}", log.all());
    let balance = balance(queue);
    assert_eq!(
        (balance.accepted, balance.quarantined, balance.dead),
        (all.len() as u64, 0, 0),
        "{balance:?}"
    );
}

/// While reads fail as `fault` says, all but so many events are delivered, or the daemon ends; nothing is lost either way.
fn serves(but: usize, fault: impl Fn(&Path, &[String]) -> String) {
    let disk = TempDir::new().expect("a folder");
    let queue = disk.path().canonicalize().expect("a folder").join("queue");
    let mut stage = Stage::new(&queue, 0, 0);
    // The first request of a session does not reach a bad event.
    stage.options.extend(["queue.max_bytes=128MiB", "batch.max_events=10"].map(str::to_owned));
    let (bad, all) = stored(&stage);
    let (mut command, armed) = failing(&stage, &queue, &fault(&queue, &bad));
    let (mut daemon, mut log) = looked_at(&mut command);
    fs::write(&armed, "").expect("a file");
    stage.heal();
    let told = log.find(|line| line["event"] == "events_unread" || line["event"] == "disk_failed");
    assert!(told.is_some(), "{:#?}", log.all());
    // Where the engine itself needs that place for a commit, it is of no use any more.
    let mut has_ended = false;
    let limit = Instant::now() + LIMIT;
    let mut until = |missed| {
        while !has_ended && missing(&stage.sandbox, &all) > missed {
            assert!(
                Instant::now() < limit,
                "{} of {} never arrived",
                missing(&stage.sandbox, &all),
                all.len()
            );
            has_ended = daemon.0.try_wait().expect("a process").is_some();
        }
    };
    until(but);
    fs::remove_file(&armed).expect("a file can be removed");
    until(0);
    match has_ended {
        true => ended_for_its_disk(&stage, &queue, daemon, log, &all),
        false => drop(stage.end(&queue, daemon, log, &all)),
    }
}

#[test]
fn a_place_that_cannot_be_read_holds_up_nothing_but_what_lies_there() {
    // The sessions of the bad events wait, and a few of the others.
    serves(BAD * 3 * NEAR, places);
}

#[test]
fn a_disk_that_gives_nothing_back_for_a_while_loses_nothing() {
    serves(usize::MAX, |_, _| "read@/db:1:EIO:ever".to_owned());
}

#[test]
fn a_disk_that_gives_nothing_back_for_ever_ends_the_daemon_and_loses_nothing() {
    let disk = TempDir::new().expect("a folder");
    let queue = disk.path().canonicalize().expect("a folder").join("queue");
    let stage = Stage::new(&queue, 0, 0);
    let (mut daemon, log) = stage.start();
    let all = burst(stage.folder.path(), "event", 4_000, 200).queued;
    assert!(terminate(&mut daemon.0).success(), "{:#?}", log.all());
    stage.heal();
    // More reads than a start needs, and fewer than the scan that comes behind it.
    let fault = "read@/journal:100:EIO:ever";
    let mut command = stage.command();
    preload(&mut command, disk.path(), &stage.folder.path().join("record"), fault);
    let (daemon, mut log) = started(&mut command);
    log.says("the daemon takes events in");
    log.says("the queue cannot be read on");
    ended_for_its_disk(&stage, &queue, daemon, log, &all);
}
