//! What the demonstration and the measurements share: this executable run as a daemon, in a folder of its own.

use std::fs::{self, File};
use std::io::{self, PipeWriter};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use thiserror::Error;
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinError;

/// A daemon whose connections break has ended within this, or lives on.
pub(crate) const BROKEN: Duration = Duration::from_millis(500);
/// A process ends within this once it was killed, wherever the disk answers.
const KILLED: Duration = Duration::from_secs(10);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(1);

/// The variable of the environment that has a daemon end with its standard input, which has to be a pipe.
pub(crate) const UNTIL_EOF: &str = "TARGET_NOTIFYD_UNTIL_EOF";

/// Why it did not come to its end.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrialError {
    /// The temporary folder, a process, a socket or a file of it.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The daemon ended by itself.
    #[error("the daemon ended with {status}; its last log line: {last}")]
    Ended {
        /// How.
        status: String,
        /// What it said last.
        last: String,
    },
    /// A line or a request was not taken that should be.
    #[error("a line or a request was answered with {0}")]
    Refused(String),
    /// It was interrupted.
    #[error("it was interrupted")]
    Interrupted,
    /// A part of it panicked, which is a bug.
    #[error("a task panicked, please report it: {0}")]
    Panic(#[from] JoinError),
}

/// An error of the system, with what was tried.
pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> TrialError {
    let what = what.into();
    move |source| TrialError::System { what, source }
}

/// The producers' socket of a daemon in `folder`.
pub(crate) fn socket(folder: &Path) -> PathBuf {
    folder.join("notify.sock")
}

/// Its operators' socket.
pub(crate) fn admin_socket(folder: &Path) -> PathBuf {
    folder.join("admin.sock")
}

/// Its queue.
pub(crate) fn queue(folder: &Path) -> PathBuf {
    folder.join("queue")
}

/// What keeps it to `folder` and `endpoint`, as with `-o`.
pub(crate) fn places(folder: &Path, endpoint: &str) -> [String; 4] {
    [
        format!("target.endpoint={endpoint}"),
        format!("ingest.socket={}", socket(folder).display()),
        format!("admin.socket={}", admin_socket(folder).display()),
        format!("queue.path={}", queue(folder).display()),
    ]
}

/// The file that its log is kept in.
pub(crate) fn log(folder: &Path) -> Result<File, TrialError> {
    let file = File::options().create(true).append(true).open(log_path(folder));
    file.map_err(system("the daemon's log cannot be kept"))
}

/// The last line of the log that was kept.
pub(crate) fn last_line(folder: &Path) -> String {
    let text = fs::read_to_string(log_path(folder)).unwrap_or_default();
    text.lines().next_back().unwrap_or("none").to_owned()
}

fn log_path(folder: &Path) -> PathBuf {
    folder.join("daemon.log")
}

/// A daemon, which is killed where this is dropped.
pub(crate) struct Process {
    pub(crate) child: Child,
    /// The other end of its standard input, which nothing is written to: where whoever holds this is killed the system closes
    /// it, and the daemon ends.
    pub(crate) _input: PipeWriter,
}

impl Process {
    /// Starts `program` in `folder` with `configuration`, changed by `overrides` as with `-o`; it logs to `log`.
    pub(crate) fn start(
        program: &Path,
        folder: &Path,
        configuration: &str,
        overrides: impl Iterator<Item = String>,
        log: Stdio,
    ) -> Result<Self, TrialError> {
        let file = folder.join("config.toml");
        fs::write(&file, configuration).map_err(system("the configuration cannot be written"))?;
        let mut command = Command::new(program);
        command.arg("run").arg("--config").arg(&file);
        command.args(overrides.flat_map(|one| ["-o".to_owned(), one]));
        // What this shell sets for a real daemon is not meant for this one.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TARGET_NOTIFYD_") {
                command.env_remove(name);
            }
        }
        command.env(UNTIL_EOF, "1");
        let (input, ours) = io::pipe().map_err(system("a pipe cannot be made"))?;
        command.stdin(input).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        let child = command.spawn().map_err(system(format!("{} cannot be started", program.display())))?;
        Ok(Self { child, _input: ours })
    }

    /// Its process id; 0 once it ended.
    pub(crate) fn id(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// Its log, once, where that is piped.
    pub(crate) fn log(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>, TrialError> {
        self.child.try_wait().map_err(system("the daemon cannot be looked at"))
    }

    /// Waits for its end. May be dropped: the end is seen the next time.
    pub(crate) async fn wait(&mut self) -> Result<ExitStatus, TrialError> {
        self.child.wait().await.map_err(system("the daemon cannot be waited for"))
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self) -> Result<(), TrialError> {
        self.child.kill().await.map_err(system("the daemon cannot be killed"))
    }

    /// SIGTERM, upon which it ends in order.
    pub(crate) fn terminate(&self) -> Result<(), TrialError> {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        let sent = pid.map_or(Ok(()), |pid| kill(pid, Signal::SIGTERM));
        sent.map_err(|error| system("the daemon cannot be stopped")(error.into()))
    }
}

impl Drop for Process {
    /// Returns once it is gone: it would make files in a folder that is being removed.
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ended = self.child.start_kill();
        let until = Instant::now() + KILLED;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
    }
}
