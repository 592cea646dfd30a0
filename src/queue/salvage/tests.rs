use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use tempfile::TempDir;

use super::log::{BehindEnd, Kind, Log, walk};
use super::sight::Loss;
use super::tree::{Record, Tree};
use super::*;
use crate::event::{Account, Burial, DeadReason, Moment, Seq};
use crate::queue::batch::Batch;
use crate::queue::commit_error::CommitError;
use crate::queue::engine::{Engine, LOG_SEGMENT_BYTES};
use crate::queue::keys::{self, MARK, MEMBERS, numbered};
use crate::queue::replay::replay;
use crate::queue::snapshots::known;
use crate::queue::tests::append;
use crate::queue::{Queue, Settings};
use crate::schedule::Random;
use crate::wire::defaults::Defaults;
use crate::wire::submission::Submission;

fn account() -> Account {
    Account { client: "acme".to_owned(), organization: "0DD9@AdobeOrg".to_owned() }
}

fn settings(path: &Path) -> Settings {
    Settings {
        path: path.to_owned(),
        max_bytes: 1 << 30,
        max_events: 1_000_000,
        min_free: 0,
        reserve: 0,
        dead_max_events: 100,
        journal_bytes: 16 << 10,
        adopt: false,
    }
}

fn open(path: &Path) -> Queue {
    Queue::open(settings(path), &account(), std::sync::Arc::new(|| Moment::from_millis(1))).unwrap()
}

