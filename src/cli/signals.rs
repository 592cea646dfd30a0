//! What signals end, and the end of whoever started this.

use std::io;
use std::os::fd::AsFd;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Exit;

/// The first SIGTERM or SIGINT ends the daemon in order, a second one at once, which is as safe as a kill.
pub(super) fn on_signals(shutdown: CancellationToken) -> io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    // Not joined: it waits for signals for as long as the process lives.
    tokio::spawn(async move {
        loop {
            // A signal that comes while none is waited for is kept by the runtime.
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if shutdown.is_cancelled() {
                warn!(
                    event = "second_signal",
                    "a second signal: the daemon ends at once; nothing acknowledged is lost"
                );
                std::process::exit(i32::from(Exit::Success as u8));
            }
            shutdown.cancel();
        }
    });
    Ok(())
}

/// The end of standard input, which has to be a pipe, ends the daemon in order.
pub(super) fn on_end_of_input(shutdown: CancellationToken) -> io::Result<()> {
    let mut input = Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)?;
    // Not joined: it waits for as long as the process lives.
    tokio::spawn(async move {
        let mut some = [0; 64];
        while matches!(input.read(&mut some).await, Ok(1..)) {}
        shutdown.cancel();
    });
    Ok(())
}

/// SIGTERM, SIGINT and SIGHUP, which the end of the terminal sends, end a command that has a daemon and a folder of its
/// own. Further signals change nothing: all that is left is to end that daemon and to remove that folder, which takes a
/// moment.
pub(super) fn on_ends(shutdown: &CancellationToken) -> io::Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()] {
        // Under nohup it is to outlive the terminal.
        if kind == SignalKind::hangup() && ignores_hangups() {
            continue;
        }
        let (mut signals, shutdown) = (signal(kind)?, shutdown.clone());
        // Not joined: it waits for signals for as long as the process lives.
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                shutdown.cancel();
            }
        });
    }
    Ok(())
}

/// Whether whoever started this process had it ignore SIGHUP.
fn ignores_hangups() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // The lowest bit is signal 1.
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
