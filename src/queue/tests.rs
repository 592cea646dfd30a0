mod damage;
mod failed;
mod journal;
pub(super) mod model;
mod recent;
mod room;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use tempfile::TempDir;

use super::batch::Batch;
use super::engine::Engine;
use super::*;
use crate::event::{Account, Balance, DeadReason, Event, SessionId};
use crate::wire::defaults::Defaults;
use crate::wire::reply::{Appended, Unavailable};

impl Queue {
    /// Has the writer store `event`, and wait then until it is released: what it is asked for meanwhile comes together.
    pub(crate) async fn keep_busy(&self, event: Submission) -> mpsc::Sender<()> {
        let (release, released) = mpsc::channel();
        let (began, begun) = oneshot::channel();
        let busy = OnStored(Box::new(move |_| {
            began.send(()).unwrap();
            released.recv().unwrap();
        }));
        let (replier, _answers) = oneshot::channel::<Vec<Appended>>();
        self.appender().append(1, vec![event], vec![(0, busy)], Box::new(replier)).await;
        begun.await.unwrap();
        release
    }
}

fn account(client: &str) -> Account {
    Account { client: client.to_owned(), organization: "0DD9@AdobeOrg".to_owned() }
}

fn settings(folder: &Path) -> Settings {
    Settings {
        path: folder.join("queue"),
        max_bytes: 1 << 30,
        max_events: 1_000_000,
        min_free: 0,
        reserve: 0,
        dead_max_events: 100,
        journal_bytes: 32 << 10,
        adopt: false,
    }
}

fn open(settings: Settings) -> Queue {
    Queue::open(settings, &account("acme"), Arc::new(|| Moment::from_millis(1))).unwrap()
}

fn parse(line: &str) -> Submission {
    let defaults = Defaults { channel: true, ..Defaults::default() };
    Submission::parse(line.as_bytes(), &defaults, 1).unwrap()
}

