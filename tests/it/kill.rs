//! The real executable, killed at every place that matters and at random moments, and started again on the same queue.
//!
//! After each kill the queue as it was left is opened (a copy of it), and held against what is known outside:
//! - its account balances, and every event in it is one that was submitted;
//! - every acknowledged event was taken by Target, waits in it, or is a dead letter in it;
//! - an event whose receipt was read is not in it any more: its removal was committed. So whatever Target gets twice is
//!   an event whose receipt had not been written yet, that is one between Target's 200 and our commit.
#![expect(clippy::print_stdout, reason = "tests say how much they tried")]

mod repair;
mod world;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use target_notifyd::schedule::Random;

pub(crate) use self::world::copied;
use self::world::{End, World};
use crate::extent::{extent, seed};
use crate::floors::sources;

#[test]
fn a_kill_at_every_place_that_matters_loses_nothing() {
    let mut world = World::new();
    for place in ["create.built", "create.synced", "open.opened", "open.synced"] {
        world.round(End::At(place), "");
    }
    for place in [
        "commit.begun:4",
        "commit.written:4",
        "commit.synced:4",
        "journal.begun:2",
        "append.planned",
        "append.committed",
        "settle.planned",
        "settle.committed",
        "removal.planned",
        "removal.committed",
        "bury.planned",
        "bury.committed",
        "requeue.planned",
        "requeue.committed",
        "shutdown.told",
    ] {
        world.round(End::At(place), "");
    }
    // Small commits come one after another in a segment, or do not.
    world.round_until("journal.cut");
    // In a small segment zeros are written once, for all of it.
    world.max_bytes = "64MiB";
    world.round_until("journal.ahead");
    world.max_bytes = "16MiB";
    // What a crash left: a snapshot that does not open, and the mark of a failed sync.
    world.fill_the_engine();
    for place in ["aside.renamed", "aside.synced"] {
        // A start makes a snapshot where there is none.
        world.round(End::InOrder, "");
        world.spoil_snapshots();
        world.round(End::At(place), "");
    }
    for place in
        ["copy.copied", "create.built", "create.renamed", "copy.renamed", "copy.cleared", "aside.renamed"]
    {
        fs::write(world.queue().join("failed"), "a test").expect("a mark");
        world.round(End::At(place), "");
    }
    let kills = world.end();
    assert_eq!(kills, 29);
}

#[test]
fn a_kill_while_the_journal_moves_on_loses_nothing() {
    let mut world = World::new();
    // What is delivered before the journal is full never moves on.
    world.serve(false);
    for place in ["journal.applied", "journal.moved", "journal.removed", "journal.synced"] {
        world.round_until(place);
    }
    assert_eq!(world.end(), 4);
}

#[test]
fn a_kill_while_the_engine_leaves_a_full_disk_loses_nothing() {
    let mut world = World::new();
    world.round(End::InOrder, "");
    for place in ["reopen.closed", "reopen.opened"] {
        // Two in a row: zeros that are written ahead of commits may do without room, the next commit may not.
        world.round(End::At(place), "write@/journal:4:ENOSPC,write@/journal:4:ENOSPC");
    }
    assert_eq!(world.end(), 2);
}

#[test]
fn every_place_at_which_a_test_can_kill_is_one_at_which_it_does() {
    let (mut files, mut places) = (Vec::new(), BTreeSet::new());
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    for file in files {
        let text = fs::read_to_string(file).expect("a source");
        let calls = text.match_indices("reach(\"").map(|(at, call)| &text[at + call.len()..]);
        for call in calls.filter_map(|rest| rest.split_once("\")")).map(|(call, _)| call) {
            // What a plan reaches is called by what it is a plan for.
            places.extend(call.split_once("\", \"").map(|(what, when)| format!("\"{what}.{when}")));
        }
    }
    assert!(places.len() > 15, "{places:?}");
    let here = concat!(include_str!("kill.rs"), include_str!("kill/repair.rs"), include_str!("full_disk.rs"));
    let missed: Vec<_> = places.iter().filter(|place| !here.contains(*place)).collect();
    assert!(missed.is_empty(), "{missed:?}");
}

#[test]
fn a_kill_while_a_page_is_set_aside_loses_no_other() {
    let mut world = World::new();
    world.fill_the_engine();
    world.damage_a_page();
    for place in ["quarantine.planned", "quarantine.committed"] {
        world.round(End::At(place), "");
    }
    assert_eq!(world.end(), 2);
}

#[test]
fn a_kill_during_a_migration_repeats_and_skips_nothing() {
    let mut world = World::new();
    world.fill_the_engine();
    world.migrates = true;
    for place in ["migration.planned", "migration.committed", "migration.committed", "migration.planned"] {
        world.round(End::At(place), "");
    }
    assert_eq!(world.end(), 4);
}

#[test]
fn a_kill_at_any_moment_loses_nothing() {
    let (mut world, mut random) = (World::new(), Random::new(seed()));
    let kills = extent(20, 500);
    for _ in 0..kills {
        // Starts take a part of this, so that some die in them.
        world.round(End::After(Duration::from_millis(random.bits() % 700)), "");
    }
    assert_eq!(world.end(), kills);
}
