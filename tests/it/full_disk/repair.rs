//! Disks with no room for the new database that a start makes of a damaged one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{MIB, Small, Stage, balance, burst, refused, started};
use crate::damage::hide_a_segment;
use crate::power::preload::preload;
use crate::process::terminate;

/// The events of a queue whose log has to be repaired; Target is down.
fn damaged(stage: &Stage, queue: &Path) -> BTreeSet<String> {
    let (mut daemon, log) = stage.start();
    let acknowledged = burst(stage.folder.path(), "before", 2_000, 2_000).queued;
    assert_eq!(acknowledged.len(), 2_000);
    assert!(terminate(&mut daemon.0).success(), "{:#?}", log.all());
    hide_a_segment(queue);
    acknowledged
}

/// All files of the database, with what is in them.
fn files(queue: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(queue.join("events.1")).expect("the old database");
    let paths = entries.map(|entry| entry.expect("a file").path()).filter(|path| path.is_file());
    paths.map(|path| (path.clone(), fs::read(path).expect("a file can be read"))).collect()
}

/// The start ends with 74 and says what to do, and the old database is as it was.
fn ends_for_want_of_room(command: &mut Command, queue: &Path, what: &str) {
    let before = files(queue);
    let (code, said) = refused(command);
    assert_eq!(code, Some(74), "{what}: {said}");
    for word in ["its log is damaged", "its disk is full", "at least", "df -h", "start again"] {
        assert!(said.contains(word), "{what}: {word} is not said: {said}");
    }
    assert!(files(queue) == before, "{what}: the old database was changed");
    assert!(!queue.join("events.new").exists(), "{what}: what was begun takes room still");
}

/// With room the next start goes on, and nothing is lost.
fn goes_on(stage: Stage, queue: &Path, acknowledged: &BTreeSet<String>) {
    let (daemon, mut log) = stage.start();
    log.says("the log of the database was damaged");
    stage.heal();
    stage.end(queue, daemon, log, acknowledged);
}

#[test]
fn a_repair_without_room_changes_nothing_and_goes_on_with_room() {
    for but in [0, 2 * MIB, 3 * MIB] {
        let Some(disk) = Small::mount(32 * MIB, 0) else { return };
        let queue = disk.path().join("queue");
        let stage = Stage::new(&queue, 0, 0).with_a_small_journal();
        let acknowledged = damaged(&stage, &queue);
        disk.fill(but);
        for _ in 0..2 {
            ends_for_want_of_room(&mut stage.command(), &queue, &format!("{but} bytes are free"));
        }
        disk.free();
        goes_on(stage, &queue, &acknowledged);
    }
}

#[test]
fn a_repair_takes_the_room_of_the_reserve() {
    let Some(disk) = Small::mount(64 * MIB, 0) else { return };
    let queue = disk.path().join("queue");
    let stage = Stage::new(&queue, 20 * MIB, 10 * MIB).with_a_small_journal();
    let acknowledged = damaged(&stage, &queue);
    disk.fill(MIB);
    let (mut daemon, mut log) = stage.start();
    log.says("the log of the database was damaged");
    stage.heal();
    stage.taken(&acknowledged);
    // What is left of the reserve may not do for the removals: then it says so at the end, instead of waiting for room.
    let status = terminate(&mut daemon.0);
    assert!(matches!(status.code(), Some(0 | 74)), "{status}: {:#?}", log.all());
    disk.free();
    let balance = balance(&queue);
    assert_eq!((balance.accepted, balance.quarantined), (acknowledged.len() as u64, 0), "{balance:?}");
}

/// So does one that an operator asks for, and the copy of a database whose disk failed.
#[test]
fn what_is_made_of_a_database_takes_the_room_of_the_reserve() {
    let copying = "write@events.new/journal:1:ENOSPC";
    for (by_operator, fault) in [(true, copying), (false, copying), (false, "open@events.3/conf:1:ENOSPC")] {
        let disk = TempDir::new().expect("a folder");
        let queue = disk.path().canonicalize().expect("a folder").join("queue");
        let stage = Stage::new(&queue, 2 * MIB, MIB).with_a_small_journal();
        let acknowledged = damaged(&stage, &queue);
        assert!(queue.join("reserve").exists());
        let once_full = |command: &mut Command| {
            preload(command, disk.path(), &stage.folder.path().join("record"), fault);
        };
        let mut repair = stage.command_of(&["store", "repair"]);
        if by_operator {
            once_full(&mut repair);
        }
        let repaired = repair.output().expect("it runs");
        assert!(repaired.status.success(), "{}", String::from_utf8_lossy(&repaired.stderr));
        let said = String::from_utf8_lossy(&repaired.stdout).into_owned();
        assert_eq!(
            (queue.join("reserve").exists(), said.contains("reserve   given up")),
            (!by_operator, by_operator)
        );
        let mut command = stage.command();
        if !by_operator {
            fs::write(queue.join("failed"), "input/output error").expect("a mark");
            once_full(&mut command);
        }
        let (daemon, mut log) = started(&mut command);
        if !by_operator {
            log.says("the disk is full: the reserve was given up");
            log.says("the database was copied");
        }
        stage.heal();
        stage.end(&queue, daemon, log, &acknowledged);
    }
}

#[test]
fn a_repair_by_an_operator_tells_of_a_reserve_that_was_not_enough() {
    let disk = TempDir::new().expect("a folder");
    let queue = disk.path().canonicalize().expect("a folder").join("queue");
    let stage = Stage::new(&queue, 2 * MIB, MIB).with_a_small_journal();
    damaged(&stage, &queue);
    for is_told in [true, false] {
        let mut repair = stage.command_of(&["store", "repair"]);
        let fault = "write@events.new/journal:1:ENOSPC:ever";
        preload(&mut repair, disk.path(), &stage.folder.path().join("record"), fault);
        let (code, said) = refused(&mut repair);
        assert_eq!((code, said.contains("the reserve, which was given up")), (Some(74), is_told), "{said}");
    }
}

/// The same as an ordinary user sees it, through calls that are made to fail.
#[test]
fn a_repair_may_meet_the_full_disk_at_any_call() {
    let disk = TempDir::new().expect("a folder");
    let queue = disk.path().canonicalize().expect("a folder").join("queue");
    let stage = Stage::new(&queue, 0, 0).with_a_small_journal();
    let acknowledged = damaged(&stage, &queue);
    let faults = [
        "name@quarantine:1:ENOSPC",
        "open@events.new/conf:1:ENOSPC",
        "write@events.new:1:ENOSPC",
        "write@events.new/journal:1:ENOSPC",
        "write@events.new/journal:3:ENOSPC",
        "name@events.new:1:ENOSPC",
    ];
    for fault in faults {
        let mut command = stage.command();
        preload(&mut command, disk.path(), &stage.folder.path().join("record"), &format!("{fault}:ever"));
        ends_for_want_of_room(&mut command, &queue, fault);
    }
    goes_on(stage, &queue, &acknowledged);
}
