//! The daemon in a process of its own.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use super::{DemoError, Settings, system};
use crate::event::{Account, Balance};
use crate::queue;

const LOG: &str = "daemon.log";
/// A daemon whose connections break has ended within this, or lives on.
pub(crate) const BROKEN: Duration = Duration::from_millis(500);
/// A process ends within this once it was killed, wherever the disk answers.
const KILLED: Duration = Duration::from_secs(10);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(1);

/// The producers' socket.
pub(super) fn socket(folder: &Path) -> PathBuf {
    folder.join("notify.sock")
}

/// The account of the demonstration.
pub(super) fn account() -> Account {
    Account { client: "acmecorp".to_owned(), organization: "0DD934B85278256B0A490D44@AdobeOrg".to_owned() }
}

/// How the queue that the daemon left is opened.
pub(super) fn queue_settings(folder: &Path) -> queue::Settings {
    queue::Settings {
        path: folder.join("queue"),
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
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
    log: File,
    last: String,
    balance: Balance,
    heard: bool,
}

impl Daemon {
    pub(super) fn start(settings: &Settings, folder: &Path, endpoint: &str) -> Result<Self, DemoError> {
        let Account { client, organization } = account();
        let configuration = folder.join("config.toml");
        let text = format!(
            "[target]\nclient = \"{client}\"\norganization_id = \"{organization}\"\ntimeout = \"500ms\"\n\
             [queue]\nmin_free = \"0B\"\nreserve = \"0B\"\n\
             [batch]\nlinger = \"50ms\"\n\
             [retry]\ninitial = \"50ms\"\nmax = \"500ms\"\n\
             [delivery]\nbreaker_open = \"100ms\"\nbreaker_max = \"500ms\"\n"
        );
        std::fs::write(&configuration, text).map_err(system("the configuration cannot be written"))?;
        let own = [
            format!("target.endpoint={endpoint}"),
            format!("target.edge_endpoint={endpoint}/edge{{cluster}}"),
            format!("ingest.socket={}", socket(folder).display()),
            format!("admin.socket={}", folder.join("admin.sock").display()),
            format!("queue.path={}", folder.join("queue").display()),
            // The demonstration reads the account from the log.
            "log.format=json".to_owned(),
            "log.summary_interval=1s".to_owned(),
        ];
        let mut command = Command::new(&settings.program);
        command.arg("run").arg("--config").arg(&configuration);
        command.args(settings.overrides.iter().chain(&own).flat_map(|one| ["-o", one.as_str()]));
        // What this shell sets for a real daemon is not meant for this one.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TARGET_NOTIFYD_") {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let program = settings.program.display();
        let mut child = command.spawn().map_err(system(format!("{program} cannot be started")))?;
        let stderr = child.stderr.take().ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe));
        let lines = BufReader::new(stderr.map_err(system("the daemon's log cannot be read"))?).lines();
        let log = File::options().create(true).append(true).open(folder.join(LOG));
        let log = log.map_err(system("the daemon's log cannot be kept"))?;
        Ok(Self { child, lines, log, last: String::new(), balance: Balance::default(), heard: false })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// Reads a line of the log. May be dropped: a line that is read in part stays in the reader.
    ///
    /// # Errors
    /// The daemon ended.
    pub(super) async fn watch(&mut self) -> Result<(), DemoError> {
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
                let status = self.child.wait().await.map_err(system("the daemon cannot be waited for"))?;
                Err(DemoError::Ended { status: status.to_string(), last: self.last.clone() })
            }
        }
    }

    /// Its end where that is what broke a connection with `error`, or else that: the connection may be seen to break first.
    pub(super) async fn end_or(&mut self, error: DemoError) -> DemoError {
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
    pub(super) async fn kill(&mut self) -> Result<(), DemoError> {
        self.child.kill().await.map_err(system("the daemon cannot be killed"))
    }

    /// SIGTERM, and the end in order.
    pub(super) async fn end(mut self) -> Result<(), DemoError> {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        if let Some(pid) = pid {
            kill(pid, Signal::SIGTERM)
                .map_err(|error| system("the daemon cannot be stopped")(error.into()))?;
        }
        loop {
            match self.watch().await {
                Ok(()) => {}
                Err(DemoError::Ended { status, .. }) if status == "exit status: 0" => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        give_up(&mut self.child);
    }
}

/// Kills a daemon, and returns once it is gone: it would make files in a folder that is being removed.
pub(crate) fn give_up(daemon: &mut Child) {
    // An error means that it has ended already.
    let _ended = daemon.start_kill();
    let until = Instant::now() + KILLED;
    while matches!(daemon.try_wait(), Ok(None)) && Instant::now() < until {
        std::thread::sleep(LOOK);
    }
}

/// The last line of the log that was kept.
pub(super) fn last_line(folder: &Path) -> String {
    let text = std::fs::read_to_string(folder.join(LOG)).unwrap_or_default();
    text.lines().next_back().unwrap_or("none").to_owned()
}
