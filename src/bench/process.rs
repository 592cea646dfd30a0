//! The daemon in a process of its own, and what the system says that it used.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::Settings;
use crate::trial::{self, BROKEN, Process, TrialError, system};

/// The clock ticks of `/proc`, in microseconds: Linux shows user space a hundred a second on every platform.
const TICK_MICROS: u64 = 10_000;
/// The wait before a daemon that is starting is looked for again.
const RECONNECT: Duration = Duration::from_millis(1);

pub(super) struct Daemon {
    process: Process,
    folder: PathBuf,
}

/// What a process used since it began.
#[derive(Clone, Debug, Default)]
pub(super) struct Used {
    pub(super) user: Duration,
    pub(super) system: Duration,
    /// What it had the system write to the disk, in bytes.
    pub(super) written: u64,
    /// How often each of its threads waited, which ends in a wake-up each.
    waits: BTreeMap<OsString, u64>,
    /// The most memory that was resident, in bytes.
    pub(super) peak_bytes: u64,
    /// The memory that is resident, in bytes.
    pub(super) resident_bytes: u64,
}

impl Used {
    pub(super) fn processor(&self) -> Duration {
        self.user + self.system
    }

    /// What was used since `before`; memory is as it is now.
    pub(super) fn since(&self, before: &Self) -> Self {
        Self {
            user: self.user.saturating_sub(before.user),
            system: self.system.saturating_sub(before.system),
            written: self.written.saturating_sub(before.written),
            waits: self
                .waits
                .iter()
                .map(|(thread, waits)| (thread.clone(), waits.saturating_sub(before.waited(thread))))
                .collect(),
            peak_bytes: self.peak_bytes,
            resident_bytes: self.resident_bytes,
        }
    }

    /// How often its threads waited, those that ended left out.
    pub(super) fn waits(&self) -> u64 {
        self.waits.values().sum()
    }

    fn waited(&self, thread: &OsString) -> u64 {
        self.waits.get(thread).copied().unwrap_or(0)
    }
}

impl Daemon {
    /// Starts it in `folder` against `endpoint`, with `more` as with `-o`.
    pub(super) fn start(
        settings: &Settings,
        folder: &Path,
        endpoint: &str,
        more: &[&str],
    ) -> Result<Self, TrialError> {
        let configuration = "[target]\nclient = \"acmecorp\"\norganization_id = \"0DD934B85278256B0A490D44@AdobeOrg\"\n\
            [queue]\nmax_bytes = \"8GiB\"\n[log]\nlevel = \"warn\"\n";
        let more = more.iter().map(|one| (*one).to_owned());
        let overrides =
            trial::places(folder, endpoint).into_iter().chain(more).chain(settings.overrides.iter().cloned());
        let log = trial::log(folder)?;
        let process = Process::start(&settings.program, folder, configuration, overrides, log.into())?;
        Ok(Self { process, folder: folder.to_owned() })
    }

    /// A connection, as soon as it takes one.
    pub(super) async fn connect(&mut self) -> Result<UnixStream, TrialError> {
        loop {
            match UnixStream::connect(self.socket()).await {
                Ok(stream) => return Ok(stream),
                Err(_) => {
                    if let Some(status) = self.process.ended()? {
                        return Err(self.ended(status));
                    }
                    tokio::time::sleep(RECONNECT).await;
                }
            }
        }
    }

    /// The producers' socket.
    pub(super) fn socket(&self) -> PathBuf {
        trial::socket(&self.folder)
    }

    /// What comes of `work` with the daemon, unless that ends first: nobody else would tell.
    pub(super) async fn during<T>(
        &mut self,
        work: impl Future<Output = Result<T, TrialError>>,
    ) -> Result<T, TrialError> {
        // Work that is dropped has no daemon to work with; an end that is dropped is seen the next time.
        let done = tokio::select! {
            done = work => done,
            status = self.process.wait() => return Err(self.gone(status)),
        };
        match done {
            Ok(done) => Ok(done),
            // A connection that broke may be seen before the end that broke it.
            Err(error) => match tokio::time::timeout(BROKEN, self.process.wait()).await {
                Ok(status) => Err(self.gone(status)),
                Err(_) => Err(error),
            },
        }
    }

