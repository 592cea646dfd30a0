//! What the tests of kills have in common: a queue, a Target, and what is known outside of the daemon.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use target_notifyd::event::{Balance, Seq};
use target_notifyd::sandbox::{self, Faults, Sandbox};
use tempfile::TempDir;

use crate::power::check::{databases, open, rehearse};
use crate::power::preload::preload;
use crate::process::{LIMIT, command, connect, terminate};
use crate::support::{arrive, queue_settings};

/// How many producers submit at a time, and how many lines each before the daemon is told to end in order.
const PRODUCERS: u64 = 3;
const LINES: u64 = 150;

/// What is known outside of the daemon.
#[derive(Default)]
struct Known {
    acknowledged: BTreeSet<String>,
    /// Those that were delivered, as their receipts say.
    delivered: BTreeSet<String>,
    /// Those that were set aside, as their receipts say.
    dead: BTreeSet<String>,
}

pub(super) struct World {
    runtime: tokio::runtime::Runtime,
    sandbox: Sandbox,
    folder: TempDir,
    known: Mutex<Known>,
    /// The number of the next line.
    next: u64,
    kills: u64,
    /// Events of a page that was damaged.
    lost: BTreeSet<String>,
    /// Whether Target is down: nobody waits for receipts.
    down: bool,
    /// Whether a migration is rehearsed at each start.
    pub(super) migrates: bool,
    /// The setting `queue.max_bytes`.
    pub(super) max_bytes: &'static str,
}

