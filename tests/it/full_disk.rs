//! Disks that are full, read-only, somebody else's, gone, or bad at some place: what the daemon answers, and how it comes back.
#![expect(clippy::print_stdout, reason = "a test that this user cannot run says so")]

mod repair;
mod unread;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use target_notifyd::event::{Moment, Seq};
use target_notifyd::queue::Queue;
use target_notifyd::sandbox::{self, Faults, Sandbox};
use tempfile::TempDir;

use crate::power::preload::preload;
use crate::process::{LIMIT, Log, command, connect, end, hang_up, terminate};
use crate::service::Manager;
use crate::support::{account, arrive, queue_settings};

const MIB: u64 = 1_024 * 1_024;

/// A file system of its own in memory, as small as a test wants it.
struct Small {
    folder: TempDir,
}

impl Small {
    /// `None` where this user may not mount.
    fn mount(bytes: u64, owner: u32) -> Option<Self> {
        Self::mount_with(&format!("size={bytes},uid={owner},gid={owner},mode=755"))
    }

    /// The same, as the options of the mount say.
    fn mount_with(options: &str) -> Option<Self> {
        let folder = TempDir::new().expect("a folder");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "none"]).arg(folder.path()).stderr(Stdio::null());
        match mount.status().is_ok_and(|status| status.success()) {
            true => Some(Self { folder }),
            false => {
                println!("skipped: only root can mount a small disk");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn filling(&self) -> PathBuf {
        self.path().join("filling")
    }

    /// Takes all room but so many bytes.
    fn fill(&self, but: u64) {
        let file = fs::File::create(self.filling()).expect("a file");
        loop {
            let free = target_notifyd::queue::free(self.path()).expect("a file system").bytes;
            let bytes = i64::try_from(free.saturating_sub(but)).expect("a size");
            if bytes == 0 {
                return;
            }
            match nix::fcntl::posix_fallocate(&file, 0, bytes) {
                Ok(()) => return,
                // A daemon took some of it meanwhile.
                Err(error) => assert_eq!(error, nix::errno::Errno::ENOSPC),
            }
        }
    }

    /// Makes files until it takes no more of them.
    fn take_all_files(&self) -> Vec<PathBuf> {
        let others = (0_u32..).map(|number| self.path().join(format!("other{number}")));
        let taken: Vec<PathBuf> = others.take_while(|path| fs::File::create(path).is_ok()).collect();
        assert!(taken.len() > 100, "{taken:?}");
        taken
    }

    fn free(&self) {
        fs::remove_file(self.filling()).expect("the filling is there");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _unmounted = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

/// A daemon that is gone with the test.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // One that has ended is no error.
        let _ended = self.0.kill();
        let _waited = self.0.wait();
    }
}

/// What a burst of lines was answered.
#[derive(Default)]
struct Answers {
    queued: BTreeSet<String>,
    full: usize,
    /// Of these nobody knows: the connection ended.
    unknown: usize,
}

/// Submits so many events of about so many bytes without waiting; each is taken in, or there is no room for it.
fn burst(folder: &Path, name: &str, count: usize, bytes: usize) -> Answers {
    burst_of(folder, name, |number| format!("s{}", number % 40), count, bytes)
}

/// The same, of these sessions.
fn burst_of(folder: &Path, name: &str, session: fn(usize) -> String, count: usize, bytes: usize) -> Answers {
    let stream = connect(folder);
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    let lines = (0..count).map(|number| {
        let (id, filling) = (format!("{name}.{number}"), "x".repeat(bytes));
        format!(
            r#"{{"session_id":"{}","type":"click","id":"{id}","impressionId":"{id}","mbox":{{"name":"home","state":"{filling}"}}}}"#,
            session(number)
        ) + "\n"
    });
    let (mut writing, lines) = (stream.try_clone().expect("a socket"), lines.collect::<String>());
    let writer = std::thread::spawn(move || writing.write_all(lines.as_bytes()));
    let mut answers = Answers::default();
    for line in BufReader::new(stream).lines().take(count) {
        let line = match line {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            line => line.expect("a reply"),
        };
        let reply: serde_json::Value = serde_json::from_str(&line).expect("a reply is JSON");
        match reply["status"].as_str() {
            Some("queued") => {
                answers.queued.insert(reply["ids"][0].as_str().expect("an id").to_owned());
            }
            _ => {
                assert_eq!(reply["error"]["code"], "storage_full", "{reply}");
                answers.full += 1;
            }
        }
    }
    answers.unknown = count - answers.queued.len() - answers.full;
    let written = writer.join().expect("the writer ends");
    assert!(written.is_ok() || answers.unknown > 0, "{written:?}");
    answers
}

/// A daemon on some disk, and a Target that is down at first.
struct Stage {
    runtime: tokio::runtime::Runtime,
    sandbox: Sandbox,
    folder: TempDir,
    options: Vec<String>,
}

impl Stage {
    fn new(queue: &Path, min_free: u64, reserve: u64) -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let inside = runtime.enter();
        let sandbox = Sandbox::start(sandbox::Settings::default()).expect("the sandbox listens");
        drop(inside);
        sandbox.faults(Faults { down: true, ..Faults::default() });
        let options = [
            format!("queue.path={}", queue.display()),
            format!("queue.min_free={min_free}B"),
            format!("queue.reserve={reserve}B"),
            "queue.max_bytes=64MiB".to_owned(),
        ];
        Self { runtime, sandbox, folder: TempDir::new().expect("a folder"), options: options.to_vec() }
    }

    /// So small a queue has a small journal, which moves on into the engine.
    fn with_a_small_journal(mut self) -> Self {
        self.options.push("queue.max_bytes=12MiB".to_owned());
        self
    }

    fn command(&self) -> Command {
        let mut command = self.command_of(&["run"]);
        command.stderr(Stdio::piped());
        command
    }

    fn command_of(&self, what: &[&str]) -> Command {
        let endpoint = format!("http://{}", self.sandbox.address());
        let mut arguments = what.to_vec();
        self.options.iter().for_each(|option| arguments.extend(["-o", option]));
        command(self.folder.path(), &endpoint, &arguments)
    }

    fn start(&self) -> (Daemon, Log) {
        started(&mut self.command())
    }

    /// As [`Stage::command`], of a daemon whose calls below `root` are counted, and fail as `fault` says, once it is armed:
    /// how many a start makes is a matter of time, since it tries for the lock of what it has just closed until that is free.
    fn failing(&self, root: &Path, fault: &str) -> Command {
        let mut command = self.command();
        preload(&mut command, root, &self.folder.path().join("record"), fault);
        command.env("INTERPOSE_ARMED", self.armed());
        command
    }

    fn armed(&self) -> PathBuf {
        self.folder.path().join("armed")
    }

    /// Arms a daemon that has started.
    fn arm(&self) {
        drop(connect(self.folder.path()));
        fs::write(self.armed(), "").expect("a file");
    }

    /// Target serves from now on.
    fn heal(&self) {
        self.sandbox.faults(Faults::default());
    }

    /// Waits until Target has taken all of these.
    fn taken(&self, ids: &BTreeSet<String>) {
        arrive(&self.sandbox, ids);
    }

    /// Submits `count` large lines again and again until their answers are such that it is enough; what was acknowledged.
    fn submit_until(
        &self,
        name: &str,
        count: usize,
        is_enough: impl Fn(&Answers) -> bool,
    ) -> BTreeSet<String> {
        let (mut acknowledged, mut full) = (BTreeSet::new(), 0);
        for round in 0..500 {
            let answers = burst(self.folder.path(), &format!("{name}{round}"), count, 4_000);
            let enough = is_enough(&answers);
            full += answers.full;
            acknowledged.extend(answers.queued);
            if enough {
                return acknowledged;
            }
        }
        let queued = acknowledged.len();
        panic!("{name}: it is never enough: {queued} were queued, {full} had no room: {}", self.status());
    }

    /// Submits until an event is taken in again.
    fn taken_in_again(&self, name: &str) -> BTreeSet<String> {
        let until = Instant::now() + LIMIT;
        for round in 0.. {
            let answers = burst(self.folder.path(), &format!("{name}.{round}"), 1, 100);
            if !answers.queued.is_empty() {
                return answers.queued;
            }
            assert!(Instant::now() < until, "nothing is taken in again");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        BTreeSet::new()
    }

    /// How many events wait, as the daemon says.
    fn pending(&self) -> u64 {
        self.figure("pending")
    }

    /// A number of its status.
    fn figure(&self, name: &str) -> u64 {
        self.status()[name].as_u64().expect("a number")
    }

    fn status(&self) -> serde_json::Value {
        let output = self.command_of(&["status", "--json"]).output().expect("it runs");
        let status = output.stdout.split(|byte| *byte == b'\n').next().unwrap_or_default();
        serde_json::from_slice(status).expect("a status")
    }

    /// Waits until none waits.
    fn drained(&self) {
        let until = Instant::now() + LIMIT;
        loop {
            match self.pending() {
                0 => return,
                pending => assert!(Instant::now() < until, "it is not drained: {pending} wait"),
            }
        }
    }

    /// Ends the daemon, and holds its account against what was acknowledged and what arrived, each once.
    fn end(
        self,
        queue: &Path,
        daemon: Daemon,
        log: Log,
        acknowledged: &BTreeSet<String>,
    ) -> Vec<serde_json::Value> {
        let (log, repeated) = self.end_after_a_crash(queue, daemon, log, acknowledged);
        assert_eq!(repeated, 0);
        log
    }

    /// As [`Stage::end`]; how many arrived once more, since the daemon died before it knew that they had.
    fn end_after_a_crash(
        self,
        queue: &Path,
        mut daemon: Daemon,
        log: Log,
        acknowledged: &BTreeSet<String>,
    ) -> (Vec<serde_json::Value>, u64) {
        self.taken(acknowledged);
        // What had arrived before a crash, and was not written down, goes out once more.
        self.drained();
        let status = terminate(&mut daemon.0);
        let log = log.all();
        assert!(status.success(), "{status}: {log:#?}");
        let balance = balance(queue);
        assert_eq!((balance.delivered, balance.pending()), (balance.accepted, 0), "{balance:?}");
        assert_eq!(balance.accepted, acknowledged.len() as u64, "{balance:?}");
        let totals = self.sandbox.totals();
        assert_eq!(totals.takings - totals.repeated, balance.accepted);
        self.runtime.block_on(self.sandbox.stop());
        (log, totals.repeated)
    }
}

/// A full disk, as the journal meets it.
const FULL: &str = "write@/journal:1:ENOSPC:ever";

/// A sound disk that a daemon finds full from one moment to another.
struct Fillable {
    folder: TempDir,
    queue: PathBuf,
    stage: Stage,
}

impl Fillable {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        let queue = folder.path().canonicalize().expect("a folder").join("queue");
        Self { stage: Stage::new(&queue, 0, 0), queue, folder }
    }

    /// A daemon's whose calls to the disk fail as `fault` says while it is full.
    fn command(&self, fault: &str) -> Command {
        let mut command = self.stage.command();
        preload(&mut command, self.folder.path(), &self.record(), fault);
        command.env("INTERPOSE_ARMED", self.mark());
        command
    }

    /// What the daemon did on it.
    fn record(&self) -> PathBuf {
        self.stage.folder.path().join("record")
    }

    /// The file that is there while it is full.
    fn mark(&self) -> PathBuf {
        self.folder.path().join("full")
    }

    fn fill(&self) {
        fs::write(self.mark(), "").expect("a file");
    }

    fn free(&self) {
        fs::remove_file(self.mark()).expect("it is full");
    }
}

