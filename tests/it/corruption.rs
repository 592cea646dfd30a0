//! Databases with damaged files: what can be read is kept, what cannot is counted, and nothing is invented; where the daemon
//! does not start, `store repair` makes a queue of what is left.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use serde_json::Value;
use target_notifyd::event::{Burial, Clock, DeadReason, Event, Moment, Seq};
use target_notifyd::queue::salvage::{SalvageError, Stopped, repair};
use target_notifyd::queue::{Ledger, OpenError, Queue};
use target_notifyd::schedule::Random;
use target_notifyd::wire::defaults::Defaults;
use target_notifyd::wire::submission::Submission;
use tempfile::TempDir;

use crate::extent::{extent, seed};
use crate::process::{LIMIT, Log, NOBODY, command, message, terminate};
use crate::support::{account, append, queue_settings};

const EVENTS: u64 = 3_000;
const DELIVERED: u64 = 600;
const DEAD: u64 = 85;
const WAITING: u64 = EVENTS - DELIVERED - DEAD;

fn open(path: &Path) -> Result<Queue, OpenError> {
    let now: Arc<dyn Fn() -> Moment + Send + Sync> = Arc::new(|| Clock::start().now());
    Queue::open(queue_settings(path), &account(), now)
}

/// Whether an event is delivered before the damage; it may come back where the record of that is lost.
fn delivered(seq: u64) -> bool {
    seq.is_multiple_of(5)
}

fn dead(seq: u64) -> bool {
    seq % 5 == 3 && seq.is_multiple_of(7)
}