/// A submission of `count` events, with about `bytes` in each and an envelope of about `members` bytes.
fn submission(session: &str, count: usize, bytes: usize, members: usize) -> Submission {
    let notification = |number| {
        format!(r#"{{"id":"{session}-{number}","type":"display","timestamp":1,"x":"{}"}}"#, "x".repeat(bytes))
    };
    let notifications = (0..count).map(notification).collect::<Vec<_>>().join(",");
    parse(&format!(
        r#"{{"session_id":"{session}","request":{{"y":"{}","notifications":[{notifications}]}}}}"#,
        "y".repeat(members)
    ))
}

/// What becomes of a batch; `None` where its commit was lost.
async fn told(appender: Appender, batch: Vec<Submission>) -> Option<Vec<Appended>> {
    let (sender, answers) = oneshot::channel();
    appender.append(1, batch, vec![], Box::new(sender)).await;
    answers.await.ok()
}

pub(super) async fn append(queue: &Queue, batch: Vec<Submission>) -> Vec<Appended> {
    told(queue.appender(), batch).await.unwrap()
}

async fn seqs(store: &Store) -> Vec<u64> {
    let (store, tail) = (store.clone(), store.tail());
    let all = tokio::task::spawn_blocking(move || store.scan(Seq(1), usize::MAX)).await.unwrap().unwrap();
    assert_eq!(all.next, tail);
    all.entries.iter().map(|entry| entry.seq.0).collect()
}

/// What lies under the keys that begin so.
fn records(store: &Store, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let all: Vec<_> = store.view.read(|engine| engine.from(prefix.to_vec()).map(Result::unwrap).collect());
    let all = all.into_iter().map(|(key, value): (sled::IVec, index::Value)| (key.to_vec(), value.to_vec()));
    all.take_while(|(key, _)| key.starts_with(prefix)).collect()
}

#[tokio::test]
async fn events_come_back_as_they_were_over_a_restart() {
    let folder = TempDir::new().unwrap();
    let queue = open(settings(folder.path()));
    let batch = vec![
        submission("small", 3, 10, 10),
        submission("large-envelope", 100, 100, 20_000),
        submission("large-events", 3, 20_000, 10),
        submission("small", 2, 10, 10),
    ];
    assert_eq!(append(&queue, batch.clone()).await, vec![Appended::Stored; 4]);
    queue.shutdown().await.unwrap();

    let queue = open(settings(folder.path()));
    let store = queue.store();
    assert_eq!(seqs(&store).await, (1..=108).collect::<Vec<_>>());
    let events = store.load(&(1..=108).map(Seq).collect::<Vec<_>>()).unwrap();
    let given = batch.iter().flat_map(|one| one.notifications.iter().map(move |event| (one, event)));
    for (event, (submission, notification)) in events.iter().zip(given) {
        let event = event.as_ref().unwrap();
        assert_eq!((&event.id, &event.notification), (&notification.id, &notification.json));
        assert_eq!(event.envelope, submission.envelope);
        assert_eq!(event.arrived, Moment::from_millis(1));
    }
    let sessions = store.sessions(&[104, 3, 109, 4, 0].map(Seq)).unwrap();
    let named: Vec<_> = sessions.iter().map(|session| session.as_ref().map(SessionId::as_str)).collect();
    assert_eq!(named, [Some("large-events"), Some("small"), None, Some("large-envelope"), None]);
    assert_eq!(store.load(&[Seq(0), Seq(109)]).unwrap(), vec![None, None]);
    // Each of the large ones lies in a page of its own.
    let large = [104, 105, 106].map(Seq);
    for (max_bytes, expected) in [(1, 1), (20_000, 1), (30_000, 2), (usize::MAX, 3)] {
        assert_eq!(store.load_some(&large, max_bytes).unwrap(), events[103..103 + expected], "{max_bytes}");
    }
    // Those of a page are read together, wherever they stand among others.
    let mixed: Vec<u64> = (0..=60).flat_map(|step| [60 + step, 60 - step, 60 + step]).collect();
    let alone = mixed.iter().map(|seq| store.load(&[Seq(*seq)]).unwrap().remove(0));
    let together = store.load(&mixed.iter().copied().map(Seq).collect::<Vec<_>>()).unwrap();
    assert_eq!(together, alone.collect::<Vec<_>>());
    let blobs = fs::read_dir(settings(folder.path()).path.join("events.1/blobs")).unwrap().count();
    assert_eq!(blobs, 0, "no value may be so large that the engine writes it to a file of its own");
}

#[tokio::test]
async fn what_is_settled_is_gone_with_its_pages_and_its_envelope() {
    let folder = TempDir::new().unwrap();
    let queue = open(settings(folder.path()));
    let store = queue.store();
    append(&queue, vec![submission("a", 100, 100, 20_000), submission("b", 5, 10, 10)]).await;
    let odd: Vec<Seq> = (1..=105).step_by(2).map(Seq).collect();
    store.settle(odd.clone(), vec![]).await.unwrap();
    // Not from memory either, where nobody took them from there: an operator dropped them.
    assert!(store.take_recent(&odd).iter().all(Option::is_none));
    store.settle(odd, vec![]).await.unwrap();
    assert_eq!(seqs(&store).await, (2..=104).step_by(2).collect::<Vec<_>>());
    assert_eq!(store.ledger().balance, Balance { accepted: 105, delivered: 53, ..Balance::default() });
    store.settle((2..=104).step_by(2).map(Seq).collect(), vec![]).await.unwrap();
    // In that very commit.
    assert_eq!(store.ledger().held_bytes, 0);
    let left: Vec<_> = records(&store, b"").into_iter().map(|(key, _)| key).collect();
    assert!(left.iter().all(|key| key.starts_with(b"m")), "{left:?}");
    drop(store);
    queue.shutdown().await.unwrap();
    // Numbers are never used again.
    let queue = open(settings(folder.path()));
    append(&queue, vec![submission("c", 1, 10, 10)]).await;
    assert_eq!(seqs(&queue.store()).await, vec![106]);
}

#[tokio::test]
async fn a_dead_letter_has_all_that_it_takes_to_send_it_again() {
    let folder = TempDir::new().unwrap();
    let queue = open(settings(folder.path()));
    let store = queue.store();
    append(&queue, vec![submission("a", 3, 10_000, 20_000)]).await;
    let event = store.load(&[Seq(2)]).unwrap().remove(0).unwrap();
    let burial = |reason| Burial { seq: Seq(2), reason, detail: "bad token".to_owned() };
    store.settle(vec![Seq(1)], vec![burial(DeadReason::Refused), burial(DeadReason::Expired)]).await.unwrap();
    let letters = store.dead(Seq(0), 10).unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (&letters[0].event, letters[0].reason, &*letters[0].detail),
        (&event, DeadReason::Refused, "bad token")
    );
    let expected = Balance { accepted: 3, delivered: 1, dead: 1, ..Balance::default() };
    assert_eq!((store.ledger().balance, store.ledger().dead_held), (expected, 1));
    assert_eq!(seqs(&store).await, vec![3]);
    // Deleting it, more than once even, changes what is held and not what became of the event.
    let held = store.ledger().held_bytes;
    assert_eq!(store.delete_dead(vec![Seq(2), Seq(2), Seq(3), Seq(9)]).await.unwrap(), 1);
    assert_eq!(store.delete_dead(vec![Seq(2)]).await.unwrap(), 0);
    assert_eq!((store.ledger().balance, store.ledger().dead_held), (expected, 0));
    assert!(store.ledger().held_bytes < held && store.dead(Seq(0), 10).unwrap().is_empty());
    assert_eq!(seqs(&store).await, vec![3]);
}

