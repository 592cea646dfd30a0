//! The journal alone, and below it the engine: what a crash and damage leave of it.

mod moving;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;

use tempfile::TempDir;

use crate::queue::batch::Batch;
use crate::queue::commit_error::CommitError;
use crate::queue::engine::Engine;
use crate::queue::index::Found;
use crate::queue::journal::{Journal, JournalError, MAX_SEGMENT_BYTES};
use crate::queue::replay::{Replay, replay};
use crate::schedule::Random;

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// What a journal without an engine below it holds.
fn records(replay: &Replay) -> Records {
    let all = replay.index.all_from(Vec::new());
    let values = all.filter_map(|(key, found)| found.value().unwrap().map(|value| (key, value.to_vec())));
    values.collect()
}

fn all_of(engine: &Engine) -> Records {
    let all = engine.from(Vec::new()).map(|record| record.unwrap());
    all.map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

/// A change of one of a few keys: some values are small, some are not.
fn change(random: &mut Random, batch: &mut Batch, records: &mut Records) {
    let key = [&b"esv"[..][(random.bits() % 3) as usize..][..1], &[(random.bits() % 40) as u8]].concat();
    match random.bits() % 4 {
        0 => {
            batch.remove(&key);
            records.remove(&key);
        }
        _ => {
            let value = vec![random.bits() as u8; (random.bits() % 200) as usize];
            batch.insert(&key, &value);
            records.insert(key, value);
        }
    }
}

/// How long a segment is, with the zeros behind it.
fn length(path: &Path, number: u64) -> Option<u64> {
    fs::metadata(path.join(format!("journal.{number}"))).ok().map(|file| file.len())
}

/// Makes a journal of several segments; what it held after each commit, and how long the last segment was then.
fn made(path: &Path) -> Vec<(Records, u64, u64)> {
    let (mut random, mut now) = (Random::new(5), Records::new());
    let journal = Journal::open(path, Replay::default(), None).unwrap();
    journal.limit(64 * 1_024);
    let mut states = vec![(now.clone(), 1, 0)];
    for _ in 0..40 {
        let mut batch = Batch::default();
        for _ in 0..1 + random.bits() % 8 {
            change(&mut random, &mut batch, &mut now);
        }
        journal.commit(batch).unwrap();
        let last = (1..).take_while(|number| length(path, *number).is_some()).last().unwrap();
        let before: u64 = (1..last).map(|number| length(path, number).unwrap()).sum();
        states.push((now.clone(), last, replay(path).unwrap().bytes() - before));
    }
    assert!(states.last().unwrap().1 > 2);
    states
}

/// Wherever power fails in the last segment, the journal holds what it held after one of its commits, and goes on from
/// there.
#[test]
fn a_torn_end_is_a_commit_that_never_was() {
    let folder = TempDir::new().unwrap();
    let states = made(folder.path());
    let (_, last, bytes) = states.last().unwrap();
    let path = folder.path().join(format!("journal.{last}"));
    let mut whole = fs::read(&path).unwrap();
    let zeros = whole.split_off(*bytes as usize);
    assert!(!zeros.is_empty() && zeros.iter().all(|byte| *byte == 0));
    for cut in 0..=whole.len() {
        // What comes behind the cut is absent, or zeros.
        for zeros in [0, whole.len() - cut] {
            let left = [&whole[..cut], &vec![0; zeros]].concat();
            fs::write(&path, &left).unwrap();
            let read = replay(folder.path()).unwrap();
            // The last bytes of a commit may be zeros anyway.
            let is_whole = |end: usize| left.get(..end) == whole.get(..end);
            let durable = |(_, number, end): &&(Records, u64, u64)| number < last || is_whole(*end as usize);
            let (expected, ..) = states.iter().rfind(durable).unwrap();
            assert!(read.gaps == 0 && records(&read) == *expected, "cut at {cut}");
        }
    }
    // A block of the commit that was being written came before another.
    let (before, ..) = &states[states.len() - 2];
    let from = states[states.len() - 2].2 as usize;
    for lost in from..whole.len() {
        let mut torn = whole.clone();
        torn[lost..(lost + 50).min(whole.len())].fill(0);
        if torn == whole {
            continue;
        }
        fs::write(&path, torn).unwrap();
        let read = replay(folder.path()).unwrap();
        assert!(read.gaps == 0 && records(&read) == *before, "lost at {lost}");
    }
    let journal = Journal::open(folder.path(), replay(folder.path()).unwrap(), None).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), from as u64, "what never was is gone");
    let mut batch = Batch::default();
    batch.insert(b"after", b"it goes on");
    journal.commit(batch).unwrap();
    drop(journal);
    let read = replay(folder.path()).unwrap();
    assert!(read.gaps == 0 && records(&read).len() == before.len() + 1);
}