/// A queue with known events, of which some are delivered and some are dead, in two lives; what was stored, by number.
async fn made(path: &Path) -> BTreeMap<u64, Event> {
    let mut all = BTreeMap::new();
    for life in 0..2 {
        let queue = open(path).expect("the queue opens");
        let own = life * EVENTS / 2..(life + 1) * EVENTS / 2;
        for batch in own.clone().step_by(20) {
            let line = |number: u64| {
                let (session, name) = (number % 7, "x".repeat(1 + number as usize * 13 % 240));
                let large = if number.is_multiple_of(100) { "y".repeat(3_000) } else { String::new() };
                let text = format!(
                    r#"{{"session_id":"s{session}","request":{{"new":"{large}","notifications":[{{"type":"click","id":"{number}","timestamp":1,"mbox":{{"name":"{name}"}}}}]}}}}"#
                );
                Submission::parse(text.as_bytes(), &Defaults::default(), 1).expect("a good line")
            };
            let lines: Vec<Submission> = (batch..batch + 20).map(line).collect();
            append(&queue, lines).await.expect("a commit");
        }
        let (store, seqs) = (queue.store(), own.map(|number| Seq(number + 1)).collect::<Vec<_>>());
        let events = store.load(&seqs).expect("the queue reads");
        all.extend(
            seqs.iter().map(|seq| seq.0).zip(events.into_iter().map(|event| event.expect("an event"))),
        );
        let some = |which: fn(u64) -> bool| seqs.iter().copied().filter(move |seq| which(seq.0));
        let burial = |seq| Burial { seq, reason: DeadReason::Refused, detail: "bad".to_owned() };
        store.settle(some(delivered).collect(), some(dead).map(burial).collect()).await.expect("a commit");
        drop(store);
        queue.shutdown().await.expect("the queue closes");
    }
    all
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

/// Flips, zeroes or cuts at a random place; says what it did.
fn damage(path: &Path, random: &mut Random) -> String {
    let mut bytes = fs::read(path).expect("a file can be read");
    let at = usize::try_from(random.bits()).unwrap_or(0) % bytes.len();
    let count = 1 + usize::try_from(random.bits() % 64).unwrap_or(0);
    let count = if random.bits().is_multiple_of(4) { count * 512 } else { count };
    let end = (at + count).min(bytes.len());
    let what = match random.bits() % 3 {
        0 => {
            bytes[at] ^= 1 << (random.bits() % 8);
            "a flipped bit".to_owned()
        }
        1 => {
            bytes[at..end].fill(0);
            format!("{count} zeros")
        }
        _ => {
            bytes.truncate(at);
            "a cut".to_owned()
        }
    };
    fs::write(path, bytes).expect("a file can be written");
    format!("{what} at {at} of {}", path.display())
}

/// A copy of the queue with one file damaged, every other time the log; what was done.
fn damaged(good: &Path, copied: &Path, seed: u64) -> String {
    let (mut files, mut random) = (Vec::new(), Random::new(seed));
    copy(good, copied, &mut files);
    files.retain(|path| fs::metadata(path).expect("a file").len() > 0);
    files.sort();
    if random.bits().is_multiple_of(2) {
        files.retain(|path| path.to_string_lossy().contains("/events."));
    }
    let file = usize::try_from(random.bits()).unwrap_or(0) % files.len();
    let done = damage(&files[file], &mut random);
    format!("seed {seed}: {done}")
}

/// Everything that a queue has left, and its account when all of it was looked at.
async fn read(path: PathBuf) -> Result<(BTreeMap<u64, Option<Event>>, Ledger), String> {
    let queue = tokio::task::spawn_blocking(move || open(&path)).await.expect("no panic");
    let queue = queue.map_err(|error| error.to_string())?;
    let (store, mut from, mut found) = (queue.store(), Seq(1), Vec::new());
    loop {
        let scan = store.scan(from, 1_000).map_err(|error| error.to_string())?;
        found.extend(scan.entries.iter().map(|entry| entry.seq));
        from = scan.next;
        if from >= store.tail() {
            break;
        }
    }
    store.pulse().await.map_err(|error| error.to_string())?;
    let events = store.load(&found).map_err(|error| error.to_string())?;
    let ledger = store.ledger();
    drop(store);
    queue.shutdown().await.map_err(|error| error.to_string())?;
    Ok((found.into_iter().map(|seq| seq.0).zip(events).collect(), ledger))
}

/// What can be read without the engine, before anybody opens the database.
fn salvaged(path: &Path) -> BTreeMap<u64, Event> {
    let mut events = BTreeMap::new();
    let stopped = match Stopped::open(path) {
        Ok(stopped) => stopped,
        Err(SalvageError::NoDatabase(_)) => return events,
        Err(error) => panic!("{error}"),
    };
    let all = stopped.events(|event| {
        events.insert(event.seq.0, event);
        Ok::<_, SalvageError>(())
    });
    all.expect("the log can be read");
    events
}

/// No event is another one than was stored, and what waits is what the account says.
fn check(known: &BTreeMap<u64, Event>, found: &BTreeMap<u64, Option<Event>>, ledger: &Ledger, done: &str) {
    for (seq, event) in found {
        if let Some(event) = event {
            assert_eq!(known.get(seq), Some(event), "an event is invented: {done}");
        }
    }
    assert_eq!(ledger.imbalance(), 0, "{done}");
    assert_eq!(ledger.counted(), found.len() as u64, "{ledger:?}: {done}");
}

/// What became of so many damaged databases.
#[derive(Debug, Default)]
struct Tally {
    /// Opened by the daemon's own code, with everything that can be read.
    whole: u64,
    /// Opened without what is damaged.
    less: u64,
    /// Opened as it was a commit before: a damaged last commit looks like one that was never finished.
    older: u64,
    /// Of these, how many the start repaired, since the engine would have dropped something that can be read.
    by_itself: u64,
    /// Events that are only in former versions of damaged pages, and that the start counted as quarantined.
    unseen: u64,
    /// Not opened, and then repaired.
    repaired: u64,
}

/// Opens a damaged database as the daemon does; where that fails, repairs it.
async fn tried(known: &BTreeMap<u64, Event>, path: &Path, done: &str, tally: &mut Tally) {
    let readable = salvaged(path);
    let untouched = path.with_extension("untouched");
    copy(path, &untouched, &mut Vec::new());
    for (seq, event) in &readable {
        assert_eq!(known.get(seq), Some(event), "an event is invented: {done}");
    }
    let opened = tokio::time::timeout(LIMIT, tokio::spawn(read(path.to_owned()))).await;
    let opened = opened.unwrap_or_else(|_| panic!("it hangs: {done}"));
    match opened.unwrap_or_else(|error| panic!("{error}: {done}")) {
        Ok((found, ledger)) => {
            check(known, &found, &ledger, done);
            // The counters are in the same log: where its end is dropped they go back with it.
            let unseen = readable.keys().filter(|seq| !found.contains_key(seq)).count() as u64;
            let by_itself = path.join("quarantine/events.1").exists();
            assert!(unseen == 0 || !by_itself, "{unseen} of {} that can be read: {done}", readable.len());
            tally.by_itself += u64::from(by_itself);
            tally.unseen += unseen;
            let older = ledger.balance.accepted < EVENTS || ledger.balance.delivered < DELIVERED;
            match older {
                true => tally.older += 1,
                false if (found.len() as u64) < WAITING => tally.less += 1,
                false => tally.whole += 1,
            }
            // What is less is counted, to the event; so is what was settled and came back, where the record of that is lost.
            let back = ledger.balance.accepted.saturating_sub(EVENTS);
            let missing = (WAITING + back).saturating_sub(found.len() as u64);
            assert!(
                older || ledger.balance.quarantined == missing,
                "{ledger:?}, {} found: {done}",
                found.len()
            );
        }
        Err(_) => {
            // The start that failed took nothing that can be read.
            for path in [path, untouched.as_path()] {
                repair(path, Some(account())).unwrap_or_else(|error| panic!("{error}: {done}"));
                let again = read(path.to_owned()).await;
                let (found, ledger) = again.unwrap_or_else(|error| panic!("{error}: {done}"));
                check(known, &found, &ledger, done);
                assert!(readable.keys().eq(found.keys()), "{} of {}: {done}", found.len(), readable.len());
            }
            tally.repaired += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_databases_lose_no_more_than_what_is_damaged() {
    let folder = TempDir::new().expect("a folder");
    let good = folder.path().join("good");
    let known = made(&good).await;
    let (from, count) = (seed() * 1_000_000, extent(100, 500));
    let mut tally = Tally::default();
    for seed in from..from + count {
        let path = folder.path().join(seed.to_string());
        let done = damaged(&good, &path, seed);
        tried(&known, &path, &done, &mut tally).await;
        for path in [&path.with_extension("untouched"), &path] {
            fs::remove_dir_all(path).expect("a folder can be removed");
        }
    }
    println!("{count} damaged databases from seed {from}: {tally:?}");
    assert!(
        tally.whole > 0 && tally.less > count / 4 && tally.by_itself > 0 && tally.repaired > 0,
        "{tally:?}"
    );
}

/// The account and the events of a stopped queue.
fn looked_at(folder: &Path) -> Value {
    let output =
        command(folder, NOBODY, &["store", "check", "--json"]).output().expect("the executable runs");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Runs the daemon until it has looked at everything; what it counted as quarantined in its log, or its exit code and last words.
fn run(folder: &Path) -> Result<u64, (Option<i32>, String)> {
    let mut command = command(folder, NOBODY, &["run"]);
    let mut daemon = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the daemon starts");
    let mut log = Log::of(&mut daemon);
    let looked = log.find(|line| {
        let said = message(line);
        // An empty queue is looked at later.
        if said.starts_with("the daemon takes events in") && line["pending"] == 0 {
            return true;
        }
        ["the account of the queue balances", "events that were accepted", "the queue holds more"]
            .iter()
            .any(|sentence| said.starts_with(sentence))
    });
    if looked.is_none() {
        let status = daemon.wait().expect("the daemon ends");
        return Err((status.code(), format!("{:#?}", log.all())));
    }
    assert!(terminate(&mut daemon).success());
    let lines = log.all();
    let of = |sentence: &str, field: &str| -> u64 {
        let found = lines.iter().filter(|line| message(line).starts_with(sentence));
        found.map(|line| line[field].as_u64().expect("a number")).sum()
    };
    Ok(of("the log of the database was damaged", "quarantined")
        + of("a page of the queue cannot be read", "events")
        + of("events that were accepted are not", "missing"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_executable_counts_what_is_damaged_or_says_what_to_do() {
    let folder = TempDir::new().expect("a folder");
    let good = folder.path().join("good");
    let _known = made(&good).await;
    let from = seed() * 1_000_000 + 500_000;
    for seed in from..from + extent(3, 60) {
        let path = folder.path().join(seed.to_string());
        fs::create_dir_all(&path).expect("a folder");
        let done = damaged(&good, &path.join("queue"), seed);
        match run(&path) {
            Ok(told) => assert_eq!(looked_at(&path)["account"]["quarantined"], told, "{done}"),
            Err((code, said)) => {
                assert!(code == Some(74) && said.contains("runbook"), "{code:?}: {said}: {done}");
                let repair =
                    command(&path, NOBODY, &["store", "repair"]).output().expect("the executable runs");
                assert!(repair.status.success(), "{repair:?}: {done}");
                let kept = looked_at(&path);
                assert_eq!(run(&path), Ok(0), "{done}");
                assert_eq!(looked_at(&path)["account"], kept["account"], "{done}");
                assert!(kept["wrong"].as_array().is_some_and(Vec::is_empty), "{kept}: {done}");
            }
        }
        fs::remove_dir_all(&path).expect("a folder can be removed");
    }
}