/// How the daemon of a round comes to its end.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// At a failpoint, at the latest as it ends in order.
    At(&'static str),
    /// At a failpoint, or in order where it does not come by it.
    Once(&'static str),
    /// Killed this long after its start.
    After(Duration),
    /// In order.
    InOrder,
}

/// A log of the engine of so many bytes has pages in several of its segments. A full queue has several times as many.
const FULL_BYTES: u64 = 4 * 1_024 * 1_024;

/// How many rounds at most have to come to a place that not each of them comes to: eleven were the most.
const MAX_ROUNDS: u32 = 100;

impl World {
    pub(super) fn new() -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let inside = runtime.enter();
        let sandbox = Sandbox::start(sandbox::Settings::default()).expect("the sandbox listens");
        drop(inside);
        let folder = TempDir::new().expect("a folder");
        Self {
            runtime,
            sandbox,
            folder,
            known: Mutex::default(),
            next: 0,
            kills: 0,
            lost: BTreeSet::new(),
            down: false,
            migrates: false,
            // So small a queue has a small journal, which moves on into the engine.
            max_bytes: "16MiB",
        }
    }

    pub(super) fn queue(&self) -> PathBuf {
        self.folder.path().join("queue")
    }

    /// Rounds until a daemon is killed at `place`, which not each of them comes to.
    pub(super) fn round_until(&mut self, place: &'static str) {
        let kills = self.kills;
        for _ in 0..MAX_ROUNDS {
            self.round(End::Once(place), "");
            if self.kills > kills {
                return;
            }
        }
        panic!("no daemon of {MAX_ROUNDS} came to {place}");
    }

    /// Runs the daemon under load until its end, and looks at what it left.
    pub(super) fn round(&mut self, end: End, fault: &str) {
        let endpoint = format!("http://{}", self.sandbox.address());
        let max_bytes = format!("queue.max_bytes={}", self.max_bytes);
        let mut run = command(
            self.folder.path(),
            &endpoint,
            &["run", "-o", "queue.min_free=2MiB", "-o", "queue.reserve=1MiB", "-o", &max_bytes],
        );
        if let End::At(place) | End::Once(place) = end {
            run.env("TARGET_NOTIFYD_FAILPOINT", place);
        }
        if self.migrates {
            run.env("TARGET_NOTIFYD_REHEARSAL", "1");
        }
        if !fault.is_empty() {
            preload(&mut run, &self.queue(), &self.folder.path().join("record"), fault);
        }
        let log = self.folder.path().join("stderr");
        let stderr = fs::File::create(&log).expect("a log");
        let mut daemon = run.stderr(Stdio::from(stderr)).spawn().expect("the daemon starts");
        let (first, began, down) = (self.next, Instant::now(), self.down);
        self.next += PRODUCERS * LINES;
        let gone = Mutex::new(&mut daemon);
        std::thread::scope(|scope| {
            let producers = (0..PRODUCERS).map(|producer| {
                let (known, gone, folder) = (&self.known, &gone, self.folder.path());
                let from = first + producer * LINES;
                scope.spawn(move || produce(folder, from..from + LINES, known, !down, || has_ended(gone)))
            });
            let producers: Vec<_> = producers.collect();
            if let End::After(wait) = end {
                std::thread::sleep(wait.saturating_sub(began.elapsed()));
                gone.lock().expect("no panic").kill().expect("the daemon is there");
            }
            producers.into_iter().for_each(|producer| producer.join().expect("a producer ends"));
            if !has_ended(&gone) {
                // An operator has what is dead sent again.
                let mut requeue = command(self.folder.path(), &endpoint, &["dead", "requeue", "--all"]);
                // The daemon may end meanwhile.
                let _asked = requeue.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("it starts");
            }
        });
        let status = match daemon.try_wait().expect("a process") {
            Some(status) => status,
            None => terminate(&mut daemon),
        };
        match end {
            End::InOrder => assert!(status.success(), "{status}: {}", self.said()),
            End::Once(_) if status.success() => {}
            _ => {
                assert_eq!(status.signal(), Some(9), "{end:?} {fault}: {status}: {}", self.said());
                self.kills += 1;
            }
        }
        self.look(&format!("{end:?} {fault}"));
    }

    /// What the daemon of the last round logged.
    pub(super) fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("stderr")).expect("a log")
    }

    /// Holds the queue that was left against what is known.
    pub(super) fn look(&self, what: &str) -> (Balance, BTreeSet<String>) {
        let copy = TempDir::new().expect("a folder");
        // One that was killed before it made its folder left nothing; then nothing was acknowledged either.
        if self.queue().exists() {
            copied(&self.queue(), copy.path());
        }
        let opening = if self.migrates { rehearse } else { open };
        let queue = opening(queue_settings(copy.path())).unwrap_or_else(|error| panic!("{what}: {error}"));
        let store = queue.store();
        let scan = store.scan(Seq(0), usize::MAX).expect("the queue reads");
        let seqs: Vec<Seq> = scan.entries.iter().map(|entry| entry.seq).collect();
        let events = store.load(&seqs).expect("the queue reads");
        let waiting: Vec<String> = events
            .into_iter()
            .map(|event| event.expect("an event is whole").id.as_str().to_owned())
            .collect();
        let letters = store.dead(Seq(0), usize::MAX).expect("the queue reads");
        // What the scan finds damaged is counted by the next commit.
        self.runtime.block_on(store.pulse()).expect("the queue is open");
        let ledger = store.ledger();
        drop(store);
        self.runtime.block_on(queue.shutdown()).expect("the queue closes");

        assert_eq!(
            (ledger.imbalance(), ledger.balance.pending()),
            (0, waiting.len() as u64),
            "{what}: {ledger:?}"
        );
        assert_eq!(ledger.balance.quarantined, self.lost.len() as u64, "{what}: {ledger:?}");
        assert_eq!(ledger.dead_held, letters.len() as u64, "{what}: {ledger:?}");
        let (count, known) = (waiting.len(), self.known.lock().expect("no panic"));
        let waiting: BTreeSet<String> = waiting.into_iter().collect();
        assert_eq!(waiting.len(), count, "{what}: an event waits twice");
        let dead: BTreeSet<String> =
            letters.into_iter().map(|one| one.event.id.as_str().to_owned()).collect();
        assert!(waiting.is_disjoint(&dead), "{what}: an event waits and is a dead letter");
        let ledger_of_target = self.sandbox.ledger();
        let taken: BTreeSet<&str> = ledger_of_target.records().map(|record| record.id).collect();
        for id in known.acknowledged.difference(&self.lost) {
            let there = waiting.contains(id) || dead.contains(id) || taken.contains(id.as_str());
            assert!(there, "{what}: {id} was acknowledged, and is lost");
        }
        for id in &known.delivered {
            assert!(
                !waiting.contains(id) && !dead.contains(id),
                "{what}: {id} had its receipt, and is there again"
            );
        }
        for id in known.dead.iter().filter(|id| !taken.contains(id.as_str())) {
            assert!(waiting.contains(id) || dead.contains(id), "{what}: {id} was a dead letter, and is lost");
        }
        for id in waiting.iter().chain(&dead) {
            let number: u64 = id.strip_prefix('k').and_then(|id| id.parse().ok()).expect("an id of ours");
            assert!(number < self.next, "{what}: {id} was invented");
        }
        (ledger.balance, waiting)
    }

    /// Lets Target serve, or be down.
    pub(super) fn serve(&mut self, serves: bool) {
        self.down = !serves;
        self.sandbox.faults(Faults { down: !serves, ..Faults::default() });
    }

    /// Rounds in order while Target is down, until the first pages have moved on from the journal into the engine, where
    /// they can be damaged from here.
    pub(super) fn fill_the_engine(&mut self) {
        self.serve(false);
        let is_full = |world: &Self| {
            let log = fs::metadata(database(&world.queue()).join("db"));
            log.is_ok_and(|log| log.len() >= FULL_BYTES)
        };
        while !is_full(self) {
            self.round(End::InOrder, "");
        }
    }

    /// Damages the first page, whose events are lost.
    pub(super) fn damage_a_page(&mut self) {
        let queue = open(queue_settings(&self.queue())).expect("the queue opens");
        let events = queue.store().load(&(0..100).map(Seq).collect::<Vec<_>>()).expect("the queue reads");
        self.runtime.block_on(queue.shutdown()).expect("the queue closes");
        let db = sled::Config::new().path(self.queue().join("events.1")).segment_size(512 * 1_024);
        let until = Instant::now() + LIMIT;
        let db = loop {
            match db.open() {
                Ok(db) => break db,
                // Its threads give the lock up some milliseconds after the queue is closed.
                Err(error) => {
                    assert!(error.to_string().contains("WouldBlock") && Instant::now() < until, "{error}");
                }
            }
        };
        let (key, value) = db.scan_prefix(b"e").next().expect("a page").expect("the engine reads");
        // The key is the tag, the first number and the number of events.
        let first = u64::from_be_bytes(key[1..9].try_into().expect("a number"));
        db.insert(&key, &value[1..]).expect("the engine writes");
        db.flush().expect("the engine writes");
        let lost = events
            .into_iter()
            .flatten()
            .filter(|event| (first..first + u64::from(key[9])).contains(&event.seq.0));
        self.lost = lost.map(|event| event.id.as_str().to_owned()).collect();
        assert_eq!(self.lost.len(), usize::from(key[9]));
    }

    /// Damages the snapshots of the database.
    pub(super) fn spoil_snapshots(&self) {
        let mut spoilt = 0;
        for entry in fs::read_dir(database(&self.queue())).expect("a folder") {
            let path = entry.expect("a folder can be listed").path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snap.")) {
                let mut bytes = fs::read(&path).expect("a snapshot");
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                fs::write(path, bytes).expect("a snapshot");
                spoilt += 1;
            }
        }
        assert!(spoilt > 0, "there is no snapshot");
    }

    /// A last daemon delivers what is left; says how many kills that were.
    pub(super) fn end(mut self) -> u64 {
        self.serve(true);
        self.round(End::InOrder, "");
        let endpoint = format!("http://{}", self.sandbox.address());
        let start = || {
            let mut run = command(self.folder.path(), &endpoint, &["run"]);
            if self.migrates {
                run.env("TARGET_NOTIFYD_REHEARSAL", "1");
            }
            run.stderr(Stdio::null()).spawn().expect("it starts")
        };
        let mut daemon = start();
        let known = self.known.lock().expect("no panic").acknowledged.clone();
        let good = known.difference(&self.lost).filter(|id| !is_poisoned(id));
        arrive(&self.sandbox, good);
        // In order: what Target has taken is settled. Until it listens, nobody listens for signals either.
        drop(connect(self.folder.path()));
        assert!(terminate(&mut daemon).success());
        let (balance, waiting) = self.look("the end");
        // Refused events in a row pause the host: they may wait.
        let left: Vec<&String> = waiting.intersection(&known).filter(|id| !is_poisoned(id)).collect();
        assert!(left.is_empty(), "{left:?} wait still");
        assert!(balance.accepted >= known.len() as u64, "{balance:?}");
        let totals = self.sandbox.totals();
        assert_eq!((totals.unmarked, totals.changed), (0, 0));
        println!(
            "kills: {}, {} acknowledged, {balance:?}, {} sent again",
            self.kills,
            known.len(),
            totals.repeated
        );
        self.runtime.block_on(self.sandbox.stop());
        self.kills
    }
}

