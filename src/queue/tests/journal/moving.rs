//! How a journal gives its segments back: what moves, and when.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

use super::{Records, all_of, length};
use crate::queue::batch::Batch;
use crate::queue::commit_error::CommitError;
use crate::queue::engine::Engine;
use crate::queue::frame;
use crate::queue::index::{Found, Index};
use crate::queue::moving::Removals;
use crate::queue::replay::replay;
use crate::queue::salvage::log_end;

fn key(number: u32) -> Vec<u8> {
    [b"e".as_slice(), &number.to_be_bytes()].concat()
}

/// Commits a change of each of the keys `numbers`, `at_once` at a time.
fn commit(engine: &Engine, numbers: &[u32], at_once: usize, change: fn(&mut Batch, Vec<u8>)) {
    for some in numbers.chunks(at_once) {
        let mut batch = Batch::default();
        some.iter().for_each(|number| change(&mut batch, key(*number)));
        engine.commit(batch).unwrap();
    }
}

/// What waits in the journal, and drains behind what the engine has, is not moved because of what is removed there; and
/// what is removed there is removed soon.
#[test]
fn removals_move_before_what_is_left_of_older_segments() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("events.1");
    let engine = Engine::new_at(&path).unwrap();
    let numbers: Vec<u32> = (0..4_000).collect();
    let (before, behind) = numbers.split_at(3_500);
    engine.limit_journal(16 * 1_024);
    commit(&engine, before, 20, |batch, key| batch.insert(key, [7; 900]));
    engine.limit_journal(4 * 1_024 * 1_024);
    commit(&engine, behind, 20, |batch, key| batch.insert(key, [8; 900]));
    let open = engine.opened().unwrap();
    let moved = open.db.len();
    assert!(moved > 3_400 && open.db.get(key(3_500)).unwrap().is_none());
    // A disk that may have no room for it is spared.
    let (first, rest) = before.split_at(1_500);
    for some in first.chunks(20) {
        let mut batch = Batch::default();
        some.iter().for_each(|number| batch.remove(key(*number)));
        engine.commit_with(batch, Removals::Late, usize::MAX).unwrap();
    }
    assert_eq!((open.db.len(), open.journal.index().removals()), (moved, 1_500));
    commit(&engine, rest, 20, |batch, key| batch.remove(key));
    let index = open.journal.index();
    assert!(index.removals() < 1_024 + 20, "{} removals wait", index.removals());
    assert!(open.db.len() <= index.removals(), "{} of {moved} are left in the engine", open.db.len());
    let here = behind.iter().filter(|number| matches!(index.find(&key(**number)), Some(Found::Place { .. })));
    assert_eq!(here.count(), behind.len(), "none of those moved");
    drop(index);
    let left = |engine: &Engine| {
        engine.from(Vec::new()).map(|record| record.unwrap().0.to_vec()).collect::<Vec<_>>()
    };
    let expected: Vec<_> = behind.iter().map(|number| key(*number)).collect();
    assert_eq!(left(&engine), expected);
    drop(engine);
    let engine = Engine::new_at(&path).unwrap();
    engine.limit_journal(4 * 1_024 * 1_024);
    assert_eq!(left(&engine), expected);
    let open = engine.opened().unwrap();
    assert!(open.journal.index().removals() > 3_400, "a start reads removals again that were made");
    commit(&engine, &behind[..1], 1, |batch, key| batch.remove(key));
    assert!(open.journal.index().removals() < 1_024, "and they cost next to nothing");
    assert!(left(&engine) == expected[1..]);
}

/// What a start finds if a crash strikes now.
fn after_a_crash(path: &Path) -> Records {
    let folder = TempDir::new().unwrap();
    for file in fs::read_dir(path).unwrap().map(|file| file.unwrap().path()).filter(|path| path.is_file()) {
        fs::copy(&file, folder.path().join(file.file_name().unwrap())).unwrap();
    }
    all_of(&Engine::new_at(folder.path()).unwrap())
}

/// A journal that fills with changes which no longer count, while some events wait in it.
struct Churn {
    engine: Engine,
    now: Records,
    rounds: u8,
}

impl Churn {
    fn new(path: &Path) -> Self {
        let engine = Engine::new_at(path).unwrap();
        engine.limit_journal(1_024 * 1_024);
        let waiting: Vec<u32> = (0..300).collect();
        commit(&engine, &waiting, 20, |batch, key| batch.insert(key, [7; 900]));
        let now = all_of(&engine);
        Self { engine, now, rounds: 0 }
    }

    /// Changes the same few values once more.
    fn change(&mut self, removals: Removals) {
        self.rounds = self.rounds.wrapping_add(1);
        let mut batch = Batch::default();
        for name in 0..50_u8 {
            let (key, value) = (vec![b's', name], vec![self.rounds; 8]);
            batch.insert(&key, &value);
            self.now.insert(key, value);
        }
        self.engine.commit_with(batch, removals, usize::MAX).unwrap();
        if self.rounds.is_multiple_of(20) {
            self.look();
        }
    }

    fn fill(&mut self) {
        while !self.engine.opened().unwrap().journal.is_full() {
            self.change(Removals::Soon);
        }
    }

