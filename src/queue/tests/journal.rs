use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

use crate::queue::batch::Batch;
use crate::queue::engine::{CommitError, Engine};
use crate::queue::frame;
use crate::queue::index::{Found, Index};
use crate::queue::journal::Journal;
use crate::queue::moving::Removals;
use crate::queue::replay::{Replay, replay};
use crate::queue::salvage::log_end;
use crate::schedule::Random;

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// What a journal without an engine below it holds.
fn records(replay: &Replay) -> Records {
    let all = replay.index.all_from(Vec::new());
    let values = all.filter_map(|(key, found)| found.value().unwrap().map(|value| (key, value.to_vec())));
    values.collect()
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

/// Wherever power fails in the last segment, the journal holds what it held after one of its commits, and goes on from there.
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

fn key(number: u32) -> Vec<u8> {
    [b"e".as_slice(), &number.to_be_bytes()].concat()
}

/// Commits a change of each of the keys `numbers`, so many at a time.
fn commit(engine: &Engine, numbers: &[u32], at_once: usize, change: fn(&mut Batch, Vec<u8>)) {
    for some in numbers.chunks(at_once) {
        let mut batch = Batch::default();
        some.iter().for_each(|number| change(&mut batch, key(*number)));
        engine.commit(batch).unwrap();
    }
}

/// What waits in the journal, and drains behind what the engine has, is not moved because of what is removed there; and what is
/// removed there is removed soon.
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
        engine.commit_with(batch, Removals::Late).unwrap();
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

fn all_of(engine: &Engine) -> Records {
    let all = engine.from(Vec::new()).map(|record| record.unwrap());
    all.map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
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
        self.engine.commit_with(batch, removals).unwrap();
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

/// How far the engine's log reaches, which nobody looks at while segments are given back on a full disk, is told before they go.
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

/// Who gives a segment back is told by what all of its values cost, however many removals are between them.
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
