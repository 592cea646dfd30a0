//! The daemon in a process of its own.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::Stdio;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::ChildStderr;

use super::Settings;
use crate::event::{Account, Balance};
use crate::queue;
use crate::trial::{self, BROKEN, Process, TrialError, system};

/// The account of the demonstration.
pub(super) fn account() -> Account {
    Account { client: "acmecorp".to_owned(), organization: "0DD934B85278256B0A490D44@AdobeOrg".to_owned() }
}

/// How the queue that the daemon left is opened.
pub(super) fn queue_settings(folder: &Path) -> queue::Settings {
    queue::Settings {
        path: trial::queue(folder),
        max_bytes: u64::MAX,
        max_events: u64::MAX,
        min_free: 0,
        reserve: 0,
        dead_max_events: u64::MAX,
        journal_bytes: queue::journal_bytes(u64::MAX),
        adopt: false,
    }
}

/// What a line of the daemon's log says of its account.
#[derive(Deserialize)]
struct Summary {
    accepted: u64,
    delivered: u64,
    dead: u64,
    expired: u64,
    quarantined: u64,
}

pub(super) struct Daemon {
    process: Process,
    lines: Lines<BufReader<ChildStderr>>,
    log: File,
    last: String,
    balance: Balance,
    heard: bool,
}

impl Daemon {
    pub(super) fn start(settings: &Settings, folder: &Path, endpoint: &str) -> Result<Self, TrialError> {
        let Account { client, organization } = account();
        let configuration = format!(
            "[target]\nclient = \"{client}\"\norganization_id = \"{organization}\"\ntimeout = \"500ms\"\n\
             [queue]\nmin_free = \"0B\"\nreserve = \"0B\"\n\
             [batch]\nlinger = \"50ms\"\n\
             [retry]\ninitial = \"50ms\"\nmax = \"500ms\"\n\
             [delivery]\nbreaker_open = \"100ms\"\nbreaker_max = \"500ms\"\n"
        );
        let own = [
            format!("target.edge_endpoint={endpoint}/edge{{cluster}}"),
            // The demonstration reads the account from the log.
            "log.format=json".to_owned(),
            "log.summary_interval=1s".to_owned(),
        ];
        let overrides = settings.overrides.iter().cloned().chain(trial::places(folder, endpoint)).chain(own);
        let mut process =
            Process::start(&settings.program, folder, &configuration, overrides, Stdio::piped())?;
        let stderr = process.log().ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe));
        let lines = BufReader::new(stderr.map_err(system("the daemon's log cannot be read"))?).lines();
        let log = trial::log(folder)?;
        Ok(Self { process, lines, log, last: String::new(), balance: Balance::default(), heard: false })
    }

    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Reads a line of the log. May be dropped: a line that is read in part stays in the reader.
    ///
    /// # Errors
    /// The daemon ended.
    pub(super) async fn watch(&mut self) -> Result<(), TrialError> {
        match self.lines.next_line().await {
            Ok(Some(line)) => {
                writeln!(self.log, "{line}").map_err(system("the daemon's log cannot be kept"))?;
                if let Ok(Summary { accepted, delivered, dead, expired, quarantined }) =
                    serde_json::from_str(&line)
                {
                    self.balance = Balance { accepted, delivered, dead, expired, quarantined };
                    self.heard = true;
                }
                self.last = line;
                Ok(())
            }
            Ok(None) | Err(_) => {
                let status = self.process.wait().await?;
                Err(TrialError::Ended { status: status.to_string(), last: self.last.clone() })
            }
        }
    }

    /// Its end where that is what broke a connection with `error`, or else that: the connection may be seen to break first.
    pub(super) async fn end_or(&mut self, error: TrialError) -> TrialError {
        let ended = async {
            loop {
                if let Err(ended) = self.watch().await {
                    return ended;
                }
            }
        };
        tokio::time::timeout(BROKEN, ended).await.unwrap_or(error)
    }

    /// How many events it says to be done with.
    pub(super) fn settled(&self) -> u64 {
        self.balance.accepted - self.balance.pending()
    }

    /// Whether it says to have taken at least so many events, and to be done with all.
    pub(super) fn is_idle(&self, accepted: u64) -> bool {
        self.heard && self.balance.accepted >= accepted && self.balance.pending() == 0
    }

    /// SIGKILL.
    pub(super) async fn kill(&mut self) -> Result<(), TrialError> {
        self.process.kill().await
    }

    /// SIGTERM, and the end in order.
    pub(super) async fn end(mut self) -> Result<(), TrialError> {
        self.process.terminate()?;
        loop {
            match self.watch().await {
                Ok(()) => {}
                Err(TrialError::Ended { status, .. }) if status == "exit status: 0" => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}