/// Small commits go where zeros are, and nothing but commits is left of a segment that others follow.
#[test]
fn zeros_lie_ahead_of_small_commits_and_go_with_their_segment() {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    let journal = Journal::open(path, Replay::default(), None).unwrap();
    journal.limit(64 * 1_024 * 1_024);
    let commit = |bytes| {
        let mut batch = Batch::default();
        batch.insert(b"key", vec![7; bytes]);
        journal.commit(batch).unwrap();
        (replay(path).unwrap().bytes(), length(path, 1).unwrap())
    };
    let (first, length_then) = commit(800);
    assert_eq!(length_then, first, "no zeros for what may be the only commit");
    let (second, ahead) = commit(800);
    assert_eq!(ahead, second + 128 * 1_024);
    for _ in 0..4 {
        let (end, length) = commit(30_000);
        assert!(end < ahead && length == ahead, "{end}: {length}");
    }
    let (end, ahead) = commit(30_000);
    assert!(ahead > end + 8 * 30_000);
    for _ in 0..8 {
        let (end, length) = commit(30_000);
        assert!(end <= ahead && length == ahead, "enough for eight more: {end}, {length}");
    }
    while commit(140_000).0 < ahead {}
    let (end, length_then) = commit(140_000);
    assert_eq!(length_then, end, "no zeros for so large a commit");
    commit(100);
    while length(path, 2).is_none() {
        commit(140_000);
    }
    assert_eq!(replay(path).unwrap().gaps, 0, "the first segment ends with its last commit");
}

/// While nobody waits they are written before a commit needs them, and are no more than those that a commit writes.
#[test]
fn zeros_are_written_early_while_nobody_waits() {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    let journal = Journal::open(path, Replay::default(), None).unwrap();
    let early = || {
        journal.write_ahead().unwrap();
        length(path, 1).unwrap()
    };
    let commit = |bytes| {
        let mut batch = Batch::default();
        batch.insert(b"key", vec![7; bytes]);
        journal.commit(batch).unwrap();
        replay(path).unwrap().bytes()
    };
    assert_eq!(early(), 0);
    assert_eq!(commit(800), early(), "no zeros for what may be the only commit");
    let mut written = 0;
    for _ in 0..100 {
        let (before, end) = (length(path, 1).unwrap(), commit(10_000));
        assert!(end < before || written == 0, "a commit met the end of the zeros");
        let after = early();
        assert!(after == before || after == end + 128 * 1_024, "{before}, {end}, {after}");
        written += usize::from(after > before);
    }
    assert!((8..=12).contains(&written), "each for about ten commits: {written}");
    let before = length(path, 1).unwrap();
    let end = commit(140_000);
    assert_eq!(early(), end.max(before), "no zeros for so large a commit");
    assert_eq!(replay(path).unwrap().gaps, 0);
    while commit(10_000) + 40_000 < length(path, 1).unwrap() {}
    let before = length(path, 1).unwrap();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let real = journal.write_to(full.into());
    assert_eq!(early(), before);
    journal.write_to(real);
    assert_eq!(early(), before, "a full disk is not asked again before the next commit");
    commit(10_000);
    assert!(early() > before);
    while commit(10_000) + 40_000 < length(path, 1).unwrap() {}
    journal.write_to(File::open(path.join("journal.1")).unwrap().into());
    assert!(matches!(journal.write_ahead(), Err(JournalError::Write(_))), "what fails otherwise is told");
}