/// A daemon with a small journal whose calls to the disk fail, counted from its start on.
struct Faulty {
    _disk: TempDir,
    queue: PathBuf,
    stage: Stage,
    daemon: Daemon,
    log: Log,
}

impl Faulty {
    fn start(min_free: u64, reserve: u64, fault: &str) -> Self {
        let disk = TempDir::new().expect("a folder");
        let queue = disk.path().canonicalize().expect("a folder").join("queue");
        let stage = Stage::new(&queue, min_free, reserve).with_a_small_journal();
        let (daemon, log) = started(&mut stage.failing(disk.path(), fault));
        stage.arm();
        Self { _disk: disk, queue, stage, daemon, log }
    }

    /// Waits for the end of a daemon that may open no more files: it takes the disk for sound, and loses nothing.
    fn end_for_want_of_files(self, acknowledged: &BTreeSet<String>) -> Vec<serde_json::Value> {
        self.end_on_a_sound_disk("LimitNOFILE=", acknowledged)
    }

    /// Waits for the end of a daemon that tells to do this, and takes the disk for sound; it loses nothing.
    fn end_on_a_sound_disk(mut self, what: &str, acknowledged: &BTreeSet<String>) -> Vec<serde_json::Value> {
        let status = end(&mut self.daemon.0);
        let log = self.log.all();
        assert_eq!(status.code(), Some(74), "{log:#?}");
        let told = log.iter().any(|line| line["error"].as_str().is_some_and(|error| error.contains(what)));
        assert!(told && !self.queue.join("failed").exists(), "{log:#?}");
        let balance = balance(&self.queue);
        assert!(balance.pending() >= acknowledged.len() as u64, "{balance:?}");
        log
    }
}