/// A submission of 20 events, with an envelope of at least `large` bytes.
fn submission(number: u64, large: usize) -> Submission {
    let notification = |event| format!(r#"{{"id":"{number}-{event}","type":"click","timestamp":1}}"#);
    let notifications = (0..20).map(notification).collect::<Vec<_>>().join(",");
    let line = format!(
        r#"{{"session_id":"s{}","request":{{"y":"{}","notifications":[{notifications}]}}}}"#,
        number % 7,
        "y".repeat(large)
    );
    Submission::parse(line.as_bytes(), &Defaults::default(), 1).unwrap()
}

/// So many commits, each of 20 submissions with a large envelope.
async fn fill(queue: &Queue, commits: u64) {
    for commit in 0..commits {
        let lines = (commit * 20..commit * 20 + 20).map(|number| submission(number, 3_000)).collect();
        append(queue, lines).await;
    }
}

/// 30 submissions of 20 events, the last ten of them with a large envelope; every fifth event is delivered, every
/// seventh dead.
async fn made(path: &Path) {
    let queue = open(path);
    for number in 0..30 {
        let large = if number < 20 { 1 } else { 2_000 };
        append(&queue, vec![submission(number, large)]).await;
    }
    let seqs = |of: u64| (1..=600).filter(move |seq| seq % of == 0).map(Seq);
    let burial = |seq| Burial { seq, reason: DeadReason::Refused, detail: "bad".to_owned() };
    queue.store().settle(seqs(5).collect(), seqs(7).map(burial).collect()).await.unwrap();
    queue.shutdown().await.unwrap();
}

/// The events that wait and the dead letters, by number.
fn read(root: &Path) -> (BTreeMap<u64, Event>, BTreeMap<u64, DeadLetter>) {
    let (stopped, mut events, mut letters) = (Stopped::open(root).unwrap(), BTreeMap::new(), BTreeMap::new());
    stopped
        .events(|event| {
            events.insert(event.seq.0, event);
            Ok::<_, SalvageError>(())
        })
        .unwrap();
    stopped
        .letters(|letter| {
            letters.insert(letter.event.seq.0, letter);
            Ok::<_, SalvageError>(())
        })
        .unwrap();
    (events, letters)
}

fn database(root: &Path) -> PathBuf {
    folder::current(root).unwrap().unwrap()
}

/// Changes records of the database with the engine.
fn change(root: &Path, change: impl FnOnce(&Engine, &mut Batch)) {
    let engine = Engine::new_at(&database(root)).unwrap();
    let mut batch = Batch::default();
    change(&engine, &mut batch);
    engine.commit(batch).unwrap();
}

/// All that the engine has.
fn records(engine: &Engine) -> Vec<Record> {
    engine.from(vec![]).map(|record| record.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap()).collect()
}

#[test]
fn a_whole_log_holds_the_records_that_the_engine_has() {
    let folder = TempDir::new().unwrap();
    let mut random = Random::new(7);
    for life in 0..4 {
        let engine = Engine::new_at(folder.path()).unwrap();
        for _ in 0..150 {
            let mut batch = sled::Batch::default();
            for _ in 0..random.bits() % 60 {
                // Filled from the one end and emptied from the other, so that pages split, merge and move.
                let number = random.bits() % 1_500;
                let key = [&b"esv"[..][(number % 3) as usize..][..1], &(life * 700 + number).to_be_bytes()]
                    .concat();
                match random.bits() % 5 {
                    0..2 => batch.remove(key),
                    _ => batch.insert(key, vec![number as u8; (random.bits() % 6_900) as usize]),
                }
            }
            if random.bits().is_multiple_of(30) {
                let all: Vec<_> = engine.from(vec![]).take(800).map(|record| record.unwrap().0).collect();
                all.into_iter().for_each(|key| batch.remove(key));
            }
            let open = engine.opened().unwrap();
            open.db.apply_batch(batch).unwrap();
            open.flush().unwrap();
        }
        let expected = records(&engine);
        drop(engine);
        let tree = loop {
            match Tree::open(folder.path(), BehindEnd::Dropped, Some(0)) {
                // The threads of an engine that was dropped may still cut the end off its log, and tell nobody.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => std::thread::yield_now(),
                opened => break opened.unwrap(),
            }
        };
        let found: Vec<Record> = tree.from(vec![]).map(Result::unwrap).collect();
        assert!(expected.len() > 100, "{}", expected.len());
        assert!(found == expected, "life {life}: {} of {}", found.len(), expected.len());
        for (key, value) in expected.iter().step_by(17) {
            assert_eq!(tree.from(key.clone()).next().unwrap().unwrap(), (key.clone(), value.clone()));
        }
    }
}

#[test]
fn a_split_that_a_crash_cut_in_two_brings_nothing_back() {
    let folder = TempDir::new().unwrap();
    let change = |folder: &Path, change: &dyn Fn(&sled::Db)| {
        let engine = Engine::new_at(folder).unwrap();
        let open = engine.opened().unwrap();
        change(&open.db);
        open.flush().unwrap();
        records(&engine)
    };
    for number in 0..24_u64 {
        change(folder.path(), &|db| drop(db.insert(number.to_be_bytes(), vec![7; 3_000]).unwrap()));
    }
    let log = fs::read(folder.path().join("db")).unwrap();
    let mut unknown = 0;
    for page in written(folder.path()).into_iter().filter(|one| one.kind == Kind::Node) {
        let cut = TempDir::new().unwrap();
        fs::copy(folder.path().join("conf"), cut.path().join("conf")).unwrap();
        fs::write(cut.path().join("db"), &log[..page.end]).unwrap();
        let records = change(cut.path(), &|db| {
            (0..24_u64).step_by(2).for_each(|number| drop(db.remove(number.to_be_bytes()).unwrap()));
        });
        let tree = || Tree::open(cut.path(), BehindEnd::Dropped, None).unwrap();
        if tree().has_unknown() {
            unknown += 1;
            // As the engine moves it out of a segment of which little counts.
            let end = written(cut.path()).last().unwrap().end;
            let file = File::options().write(true).open(cut.path().join("db")).unwrap();
            file.write_all_at(&log[page.begin..page.end], end as u64).unwrap();
        }
        assert!(tree().from(vec![]).map(Result::unwrap).eq(records));
    }
    assert!(unknown > 0, "no crash left a page that nobody knows of");
}

/// A message of a log, and where it lies in the file: its beginning, its body, its end.
struct Written {
    kind: Kind,
    lsn: u64,
    begin: usize,
    body: usize,
    end: usize,
}

/// All messages of a log, in the order in which they were written.
fn written(database: &Path) -> Vec<Written> {
    let bytes = fs::read(database.join("db")).unwrap();
    let mut all = Vec::new();
    for (number, segment) in Log::open(database, BehindEnd::Dropped).unwrap().segments().unwrap().0 {
        let from = usize::try_from(segment.at).unwrap();
        let whole = &bytes[from..bytes.len().min(from + LOG_SEGMENT_BYTES)];
        walk(whole, number, segment.at, |message| {
            let (kind, lsn) = (message.kind, message.place.lsn);
            let end = from + message.place.end(whole, segment.at);
            let body = end - usize::try_from(message.place.bytes()).unwrap();
            let begin = from + usize::try_from(lsn).unwrap() % LOG_SEGMENT_BYTES;
            all.push(Written { kind, lsn, begin, body, end });
        });
    }
    all
}

/// Makes of a batch in a log, counted from its end, one that the engine gave up: it writes the manifest with another
/// kind, and the rest all the same. Where the manifest lies.
fn give_up_batch(database: &Path, from_end: usize) -> u64 {
    let mut batches = written(database);
    batches.retain(|message| message.kind == Kind::Batch);
    let Written { lsn, begin, body, end, .. } = batches[batches.len() - from_end];
    let mut bytes = fs::read(database.join("db")).unwrap();
    // As `Kind::Canceled` is written.
    bytes[begin + 4] = 1;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[body..end]);
    crc.update(&bytes[begin + 4..body]);
    bytes[begin..begin + 4].copy_from_slice(&(crc.finalize() ^ u32::MAX).to_le_bytes());
    fs::write(database.join("db"), bytes).unwrap();
    lsn
}