    /// How many records the engine has of those that the journal had.
    fn moved(&self) -> usize {
        self.engine.opened().unwrap().db.len()
    }

    fn look(&self) {
        assert!(all_of(&self.engine) == self.now && after_a_crash(self.engine.path()) == self.now);
    }
}

/// What waits in a journal that fills with changes which no longer count moves to its end: once, then into the engine.
#[test]
fn what_waits_among_changes_that_no_longer_count_stays_in_the_journal() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("events.1");
    let mut churn = Churn::new(&path);
    churn.fill();
    // A crash in the middle of it: some are there twice.
    let mut batch = Batch::default();
    let engine = churn.engine.clone();
    let journal = &engine.opened().unwrap().journal;
    for (key, found) in journal.next_to_move(20_000) {
        batch.insert(key, &*found.value().unwrap().unwrap());
    }
    assert!(batch.count() > 5 && journal.may_keep());
    journal.keep(batch).unwrap();
    churn.look();
    churn.change(Removals::Soon);
    assert!(length(&path, 1).is_some(), "a commit has to follow the one that keeps the last of it");
    churn.look();
    for _ in 0..100 {
        churn.change(Removals::Soon);
    }
    assert!(length(&path, 1).is_none() && length(&path, 4).is_none(), "older segments are gone");
    assert_eq!(churn.moved(), 0, "what was left of them is not in the engine");
    let mut rounds = 0..1_000;
    while churn.moved() < 300 && rounds.next().is_some() {
        churn.change(Removals::Soon);
    }
    assert!(!rounds.is_empty(), "a second time it moves there");
}

/// How far the engine's log reaches, which nobody looks at while segments are given back on a full disk, is told before
/// they go.
#[test]
fn what_the_engine_removed_is_known_before_the_segment_goes_that_says_so() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("events.1");
    let engine = Engine::new_at(&path).unwrap();
    engine.limit_journal(16 * 1_024);
    let numbers: Vec<u32> = (0..9_000).collect();
    commit(&engine, &numbers, 20, |batch, key| batch.insert(key, [7; 900]));
    engine.limit_journal(2 * 1_024 * 1_024);
    commit(&engine, &numbers, 20, |batch, key| batch.remove(key));
    let first = (1..).find(|number| length(&path, *number).is_some()).unwrap();
    assert!(length(&path, first + 1).is_some());
    let full = Arc::new(File::options().write(true).open("/dev/full").unwrap());
    let real = engine.opened().unwrap().journal.write_to(full);
    for _ in 0..2 {
        engine.give_back(Removals::Late).unwrap();
        assert!(length(&path, first).is_some(), "there is no room to tell it");
    }
    engine.opened().unwrap().journal.write_to(real);
    engine.give_back(Removals::Late).unwrap();
    assert!(length(&path, first).is_none(), "nothing of it counts");
    assert_eq!(replay(&path).unwrap().reached, log_end(&path).unwrap());
    engine.give_back(Removals::Late).unwrap();
    let commits = replay(&path).unwrap().commit;
    engine.give_back(Removals::Late).unwrap();
    assert_eq!(replay(&path).unwrap().commit, commits, "and only then");
}

/// The commit that keeps the last of a segment may be the last before a start, which knows nothing of it.
#[test]
fn after_a_start_a_commit_follows_the_last_one_before_a_segment_goes() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("events.1");
    let mut churn = Churn::new(&path);
    churn.fill();
    let engine = churn.engine.clone();
    let journal = &engine.opened().unwrap().journal;
    loop {
        let mut batch = Batch::default();
        for (key, found) in journal.next_to_move(1_024 * 1_024) {
            batch.insert(key, &*found.value().unwrap().unwrap());
        }
        if batch.count() == 0 {
            break;
        }
        journal.keep(batch).unwrap();
    }
    churn.look();
    let Churn { engine: before, now, .. } = churn;
    drop((before, engine));
    let engine = Engine::new_at(&path).unwrap();
    let last = (1..).take_while(|number| length(&path, *number).is_some()).last().unwrap();
    let end = length(&path, last).unwrap() as usize;
    engine.give_back(Removals::Late).unwrap();
    assert!(length(&path, 1).is_none(), "nothing of it counts");
    assert!(all_of(&engine) == now);
    drop(engine);
    let file = path.join(format!("journal.{last}"));
    let mut damaged = fs::read(&file).unwrap();
    damaged[end - 1] ^= 0x10;
    fs::write(&file, damaged).unwrap();
    assert!(matches!(Engine::new_at(&path), Err(CommitError::Damaged(_))), "it does not look torn");
}

/// A disk that is short of room may have none at the journal's end, and some in the engine's log.
#[test]
fn on_a_short_disk_what_waits_in_the_journal_moves_into_the_engine() {
    let folder = TempDir::new().unwrap();
    let mut churn = Churn::new(&folder.path().join("events.1"));
    churn.fill();
    churn.change(Removals::Late);
    assert!(churn.moved() > 50);
    churn.look();
}

