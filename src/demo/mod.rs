//! The demonstration: the real daemon between a producer and a Target that misbehaves, killed once on the way.
//!
//! Guarantees:
//! - it needs no network and no root, and touches nothing outside a temporary folder;
//! - the daemon is this very executable in a process of its own, killed with SIGKILL while events flow;
//! - it ends with an account of every event: from the producer's replies, the daemon's queue and what the stand-in for
//!   Target took, held against each other.

mod account;
mod process;
mod producer;
mod scenario;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

pub use self::account::{Account, Letter};
use self::process::Daemon;
use self::producer::{Pace, Submitted};
use crate::event;
use crate::event::Clock;
use crate::queue::{Failed, OpenError, Queue};
use crate::sandbox::{self, Faults, Sandbox};
use crate::trial::{self, TrialError, system};

/// The connections that submit.
const PRODUCERS: usize = 4;
/// How long the whole may take.
const LIMIT: Duration = Duration::from_secs(180);
/// How often the bars move.
const REFRESH: Duration = Duration::from_millis(50);

/// How large the demonstration is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The executable of the daemon.
    pub program: PathBuf,
    /// What its configuration is changed by, as with `-o`.
    pub overrides: Vec<String>,
    /// Sessions, 1 to 100,000.
    pub sessions: u32,
    /// Events in each, 1 to 100.
    pub events: u32,
    /// What the faults are drawn from.
    pub seed: u64,
}

/// Why the demonstration could not be shown to its end.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DemoError {
    /// As every trial run may fail.
    #[error(transparent)]
    Trial(#[from] TrialError),
    /// It takes too long.
    #[error("not everything was delivered within {LIMIT:?}; the daemon's last log line: {last}")]
    TooLong {
        /// What the daemon said last.
        last: String,
    },
    /// The queue does not open after the daemon's end.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The queue cannot be read after the daemon's end.
    #[error(transparent)]
    Queue(#[from] Failed),
}

/// Shows the whole way, and returns the account.
///
/// # Errors
/// [`DemoError`]: it could not be shown to its end.
pub async fn run(settings: Settings, shutdown: CancellationToken) -> Result<Account, DemoError> {
    let folder = tempfile::Builder::new()
        .prefix("target-notifyd-demo-")
        .tempdir()
        .map_err(system("a temporary folder cannot be made"))?;
    let sandbox = Sandbox::start(sandbox::Settings { seed: settings.seed, ..sandbox::Settings::default() })
        .map_err(system("the stand-in for Target cannot listen"))?;
    sandbox.faults(faults());
    let screen = Screen::new(u64::from(settings.sessions) * u64::from(settings.events));
    screen.say(&format!("a stand-in for Target listens at {}, and misbehaves", sandbox.address()));
    let mut stage = Stage { folder, sandbox, settings, screen };
    // Dropping the show kills the daemon with it, and leaves a temporary folder that is then removed.
    let shown = tokio::select! {
        shown = tokio::time::timeout(LIMIT, stage.show()) => shown,
        () = shutdown.cancelled() => return Err(TrialError::Interrupted.into()),
    };
    // A terminal interrupts the daemon, too, whose end may be seen first.
    if shutdown.is_cancelled() {
        return Err(TrialError::Interrupted.into());
    }
    let account = shown.unwrap_or_else(|_| Err(DemoError::TooLong { last: stage.last_line() }));
    stage.screen.clear();
    if account.as_ref().map_or(true, |account| !account.is_whole()) {
        let kept = stage.folder.keep();
        told(&format!("the daemon's log and queue are kept in {}", kept.display()));
    }
    stage.sandbox.stop().await;
    account
}

/// What the stand-in does wrong, per mille of requests.
fn faults() -> Faults {
    Faults {
        error_500: 30,
        busy_503: 30,
        hang: 10,
        reset_before: 30,
        reset_after: 40,
        cut: 40,
        omit: 20,
        latency: Duration::from_millis(10),
        ..Faults::default()
    }
}

struct Stage {
    folder: tempfile::TempDir,
    sandbox: Sandbox,
    settings: Settings,
    screen: Screen,
}

impl Stage {
    async fn show(&mut self) -> Result<Account, DemoError> {
        let endpoint = format!("http://{}", self.sandbox.address());
        let start = || Daemon::start(&self.settings, self.folder.path(), &endpoint);
        let mut daemon = start()?;
        self.screen.say(&format!("the daemon runs (process {})", daemon.id()));
        let socket = trial::socket(self.folder.path());

        let example = scenario::example(Clock::start().wall_ms());
        let mut exchange = pin!(producer::exchange(&socket, &example));
        let example = loop {
            // The exchange goes on with the next turn, and a line of the log stays where it is.
            tokio::select! {
                example = &mut exchange => match example {
                    Ok(example) => break example,
                    Err(error) => return Err(daemon.end_or(error).await.into()),
                },
                ended = daemon.watch() => ended?,
            }
        };
        self.screen.say("the documentation's example: the page was prefetched, and \"product1\" was shown");
        for (line, reply) in example.lines.iter().zip(&example.replies) {
            self.screen.say(&format!("  → {line}\n  ← {reply}"));
        }

        let (pace, paced) = watch::channel(Pace::Half);
        let (acknowledged, mut replies) = watch::channel(0_u64);
        let acknowledged = Arc::new(acknowledged);
        let mut producers = JoinSet::new();
        for lines in scenario::sessions(self.settings.sessions, self.settings.events, PRODUCERS) {
            producers.spawn(producer::run(socket.clone(), lines, paced.clone(), Arc::clone(&acknowledged)));
        }
        let total = u64::from(self.settings.sessions) * u64::from(self.settings.events);
        let mut ticks = tokio::time::interval(REFRESH);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut killed, mut submitted) = (false, example.submitted);
        loop {
            // A tick that is dropped is drawn later; counts, log lines and finished producers stay where they are.
            tokio::select! {
                _ = ticks.tick() => {
                    self.screen.draw(*acknowledged.borrow(), daemon.settled());
                    // Some is delivered before the kill, so that it strikes requests on their way, too.
                    if self.sandbox.totals().impressions * 5 >= total && *pace.borrow() == Pace::Half {
                        pace.send_replace(Pace::Free);
                    }
                }
                () = reached(&mut replies, total * 3 / 5), if !killed => {
                    killed = true;
                    daemon.kill().await?;
                    self.screen.say(&format!("the daemon was killed after {} replies", *acknowledged.borrow()));
                    daemon = start()?;
                    self.screen.say(&format!("the daemon runs again (process {})", daemon.id()));
                }
                Some(done) = producers.join_next() => submitted.add(done.map_err(TrialError::Panic)??),
                ended = daemon.watch() => ended?,
            }
            if killed && producers.is_empty() && daemon.is_idle(submitted.acknowledged.len() as u64) {
                break;
            }
        }
        self.screen.draw(total, daemon.settled());
        daemon.end().await?;
        self.account(submitted).await
    }

    /// What the daemon left, beside what the producers were told and what the stand-in took.
    async fn account(&self, submitted: Submitted) -> Result<Account, DemoError> {
        let now = {
            let clock = Clock::start();
            Arc::new(move || clock.now())
        };
        let settings = process::queue_settings(self.folder.path());
        let queue = tokio::task::spawn_blocking(move || -> Result<_, DemoError> {
            let queue = Queue::open(settings, &process::account(), now)?;
            let letters = queue.store().dead(event::Seq(0), account::MAX_LETTERS)?;
            let balance = queue.store().ledger().balance;
            Ok((queue, letters, balance))
        });
        let (queue, letters, balance) = queue.await.map_err(TrialError::Panic)??;
        queue.shutdown().await?;
        let ledger = self.sandbox.ledger();
        let mut taken: BTreeMap<String, u32> = BTreeMap::new();
        for record in ledger.records() {
            *taken.entry(record.id.to_owned()).or_default() += 1;
        }
        Ok(Account::new(submitted, &taken, ledger.totals(), balance, letters))
    }

    fn last_line(&self) -> String {
        trial::last_line(self.folder.path())
    }
}