/// One event in 150 is refused by Target: too few in a row to pause the host.
fn is_poisoned(id: &str) -> bool {
    id.strip_prefix('k').and_then(|id| id.parse::<u64>().ok()).is_some_and(|number| number % 150 == 5)
}

/// The line with this number; some are larger than a segment of the engine's log can take many of.
fn line(number: u64) -> String {
    let (session, bytes) = (number % 29, if number % 40 == 7 { 60_000 } else { 20 + number * 37 % 700 });
    let token = if is_poisoned(&format!("k{number}")) { "POISON" } else { "t" };
    let filling = "x".repeat(usize::try_from(bytes).expect("a length"));
    format!(
        r#"{{"session_id":"s{session}","type":"display","id":"k{number}","impressionId":"k{number}","receipt":true,"mbox":{{"name":"home","state":"{filling}"}},"tokens":["{token}"]}}"#
    ) + "\n"
}

fn has_ended(daemon: &Mutex<&mut Child>) -> bool {
    daemon.lock().expect("no panic").try_wait().expect("a process").is_some()
}

/// A connection, if the daemon makes its socket before it ends.
fn reach(socket: &Path, gone: impl Fn() -> bool) -> Option<UnixStream> {
    let until = Instant::now() + LIMIT;
    while Instant::now() < until {
        if let Ok(stream) = UnixStream::connect(socket) {
            return Some(stream);
        }
        if gone() {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("the daemon neither listens nor ends");
}

/// Submits these lines, and reads until all have their receipts, or the daemon is gone.
fn produce(
    folder: &Path,
    numbers: std::ops::Range<u64>,
    known: &Mutex<Known>,
    receipts: bool,
    gone: impl Fn() -> bool,
) {
    let Some(stream) = reach(&folder.join("notify.sock"), gone) else { return };
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    let (mut writing, count) = (stream.try_clone().expect("a socket"), numbers.clone().count());
    let writer = std::thread::spawn(move || {
        // Whoever reads may be killed at any line.
        let _gone = numbers.map(line).try_for_each(|line| writing.write_all(line.as_bytes()));
    });
    let (mut replies, mut settled) = (BufReader::new(stream).lines(), 0);
    while settled < count
        && let Some(Ok(text)) = replies.next()
    {
        // The last line may be cut where the daemon was killed.
        let Ok(reply) = serde_json::from_str::<serde_json::Value>(&text) else { break };
        let ids = |of: &serde_json::Value| -> Vec<String> {
            let ids = of.as_array().into_iter().flatten();
            ids.filter_map(|id| id.as_str().or_else(|| id["id"].as_str())).map(ToOwned::to_owned).collect()
        };
        let mut known = known.lock().expect("no panic");
        match reply["status"].as_str() {
            Some("queued") => {
                known.acknowledged.extend(ids(&reply["ids"]));
                settled += usize::from(!receipts);
            }
            Some("delivered") => {
                settled += 1;
                known.delivered.extend(ids(&reply["ids"]));
            }
            Some("dead") => {
                settled += 1;
                known.dead.extend(ids(&reply["dead"]));
            }
            _ => {
                // The one fault that these daemons are given is a full disk.
                assert_eq!(reply["error"]["code"], "storage_full", "{reply}");
                settled += 1;
            }
        }
    }
    writer.join().expect("the writer ends");
}

/// The database in a queue that counts, or the first one where there is none yet.
fn database(queue: &Path) -> PathBuf {
    queue.join(databases(queue).last().map_or("events.1", String::as_str))
}

pub(crate) fn copied(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder can be listed") {
        let path = entry.expect("a folder can be listed").path();
        let target = to.join(path.file_name().expect("a name"));
        match path.is_dir() {
            true => copied(&path, &target),
            false => drop(fs::copy(&path, &target).expect("a file can be copied")),
        }
    }
}