#[test]
fn nothing_counts_of_a_batch_that_was_given_up_at_the_end() {
    let folder = TempDir::new().unwrap();
    let engine = Engine::new_at(folder.path()).unwrap();
    for number in 0..3 {
        let mut batch = sled::Batch::default();
        (0..20).for_each(|key| batch.insert(&[b'e', number, key], vec![number; 900]));
        engine.opened().unwrap().db.apply_batch(batch).unwrap();
        engine.opened().unwrap().flush().unwrap();
    }
    drop(engine);
    let found = || -> Vec<u8> {
        let tree = Tree::open(folder.path(), BehindEnd::Dropped, None).unwrap();
        let numbers = tree.from(vec![b'e']).map(|record| record.unwrap().0[1]);
        numbers.collect()
    };
    let whole: Vec<u8> = (0..3).flat_map(|number| [number; 20]).collect();
    let sound = fs::read(folder.path().join("db")).unwrap();
    // Behind the one in the middle the engine went on with what there was.
    give_up_batch(folder.path(), 2);
    let loss = |known| would_lose(folder.path(), [known]).unwrap();
    assert_eq!((loss(Known::default()), found()), ([None], whole.clone()));

    fs::write(folder.path().join("db"), sound).unwrap();
    let lsn = give_up_batch(folder.path(), 1);
    assert_eq!(loss(Known::default()), [Some(Loss::Half { lsn })]);
    assert_eq!(found(), whole[..40]);
    let before = fs::read(folder.path().join("db")).unwrap();
    let refused = Engine::new_at(folder.path()).unwrap_err();
    assert!(
        matches!(&refused, CommitError::Damaged(why) if why.contains("given up in its middle")),
        "{refused}"
    );
    assert_eq!(fs::read(folder.path().join("db")).unwrap(), before);

    // A snapshot that reaches beyond it has it.
    let known = Known { recovered: lsn + 1, reached: lsn + 1, durable: 0 };
    assert_eq!(loss(known), [None]);
}