/// Waits until so many lines have a reply. Gives the count's lock back at once: producers write it.
async fn reached(replies: &mut watch::Receiver<u64>, goal: u64) {
    drop(replies.wait_for(|count| *count >= goal).await);
}

/// Bars on a terminal, lines elsewhere.
struct Screen {
    all: MultiProgress,
    acknowledged: ProgressBar,
    settled: ProgressBar,
    terminal: bool,
}

impl Screen {
    fn new(total: u64) -> Self {
        let all = MultiProgress::new();
        // The template is a constant; were it wrong, the plain bar would do.
        let style = ProgressStyle::with_template("{prefix:>13} {wide_bar} {pos:>7}/{len}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = |name| all.add(ProgressBar::new(total).with_style(style.clone()).with_prefix(name));
        let (acknowledged, settled) = (bar("acknowledged"), bar("delivered"));
        Self { all, acknowledged, settled, terminal: io::stderr().is_terminal() }
    }

    fn say(&self, text: &str) {
        if !self.terminal {
            told(text);
            return;
        }
        for line in text.lines() {
            // A terminal that went away is no reason to end.
            let _gone = self.all.println(line);
        }
    }

    fn draw(&self, acknowledged: u64, settled: u64) {
        self.acknowledged.set_position(acknowledged);
        // Events that were stored twice, because their first reply was lost, are beyond the total.
        self.settled.set_position(settled.min(self.settled.length().unwrap_or(settled)));
    }

    fn clear(&self) {
        self.acknowledged.finish();
        self.settled.finish();
    }
}

fn told(text: &str) {
    // Where standard error is closed there is nobody to tell.
    let _closed = writeln!(io::stderr(), "{text}");
}
