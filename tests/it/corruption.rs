//! Databases with damaged files: what can be read is kept, what cannot is counted, and nothing is invented.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use target_notifyd::event::{Account, Moment, Seq};
use target_notifyd::queue::{Queue, Settings};
use target_notifyd::schedule::Random;
use target_notifyd::wire::defaults::Defaults;
use target_notifyd::wire::submission::Submission;
use tempfile::TempDir;

use crate::extent::{extent, seed};

const EVENTS: u64 = 600;

fn account() -> Account {
    Account { client: "acme".to_owned(), organization: "0DD9@AdobeOrg".to_owned() }
}

fn settings(path: PathBuf) -> Settings {
    Settings {
        path,
        max_bytes: 2 << 30,
        max_events: 10_000_000,
        min_free: 0,
        reserve: 0,
        dead_max_events: 100_000,
        adopt: false,
    }
}

fn now() -> Arc<dyn Fn() -> Moment + Send + Sync> {
    Arc::new(|| Moment::from_millis(1_700_000_000_000))
}

/// A queue with known events, some of them settled; the notifications that are left, by number.
async fn made(path: &Path) -> BTreeMap<u64, Vec<u8>> {
    let defaults = Defaults {
        impression_id: true,
        channel: true,
        time_offset: None,
        analytics_logging: true,
        property_token: None,
        environment_id: None,
    };
    let queue = Queue::open(settings(path.to_owned()), &account(), now()).expect("a new queue");
    for batch in 0..EVENTS / 20 {
        let line = |number| {
            let (session, name) = (number % 7, "x".repeat(1 + number as usize * 13 % 240));
            let text = format!(
                r#"{{"session_id":"s{session}","type":"click","id":"{number}","mbox":{{"name":"{name}"}}}}"#
            );
            Submission::parse(text.as_bytes(), &defaults, 1).expect("a good line")
        };
        let lines: Vec<Submission> = (batch * 20..batch * 20 + 20).map(line).collect();
        queue.appender().append(0, lines, vec![]).await.await.expect("a commit");
    }
    let store = queue.store();
    store.settle((1..=EVENTS).filter(|seq| seq % 5 == 0).map(Seq).collect(), vec![]).await.expect("a commit");
    let left: Vec<Seq> = (1..=EVENTS).filter(|seq| seq % 5 != 0).map(Seq).collect();
    let events = store.load(&left).expect("the queue reads");
    drop(store);
    queue.shutdown().await.expect("the queue closes");
    left.iter()
        .zip(events)
        .map(|(seq, event)| (seq.0, event.expect("an event").notification.into_vec()))
        .collect()
}

fn copy(from: &Path, to: &Path, files: &mut Vec<PathBuf>) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder can be listed") {
        let path = entry.expect("a folder can be listed").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target, files);
        } else {
            fs::copy(&path, &target).expect("a file can be copied");
            files.push(target);
        }
    }
}

/// Flips, zeroes or cuts bytes of one file.
fn damage(path: &Path, random: &mut Random) -> String {
    let mut bytes = fs::read(path).expect("a file can be read");
    if bytes.is_empty() {
        return "nothing".to_owned();
    }
    let at = usize::try_from(random.bits()).unwrap_or(0) % bytes.len();
    let count = 1 + usize::try_from(random.bits() % 64).unwrap_or(0);
    let end = (at + count).min(bytes.len());
    let what = match random.bits() % 3 {
        0 => {
            bytes[at] ^= 1 << (random.bits() % 8);
            "a flipped bit"
        }
        1 => {
            bytes[at..end].fill(0);
            "zeros"
        }
        _ => {
            bytes.truncate(at);
            "a cut"
        }
    };
    fs::write(path, bytes).expect("a file can be written");
    format!("{what} at {at} of {}", path.display())
}

async fn corrupt(seeds: std::ops::Range<u64>) {
    let folder = TempDir::new().expect("a folder");
    let good = folder.path().join("good");
    let known = made(&good).await;
    let (mut opened, tried) = (0, seeds.end - seeds.start);
    for seed in seeds {
        let (copied, mut files, mut random) =
            (folder.path().join(seed.to_string()), Vec::new(), Random::new(seed));
        copy(&good, &copied, &mut files);
        files.sort();
        let file = usize::try_from(random.bits()).unwrap_or(0) % files.len();
        let done = damage(&files[file], &mut random);
        let path = copied.clone();
        let read = tokio::task::spawn_blocking(move || {
            // A refusal to open is an answer, too: the files stay for whoever repairs them.
            let queue = Queue::open(settings(path), &account(), now()).ok()?;
            let store = queue.store();
            let (mut from, mut found) = (Seq(1), Vec::new());
            while from < store.tail() {
                let scan = store.scan(from, 1_000).ok()?;
                found.extend(scan.entries.iter().map(|entry| entry.seq));
                if scan.next <= from {
                    break;
                }
                from = scan.next;
            }
            let events = store.load(&found).ok()?;
            Some((queue, found, events))
        });
        let limit = std::time::Duration::from_secs(60);
        let read =
            tokio::time::timeout(limit, read).await.unwrap_or_else(|_| panic!("seed {seed} hangs: {done}"));
        let Some((queue, found, events)) = read.unwrap_or_else(|_| panic!("seed {seed} panics: {done}"))
        else {
            fs::remove_dir_all(&copied).expect("a folder can be removed");
            continue;
        };
        opened += 1;
        let mut readable = 0;
        for (seq, event) in found.iter().zip(events) {
            let Some(event) = event else { continue };
            readable += 1;
            // Settled before and back again is a repetition; an event that never was is an invention.
            if seq.0 % 5 != 0 {
                assert_eq!(known.get(&seq.0), Some(&event.notification.into_vec()), "seed {seed}: {done}");
            }
        }
        let ledger = queue.store().watch();
        queue.shutdown().await.unwrap_or_else(|error| panic!("seed {seed}: {error}: {done}"));
        let balance = ledger.borrow().balance;
        let pending = balance.pending();
        assert!(pending <= found.len() as u64, "seed {seed}: {balance:?}, {readable} readable: {done}");
        fs::remove_dir_all(&copied).expect("a folder can be removed");
    }
    assert!(opened > tried / 2, "{opened} of {tried} open");
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_databases_lose_no_more_than_what_is_damaged() {
    let from = seed() * 1_000_000;
    corrupt(from..from + extent(100, 5_000)).await;
}