/// The journal gave up what moved into the engine last once that was on stable storage: damage there is no trace of a
/// crash.
#[tokio::test]
async fn damage_of_what_moved_last_is_not_taken_for_a_tear() {
    let folder = TempDir::new().unwrap();
    let queue = open(folder.path());
    fill(&queue, 6).await;
    queue.shutdown().await.unwrap();
    let (log, before) = (database(folder.path()), read(folder.path()).0);
    assert_eq!(before.len(), 2_400);
    let sound = fs::read(log.join("db")).unwrap();
    let all = written(&log);
    let durable = replay(&log).unwrap().reached;
    assert_eq!(durable, log_end(&log).unwrap());
    let last = all.iter().rposition(|message| message.kind == Kind::Batch).unwrap();
    assert!(all.len() - last > 3, "{} messages", all.len() - last);
    let mut spared = None;
    for message in all[last..].iter().step_by(5) {
        let mut damaged = sound.clone();
        damaged[message.end - 1] ^= 1;
        fs::write(log.join("db"), &damaged).unwrap();
        let refused = Engine::new_at(&log).unwrap_err();
        assert!(matches!(refused, CommitError::Damaged(_)), "{}: {refused}", message.lsn);
        assert_eq!(fs::read(log.join("db")).unwrap(), damaged, "it is not written over");
        let events = read(folder.path()).0;
        assert!(events.iter().all(|(seq, event)| before.get(seq).is_none_or(|known| known == event)));
        // What is damaged is one message, with one record or as many as a page of the engine has.
        assert!(events.len() > 1_200, "{}: {} of {}", message.lsn, events.len(), before.len());
        // Which of them has what the whole queue goes by differs; without that a repair has to be asked for.
        let audit = check(folder.path()).unwrap();
        spared = audit.ledger.and(audit.schema).map(|_| damaged).or(spared);
    }
    fs::write(log.join("db"), spared.expect("not all of them have it")).unwrap();
    let kept = read(folder.path()).0.len() as u64;
    let queue = open(folder.path());
    assert!(folder.path().join("quarantine/events.1").exists());
    let balance = queue.store().ledger().balance;
    assert_eq!((balance.accepted, balance.pending()), (2_400, kept), "{balance:?}");
    queue.shutdown().await.unwrap();
}

/// A crash also tears what the engine writes over, and has no use for any more: no start repairs that, and nobody has to.
#[tokio::test]
async fn a_place_is_told_only_where_something_is_behind_it() {
    let folder = TempDir::new().unwrap();
    let queue = open(folder.path());
    fill(&queue, 40).await;
    queue.store().settle((1..=15_000).map(Seq).collect(), vec![]).await.unwrap();
    queue.shutdown().await.unwrap();
    let log = database(folder.path());
    let sound = fs::read(log.join("db")).unwrap();
    let known = Known { durable: replay(&log).unwrap().reached, ..known(&log).unwrap() };
    let (mut harmless, mut harmful) = (0, 0);
    for message in written(&log).iter().step_by(29) {
        let mut damaged = sound.clone();
        damaged[message.end - 1] ^= 1;
        fs::write(log.join("db"), damaged).unwrap();
        let [loss] = would_lose(&log, [known]).unwrap();
        let audit = check(folder.path()).unwrap();
        assert_eq!(audit.gaps > 0, loss.is_some(), "{}: {loss:?}, {:?}", message.lsn, audit.wrong());
        match loss {
            Some(_) => harmful += 1,
            None => harmless += usize::from(audit.wrong().is_empty()),
        }
    }
    assert!(harmless > 0 && harmful > 0, "{harmless}, {harmful}");
}