    fn gone(&self, status: Result<ExitStatus, TrialError>) -> TrialError {
        status.map_or_else(|error| error, |status| self.ended(status))
    }

    fn ended(&self, status: ExitStatus) -> TrialError {
        TrialError::Ended { status: status.to_string(), last: trial::last_line(&self.folder) }
    }

    pub(super) async fn used(&mut self) -> Result<Used, TrialError> {
        // What `/proc` tells of a process that ends lacks members before the process is gone.
        let process = PathBuf::from(format!("/proc/{}", self.process.id()));
        self.during(async { used(&process).map_err(system("what the daemon used cannot be read")) }).await
    }

    /// How many commits it made, each with a sync of its own, as its status says.
    pub(super) async fn commits(&mut self) -> Result<u64, TrialError> {
        let socket = trial::admin_socket(&self.folder);
        let asks =
            async { commits(&socket).await.map_err(system("the daemon cannot be asked for its status")) };
        self.during(asks).await
    }

    /// SIGKILL.
    pub(super) async fn kill(&mut self) -> Result<(), TrialError> {
        self.process.kill().await
    }

    /// SIGTERM, and the end in order.
    pub(super) async fn end(mut self) -> Result<(), TrialError> {
        self.process.terminate()?;
        let status = self.process.wait().await?;
        if status.success() { Ok(()) } else { Err(self.ended(status)) }
    }
}

/// What the status that is asked for at `socket` says of commits.
async fn commits(socket: &Path) -> io::Result<u64> {
    let mut stream = BufReader::new(UnixStream::connect(socket).await?);
    stream.get_mut().write_all(b"{\"op\":\"status\"}\n").await?;
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let status: serde_json::Value = serde_json::from_str(&line)?;
    status
        .get("commits")
        .and_then(serde_json::Value::as_u64)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, line))
}

fn used(process: &Path) -> io::Result<Used> {
    let bad =
        |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{what} in {}", process.display()));
    let stat = fs::read_to_string(process.join("stat"))?;
    // The name of the process may hold anything; what follows it does not.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |field: usize| fields.get(field).and_then(|text| text.parse::<u64>().ok());
    let (Some(user), Some(system)) = (ticks(11), ticks(12)) else { return Err(bad("no times")) };
    let status = fs::read_to_string(process.join("status"))?;
    let mut waits = BTreeMap::new();
    for thread in fs::read_dir(process.join("task"))? {
        let thread = thread?;
        // A thread may end while it is looked at.
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        waits.insert(thread.file_name(), member(&status, "voluntary_ctxt_switches:").unwrap_or(0));
    }
    let written = fs::read_to_string(process.join("io"))?;
    Ok(Used {
        user: Duration::from_micros(user * TICK_MICROS),
        system: Duration::from_micros(system * TICK_MICROS),
        written: member(&written, "write_bytes:").ok_or_else(|| bad("no write_bytes"))?,
        waits,
        peak_bytes: member(&status, "VmHWM:").ok_or_else(|| bad("no VmHWM"))? * 1_024,
        resident_bytes: member(&status, "VmRSS:").ok_or_else(|| bad("no VmRSS"))? * 1_024,
    })
}

/// The number behind `name` in a file of `/proc`.
fn member(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    use nix::unistd::Pid;

    use tokio::process::Command;

    use super::*;

    #[tokio::test]
    async fn a_daemon_that_is_ending_is_told_as_one_that_ended() {
        let child = Command::new("sh").args(["-c", "exit 3"]).spawn().expect("it runs");
        let pid = i32::try_from(child.id().expect("it was not waited for")).expect("a process id");
        // It is there still, with no memory of its own.
        waitid(Id::Pid(Pid::from_raw(pid)), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).expect("it ends");
        let folder = PathBuf::from("/nowhere");
        let (_, _input) = io::pipe().expect("a pipe");
        let mut daemon = Daemon { process: Process { child, _input }, folder };
        let told = daemon.used().await.expect_err("nothing is known of it").to_string();
        assert!(told.contains("the daemon ended with exit status: 3"), "{told}");
    }
}