/// What a start reads of a segment ends there: the end of a commit has to lie before that, or the commit never was.
#[test]
fn a_commit_that_is_longer_with_its_end_than_a_segment_is_refused() {
    let folder = TempDir::new().unwrap();
    let journal = Journal::open(folder.path(), Replay::default(), None).unwrap();
    let large = vec![7; 512 * 1_024];
    let mut all = Batch::within(Vec::with_capacity(MAX_SEGMENT_BYTES as usize));
    (0..511_u16).for_each(|key| all.insert(key.to_be_bytes(), &large));
    let mut empty = Batch::default();
    empty.insert([u8::MAX; 2], b"");
    let rest = MAX_SEGMENT_BYTES as usize - all.bytes() - empty.bytes();
    all.insert([u8::MAX; 2], &large[..rest]);
    assert_eq!(all.bytes() as u64, MAX_SEGMENT_BYTES);
    let refused = journal.commit(all);
    assert!(matches!(refused, Err(JournalError::Write(error)) if error.kind() == ErrorKind::FileTooLarge));
    let mut small = Batch::default();
    small.insert(b"key", b"value");
    assert_eq!(small.sealed_bytes(), small.sealed(1, 0).len() as u64);
}

/// The number of the next commit is one higher.
#[test]
fn the_highest_number_of_a_commit_is_nobodys() {
    let folder = TempDir::new().unwrap();
    let sealed = |number: u64| {
        let mut batch = Batch::default();
        batch.insert(b"key", number.to_be_bytes());
        batch.sealed(number, 0)
    };
    let commits = [1, u64::MAX, 2, u64::MAX - 1].map(sealed).concat();
    fs::write(folder.path().join("journal.1"), commits).unwrap();
    let read = replay(folder.path()).unwrap();
    assert_eq!((read.commit, read.gaps), (2, 1));
    assert_eq!(records(&read).into_values().collect::<Vec<_>>(), [2_u64.to_be_bytes()]);
}

/// Damage before the last commit is seen for what it is, and costs what it covers.
#[test]
fn damage_is_found_and_the_rest_is_read() {
    let folder = TempDir::new().unwrap();
    let states = made(folder.path());
    let (end, last, _) = states.last().unwrap();
    for number in 1..*last {
        let path = folder.path().join(format!("journal.{number}"));
        let whole = fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(7) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            fs::write(&path, &damaged).unwrap();
            let read = replay(folder.path()).unwrap();
            assert!(read.gaps > 0, "{number}: {at}");
            let (found, mut wrong) = (records(&read), 0);
            for key in end.keys().chain(found.keys()) {
                wrong += usize::from(end.get(key) != found.get(key));
            }
            assert!(wrong <= 2, "{number}: {at}: {wrong} records are not what they were");
            assert!(matches!(Engine::new_at(folder.path()), Err(CommitError::Damaged(_))), "{number}: {at}");
        }
        fs::write(&path, whole).unwrap();
    }
    assert!(records(&replay(folder.path()).unwrap()) == *end);
}

/// The engine and the journal that covers it are one map, however far one has moved into the other.
#[test]
fn the_journal_moves_into_the_engine_unseen() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("events.1");
    let (mut random, mut now, mut moved) = (Random::new(9), Records::new(), 0);
    for _ in 0..6 {
        let engine = Engine::new_at(&path).unwrap();
        engine.limit_journal(random.bits() % 40_000);
        for _ in 0..60 {
            let mut batch = Batch::default();
            for _ in 0..random.bits() % 20 {
                change(&mut random, &mut batch, &mut now);
            }
            engine.commit(batch).unwrap();
            assert!(all_of(&engine) == now);
            let key =
                [&b"esv"[..][(random.bits() % 3) as usize..][..1], &[(random.bits() % 40) as u8]].concat();
            let value = engine.value(&key).unwrap().map(|value| value.to_vec());
            assert_eq!(value.as_ref(), now.get(&key));
            let mut ends = [key, [&b"esv"[..1], &[(random.bits() % 40) as u8]].concat()];
            ends.sort();
            let [from, to] = ends;
            let last = engine.last_in(&*from..=&*to).unwrap().map(|(key, _)| key.to_vec());
            assert_eq!(last.as_ref(), now.range(from..=to).next_back().map(|(key, _)| key));
            let open = engine.opened().unwrap();
            moved += usize::from(!open.db.is_empty());
            let index = open.journal.index();
            let removed =
                index.all_from(Vec::new()).filter(|(_, found)| matches!(found, Found::Removed)).count();
            assert!(removed <= 120, "{removed}");
            assert_eq!(index.removals(), removed);
            assert_eq!((0..9_999).map(|segment| index.left(segment).records).sum::<usize>(), index.len());
        }
    }
    assert!(moved > 100, "{moved}");
}
