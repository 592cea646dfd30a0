//! Images of a record: made at random steps, opened and checked; one that fails is kept, with the command that shows it
//! again.
#![expect(clippy::print_stdout, reason = "tests say how much they tried")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use target_notifyd::schedule::Random;
use tempfile::TempDir;

use super::check::{self, Held, Opening};
use super::disk::Disk;
use super::record::{Record, Step};

/// What is made of a record.
pub(crate) struct Plan {
    /// The name of the mode.
    pub(crate) mode: &'static str,
    /// How many images.
    pub(crate) images: u64,
    /// The first step that counts.
    pub(crate) from: usize,
    pub(crate) seed: u64,
    /// Whether `fdatasync` counts.
    pub(crate) credit_data_syncs: bool,
    pub(crate) opening: Opening,
    /// The record.
    pub(crate) log: PathBuf,
}

/// An image that failed.
pub(crate) struct Failure {
    step: usize,
    seed: u64,
    why: String,
}

/// Checks the images of a plan, and gives those that failed back.
pub(crate) fn failures(plan: &Plan) -> Vec<Failure> {
    let record = Record::read(&plan.log);
    let mut dirty = dirty(&record);
    dirty.retain(|step| *step >= plan.from);
    let mut random = Random::new(plan.seed);
    let mut steps: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    for number in 0..plan.images {
        let chosen = usize::try_from(random.bits()).unwrap_or(0) % dirty.len();
        steps.entry(dirty[chosen]).or_default().push((plan.seed << 32) + number);
    }
    images(plan, &record, &steps)
}

/// Checks that no image fails.
pub(crate) fn all_whole(plan: &Plan) {
    let failures = failures(plan);
    println!("{}: {} images, {} failed", plan.mode, plan.images, failures.len());
    let Some(first) = failures.first() else { return };
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    // Cargo may build elsewhere.
    std::fs::create_dir_all(&target).expect("a folder for the record");
    let kept = target.join(format!("power-{}.log", plan.mode));
    std::fs::copy(&plan.log, &kept).expect("the record can be kept");
    let told: Vec<String> = failures.iter().map(|one| format!("step {}: {}", one.step, one.why)).collect();
    panic!(
        "{}: {} of {} images failed. The first again:\nTARGET_NOTIFYD_IMAGE={}:{}:{}:{} cargo test --locked --test it one_image_again -- --ignored --nocapture\n{}",
        plan.mode,
        failures.len(),
        plan.images,
        plan.mode,
        kept.display(),
        first.step,
        first.seed,
        told.join("\n")
    );
}

/// Checks the one image that `TARGET_NOTIFYD_IMAGE` names.
pub(crate) fn again(opening: Opening) {
    let Ok(named) = std::env::var("TARGET_NOTIFYD_IMAGE") else {
        println!("skipped: TARGET_NOTIFYD_IMAGE=MODE:RECORD:STEP:SEED names no image");
        return;
    };
    let [mode, log, step, seed] = named.split(':').collect::<Vec<_>>()[..] else {
        panic!("{named}: not an image")
    };
    let opening = if mode == "migration" { check::rehearse } else { opening };
    let plan = Plan {
        mode: "again",
        images: 1,
        from: 0,
        seed: 0,
        credit_data_syncs: true,
        opening,
        log: log.into(),
    };
    let (step, seed) = (step.parse().expect("a step"), seed.parse().expect("a seed"));
    let record = Record::read(&plan.log);
    if let Some(failure) = images(&plan, &record, &BTreeMap::from([(step, vec![seed])])).first() {
        panic!("step {step}: {}", failure.why);
    }
}

/// The steps after which a loss of power could take something.
fn dirty(record: &Record) -> Vec<usize> {
    let mut disk = Disk::new(true);
    let mut dirty = Vec::new();
    for (number, step) in record.steps.iter().enumerate() {
        disk.step(step);
        if !disk.is_clean() {
            dirty.push(number);
        }
    }
    assert!(!dirty.is_empty(), "the record has writes");
    dirty
}

fn images(plan: &Plan, record: &Record, steps: &BTreeMap<usize, Vec<u64>>) -> Vec<Failure> {
    let mut disk = Disk::new(plan.credit_data_syncs);
    let (mut failures, mut held) = (Vec::new(), None);
    for (number, step) in record.steps.iter().enumerate() {
        disk.step(step);
        if matches!(step, Step::Damage { .. }) {
            held = Some(damaged(&disk, record, number));
        }
        for seed in steps.get(&number).into_iter().flatten() {
            let folder = TempDir::new().expect("a folder");
            let told = disk.image(folder.path(), &mut Random::new(*seed));
            // A queue that was never begun is begun by this open.
            let queue = folder.path().join("queue");
            let known = check::Known {
                record,
                at: number,
                held: held.as_ref(),
                looks_damaged: disk.has_nameless_snapshot(),
            };
            if let Err(why) = check::check(&queue, plan.opening, &known) {
                failures.push(Failure { step: number, seed: *seed, why: format!("{why} ({told})") });
            }
        }
    }
    failures
}

/// What the queue on a disk holds after damage, at the step `at`.
fn damaged(disk: &Disk, record: &Record, at: usize) -> Held {
    let folder = TempDir::new().expect("a folder");
    disk.seen(folder.path());
    let held = Held::read(&folder.path().join("queue"), record, at);
    println!("{held}");
    held
}

/// Whether the record holds all that happened: replayed without a loss, it gives the folder as it is.
pub(crate) fn is_complete(log: &Path, real: &Path) {
    let folder = TempDir::new().expect("a folder");
    let mut disk = Disk::new(true);
    for step in &Record::read(log).steps {
        disk.step(step);
    }
    disk.seen(folder.path());
    let (recorded, real) = (files(folder.path()), files(real));
    assert_eq!(
        recorded.keys().collect::<Vec<_>>(),
        real.keys().collect::<Vec<_>>(),
        "files escape the record"
    );
    for (path, bytes) in &real {
        assert!(recorded[path] == *bytes, "writes to {} escape the record", path.display());
    }
}

fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder can be listed") {
            let path = entry.expect("a folder can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).expect("it is below").to_owned();
                found.insert(name, std::fs::read(&path).expect("a file can be read"));
            }
        }
    }
    found
}

/// How often places of the engine's log were written again with another part of it.
pub(crate) fn reused_segments(log: &Path, segment: u64) -> usize {
    let mut seen: BTreeMap<(u64, u64), Vec<u8>> = BTreeMap::new();
    let mut reused = 0;
    for step in &Record::read(log).steps {
        let Step::Write { inode, at, bytes } = step else { continue };
        // The head of a segment has its number; what is filled with one byte was only cleared.
        if at.is_multiple_of(segment) && bytes.len() >= 20 && bytes[..20].iter().any(|byte| *byte != bytes[0])
        {
            let head = bytes[..20].to_vec();
            reused += usize::from(seen.insert((*inode, *at), head.clone()).is_some_and(|old| old != head));
        }
    }
    reused
}