#[tokio::test]
async fn a_page_of_dead_letters_ends_where_it_has_enough_bytes() {
    let folder = TempDir::new().unwrap();
    let queue = open(settings(folder.path()));
    let store = queue.store();
    append(&queue, vec![submission("a", 5, 10_000, 10)]).await;
    let burial = |seq| Burial { seq: Seq(seq), reason: DeadReason::Refused, detail: String::new() };
    store.settle(vec![], (1..=5).map(burial).collect()).await.unwrap();
    let all = store.dead(Seq(0), 9).unwrap();
    assert_eq!(all.len(), 5);
    for (max_bytes, expected) in [(1, &[1; 5][..]), (15_000, &[2, 2, 1]), (usize::MAX, &[5])] {
        let (mut from, mut letters, mut pages) = (Seq(0), Vec::new(), Vec::new());
        loop {
            let page = store.dead_page(from, 9, max_bytes).unwrap();
            let Some(last) = page.last() else { break };
            from = last.event.seq.next();
            pages.push(page.len());
            letters.extend(page);
        }
        assert_eq!((pages.as_slice(), &letters), (expected, &all), "{max_bytes}");
    }
    let since: Vec<_> = all.iter().map(|letter| (letter.event.seq, letter.at)).collect();
    assert_eq!(store.dead_since(Seq(2), 3).unwrap(), since[1..4]);
}

