//! Frozen databases: each schema that was ever released is opened by this program, with all that lies in it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use target_notifyd::event::{Balance, Burial, DeadReason, Seq};
use target_notifyd::queue::Queue;
use tempfile::TempDir;

use crate::kill::copied;
use crate::power::check::{is_genuine, now, open, submission};
use crate::support::{account, append, queue_settings};

/// How many submissions a fixture was made of, and how many events these had.
const LINES: u64 = 60;
const EVENTS: u64 = 300;

fn fixture(schema: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/schema-{schema}"))
}

/// What became of an event, by its number: delivered, a dead letter, or neither.
fn is_delivered(seq: u64) -> bool {
    seq.is_multiple_of(3)
}

fn is_dead(seq: u64) -> bool {
    !is_delivered(seq) && seq % 10 == 1
}

fn whole(queue: &Queue) {
    let store = queue.store();
    let scan = store.scan(Seq(0), usize::MAX).expect("the queue reads");
    let found: Vec<Seq> = scan.entries.iter().map(|entry| entry.seq).collect();
    let waiting: Vec<Seq> =
        (1..=EVENTS).filter(|seq| !is_delivered(*seq) && !is_dead(*seq)).map(Seq).collect();
    assert_eq!(found, waiting);
    for event in store.load(&found).expect("the queue reads") {
        is_genuine(&event.expect("an event")).expect("the bytes that were stored");
    }
    let letters = store.dead(Seq(0), usize::MAX).expect("the queue reads");
    let dead: BTreeSet<u64> = letters.iter().map(|letter| letter.event.seq.0).collect();
    assert_eq!(dead, (1..=EVENTS).filter(|seq| is_dead(*seq)).collect());
    for letter in letters {
        is_genuine(&letter.event).expect("the bytes that were stored");
        assert_eq!((letter.reason, letter.detail.as_str()), (DeadReason::Refused, "bad token"));
    }
    let (delivered, dead) = ((1..=EVENTS).filter(|seq| is_delivered(*seq)).count() as u64, dead.len() as u64);
    assert_eq!(store.ledger().balance, Balance { accepted: EVENTS, delivered, dead, ..Balance::default() });
    assert_eq!(store.meta("note").expect("the queue reads").as_deref(), Some(&b"frozen"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_of_schema_1_opens_with_all_that_it_holds() {
    let folder = TempDir::new().expect("a folder");
    copied(&fixture(1), folder.path());
    let queue = open(queue_settings(folder.path())).expect("the fixture opens");
    whole(&queue);
    queue.shutdown().await.expect("the queue closes");
}

#[cfg(debug_assertions)]
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_of_schema_1_is_migrated_with_all_that_it_holds() {
    let folder = TempDir::new().expect("a folder");
    copied(&fixture(1), folder.path());
    let queue =
        Queue::rehearse(queue_settings(folder.path()), &account(), now()).expect("the fixture is migrated");
    whole(&queue);
    queue.shutdown().await.expect("the queue closes");
    let refused = open(queue_settings(folder.path())).expect_err("it is newer than this program");
    assert!(refused.to_string().contains("start the newer program"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "makes the fixture of this program's schema: done once for each, in target/fixture"]
async fn make_a_fixture() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fixture");
    let _absent = fs::remove_dir_all(&path);
    let queue = open(queue_settings(&path)).expect("a new queue");
    for number in 0..LINES {
        append(&queue, vec![submission(number)]).await.expect("a commit");
    }
    let store = queue.store();
    assert_eq!(store.tail(), Seq(EVENTS + 1), "EVENTS says how many there are");
    let burial = |seq| Burial { seq: Seq(seq), reason: DeadReason::Refused, detail: "bad token".to_owned() };
    let delivered = (1..=EVENTS).filter(|seq| is_delivered(*seq)).map(Seq).collect();
    let burials = (1..=EVENTS).filter(|seq| is_dead(*seq)).map(burial).collect();
    store.settle(delivered, burials).await.expect("a commit");
    store.put_meta("note", b"frozen".to_vec()).await.expect("a commit");
    drop(store);
    queue.shutdown().await.expect("the queue closes");
}