fn started(command: &mut Command) -> (Daemon, Log) {
    let mut daemon = command.stdout(Stdio::null()).spawn().expect("the daemon starts");
    let log = Log::of(&mut daemon);
    (Daemon(daemon), log)
}

/// The account of a queue that nobody has open; what waits is counted.
fn balance(path: &Path) -> target_notifyd::event::Balance {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let queue =
        Queue::open(queue_settings(path), &account(), Arc::new(|| Moment::ZERO)).expect("the queue opens");
    let store = queue.store();
    let waiting = store.scan(Seq(0), usize::MAX).expect("the queue reads").entries.len();
    let ledger = store.ledger();
    assert_eq!((ledger.imbalance(), ledger.balance.pending()), (0, waiting as u64), "{ledger:?}");
    drop(store);
    runtime.block_on(queue.shutdown()).expect("the queue closes");
    ledger.balance
}

const AGAIN: &str = "the database is open again";

fn says(log: &[serde_json::Value], sentence: &str) -> bool {
    log.iter().any(|line| crate::process::message(line).starts_with(sentence))
}

/// Fills a disk of 24 MiB down to `but` free bytes under a daemon with a backlog.
fn filled(min_free: u64, reserve: u64, but: u64) {
    let Some(disk) = Small::mount(24 * MIB, 0) else { return };
    let queue = disk.path().join("queue");
    let stage = Stage::new(&queue, min_free, reserve);
    let (mut daemon, log) = stage.start();
    let mut acknowledged = burst(stage.folder.path(), "before", 400, 2_000).queued;
    assert_eq!(acknowledged.len(), 400);
    disk.fill(but);
    // Until there is no room: then the engine has met the full disk, or was kept from it.
    acknowledged.extend(stage.submit_until("full", 256, |answers| {
        assert!(answers.unknown == 0 || reserve == 0, "with a reserve every line is answered");
        answers.full + answers.unknown > 0
    }));
    if reserve > 0 {
        // Killed and started on the full disk, it opens, and delivers what it has.
        daemon.0.kill().expect("the daemon is there");
        daemon.0.wait().expect("the daemon is gone");
        drop(log.all());
        let (daemon, log) = stage.start();
        stage.heal();
        stage.taken(&acknowledged);
        disk.free();
        acknowledged.extend(stage.taken_in_again("after"));
        stage.end(&queue, daemon, log, &acknowledged);
        return;
    }
    stage.heal();
    // What is delivered meanwhile is removed as far as zeros lie ahead of the commits, and waits for room beyond them.
    disk.free();
    acknowledged.extend(stage.taken_in_again("after"));
    let log = stage.end(&queue, daemon, log, &acknowledged);
    let met = says(&log, "the disk is full under the database");
    assert_eq!(met, says(&log, AGAIN), "where it met the full disk it is open again: {log:#?}");
}

#[test]
fn a_full_disk_takes_removals_from_the_reserve_and_opens() {
    for but in [0, 64 * 1_024, 700 * 1_024, 3 * MIB] {
        filled(4 * MIB, 2 * MIB, but);
    }
}

#[test]
fn a_disk_without_a_reserve_that_fills_up_under_the_engine_ends_nothing() {
    for but in [0, 64 * 1_024, 700 * 1_024, 3 * MIB] {
        filled(0, 0, but);
    }
}