/// The schema and the account are in the engine as soon as anything is.
#[test]
fn what_belongs_to_the_whole_queue_is_not_kept() {
    let folder = TempDir::new().unwrap();
    let mut churn = Churn::new(&folder.path().join("events.1"));
    let mut batch = Batch::default();
    batch.insert(b"mschema", b"1");
    churn.now.insert(b"mschema".to_vec(), b"1".to_vec());
    churn.engine.commit(batch).unwrap();
    churn.fill();
    for _ in 0..100 {
        churn.change(Removals::Soon);
    }
    let db = &churn.engine.opened().unwrap().db;
    assert!(db.len() == 1 && db.get(b"mschema").unwrap().is_some());
    churn.look();
}

/// However small changes are, and whether they count any more or not: a start has all of them in memory.
#[test]
fn a_start_reads_no_more_changes_than_a_journal_may_have() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("events.1");
    let engine = Engine::new_at(&path).unwrap();
    // What the engine has, and whose removals count.
    engine.limit_journal(16 * 1_024);
    let numbers: Vec<u32> = (0..16_000).collect();
    commit(&engine, &numbers, 100, |batch, key| batch.insert(key, b"1"));
    engine.limit_journal(1_024 * 1_024);
    commit(&engine, &numbers, 100, |batch, key| batch.remove(key));
    assert_eq!(engine.from(Vec::new()).count(), 0);
    drop(engine);
    let read = replay(&path).unwrap();
    let changes = read.index.len();
    // A segment goes as a whole, and has some 1,500 of these.
    assert!(changes <= 8 * 1_024 + 1_500, "{changes} changes in {} bytes", read.bytes());
    assert_eq!(Engine::new_at(&path).unwrap().from(Vec::new()).count(), 0);
}

/// Removals take next to no bytes, and a page of the engine each: they move in small batches, and as fast as they come.
#[test]
fn many_removals_move_in_small_batches_and_do_not_pile_up() {
    const KEYS: u32 = 12_000;
    let folder = TempDir::new().unwrap();
    let engine = Engine::new_at(&folder.path().join("events.1")).unwrap();
    engine.limit_journal(16 * 1_024);
    let numbers: Vec<u32> = (0..KEYS).collect();
    commit(&engine, &numbers, 100, |batch, key| batch.insert(key, [7; 900]));
    let open = engine.opened().unwrap();
    assert!(open.db.len() > 11_000, "most of them moved");
    let mut largest = 0;
    for some in numbers.chunks(2_000) {
        let mut batch = Batch::default();
        some.iter().for_each(|number| batch.remove(key(*number)));
        engine.commit(batch).unwrap();
        largest = largest.max(open.journal.index().len());
    }
    assert!(largest < 5_000, "{largest} of {KEYS} removals wait in the journal");
    assert_eq!(engine.from(Vec::new()).count(), 0);

    let mut batch = Batch::default();
    numbers.iter().for_each(|number| batch.remove(key(*number)));
    let (frames, mut index, mut from) = (batch.sealed(1, 0), Index::default(), 0);
    while let Some(frame) = frame::unchecked(&frames, from) {
        index.apply(1, 0, frame);
        from = frame.end;
    }
    assert_eq!((index.len(), index.of_segment(1, &[], usize::MAX).len()), (12_000, 256));
}

/// What gives a segment back goes by what all of its values cost, however many removals are between them.
#[test]
fn what_is_left_of_a_segment_is_counted_as_it_changes() {
    let (mut index, mut commits) = (Index::default(), 0);
    let mut apply = |segment, changes: &[(std::ops::Range<u32>, Option<usize>)]| {
        let mut batch = Batch::default();
        for (numbers, bytes) in changes {
            for number in numbers.clone() {
                match bytes {
                    Some(bytes) => batch.insert(key(number), vec![7; *bytes]),
                    None => batch.remove(key(number)),
                }
            }
        }
        commits += 1;
        let (frames, mut from) = (batch.sealed(commits, 0), 0);
        while let Some(frame) = frame::unchecked(&frames, from) {
            index.apply(segment, 0, frame);
            from = frame.end;
        }
        [1, 2].map(|segment| (index.left(segment).records, index.left(segment).values_cost))
    };
    let cost = |records: usize, bytes: usize| records * (1_024 + 5 + bytes);
    assert_eq!(apply(1, &[(0..300, None), (300..400, Some(900))]), [(400, cost(100, 900)), (0, 0)]);
    // The same keys in a newer segment count there alone.
    assert_eq!(apply(2, &[(0..10, Some(7)), (300..390, None)]), [(300, cost(10, 900)), (100, cost(10, 7))]);
    assert_eq!(apply(2, &[(0..10, Some(8))]), [(300, cost(10, 900)), (100, cost(10, 8))]);
    let made: Vec<Vec<u8>> = (10..300).map(key).collect();
    index.forget_removals(made.iter().map(Vec::as_slice));
    assert_eq!((index.left(1).records, index.removals()), (10, 90));
    index.forget(1);
    assert_eq!((index.left(1).records, index.len(), index.left(2).records), (0, 100, 100));
    index.set_tops(Some(BTreeMap::new()));
    assert_eq!((index.len(), index.left(2).records, index.removals()), (10, 10, 0), "below is nothing");
}
