//! Kills while a start repairs a damaged log by itself.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use tempfile::TempDir;

use super::world::{End, World, copied};
use crate::extent::{extent, seed};
use crate::power::check::open;
use crate::support::queue_settings;

/// The unit of the engine's log, as `src/queue/engine.rs` has it.
const SEGMENT_BYTES: u64 = 512 * 1_024;
/// Every so many calls on the disk the daemon is killed before one.
const STRIDE: u64 = 23;

/// A queue whose log the engine would open without a part of it, while all of it can be read; a copy to start from.
fn damaged(world: &mut World) -> TempDir {
    world.serve(false);
    for _ in 0..2 {
        world.round(End::InOrder, "");
    }
    // Without its header the engine does not know of a segment, which matters where pages in it are in use.
    let mut segments = 1..;
    loop {
        let copy = TempDir::new().expect("a folder");
        copied(&world.queue(), copy.path());
        let log = File::options().write(true).open(copy.path().join("events.1/db")).expect("a log");
        let at = segments.next().expect("a number") * SEGMENT_BYTES;
        assert!(at < log.metadata().expect("a file").len(), "no segment is in use");
        log.write_all_at(&[0; 20], at).expect("the log can be written");
        let tried = TempDir::new().expect("a folder");
        copied(copy.path(), tried.path());
        drop(open(queue_settings(tried.path())).expect("the queue opens"));
        if tried.path().join("quarantine/events.1").exists() {
            restore(world, &copy);
            return copy;
        }
    }
}

fn restore(world: &World, from: &TempDir) {
    fs::remove_dir_all(world.queue()).expect("a folder can be removed");
    copied(from.path(), &world.queue());
}

#[test]
fn a_kill_in_the_middle_of_a_repair_loses_nothing() {
    let mut world = World::new();
    let damaged = damaged(&mut world);
    let places = [
        "repair.begun",
        "commit.applied:2",
        "repair.copied",
        "create.renamed",
        "aside.renamed",
        "repair.put_away",
        "repair.cleared",
    ];
    for place in places {
        restore(&world, &damaged);
        fs::write(world.queue().join("failed"), "a test").expect("a mark");
        world.round(End::At(place), "");
        // What the next start finds in the place of a kill it finishes, and is killed in the middle of that, too.
        world.round(End::At("open.synced"), "");
    }
    // Nobody is acknowledged anything before the repair is over, so that the queue may be put back each time.
    let stride = extent(STRIDE, 1);
    for call in (1 + seed() % stride..).step_by(usize::try_from(stride).expect("a number")) {
        restore(&world, &damaged);
        world.round(End::At(""), &format!("any:{call}:KILL"));
        if world.said().contains("the log of the database was damaged") {
            println!("kills in the middle of a repair: before one of {call} calls, every {stride}.");
            break;
        }
    }
    let kills = world.end();
    assert!(kills > 20, "{kills}");
}

#[test]
fn a_start_after_a_kill_says_what_the_repair_could_not() {
    let mut world = World::new();
    drop(damaged(&mut world));
    world.round(End::At("create.synced"), "");
    assert!(!world.said().contains("was damaged"), "{}", world.said());
    world.round(End::InOrder, "");
    assert!(world.said().contains("an earlier start put a new database"), "{}", world.said());
    assert_eq!(world.end(), 1);
}
