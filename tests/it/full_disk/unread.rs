//! Disks that do not give back what lies at some place, while the daemon serves.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{Daemon, Stage, balance, burst, says, started};
use crate::power::preload::preload;
use crate::process::{Log, terminate};
use crate::support::missing;

/// The events of a queue, several times what the engine keeps in memory of it, and one in the middle, which no request takes
/// before most are delivered.
fn stored(stage: &Stage) -> (String, BTreeSet<String>) {
    let (mut daemon, log) = stage.start();
    let mut others = burst(stage.folder.path(), "early", 8_000, 2_000).queued;
    let bad = burst(stage.folder.path(), "bad", 1, 2_000).queued.into_iter().next().expect("a reply");
    others.extend(burst(stage.folder.path(), "late", 12_000, 2_000).queued);
    assert_eq!(others.len(), 20_000);
    assert!(terminate(&mut daemon.0).success(), "{:#?}", log.all());
    (bad, others)
}

/// The command of a daemon for which reads fail as `fault` says, while the file is there that is given back.
fn failing(stage: &Stage, queue: &Path, fault: &str) -> (Command, PathBuf) {
    let mut command = stage.command();
    let armed = stage.folder.path().join("armed");
    preload(&mut command, queue.parent().expect("a folder"), &stage.folder.path().join("record"), fault);
    command.env("INTERPOSE_ARMED", &armed);
    (command, armed)
}

/// The faults of reads at each place where the log has these bytes.
fn places(queue: &Path, bytes: &str) -> String {
    let log = fs::read(queue.join("events.1/db")).expect("a log");
    let windows = log.windows(bytes.len()).enumerate();
    let found = windows.filter(|(_, window)| *window == bytes.as_bytes()).map(|(at, _)| at);
    let faults: Vec<_> = found.map(|at| format!("read@/db+{at}:1:EIO:ever")).collect();
    assert!((1..=8).contains(&faults.len()), "{faults:?}");
    faults.join(",")
}

/// Starts the daemon, and lets it look at everything once: what it read first is not in memory any more.
fn looked_at(command: &mut Command) -> (Daemon, Log) {
    let (daemon, mut log) = started(command);
    log.says("the account of the queue balances");
    (daemon, log)
}

/// The daemon that ended for its disk lost nothing: the next one, for which it can be read again, delivers all.
fn ended_for_its_disk(stage: &Stage, queue: &Path, mut daemon: Daemon, log: Log, all: &BTreeSet<String>) {
    let ended = daemon.0.wait().expect("the daemon ends");
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
fn serves(but: usize, fault: impl Fn(&Path, &str) -> String) {
    let disk = TempDir::new().expect("a folder");
    let queue = disk.path().canonicalize().expect("a folder").join("queue");
    let stage = Stage::new(&queue, 0, 0);
    let (bad, mut all) = stored(&stage);
    let (mut command, armed) = failing(&stage, &queue, &fault(&queue, &bad));
    all.insert(bad);
    let (mut daemon, mut log) = looked_at(&mut command);
    fs::write(&armed, "").expect("a file");
    stage.heal();
    let told = log.find(|line| line["event"] == "events_unread" || line["event"] == "disk_failed");
    assert!(told.is_some(), "{:#?}", log.all());
    // Where the engine itself needs that place for a commit, it is of no use any more.
    let mut has_ended = false;
    let mut until = |missed| {
        while !has_ended && missing(&stage.sandbox, &all) > missed {
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
    // What the engine reads together with it waits with it, and what comes behind that in the same sessions: a few of 40.
    serves(6_000, |queue, bad| places(queue, &format!(r#""id":"{bad}""#)));
}

#[test]
fn a_disk_that_gives_nothing_back_for_a_while_loses_nothing() {
    serves(usize::MAX, |_, _| "read@/db:1:EIO:ever".to_owned());
}