#[tokio::test]
async fn a_sound_queue_is_found_sound_and_not_changed() {
    let folder = TempDir::new().unwrap();
    made(folder.path()).await;
    let bytes = |path: &Path| fs::read(database(path).join("db")).unwrap();
    let before = bytes(folder.path());
    let audit = check(folder.path()).unwrap();
    assert_eq!(audit.wrong(), Vec::<String>::new());
    assert_eq!(
        (audit.events, audit.letters, audit.account, audit.schema),
        (412, 68, Some(account()), Some(1))
    );
    let (events, letters) = read(folder.path());
    assert_eq!((events.len(), letters.len()), (412, 68));
    assert!(events.keys().all(|seq| seq % 5 != 0 && seq % 7 != 0) && letters.keys().all(|seq| seq % 7 == 0));
    assert_eq!(bytes(folder.path()), before);
    let queue = open(folder.path());
    let stored = queue.store().load(&events.keys().map(|seq| Seq(*seq)).collect::<Vec<_>>()).unwrap();
    assert_eq!(
        stored.into_iter().map(Option::unwrap).collect::<Vec<_>>(),
        events.into_values().collect::<Vec<_>>()
    );
    assert!(matches!(check(folder.path()), Err(SalvageError::Open(OpenError::InUse(_)))));
    assert!(matches!(repair(folder.path(), None), Err(SalvageError::Open(OpenError::InUse(_)))));
    queue.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_repaired_queue_has_what_can_be_read_and_balances() {
    let folder = TempDir::new().unwrap();
    made(folder.path()).await;
    let (events, letters) = read(folder.path());
    let page =
        |engine: &Engine, from: u64| engine.from(numbered(keys::PAGE, Seq(from))).next().unwrap().unwrap();
    change(folder.path(), |engine, batch| {
        // A page that is damaged, one that is gone, an envelope that is gone, a damaged letter, and a mark that is
        // damaged.
        let (key, value) = page(engine, 100);
        batch.insert(key, &value[..value.len() - 1]);
        batch.remove(page(engine, 200).0);
        batch.remove(keys::part(MEMBERS, Seq(401), 0));
        batch.insert(keys::part(keys::DEAD, Seq(7), 0), b"nonsense");
        batch.insert(numbered(MARK, keys::PageKey::read(&page(engine, 300).0).unwrap().0.first), b"nonsense");
    });
    let found = check(folder.path()).unwrap();
    assert_eq!(found.damaged_records, 3, "{:?}", found.damaged);
    assert!(found.missing() > 0 && found.wrong().len() == 3, "{:?}", found.wrong());
    let repaired = repair(folder.path(), None).unwrap();
    assert_eq!((repaired.found.events, repaired.found.damaged_events), (found.events, found.damaged_events));
    assert!(repaired.replaced.starts_with(folder.path().join("quarantine")) && repaired.replaced.exists());
    let (kept, kept_letters) = read(folder.path());
    assert_eq!(kept.len() as u64, found.events);
    assert!(
        kept.iter().filter(|(seq, _)| events.contains_key(seq)).all(|(seq, event)| events[seq] == *event)
    );
    // Settled once, and with a mark that is gone: they come again.
    let again = kept.keys().filter(|seq| !events.contains_key(seq)).count();
    assert!((1..=64).contains(&again), "{again}");
    assert_eq!(kept_letters.len(), letters.len() - 1);
    let after = check(folder.path()).unwrap();
    assert_eq!((after.wrong(), after.quarantined), (vec![], 3));
    let queue = open(folder.path());
    let mut from = Seq(0);
    while from < queue.store().tail() {
        from = queue.store().scan(from, 1_000).unwrap().next;
    }
    queue.store().pulse().await.unwrap();
    let ledger = queue.store().ledger();
    assert_eq!((ledger.imbalance(), ledger.counted()), (0, found.events));
    assert_eq!(ledger.balance.quarantined, found.damaged_events + repaired.missing);
    // Numbers are not used again, and room is given back in full.
    assert_eq!(ledger.next, Seq(601));
    queue.store().settle(kept.keys().map(|seq| Seq(*seq)).collect(), vec![]).await.unwrap();
    queue.store().delete_dead(kept_letters.keys().map(|seq| Seq(*seq)).collect()).await.unwrap();
    let watch = queue.store().watch();
    queue.shutdown().await.unwrap();
    assert_eq!((watch.borrow().held_bytes, watch.borrow().dead_held), (0, 0));
}

#[tokio::test]
async fn a_queue_without_its_own_records_needs_an_account_and_counts_anew() {
    let folder = TempDir::new().unwrap();
    made(folder.path()).await;
    change(folder.path(), |_, batch| {
        for name in ["schema", "ledger", "target"] {
            batch.remove(keys::meta(name));
        }
    });
    assert_eq!(check(folder.path()).unwrap().wrong().len(), 3);
    assert!(matches!(repair(folder.path(), None), Err(SalvageError::NoAccount(_))));
    let repaired = repair(folder.path(), Some(account())).unwrap();
    assert_eq!((repaired.ledger.balance.accepted, repaired.ledger.balance.pending()), (412 + 68, 412));
    assert_eq!(check(folder.path()).unwrap().wrong(), Vec::<String>::new());
    open(folder.path()).shutdown().await.unwrap();
    assert!(matches!(check(&folder.path().join("elsewhere")), Err(SalvageError::Open(_))));
    assert!(matches!(repair(&folder.path().join("elsewhere"), None), Err(SalvageError::NoDatabase(_))));
}

/// What is left of a copy that was broken off, also where a start tried to go on with it; and folders that are none of ours.
#[tokio::test]
async fn a_database_without_a_record_is_set_aside_for_an_older_one() {
    for is_tried in [false, true] {
        let folder = TempDir::new().unwrap();
        let root = folder.path();
        made(root).await;
        let before = read(root);
        for name in ["events.2", "events.+3", "events.04"] {
            fs::create_dir(root.join(name)).unwrap();
        }
        if is_tried {
            let settings = settings(root);
            let now = std::sync::Arc::new(|| Moment::from_millis(1));
            assert!(Queue::open(settings, &account(), now).is_err());
        }
        let found = check(root).unwrap();
        assert_eq!((found.events, found.missing()), (before.0.len() as u64, 0));
        let wrong = found.wrong().join("; ");
        assert!(wrong.contains("events.2 holds no record"), "{wrong}");
        assert!(read(root) == before);
        let repaired = repair(root, None).unwrap();
        assert_eq!((repaired.found.events, repaired.missing), (before.0.len() as u64, 0));
        assert_eq!(repaired.database, root.join("events.3"));
        assert_eq!(repaired.replaced, root.join("quarantine/events.1"));
        assert_eq!(repaired.others, [root.join("quarantine/events.2")]);
        assert!(root.join("events.+3").exists() && root.join("events.04").exists());
        assert_eq!(check(root).unwrap().wrong(), Vec::<String>::new());
        assert!(read(root) == before);
    }
}

/// What the journal has is read without the engine's file, too.
#[tokio::test]
async fn a_database_without_the_engines_file_keeps_what_the_journal_has() {
    let folder = TempDir::new().unwrap();
    made(folder.path()).await;
    let before = read(folder.path());
    fs::remove_file(folder.path().join("events.1/db")).unwrap();
    let found = check(folder.path()).unwrap();
    let known = i128::from(found.events + found.damaged_events) + found.missing();
    assert!(found.events > 0 && found.missing() > 0 && known == before.0.len() as i128, "{found:?}");
    let repaired = repair(folder.path(), Some(account())).unwrap();
    assert_eq!(repaired.found.events, found.events);
    open(folder.path()).shutdown().await.unwrap();
}

/// A system at its limit of threads starts none of them, or not all.
#[test]
fn a_log_is_read_without_the_threads_that_the_system_refuses() {
    let folder = TempDir::new().unwrap();
    let engine = Engine::new_at(&folder.path().join("events.1")).unwrap();
    engine.limit_journal(16 * 1_024);
    for number in 0..300_u32 {
        let mut batch = Batch::default();
        for part in 0..8_u8 {
            batch.insert([&number.to_be_bytes()[..], &[part]].concat(), [part; 900]);
        }
        engine.commit(batch).unwrap();
    }
    let log = Log::open(engine.path(), BehindEnd::Kept).unwrap();
    let (segments, _) = log.segments().unwrap();
    let read = |started: usize| {
        let reader = |number: usize| match number < started {
            true => std::thread::Builder::new(),
            // No address space has room for its stack.
            false => std::thread::Builder::new().stack_size(1 << 60),
        };
        let mut shown = Vec::new();
        log.each_by(reader, &segments, |number, _, bytes| shown.push((number, bytes.to_vec()))).unwrap();
        shown
    };
    let all = read(usize::MAX);
    let numbers = all.iter().map(|(number, _)| number);
    assert!(all.len() > 2 && numbers.eq(segments.keys()), "{}", all.len());
    assert!(read(0) == all && read(1) == all);
}
