//! A loss of power at any moment: what the real executable wrote is recorded, and from the record images are made in which
//! what was not synced is partly or wholly missing (see `disk.rs`). Each has to open with every event that was
//! acknowledged and not yet answered by Target, and with nothing that was never submitted.

pub(crate) mod check;
mod disk;
mod failing;
mod images;
pub(crate) mod preload;
mod record;
mod repair;
mod run;

use std::os::unix::process::ExitStatusExt;

use target_notifyd::sandbox::{self, Faults, Sandbox};
use target_notifyd::schedule::Random;

use self::check::{ids, open, rehearse};
use self::images::{Plan, all_whole, failures, is_complete, reused_segments};
use self::record::Record;
use self::run::Run;
use crate::extent::{extent, seed};
use crate::process::NOBODY;
use crate::support::arrive;

/// The unit of the engine's log, as `src/queue/engine.rs` has it.
const SEGMENT_BYTES: u64 = 512 * 1_024;

fn plan(mode: &'static str, run: &Run) -> Plan {
    is_complete(run.log(), run.disk());
    let log = run.log().to_owned();
    Plan { mode, images: extent(25, 200), from: 0, seed: seed(), credit_data_syncs: true, opening: open, log }
}

#[test]
fn power_may_fail_while_events_are_taken_in() {
    let run = Run::new(NOBODY);
    let mut daemon = run.start("");
    run.submit(0..400, 3, 60);
    daemon.terminate();
    all_whole(&plan("enqueue", &run));
}

#[test]
fn power_may_fail_while_events_are_delivered() {
    with_sandbox(|run, sandbox| {
        sandbox.faults(Faults { error_500: 100, cut: 50, reset_after: 50, omit: 50, ..Faults::default() });
        let mut daemon = run.start("");
        run.submit(0..400, 3, 60);
        run.receipts(400..600, 3);
        daemon.terminate();
        all_whole(&plan("delivery", run));
    });
}

#[test]
fn power_may_fail_at_the_first_start() {
    let run = Run::new(NOBODY);
    let mut daemon = run.start("");
    run.submit(0..3, 1, 1);
    daemon.terminate();
    all_whole(&plan("first-start", &run));
}

#[test]
fn power_may_fail_at_any_start() {
    let run = Run::new(NOBODY);
    let mut random = Random::new(seed());
    let mut one_of = |count: u64| 1 + random.bits() % count;
    // Killed before a call on the disk each time, so that starts find what others left half done.
    let faults = [
        format!("name:{}:KILL", one_of(4)),
        format!("write@/journal:{}:KILL", one_of(60)),
        format!("sync:{}:KILL", one_of(12)),
        format!("sync@/journal:{}:KILL", one_of(60)),
        format!("write:{}:KILL", one_of(4)),
        String::new(),
    ];
    for (number, fault) in faults.iter().enumerate() {
        let mut daemon = run.start(fault);
        let from = number as u64 * 100;
        run.try_submit(from..from + 100, &mut daemon);
        match fault.as_str() {
            "" => daemon.terminate(),
            _ => assert_eq!(daemon.wait().signal(), Some(9), "{fault}: {}", daemon.said()),
        }
        // What a process wrote before its kill is in the cache of the system, and the next one finds it there.
        is_complete(run.log(), run.disk());
    }
    all_whole(&plan("restart", &run));
}

#[test]
fn power_may_fail_while_the_engine_writes_over_what_was_drained() {
    with_sandbox(|run, sandbox| {
        let mut daemon = run.start("");
        for round in 0..5 {
            // What waits is more than the journal has room for: the engine gets it, and is drained again.
            let lines = round * 1_000..round * 1_000 + 1_000;
            sandbox.faults(Faults { down: true, ..Faults::default() });
            run.submit(lines.clone(), 8, 200);
            sandbox.faults(Faults::default());
            arrive(sandbox, &lines.flat_map(ids).collect::<Vec<_>>());
        }
        daemon.terminate();
        let reused = reused_segments(run.log(), SEGMENT_BYTES);
        println!("reuse: {reused} segments were written again");
        assert!(reused > 10, "{reused} segments were written again");
        // Each image of so large a log takes long to open.
        all_whole(&Plan { images: extent(12, 200), ..plan("reuse", run) });
    });
}

/// The test of the tests: without the sync of each commit they see losses.
#[test]
fn without_the_sync_of_a_commit_events_are_lost() {
    let run = Run::new(NOBODY);
    let mut daemon = run.start("");
    run.submit(0..200, 3, 20);
    daemon.terminate();
    let plan = Plan { images: 25, credit_data_syncs: false, ..plan("without-sync", &run) };
    let failed = failures(&plan).len();
    println!("without the sync of a commit: {} images, {failed} failed", plan.images);
    assert!(failed > 5, "only {failed} of {} images failed", plan.images);
}

#[test]
fn power_may_fail_during_a_migration() {
    let run = Run::new(NOBODY);
    let mut daemon = run.start("");
    run.submit(0..300, 3, 100);
    daemon.terminate();
    let from = Record::read(run.log()).steps.len();
    // As a newer program starts: its steps rewrite every record twice before it serves.
    let mut daemon = run.start_with("", "TARGET_NOTIFYD_REHEARSAL");
    run.submit(300..301, 1, 1);
    daemon.terminate();
    all_whole(&Plan { images: extent(50, 200), from, opening: rehearse, ..plan("migration", &run) });
}

#[test]
#[ignore = "shows one image again, which TARGET_NOTIFYD_IMAGE names"]
fn one_image_again() {
    images::again(open);
}

fn with_sandbox(test: impl FnOnce(&Run, &Sandbox)) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _inside = runtime.enter();
    let sandbox = Sandbox::start(sandbox::Settings::default()).expect("the sandbox listens");
    test(&Run::new(&format!("http://{}", sandbox.address())), &sandbox);
    runtime.block_on(sandbox.stop());
}
