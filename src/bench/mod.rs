//! Measures this machine: what the daemon takes in and sends out, each beside its limit from the same run.
//!
//! Guarantees:
//! - every figure of speed stands beside what a bare loop does here with the same bytes in the same grouping: a file that is
//!   appended to and synced, an HTTP client that posts the same bodies, a parser of the same lines;
//! - the daemon is this very executable in a process of its own, so that its processor time and memory are its own;
//! - nothing outside a temporary folder is touched. It lies in the folder that is asked for: on which disk it lies is what
//!   is measured. It is removed at the end, also at one by a signal; where a measurement is killed, the next one names it.
//!
//! A figure is the median of its runs. Times of one run on a shared machine say little; ratios of one run say more.

mod accept;
mod backlog;
mod deliver;
mod limits;
mod load;
mod process;
mod report;
mod server;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use self::report::{Report, Row};
use crate::trial::{TrialError, system};

/// What the names of the folders begin with that measurements are made in.
const PREFIX: &str = "target-notifyd-bench-";
/// The most entries beside its own folder that are looked at for those of measurements that were killed.
const MAX_ENTRIES: usize = 10_000;
/// How often the folder is removed until it is gone, and the wait in between.
const REMOVALS: usize = 20;
const REMOVAL_PAUSE: Duration = Duration::from_millis(50);

/// The parts of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// How fast submissions are stored, and how soon they are answered.
    Accept,
    /// From the socket to Target's answer.
    Deliver,
    /// Memory and time with a backlog: filling, a restart after SIGKILL, draining.
    Backlog,
    /// What it costs to do nothing.
    Idle,
}

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The executable of the daemon.
    pub program: PathBuf,
    /// What its configuration is changed by, as with `-o`.
    pub overrides: Vec<String>,
    /// Where the temporary folder is made.
    pub folder: PathBuf,
    /// Which parts.
    pub parts: Vec<Part>,
    /// How often each part is measured; the medians count.
    pub runs: usize,
    /// How long acceptance is measured for each number of producers.
    pub time: Duration,
    /// How many events are delivered.
    pub events: u64,
    /// Over how many sessions.
    pub sessions: u64,
    /// How long a line is, in bytes.
    pub line_bytes: usize,
    /// How many events the backlogs have.
    pub backlogs: Vec<u64>,
}

/// Measures, and tells `told` of each part as it begins; `shutdown` ends it.
///
/// # Errors
/// [`TrialError`]: what was measured before is lost.
pub async fn run(
    mut settings: Settings,
    told: impl Fn(&str),
    shutdown: CancellationToken,
) -> Result<Report, TrialError> {
    for left in left(&settings.folder) {
        told(&format!("a measurement that was killed has left its folder: rm -r '{}'", left.display()));
    }
    let made = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&settings.folder);
    let whole = made.map_err(system(format!("a folder cannot be made in {}", settings.folder.display())))?;
    // Held until the end. Where the disk knows no locks, nobody is told of what is left on it.
    let _lock = locked(whole.path());
    whole.path().clone_into(&mut settings.folder);
    // Dropping the measurement kills the daemon with it. Its bare loops end by themselves.
    let measured = tokio::select! {
        measured = measure(&settings, told) => measured,
        () = shutdown.cancelled() => Err(TrialError::Interrupted),
    };
    remove(&whole).await;
    // A terminal interrupts the daemon, too, whose end may be seen first.
    if shutdown.is_cancelled() { Err(TrialError::Interrupted) } else { measured }
}

/// The folders in `folder` of measurements that were killed: whoever measures holds a lock on his own.
fn left(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).take(MAX_ENTRIES);
    let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX));
    ours.map(|entry| entry.path()).filter(|path| locked(path).is_some()).collect()
}

/// The lock on a folder, unless somebody else holds it, or it is not ours.
fn locked(folder: &Path) -> Option<File> {
    let folder = File::open(folder).ok()?;
    folder.try_lock().ok().map(|()| folder)
}

/// Removes `folder`, in which a bare loop that was given up may still make a file.
async fn remove(folder: &tempfile::TempDir) {
    for _ in 0..REMOVALS {
        match fs::remove_dir_all(folder.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => tokio::time::sleep(REMOVAL_PAUSE).await,
            _ => return,
        }
    }
}

async fn measure(settings: &Settings, told: impl Fn(&str)) -> Result<Report, TrialError> {
    let mut report = Report::new(settings.line_bytes);
    for run in 1..=settings.runs {
        for part in &settings.parts {
            told(&format!("run {run} of {}: {part:?}", settings.runs));
            match part {
                Part::Accept => accept::measure(settings, &mut report).await?,
                Part::Deliver => deliver::measure(settings, &mut report).await?,
                Part::Backlog => backlog::measure(settings, &mut report).await?,
                Part::Idle => backlog::idle(settings, &mut report).await?,
            }
        }
    }
    Ok(report)
}

/// A folder that goes when this is dropped. Its name is short: a socket's path has little room.
fn temporary(settings: &Settings) -> Result<tempfile::TempDir, TrialError> {
    let made = tempfile::Builder::new().prefix("").tempdir_in(&settings.folder);
    made.map_err(system(format!("a folder cannot be made in {}", settings.folder.display())))
}

/// `count` in `time`, a second.
#[expect(clippy::cast_precision_loss, reason = "figures for a person")]
fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(1e-9)
}

/// `time` for each of `count`, in microseconds.
#[expect(clippy::cast_precision_loss, reason = "figures for a person")]
fn micros_each(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e6 / (count.max(1) as f64)
}