/// A disk that a queue with a large journal has filled as far as it may, and that has room again once Target has taken what
/// waits, also where the daemon dies at `place` meanwhile.
fn filled_by_itself(place: &str) {
    let Some(disk) = Small::mount(32 * MIB, 0) else { return };
    let queue = disk.path().join("queue");
    let mut stage = Stage::new(&queue, 4 * MIB, 2 * MIB);
    stage.options.push("queue.max_bytes=2GiB".to_owned());
    let mut command = stage.command();
    command.env("TARGET_NOTIFYD_FAILPOINT", place);
    let (mut daemon, mut log) = started(&mut command);
    let mut acknowledged = stage.submit_until("full", 256, |answers| answers.full > 0);
    // Somebody else takes most of what it has to leave.
    disk.fill(3 * MIB);
    stage.heal();
    if !place.is_empty() {
        dies(&mut daemon, stage.folder.path(), place);
        drop(log.all());
        (daemon, log) = stage.start();
    }
    stage.taken(&acknowledged);
    acknowledged.extend(stage.taken_in_again("after"));
    stage.end_after_a_crash(&queue, daemon, log, &acknowledged);
}

/// Waits for the end of a daemon that gives its journal back: it looks at that whenever somebody comes, also once everything is
/// delivered.
fn dies(daemon: &mut Daemon, folder: &Path, place: &str) {
    let until = Instant::now() + LIMIT;
    while daemon.0.try_wait().expect("a process").is_none() {
        assert!(Instant::now() < until, "{place}: it does not come by there");
        if let Ok(mut producer) = UnixStream::connect(folder.join("notify.sock")) {
            // There is no room for it before that.
            let _gone = producer.write_all(b"{\"session_id\":\"s\",\"type\":\"click\",\"id\":\"late\"}\n");
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn a_large_journal_comes_back_as_it_drains_however_little_is_free() {
    filled_by_itself("");
}

/// A crash at each place between what is written again at the journal's end and the end of its segment.
#[test]
fn a_crash_while_a_large_journal_comes_back_loses_nothing() {
    for place in ["journal.kept", "journal.removed", "journal.synced"] {
        filled_by_itself(place);
    }
}

/// What an operator changes on a disk without any room waits for it, and the end of the daemon waits for neither.
#[test]
fn an_end_on_a_full_disk_is_not_held_up_by_an_operator() {
    let Some(disk) = Small::mount(24 * MIB, 0) else { return };
    let queue = disk.path().join("queue");
    let stage = Stage::new(&queue, 0, 0);
    let (mut daemon, mut log) = stage.start();
    let acknowledged = burst(stage.folder.path(), "before", 400, 2_000).queued;
    // What is being sent is not dropped, which all of it may be at first.
    log.says("the host fails");
    disk.fill(0);
    let endpoint = format!("http://{}", stage.sandbox.address());
    let drop = ["queue", "drop", "--all", "--reason", "a rehearsal"];
    let mut drop = command(stage.folder.path(), &endpoint, &drop);
    let mut dropping = drop.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    log.says("the disk is full under the database");
    let status = terminate(&mut daemon.0);
    assert_eq!(status.code(), Some(74), "{:#?}", log.all());
    assert!(!end(&mut dropping).success());
    disk.free();
    stage.heal();
    let (daemon, log) = stage.start();
    stage.end(&queue, daemon, log, &acknowledged);
}

/// Nor does a reload wait for room, whatever it changes.
#[test]
fn a_reload_on_a_full_disk_is_in_force_and_holds_up_no_end() {
    let disk = Fillable::new();
    let (stage, mut run) = (&disk.stage, disk.command(FULL));
    let file = stage.folder.path().join("config.toml");
    let hashed = fs::read_to_string(&file).expect("a configuration");
    fs::write(&file, hashed.replace("[log]", "[log]\nidentifiers = \"plain\"")).expect("a configuration");
    let (mut daemon, mut log) = started(&mut run);
    assert_eq!(burst(stage.folder.path(), "before", 1, 100).queued.len(), 1);
    disk.fill();
    assert_eq!(burst(stage.folder.path(), "full", 1, 100).full, 1);
    fs::write(&file, hashed).expect("a configuration");
    hang_up(&daemon.0);
    log.says("the configuration was read again");
    let status = terminate(&mut daemon.0);
    assert!(status.success(), "{status}: {:#?}", log.all());
}

/// What was delivered cannot be noted, for longer than delivery may be stuck. Whoever restarted the daemon for that would make
/// it send all of it again.
#[test]
fn a_full_disk_is_nothing_that_a_restart_mends() {
    let mut disk = Fillable::new();
    disk.stage.options.push("delivery.stuck_after=1s".to_owned());
    let (stage, mut run) = (&disk.stage, disk.command(FULL));
    let address = stage.folder.path().join("manager");
    let manager = Manager::at(&address);
    let (daemon, mut log) = started(run.env("NOTIFY_SOCKET", address).env("WATCHDOG_USEC", "300000"));
    let acknowledged = burst(stage.folder.path(), "before", 20, 100).queued;
    disk.fill();
    stage.heal();
    stage.taken(&acknowledged);
    log.says("the disk is full under the database");
    // One in a tenth of a second.
    manager.forget();
    (0..30).for_each(|_| drop(manager.hears("WATCHDOG=1")));
    let output = stage.command_of(&["status"]).output().expect("it runs");
    let status = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !status.contains("stuck"), "{status}");
    disk.free();
    let log = disk.stage.end(&disk.queue, daemon, log, &acknowledged);
    assert!(log.iter().all(|line| line["event"] != "stuck"), "{log:#?}");
}

/// Room may come back during the pause between two tries: the end waits for none, and notes what was delivered.
#[test]
fn an_end_notes_what_was_delivered_where_there_is_room_again() {
    let mut disk = Fillable::new();
    disk.stage.options.push("shutdown.grace=0s".to_owned());
    let stage = &disk.stage;
    let (mut daemon, log) = started(&mut disk.command(FULL));
    let acknowledged = burst(stage.folder.path(), "before", 20, 100).queued;
    disk.fill();
    stage.heal();
    stage.taken(&acknowledged);
    let failed = format!("write{}", disk.queue.display()).into_bytes();
    let tries = || {
        let record = fs::read(disk.record()).expect("a record");
        record.windows(failed.len()).filter(|bytes| *bytes == failed).count()
    };
    let until = Instant::now() + LIMIT;
    // The pauses double: the next one is longer than an end takes.
    while tries() < 7 || stage.figure("in_flight") > 0 {
        assert!(Instant::now() < until, "it is tried no more, or Target does not answer");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    disk.free();
    let status = terminate(&mut daemon.0);
    let log = log.all();
    assert!(status.success(), "{status}: {log:#?}");
    assert!(!says(&log, "the grace is over"), "no request is sent again: {log:#?}");
    let balance = balance(&disk.queue);
    assert_eq!((balance.delivered, balance.pending()), (20, 0), "{balance:?}");
}

/// Not even the database can be opened again, and whoever asks hears so.
#[test]
fn a_full_disk_that_keeps_the_database_closed_keeps_no_status_back() {
    let disk = Fillable::new();
    let stage = &disk.stage;
    let (daemon, mut log) = started(&mut disk.command(&format!("{FULL},open@/conf:1:ENOSPC:ever")));
    let mut acknowledged = burst(stage.folder.path(), "before", 20, 100).queued;
    disk.fill();
    let answers = burst(stage.folder.path(), "full", 1, 100);
    assert_eq!((answers.queued.len(), answers.unknown), (0, 1), "of this one nobody knows");
    log.says("the disk is full under the database");
    assert_eq!(burst(stage.folder.path(), "more", 1, 100).full, 1);
    assert_eq!(stage.pending(), 20);
    disk.free();
    acknowledged.extend(stage.taken_in_again("after"));
    stage.heal();
    let log = disk.stage.end(&disk.queue, daemon, log, &acknowledged);
    assert!(says(&log, AGAIN), "{log:#?}");
}

/// What an operator stops on a disk without any room is in force and answered all the same, and is stored once there is some.
#[test]
fn what_an_operator_stops_on_a_full_disk_is_in_force_and_stored_once_there_is_room() {
    // Also where not even the database can be opened again.
    for fault in [FULL.to_owned(), format!("{FULL},open@/conf:1:ENOSPC:ever")] {
        let disk = Fillable::new();
        let stage = &disk.stage;
        let (mut daemon, mut log) = started(&mut disk.command(&fault));
        let mut acknowledged = burst(stage.folder.path(), "before", 20, 100).queued;
        disk.fill();
        burst(stage.folder.path(), "full", 1, 100);
        log.says("the disk is full under the database");
        let asked = |what: &[&str]| {
            let output = stage.command_of(what).arg("--json").output().expect("it runs");
            assert!(output.status.success(), "{what:?} {output:?}");
            let line = output.stdout.split(|byte| *byte == b'\n').next().unwrap_or_default();
            serde_json::from_slice::<serde_json::Value>(line).expect("a line of JSON")
        };
        let unstored = |what: &[&str]| {
            let done = asked(what);
            let note = done["note"].as_str().unwrap_or_default();
            let told = note.contains("NOT YET STORED, since the disk of the queue is full");
            assert!(told && done["unstored"] == true && done["changed"] == true, "{what:?} {done}");
        };
        // None waits for the one before it.
        unstored(&["pause", "--reason", "a rehearsal"]);
        unstored(&["queue", "hold", "s1"]);
        unstored(&["resume"]);
        unstored(&["pause", "--reason", "another"]);
        let stopped = |status: &serde_json::Value| {
            let (paused, held) = (status["paused"].as_array(), status["held"].as_array());
            (paused.map_or(0, Vec::len), held.map_or(0, Vec::len))
        };
        assert_eq!(stopped(&asked(&["status"])), (1, 1));
        disk.free();
        acknowledged.extend(stage.taken_in_again("after"));
        daemon.0.kill().expect("it runs");
        daemon.0.wait().expect("it is gone");
        let (daemon, log) = stage.start();
        drop(connect(stage.folder.path()));
        let status = asked(&["status"]);
        assert!(stopped(&status) == (1, 1) && status["paused"][0]["reason"] == "another", "{status}");
        assert_eq!(asked(&["resume"])["unstored"], serde_json::Value::Null);
        asked(&["queue", "release", "--all"]);
        stage.heal();
        disk.stage.end(&disk.queue, daemon, log, &acknowledged);
    }
}

/// Where there is none until the end, nobody waits for it, and the next start knows nothing of it, as the answer says.
#[test]
fn an_end_on_a_full_disk_forgets_a_pause_that_was_answered_as_not_stored() {
    let disk = Fillable::new();
    let stage = &disk.stage;
    let (mut daemon, log) = started(&mut disk.command(FULL));
    let acknowledged = burst(stage.folder.path(), "before", 20, 100).queued;
    disk.fill();
    let output = stage.command_of(&["pause", "--reason", "a rehearsal"]).output().expect("it runs");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && told.contains("its next start does not know of it"), "{told}");
    let status = terminate(&mut daemon.0);
    assert!(status.success(), "{status}: {:#?}", log.all());
    disk.free();
    let (daemon, log) = stage.start();
    stage.heal();
    disk.stage.end(&disk.queue, daemon, log, &acknowledged);
}

/// Where not even the key of the log's hashes could be noted, the daemon runs and ends all the same.
#[test]
fn a_first_start_on_a_full_disk_answers_and_ends() {
    let disk = Fillable::new();
    assert_eq!(balance(&disk.queue).accepted, 0, "it is made by this, and has no key");
    disk.fill();
    let stage = &disk.stage;
    let (mut daemon, log) = started(&mut disk.command(FULL));
    assert_eq!(burst(stage.folder.path(), "full", 1, 100).full, 1);
    assert_eq!(stage.pending(), 0);
    let status = terminate(&mut daemon.0);
    let log = log.all();
    assert!(status.success() && says(&log, "the disk is full under the database"), "{status}: {log:#?}");
}

/// However many bytes are free, others have used up the files that the disk can hold.
#[test]
fn a_disk_that_takes_no_more_files_takes_removals() {
    let Some(disk) = Small::mount_with("size=64m,nr_inodes=200") else { return };
    let queue = disk.path().join("queue");
    // The segments of so small a queue are so short that removals take further ones.
    let mut stage = Stage::new(&queue, 2 * MIB, MIB);
    stage.options.push("queue.max_bytes=1MiB".to_owned());
    let (mut daemon, log) = stage.start();
    let mut acknowledged = burst(stage.folder.path(), "before", 600, 100).queued;
    assert_eq!(acknowledged.len(), 600);
    let others = disk.take_all_files();
    // It may find room again at once, in files that it no longer needs itself.
    let answers = burst(stage.folder.path(), "full", 10, 100);
    assert!(answers.full > 0);
    acknowledged.extend(answers.queued);
    stage.heal();
    stage.taken(&acknowledged);
    // What was delivered is written down, and the end is one in order.
    let status = terminate(&mut daemon.0);
    let said = log.all();
    assert!(status.success(), "{status}: {said:#?}");
    assert!(!says(&said, "the disk is full under the database"), "{said:#?}");
    let (daemon, log) = stage.start();
    others.iter().for_each(|path| fs::remove_file(path).expect("a file can be removed"));
    acknowledged.extend(stage.taken_in_again("after"));
    stage.end(&queue, daemon, log, &acknowledged);
}

#[test]
fn a_disk_that_takes_no_more_files_is_told() {
    let Some(disk) = Small::mount_with("size=64m,nr_inodes=200") else { return };
    let stage = Stage::new(&disk.path().join("queue"), 2 * MIB, MIB);
    let (mut daemon, _log) = stage.start();
    drop(connect(stage.folder.path()));
    let told = |what: &str| {
        let output = stage.command_of(&[what]).output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, out) = told("check");
    assert!(code == Some(0) && !out.contains("more file"), "{out}");
    let (code, out) = told("status");
    assert!(code == Some(0) && out.contains(": running, ") && !out.contains("more file"), "{out}");

    disk.take_all_files();
    assert_eq!(burst(stage.folder.path(), "full", 1, 100).full, 1);
    let (code, out) = told("check");
    let found = out.lines().find(|line| line.starts_with("FAILED   queue.path "));
    assert!(code == Some(1) && found.is_some_and(|line| line.contains(", and 8 must stay free: ")), "{out}");
    let (code, out) = told("status");
    assert!(code == Some(0) && out.contains(": full, ") && out.contains(" free, room for "), "{out}");
    assert!(out.contains("are answered storage_full\n    df -i '"), "{out}");
    assert!(terminate(&mut daemon.0).success());
}

/// The same as an ordinary user sees it: no segment can be begun any more.
#[test]
fn a_journal_that_gets_no_more_files_goes_on_in_the_last_one() {
    let Faulty { _disk, queue, stage, daemon, log } = Faulty::start(0, 0, "open@/journal:12:ENOSPC:ever");
    let mut acknowledged = BTreeSet::new();
    for round in 0..6 {
        acknowledged.extend(burst(stage.folder.path(), &format!("b{round}"), 256, 4_000).queued);
    }
    assert_eq!(acknowledged.len(), 6 * 256);
    stage.heal();
    let log = stage.end(&queue, daemon, log, &acknowledged);
    assert!(!says(&log, "the disk is full under the database"), "{log:#?}");
}

/// A backlog that moved into the engine has filled the disk, and the daemon dies while the database is made smaller.
#[test]
fn a_crash_while_a_mostly_empty_database_is_made_smaller_loses_nothing() {
    for place in ["compact.copied", "compact.renamed", "compact.opened", "compact.removed"] {
        let Some(disk) = Small::mount(32 * MIB, 0) else { return };
        let queue = disk.path().join("queue");
        let stage = Stage::new(&queue, 12 * MIB, MIB);
        let mut command = stage.command();
        command.args(["-o", "queue.max_bytes=32MiB"]).env("TARGET_NOTIFYD_FAILPOINT", place);
        let (mut daemon, log) = started(&mut command);
        let mut acknowledged = stage.submit_until("full", 256, |answers| answers.full > 0);
        stage.heal();
        stage.taken(&acknowledged);
        // Somebody else takes what the journal gives back.
        disk.fill(6 * MIB);
        // Producers that come back, until it dies.
        acknowledged.extend(stage.submit_until("back", 64, |answers| answers.unknown > 0));
        end(&mut daemon.0);
        drop(log.all());
        let (daemon, log) = stage.start();
        acknowledged.extend(stage.taken_in_again("after"));
        let (log, _) = stage.end_after_a_crash(&queue, daemon, log, &acknowledged);
        // The one or the other, and nothing that takes room beside it.
        let entries =
            fs::read_dir(&queue).expect("the queue").map(|entry| entry.expect("an entry").file_name());
        let names: Vec<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
        let databases = names.iter().filter(|name| name.starts_with("events.")).count();
        assert!(databases == 1 && !names.contains(&"quarantine".to_owned()), "{place}: {names:?} {log:#?}");
    }
}

/// The same as an ordinary user sees it, through calls that are made to fail: at commits small and large.
#[test]
fn the_engine_may_meet_the_full_disk_at_any_write() {
    for fault in [
        // Two in a row: zeros that are written ahead of commits may do without room, the next commit may not.
        "write@/journal:8:ENOSPC,write@/journal:8:ENOSPC",
        "write@/journal:15:ENOSPC,write@/journal:15:ENOSPC",
        "write@/db:4:ENOSPC",
        "write@/db:6:ENOSPC",
    ] {
        let Faulty { _disk, queue, stage, daemon, log } = Faulty::start(2 * MIB, MIB, fault);
        let mut acknowledged = BTreeSet::new();
        for round in 0..6 {
            // Large commits reach over the end of a segment.
            let (count, bytes) = if round % 2 == 0 { (20, 100) } else { (256, 4_000) };
            let answers = burst(stage.folder.path(), &format!("b{round}"), count, bytes);
            acknowledged.extend(answers.queued);
        }
        // Which commit meets it, one with lines of producers or another, is a matter of time.
        stage.heal();
        acknowledged.extend(stage.taken_in_again("after"));
        let log = stage.end(&queue, daemon, log, &acknowledged);
        assert!(says(&log, AGAIN), "{fault}: {log:#?}");
    }
}

#[test]
fn a_limit_of_open_files_or_a_folder_of_another_users_is_no_failed_disk() {
    for (fault, what) in [
        ("open@/journal:20:EMFILE:ever", "LimitNOFILE="),
        ("open@/journal:20:EACCES:ever", "chown -R"),
        // The oldest segment is to go.
        ("name@/journal:4:EACCES:ever", "chown -R"),
    ] {
        let faulty = Faulty::start(0, 0, fault);
        let acknowledged = faulty.stage.submit_until("b", 256, |answers| answers.unknown > 0);
        faulty.end_on_a_sound_disk(what, &acknowledged);
    }
}

/// The same where the database is opened again after a full disk.
#[test]
fn a_limit_of_open_files_after_a_full_disk_is_no_failed_disk() {
    let full = "write@/journal:8:ENOSPC,write@/journal:8:ENOSPC";
    let faulty = Faulty::start(2 * MIB, MIB, &format!("{full},open@/db:1:EMFILE:ever"));
    // The daemon ends within it.
    let answers = burst(faulty.stage.folder.path(), "b", 10_000, 100);
    let log = faulty.end_for_want_of_files(&answers.queued);
    assert!(says(&log, "the disk is full under the database") && !says(&log, AGAIN), "{log:#?}");
}

/// Nor is it one where somebody has made files of it another user's meanwhile.
#[test]
fn a_file_that_is_denied_after_a_full_disk_is_no_failed_disk() {
    let full = "write@/journal:8:ENOSPC,write@/journal:8:ENOSPC";
    let faulty = Faulty::start(2 * MIB, MIB, &format!("{full},open@/db:1:EACCES:ever"));
    let answers = burst(faulty.stage.folder.path(), "b", 10_000, 100);
    let log = faulty.end_on_a_sound_disk("chown -R", &answers.queued);
    assert!(says(&log, "the disk is full under the database") && !says(&log, AGAIN), "{log:#?}");
}

/// A daemon on `disk` that is told to leave much of it free, and what it is tried with.
fn with_small_queue(disk: &Small, fault: &str) -> (PathBuf, Stage, Daemon, Log) {
    let queue = disk.path().join("queue");
    let stage = Stage::new(&queue, 12 * MIB, MIB);
    let mut command = stage.failing(disk.path(), fault);
    let (daemon, log) = started(command.args(["-o", "queue.max_bytes=32MiB"]));
    (queue, stage, daemon, log)
}

/// The same where neither the smaller database that a mostly empty one is copied into can be opened, nor the old one again.
#[test]
fn a_limit_of_open_files_while_a_database_is_made_smaller_is_no_failed_disk() {
    let Some(disk) = Small::mount(32 * MIB, 0) else { return };
    let fault = "open@events.2/conf:1:EMFILE:ever,open@events.1/conf:1:EMFILE:ever";
    let (queue, stage, daemon, log) = with_small_queue(&disk, fault);
    let acknowledged = stage.submit_until("full", 256, |answers| answers.full > 0);
    stage.heal();
    stage.taken(&acknowledged);
    stage.arm();
    disk.fill(6 * MIB);
    stage.submit_until("back", 64, |answers| answers.unknown > 0);
    let faulty = Faulty { _disk: TempDir::new().expect("a folder"), queue, stage, daemon, log };
    let log = faulty.end_for_want_of_files(&BTreeSet::new());
    assert!(says(&log, "the database is mostly empty, and could not be copied"), "{log:#?}");
}

/// Nor where the smaller one does not open, and the folder, which is another user's by then, denies to put it aside.
#[test]
fn a_rename_that_is_denied_while_a_database_is_made_smaller_is_no_failed_disk() {
    let Some(disk) = Small::mount(32 * MIB, 0) else { return };
    let fault = "open@events.2/conf:1:EMFILE:ever,name@events.2:1:EACCES:ever";
    let (queue, stage, daemon, log) = with_small_queue(&disk, fault);
    let mut acknowledged = stage.submit_until("full", 256, |answers| answers.full > 0);
    stage.heal();
    stage.taken(&acknowledged);
    stage.arm();
    disk.fill(6 * MIB);
    acknowledged.extend(stage.submit_until("back", 64, |answers| answers.unknown > 0));
    let faulty = Faulty { _disk: TempDir::new().expect("a folder"), queue, stage, daemon, log };
    let log = faulty.end_on_a_sound_disk("chown -R", &BTreeSet::new());
    assert!(says(&log, "the database is mostly empty, and could not be copied"), "{log:#?}");
}

/// Where it is the full disk that keeps both from opening, the room of the copy is what the old one needs.
#[test]
fn a_full_disk_while_a_database_is_made_smaller_keeps_no_copy() {
    let Some(disk) = Small::mount(32 * MIB, 0) else { return };
    let fault = "open@events.2/conf:1:ENOSPC:ever,open@events.1/conf:1:ENOSPC";
    let (queue, stage, daemon, mut log) = with_small_queue(&disk, fault);
    let mut acknowledged = stage.submit_until("full", 256, |answers| answers.full > 0);
    stage.heal();
    stage.taken(&acknowledged);
    stage.arm();
    disk.fill(6 * MIB);
    stage.drained();
    // Where producers were turned away before, there is time to make it smaller.
    for round in 0..3 {
        acknowledged.extend(burst(stage.folder.path(), &format!("back{round}"), 1, 100).queued);
    }
    log.says("the database is mostly empty, and could not be copied");
    log.says(AGAIN);
    assert!(!queue.join("events.new").exists());
    stage.end(&queue, daemon, log, &acknowledged);
}

/// Starts a daemon that cannot open its queue, and gives its exit code and what it said.
fn refused(command: &mut Command) -> (Option<i32>, String) {
    let ended = command.output().expect("the daemon starts");
    (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
}

#[test]
fn a_folder_that_is_taken_away_ends_the_daemon_before_it_acknowledges_more() {
    let disk = TempDir::new().expect("a folder");
    let queue = disk.path().join("queue");
    for removed in [false, true] {
        let stage = Stage::new(&queue, 0, 0);
        let (mut daemon, log) = stage.start();
        assert_eq!(burst(stage.folder.path(), "before", 5, 100).queued.len(), 5);
        match removed {
            true => fs::remove_dir_all(&queue).expect("a folder can be removed"),
            false => fs::rename(&queue, disk.path().join("elsewhere")).expect("a folder can be moved"),
        }
        let mut stream = connect(stage.folder.path());
        stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
        stream.write_all(b"{\"session_id\":\"s\",\"type\":\"click\",\"id\":\"lost\"}\n").expect("it reads");
        let answers: Vec<String> = BufReader::new(stream).lines().map_while(Result::ok).collect();
        assert!(answers.is_empty(), "{answers:?}");
        let status = end(&mut daemon.0);
        let log = log.all();
        assert_eq!(status.code(), Some(74), "{log:#?}");
        let told = log
            .iter()
            .any(|line| line["error"].as_str().is_some_and(|error| error.contains("was removed or moved")));
        assert!(told, "{log:#?}");
        if !removed {
            // Brought back, it is what it was.
            fs::rename(disk.path().join("elsewhere"), &queue).expect("a folder can be moved");
            assert_eq!(balance(&queue).pending(), 5);
        }
    }
}

#[test]
fn a_folder_that_this_user_may_not_write_is_named_at_the_start() {
    let Some(disk) = Small::mount(8 * MIB, 0) else { return };
    let queue = disk.path().join("queue");
    let stage = Stage::new(&queue, 0, 0);
    fs::create_dir(&queue).expect("a folder");
    // Read-only, as a disk becomes that had errors.
    let remount = |how: &str| {
        let mut mount = Command::new("mount");
        assert!(mount.args(["-o", how]).arg(disk.path()).status().expect("mount").success());
    };
    remount("remount,ro");
    let (code, said) = refused(&mut stage.command());
    assert!(code == Some(74) && said.contains("Read-only file system") && said.contains("queue"), "{said}");
    remount("remount,rw");
    // As somebody else; whose own parts can be reached.
    for folder in [disk.path(), stage.folder.path()] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).expect("a mode");
    }
    fs::set_permissions(&queue, fs::Permissions::from_mode(0o700)).expect("a mode");
    let (daemon, program) = (stage.command(), reachable(stage.folder.path()));
    let as_nobody = |daemon: &Command| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
        command.args(daemon.get_args()).stderr(Stdio::piped());
        command
    };
    let (code, said) = refused(&mut as_nobody(&daemon));
    assert!(
        code == Some(74) && said.contains("Permission denied") && said.contains("belongs to this user"),
        "{said}"
    );
    // A folder of that user's own works.
    let own = |user| std::os::unix::fs::chown(&queue, Some(user), Some(user)).expect("root may");
    own(65_534);
    let (mut running, log) = started(&mut as_nobody(&daemon));
    let acknowledged = burst(stage.folder.path(), "own", 5, 100).queued;
    // One that is somebody else's meanwhile is told as such.
    own(0);
    assert_eq!(burst(stage.folder.path(), "denied", 1, 100).unknown, 1);
    let (status, log) = (end(&mut running.0), log.all());
    let told = log.iter().any(|line| line["error"].as_str().is_some_and(|error| error.contains("chown -R")));
    assert!(status.code() == Some(74) && told && !queue.join("failed").exists(), "{status}: {log:#?}");
    own(65_534);
    let (running, log) = started(&mut as_nobody(&daemon));
    stage.heal();
    stage.end(&queue, running, log, &acknowledged);
}

/// The executable at a place that every user may reach. A process of its own copies it: what another
/// test starts meanwhile would inherit a file that this one writes, and the system runs no file that
/// is open for writing anywhere.
fn reachable(folder: &Path) -> PathBuf {
    let path = folder.join("target-notifyd");
    let mut copy = Command::new("cp");
    assert!(copy.arg(env!("CARGO_BIN_EXE_target-notifyd")).arg(&path).status().expect("cp").success());
    path
}