#[tokio::test]
async fn a_requeued_letter_is_the_same_event_at_the_end_of_the_queue() {
    let folder = TempDir::new().unwrap();
    let settings = Settings { max_events: 5, ..settings(folder.path()) };
    let queue = open(settings.clone());
    let store = queue.store();
    append(&queue, vec![submission("a", 3, 10_000, 20_000)]).await;
    let before = store.load(&[Seq(1), Seq(2)]).unwrap();
    let burial = |seq, reason| Burial { seq: Seq(seq), reason, detail: "bad token".to_owned() };
    store.settle(vec![], vec![burial(1, DeadReason::Refused), burial(2, DeadReason::Expired)]).await.unwrap();
    append(&queue, vec![submission("a", 1, 10, 10)]).await;
    let moved = store.requeue(&[Seq(1), Seq(2), Seq(2), Seq(3), Seq(9)]).await.unwrap();
    assert_eq!(moved, Requeued { moved: 2, refusal: None });
    assert_eq!(seqs(&store).await, vec![3, 4, 5, 6]);
    let after = store.load(&[Seq(5), Seq(6)]).unwrap();
    for (before, after) in before.into_iter().zip(after) {
        let (before, after) = (before.unwrap(), after.unwrap());
        assert_eq!(
            (before.id, before.notification, before.envelope),
            (after.id, after.notification, after.envelope)
        );
    }
    assert_eq!(store.ledger().balance, Balance { accepted: 4, ..Balance::default() });
    assert_eq!((store.ledger().dead_held, store.dead(Seq(0), 9).unwrap().len()), (0, 0));
    // At a limit the letter stays a letter, and the answer says why.
    store.settle(vec![], vec![burial(5, DeadReason::Refused)]).await.unwrap();
    append(&queue, vec![submission("b", 2, 10, 10)]).await;
    let refused = store.requeue(&[Seq(5)]).await.unwrap();
    assert!(refused.moved == 0 && refused.refusal.unwrap().contains("queue.max_events"));
    drop(store);
    queue.shutdown().await.unwrap();
    let store = open(settings).store();
    assert_eq!(seqs(&store).await, vec![3, 4, 6, 7, 8]);
    assert_eq!(store.ledger().balance, Balance { accepted: 6, dead: 1, ..Balance::default() });
}

