//! A disk that fails: what was acknowledged is there, and the next start builds on nothing that the system only believes
//! to be on the disk.

use super::check::{Known, check, open};
use super::images::{all_whole, is_complete};
use super::plan;
use super::record::Record;
use super::run::Run;
use crate::process::NOBODY;

const COPIED: &str = "the database was copied";

/// The database is copied before the events of this run are acknowledged, and no loss of power takes any of them.
fn goes_on(mode: &'static str, run: &Run) {
    let mut daemon = run.start("");
    run.submit(200..240, 1, 1);
    daemon.terminate();
    assert!(daemon.said().contains(COPIED), "{}", daemon.said());
    assert!(!run.disk().join("queue/failed").exists(), "the mark stays behind");
    all_whole(&plan(mode, run));
}

#[test]
fn what_fails_under_a_commit_ends_the_daemon_and_is_copied() {
    for fault in ["write@/journal:30:EIO", "sync@/journal:30:EIO"] {
        let run = Run::new(NOBODY);
        let mut daemon = run.start(fault);
        // This ends only as the daemon closes the connection.
        let acknowledged = run.try_submit(0..200, &mut daemon);
        assert!((1..200).contains(&acknowledged), "{fault}: {acknowledged} were acknowledged");
        assert_eq!(daemon.wait().code(), Some(74), "{fault}: {}", daemon.said());
        assert!(run.disk().join("queue/failed").exists(), "{fault}: no mark was left");
        is_complete(run.log(), run.disk());
        goes_on("failed-commit", &run);
    }
}

#[test]
fn what_fails_as_the_database_opens_is_copied_before_anything_is_acknowledged() {
    for fault in ["sync@/db:1:EIO", "sync@/db:2:EIO", "write@/db:1:EIO"] {
        let run = Run::new(NOBODY);
        // A commit that was written but not synced: the next start is the one that syncs it.
        let mut daemon = run.start("sync@/journal:20:KILL");
        run.try_submit(0..100, &mut daemon);
        daemon.wait();
        let mut daemon = run.start(fault);
        let acknowledged = run.try_submit(100..140, &mut daemon);
        assert_eq!(acknowledged, 40, "{fault}: {}", daemon.said());
        assert!(daemon.said().contains(COPIED), "{fault}: {}", daemon.said());
        daemon.terminate();
        goes_on("failed-open", &run);
    }
}

#[test]
fn what_cannot_be_read_never_makes_a_smaller_queue() {
    for marked in [false, true] {
        let run = Run::new(NOBODY);
        let queue = run.disk().join("queue");
        let mut daemon = run.start("");
        run.submit(0..150, 3, 20);
        daemon.terminate();
        let mut from = 150;
        for fault in ["read@/db:1", "read@/db:2", "read@/journal:1"].map(|call| format!("{call}:EIO:ever")) {
            if marked {
                std::fs::write(queue.join("failed"), "a test").expect("a mark");
            }
            let mut daemon = run.start(&fault);
            run.try_submit(from..from + 10, &mut daemon);
            from += 10;
            assert_eq!(daemon.wait().code(), Some(74), "{fault}: {}", daemon.said());
        }
        let record = Record::read(run.log());
        let known = Known { record: &record, at: record.steps.len(), held: None, looks_damaged: false };
        check(&queue, open, &known).unwrap_or_else(|why| panic!("marked {marked}: {why}"));
    }
}
