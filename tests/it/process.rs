//! The real executable in a process of its own.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// No start and no end takes as long.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// A command of the executable, configured for `folder` and `endpoint`; what `arguments` set wins.
pub(crate) fn command(folder: &Path, endpoint: &str, arguments: &[&str]) -> Command {
    let file = folder.join("config.toml");
    let (socket, queue) = (folder.join("notify.sock"), folder.join("queue"));
    let text = format!(
        r#"
[target]
client = "acme"
organization_id = "0DD9@AdobeOrg"
endpoint = "{endpoint}"
[ingest]
socket = "{}"
[queue]
path = "{}"
min_free = "0B"
reserve = "0B"
[batch]
linger = "10ms"
[retry]
initial = "10ms"
max = "100ms"
[delivery]
breaker_open = "10ms"
breaker_max = "50ms"
[log]
format = "json"
[admin]
socket = "{}"
"#,
        socket.display(),
        queue.display(),
        folder.join("admin.sock").display(),
    );
    std::fs::write(&file, text).expect("the configuration can be written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_target-notifyd"));
    command.args(arguments).arg("--config").arg(file);
    command
}

pub(crate) fn connect(folder: &Path) -> UnixStream {
    let until = Instant::now() + LIMIT;
    loop {
        match UnixStream::connect(folder.join("notify.sock")) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < until, "the daemon does not come up: {error}"),
        }
        std::thread::yield_now();
    }
}

/// SIGTERM, and the end in order.
pub(crate) fn terminate(daemon: &mut Child) -> ExitStatus {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).expect("a process id"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("the daemon is there");
    daemon.wait().expect("the daemon ends")
}
