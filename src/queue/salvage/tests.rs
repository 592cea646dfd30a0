mod log;

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
