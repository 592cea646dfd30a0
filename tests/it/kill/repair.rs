//! Kills while a start repairs a damaged log by itself.

use std::fs;

use tempfile::TempDir;

use super::world::{End, World, copied};
use crate::damage::hide_a_segment;
use crate::extent::{extent, seed};

/// Every so many calls on the disk the daemon is killed before one.
const STRIDE: u64 = 23;

/// A queue whose log has to be repaired; a copy to start from.
fn damaged(world: &mut World) -> TempDir {
    world.fill_the_engine();
    hide_a_segment(&world.queue());
    let copy = TempDir::new().expect("a folder");
    copied(&world.queue(), copy.path());
    copy
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
        "commit.written:2",
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