/// An operator names any number of events at once, however large they are.
#[tokio::test]
async fn many_large_letters_take_several_commits() {
    let folder = TempDir::new().unwrap();
    let queue = open(Settings { journal_bytes: 64 << 20, ..settings(folder.path()) });
    let store = queue.store();
    for session in 0..20 {
        append(&queue, vec![submission(&session.to_string(), 1, 1_000_000, 10)]).await;
    }
    let burial = |seq| Burial { seq: Seq(seq), reason: DeadReason::Dropped, detail: String::new() };
    let commits = || store.counts().commits();
    let before = commits();
    store.settle(vec![], (1..=20).map(burial).collect()).await.unwrap();
    assert_eq!((store.ledger().dead_held, commits() - before), (20, 4));
    let before = commits();
    let requeued = store.requeue(&(1..=20).map(Seq).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(requeued, Requeued { moved: 20, refusal: None });
    assert_eq!(commits() - before, 4);
    assert_eq!(seqs(&store).await, (21..=40).collect::<Vec<_>>());
    assert_eq!(store.ledger().balance, Balance { accepted: 20, ..Balance::default() });
    drop(store);
    queue.shutdown().await.unwrap();
}

/// Asserts that there was no room for a submission, and that the message says so with this word.
fn refused(answer: &Appended, word: &str) {
    match answer {
        Appended::Refused { code: Unavailable::QueueFull, message, .. } => {
            assert!(message.contains(word), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn limits_refuse_a_submission_whole_and_say_which() {
    let folder = TempDir::new().unwrap();
    let queue = open(Settings { max_events: 5, max_bytes: 3_000, ..settings(folder.path()) });
    let answers = append(
        &queue,
        vec![submission("a", 4, 10, 10), submission("b", 2, 10, 10), submission("c", 1, 10, 10)],
    )
    .await;
    assert_eq!((&answers[0], &answers[2]), (&Appended::Stored, &Appended::Stored));
    refused(&answers[1], "queue.max_events");
    let no_room = || queue.store().counts().no_room();
    assert_eq!(no_room(), NoRoom { times: 1, events: 2, bytes: 0 });
    queue.store().settle((1..=5).map(Seq).collect(), vec![]).await.unwrap();
    refused(&append(&queue, vec![submission("d", 1, 4_000, 10)]).await[0], "queue.max_bytes");
    assert_eq!(no_room().times, 1, "no empty queue would hold that one");
    assert_eq!(append(&queue, vec![submission("e", 4, 10, 10)]).await, vec![Appended::Stored]);
    refused(&append(&queue, vec![submission("f", 1, 2_700, 10)]).await[0], "queue.max_bytes");
    assert!(matches!(no_room(), NoRoom { times: 2, events: 0, bytes: 2_700.. }), "{:?}", no_room());
}

#[tokio::test]
async fn what_one_commit_appends_counts_in_the_limit_of_bytes() {
    let folder = TempDir::new().unwrap();
    let queue = open(Settings { max_bytes: 9_000, ..settings(folder.path()) });
    // Small ones share a page, and a large one has one of its own.
    for bytes in [500, 5_000] {
        let many = (0..30).map(|number| submission(&format!("s{number}"), 1, bytes, 10)).collect();
        let answers = append(&queue, many).await;
        let stored = answers.iter().filter(|answer| **answer == Appended::Stored).count() as u64;
        refused(&answers[29], "queue.max_bytes");
        let ledger = queue.store().ledger();
        let left = 9_000 - ledger.held_bytes;
        assert!(stored > 0 && left < bytes as u64 + 200, "{stored} of {bytes} bytes: {ledger:?}");
        queue.store().settle((1..ledger.next.0).map(Seq).collect(), vec![]).await.unwrap();
    }
}

#[tokio::test]
async fn a_submission_that_no_empty_queue_could_hold_is_told_as_such() {
    let folder = TempDir::new().unwrap();
    let queue = open(Settings { max_events: 5, max_bytes: 3_000, ..settings(folder.path()) });
    for (count, bytes, key) in [(6, 10, "queue.max_events"), (1, 4_000, "queue.max_bytes")] {
        let answers =
            append(&queue, vec![submission("a", count, bytes, 10), submission("b", 1, 10, 10)]).await;
        refused(&answers[0], key);
        refused(&answers[0], "the whole queue");
        assert_eq!(answers[1], Appended::Stored, "the lines behind it go on");
    }
}

#[tokio::test]
async fn calls_are_stitched_in_queue_order_and_a_refused_one_changes_nothing() {
    let folder = TempDir::new().unwrap();
    let queue = open(Settings { max_events: 4, ..settings(folder.path()) });
    let call = |consumer: &str, count: usize| {
        let one = r#"{"type":"click"}"#;
        let events = vec![one; count].join(",");
        parse(&format!(
            r#"{{"session_id":"s","consumer_id":"{consumer}","request":{{"notifications":[{events}]}}}}"#
        ))
    };
    let batch = vec![call("a", 1), call("b", 1), call("a", 9), call("c", 1), call("b", 1)];
    let answers = append(&queue, batch).await;
    assert!(matches!(answers[2], Appended::Refused { .. }), "{answers:?}");
    let events = queue.store().load(&[Seq(1), Seq(2), Seq(3), Seq(4)]).unwrap();
    let ids: Vec<String> = events
        .into_iter()
        .map(|event| {
            let event = event.unwrap();
            let members = std::str::from_utf8(&event.envelope.members).unwrap();
            let value: serde_json::Value = serde_json::from_str(&format!("{{{members}}}")).unwrap();
            value["experienceCloud"]["analytics"]["supplementalDataId"].as_str().unwrap().to_owned()
        })
        .collect();
    // The refused repetition of "a" started no new id; the repetition of "b" did.
    assert_eq!((&ids[0], &ids[0]), (&ids[1], &ids[2]));
    assert_ne!(ids[2], ids[3]);
    assert!(ids.iter().all(|id| id.len() == 33 && id.as_bytes()[16] == b'-'), "{ids:?}");
}

#[tokio::test]
async fn a_queue_belongs_to_one_account_and_one_instance() {
    let folder = TempDir::new().unwrap();
    let now: Now = Arc::new(|| Moment::ZERO);
    let other = |adopt| {
        let settings = Settings { adopt, ..settings(folder.path()) };
        Queue::open(settings, &account("other"), Arc::clone(&now))
    };
    let queue = open(settings(folder.path()));
    assert!(matches!(other(false), Err(OpenError::InUse(_))));
    append(&queue, vec![submission("a", 1, 10, 10)]).await;
    queue.shutdown().await.unwrap();
    let refused = other(false).unwrap_err();
    assert!(matches!(refused, OpenError::OtherAccount { pending: 1, .. }));
    assert!(refused.to_string().contains(" holds 1 event to deliver and 0 dead letters for "), "{refused}");
    assert!(
        refused.to_string().contains("\"acme\"") && refused.to_string().contains("\"other\""),
        "{refused}"
    );
    let queue = other(true).unwrap();
    queue.store().settle(vec![Seq(1)], vec![]).await.unwrap();
    queue.shutdown().await.unwrap();
    // Nothing waits, so nothing can go to the wrong account.
    open(settings(folder.path())).shutdown().await.unwrap();
}

/// Changes the closed database.
fn tamper(settings: &Settings, change: impl FnOnce(&Engine, &mut Batch)) {
    let (engine, mut batch) = (Engine::new_at(&settings.path.join("events.1")).unwrap(), Batch::default());
    change(&engine, &mut batch);
    engine.commit(batch).unwrap();
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let folder = TempDir::new().unwrap();
    let settings = settings(folder.path());
    open(settings.clone()).shutdown().await.unwrap();
    let newer = migrations::NEWEST + 1;
    tamper(&settings, |_, batch| batch.insert(keys::meta("schema"), crate::wire::record::seal(&newer)));
    let refused = Queue::open(settings, &account("acme"), Arc::new(|| Moment::ZERO));
    assert!(matches!(refused, Err(OpenError::Newer { found: 2, known: 1, .. })));
}

#[tokio::test]
async fn a_broken_snapshot_and_a_half_made_database_do_not_stop_a_start() {
    let folder = TempDir::new().unwrap();
    let settings = settings(folder.path());
    let queue = open(settings.clone());
    append(&queue, vec![submission("a", 1, 10, 10)]).await;
    queue.shutdown().await.unwrap();
    let database = settings.path.join("events.1");
    fs::write(database.join("snap.00000000000000AA.generating"), b"half").unwrap();
    fs::write(database.join("snap.00000000000000AA"), b"zeros").unwrap();
    fs::create_dir(settings.path.join("events.new")).unwrap();
    fs::write(settings.path.join("events.new/conf"), b"").unwrap();
    let queue = open(settings);
    assert_eq!(seqs(&queue.store()).await, vec![1]);
}

#[tokio::test]
async fn after_a_failed_sync_the_next_start_copies_the_database() {
    let folder = TempDir::new().unwrap();
    let settings = settings(folder.path());
    let queue = open(settings.clone());
    append(&queue, vec![submission("a", 9, 3_000, 2_000)]).await;
    queue.shutdown().await.unwrap();
    fs::write(settings.path.join("failed"), b"I/O error").unwrap();
    let queue = open(settings.clone());
    assert_eq!(seqs(&queue.store()).await, (1..=9).collect::<Vec<_>>());
    assert!(settings.path.join("events.2/db").exists() && settings.path.join("quarantine/events.1").exists());
    assert!(!settings.path.join("failed").exists());
    queue.shutdown().await.unwrap();
    assert_eq!(seqs(&open(settings).store()).await.len(), 9);
}

#[tokio::test]
async fn who_asks_a_queue_that_was_closed_is_told() {
    let folder = TempDir::new().unwrap();
    let queue = open(settings(folder.path()));
    let store = queue.store();
    queue.shutdown().await.unwrap();
    assert!(matches!(store.settle(vec![Seq(0)], vec![]).await, Err(Failed::Closed)));
}
