//! A booted systemd: process 1 of namespaces of its own on this machine.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use target_notifyd::sandbox::{self, Sandbox};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::process::LIMIT;

/// How often something is looked at that nothing tells of.
const LOOK: Duration = Duration::from_millis(50);
/// What the boot is made of.
const PROGRAMS: [&str; 8] =
    ["/lib/systemd/systemd", "unshare", "nsenter", "setpriv", "pivot_root", "dpkg", "mount", "find"];

/// Waits until `found` finds something.
pub(crate) fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let limit = Instant::now() + LIMIT;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < limit, "it never came: {what}");
        std::thread::sleep(LOOK);
    }
}

/// Why none can be booted here, if so.
pub(crate) fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("this is not root".to_owned());
    }
    let kinds = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    for kind in ["cgroup2", "overlay"] {
        if !kinds.lines().any(|line| line.ends_with(&format!("\t{kind}"))) {
            return Some(format!("the kernel has no {kind}"));
        }
    }
    let folders = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let there = |program: &str| folders.iter().any(|folder| Path::new(folder).join(program).exists());
    PROGRAMS.iter().find(|program| !there(program)).map(|program| format!("there is no {program}"))
}

/// A running one; dropping it stops it, and leaves nothing.
pub(crate) struct Machine {
    outer: Child,
    init: u32,
    folder: TempDir,
    group: String,
}

impl Machine {
    /// Boots one.
    ///
    /// # Errors
    /// What the machine here does not let.
    pub(crate) fn boot() -> Result<Self, String> {
        let folder = TempDir::new().expect("a folder");
        let group = format!("target-notifyd-test-{}", std::process::id());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/booted/boot.sh");
        let told = folder.path().join("told");
        // Where this process is killed, all of it goes too.
        let mut outer = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount"])
            .arg(script)
            .arg(folder.path())
            .arg(&group)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&told).expect("a file"))
            .spawn()
            .map_err(|error| format!("setpriv: {error}"))?;
        let children = format!("/proc/{0}/task/{0}/children", outer.id());
        let init = until("the process 1 of the namespaces", || {
            if outer.try_wait().expect("it is a child").is_some() {
                return Some(Err(fs::read_to_string(&told).unwrap_or_default().trim().replace('\n', "; ")));
            }
            let init = fs::read_to_string(&children).ok()?.trim().parse().ok()?;
            let program = fs::read_link(format!("/proc/{init}/exe")).ok()?;
            program.ends_with("systemd/systemd").then_some(Ok(init))
        });
        let machine = match init {
            Ok(init) => Self { outer, init, folder, group },
            Err(told) => {
                sweep(folder.path(), &group);
                return Err(told);
            }
        };
        until("systemd answers", || {
            machine.run("systemctl", &["show", "--property=Version"]).status.success().then_some(())
        });
        let state = machine.run("systemctl", &["is-system-running", "--wait"]);
        let failed = machine.run("systemctl", &["--failed", "--no-pager"]);
        assert_eq!(text(&state.stdout).trim(), "running", "{}", text(&failed.stdout));
        Ok(machine)
    }

    /// A path of the booted system, from outside.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init))
    }

    /// Writes a file of the booted system.
    pub(crate) fn write(&self, inside: &str, content: impl AsRef<[u8]>) {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, content).unwrap_or_else(|error| panic!("{inside}: {error}"));
    }

    /// A command inside.
    pub(crate) fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--all", "--", program]).args(arguments);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
        command.env("DEBIAN_FRONTEND", "noninteractive").current_dir("/").stdin(Stdio::null());
        command
    }

    /// What a command inside prints, however it ends.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> Output {
        self.command(program, arguments).output().expect("nsenter runs")
    }

    /// What a command inside prints that must succeed.
    pub(crate) fn ok(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.run(program, arguments);
        let (said, told) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{program} {arguments:?}: {}\n{said}{told}", output.status);
        said
    }

    /// `systemctl` that must succeed.
    pub(crate) fn systemctl(&self, arguments: &[&str]) -> String {
        self.ok("systemctl", arguments)
    }

    /// A property of a unit.
    pub(crate) fn property(&self, unit: &str, name: &str) -> String {
        self.systemctl(&["show", "--value", "--property", name, unit]).trim().to_owned()
    }

    /// What `stat` says of a path.
    pub(crate) fn stat(&self, format: &str, path: &str) -> String {
        self.ok("stat", &["--format", format, path]).trim().to_owned()
    }

    /// The entries of the journal that match.
    pub(crate) fn journal(&self, matches: &[&str]) -> Vec<Value> {
        // What was sent may not be written yet. Where nobody writes it, there is nothing to wait for.
        let _silent = self.run("journalctl", &["--sync"]);
        let arguments = [&["--output=json", "--no-pager", "--quiet"], matches].concat();
        let said = self.ok("journalctl", &arguments);
        said.lines().map(|line| serde_json::from_str(line).expect("an entry is JSON")).collect()
    }

    /// A stand-in for Target that listens on the loopback inside.
    pub(crate) fn sandbox(&self) -> (Runtime, Sandbox) {
        let net = File::open(format!("/proc/{}/ns/net", self.init)).expect("a namespace");
        let runtime = Runtime::new().expect("a runtime");
        // A socket stays in the namespace in which it was made, whoever serves it.
        let sandbox = std::thread::scope(|scope| {
            let bind = || {
                setns(&net, CloneFlags::CLONE_NEWNET).expect("the namespace can be entered");
                let _inside = runtime.enter();
                Sandbox::start(sandbox::Settings::default()).expect("the sandbox listens")
            };
            scope.spawn(bind).join().expect("no panic")
        });
        (runtime, sandbox)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said =
                self.run("journalctl", &["--no-pager", "--output=short-monotonic", "--lines=80"]).stdout;
            // Past the capture of the tests, which shows nothing of a drop.
            let _closed = std::io::stderr().write_all(&said);
        }
        let stop = Command::new("kill").args(["-s", "RTMIN+4", &self.init.to_string()]).status();
        let limit = Instant::now() + Duration::from_secs(30);
        while stop.as_ref().is_ok_and(|status| status.success())
            && Instant::now() < limit
            && matches!(self.outer.try_wait(), Ok(None))
        {
            std::thread::sleep(LOOK);
        }
        // By now it has ended; where it has not, so does what is inside.
        let _ended = self.outer.kill().and_then(|()| self.outer.wait());
        sweep(self.folder.path(), &self.group);
    }
}

/// Removes the control group of a boot.
fn sweep(folder: &Path, group: &str) {
    let script =
        r#"mount -t cgroup2 none "$1/cgroup" && find "$1/cgroup/$2" -depth -type d -exec rmdir {} \;"#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(folder).arg(group);
    let _left = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
