//! Power that fails while a start repairs a damaged queue by itself: what could be read after the damage is there, however
//! many starts it takes.

use std::path::Path;

use target_notifyd::schedule::Random;

use super::images::{Plan, all_whole, is_complete};
use super::plan;
use super::record::{Record, strike};
use super::run::Run;
use crate::damage::{Damage, hidden_segment, lost_commits, lost_pages};
use crate::extent::{extent, seed};
use crate::process::NOBODY;

/// Less than the journal has room for is left in it: the engine has the rest.
const LINES: u64 = 1_200;
/// The images of each kind of damage.
const IMAGES: (u64, u64) = (9, 70);

/// Damages a queue, and has it repaired by two starts, of which the first is killed in the middle.
fn power_may_fail(mode: &'static str, damage: fn(&Path) -> Damage) {
    let run = Run::new(NOBODY);
    let mut daemon = run.start("");
    run.submit(0..LINES, 3, 60);
    daemon.terminate();
    strike(run.log(), &damage(&run.disk().join("queue")));
    let from = Record::read(run.log()).steps.len();
    let call = 1 + Random::new(seed()).bits() % 12;
    let mut daemon = run.start(&format!("write@events.new:{call}:KILL"));
    run.try_submit(0..0, &mut daemon);
    daemon.wait();
    is_complete(run.log(), run.disk());
    let mut daemon = run.start("");
    run.submit(LINES..LINES + 2, 1, 1);
    daemon.terminate();
    assert!(daemon.said().contains("the log of the database was damaged"), "{}", daemon.said());
    all_whole(&Plan { images: extent(IMAGES.0, IMAGES.1), from, ..plan(mode, &run) });
}

#[test]
fn power_may_fail_while_a_hidden_segment_is_repaired() {
    power_may_fail("repair-segment", hidden_segment);
}

#[test]
fn power_may_fail_while_lost_pages_are_repaired() {
    power_may_fail("repair-pages", lost_pages);
}

#[test]
fn power_may_fail_while_a_journal_is_repaired() {
    power_may_fail("repair-journal", lost_commits);
}
