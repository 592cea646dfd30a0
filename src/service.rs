//! The service manager: what it hands to the process, and what it is told.
//!
//! systemd's protocols, which other managers speak too: inherited sockets by name (`LISTEN_FDS`), the notification socket
//! (`NOTIFY_SOCKET`) and the watchdog (`WATCHDOG_USEC`). Started by hand there is no manager, and all of it does nothing.
//!
//! Guarantees:
//! - the variables are read and unset once, before there is a second thread, so that no child process inherits them;
//! - nothing here ever waits for the manager: a message that it does not take is lost, and that is logged once.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, io};

use sd_notify::NotifyState;
use thiserror::Error;
use tracing::warn;

/// What the status line says after a reload with a configuration that is wrong.
const REFUSED: &str = "the last reload was refused, see the log";

/// Why what the manager handed over cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// `LISTEN_FDS` or `LISTEN_FDNAMES` make no sense, or a descriptor that they promise is not open.
    #[error("the sockets that the service manager hands over cannot be taken: {0}")]
    Sockets(io::Error),
    /// The notification socket cannot be used.
    #[error("the service manager's NOTIFY_SOCKET cannot be used: {0}")]
    Notify(io::Error),
}

/// What the service manager hands over at the start.
#[derive(Debug, Default)]
pub struct Service {
    /// The way to tell it what happens.
    pub manager: Manager,
    /// The sockets, by their names (`FileDescriptorName=`).
    pub sockets: Vec<(String, OwnedFd)>,
}

impl Service {
    /// Takes what the environment announces, and unsets the variables; without them there is no manager.
    ///
    /// It does nothing once the process has a second thread: it is too late for that then.
    ///
    /// # Errors
    /// [`ServiceError`]: what the environment announces is not there.
    #[expect(
        unsafe_code,
        reason = "variables can be unset, and descriptors that are known by their numbers owned, in no other way"
    )]
    pub fn inherit() -> Result<Self, ServiceError> {
        if fs::read_dir("/proc/self/task").map_or(0, Iterator::count) != 1 {
            return Ok(Self::default());
        }
        // SAFETY: this is the only thread, so nobody reads the environment meanwhile. The descriptors are those that the
        // manager opened for this very process (`LISTEN_PID`); nobody else owns them, and with the variables gone nobody
        // takes them a second time.
        let (sockets, watchdog, address) = unsafe {
            let sockets = sd_notify::listen_fds_with_names_and_unset_env().map_err(ServiceError::Sockets)?;
            let sockets = sockets.map(|(number, name)| (name, std::os::fd::FromRawFd::from_raw_fd(number)));
            let sockets: Vec<(String, OwnedFd)> = sockets.collect();
            let watchdog = sd_notify::watchdog_enabled_and_unset_env();
            let address = std::env::var_os("NOTIFY_SOCKET");
            std::env::remove_var("NOTIFY_SOCKET");
            (sockets, watchdog, address)
        };
        let manager = match address {
            Some(address) => Manager::at(address, watchdog).map_err(ServiceError::Notify)?,
            None => Manager::default(),
        };
        Ok(Self { manager, sockets })
    }
}

/// Tells the service manager what happens; where there is none, nobody.
#[derive(Clone, Debug, Default)]
pub struct Manager(Option<Arc<Link>>);

#[derive(Debug)]
struct Link {
    socket: UnixDatagram,
    address: SocketAddr,
    watchdog: Option<Duration>,
    /// Whether it was logged that messages are lost.
    lost: AtomicBool,
    /// Whether the last reload changed nothing because the configuration is wrong.
    refused: AtomicBool,
}

impl Manager {
    /// The manager that listens on `address`, a path or `@` and an abstract name.
    pub(crate) fn at(address: OsString, watchdog: Option<Duration>) -> io::Result<Self> {
        let address = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(&address)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let (lost, refused) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self(Some(Arc::new(Link { socket, address, watchdog, lost, refused }))))
    }

    /// A reload is over, and its configuration was taken or not; the status line says so until the next one.
    pub fn reloaded(&self, taken: bool) {
        if let Some(link) = &self.0 {
            link.refused.store(!taken, Ordering::Relaxed);
        }
        match taken {
            true => self.ready(),
            false => self.tell(&[NotifyState::Ready, NotifyState::Status(REFUSED)]),
        }
    }

    /// How long the manager waits for the next [`Manager::alive`] before it restarts the daemon, if it does.
    #[must_use]
    pub fn watchdog(&self) -> Option<Duration> {
        self.0.as_ref()?.watchdog.filter(|limit| !limit.is_zero())
    }

    /// Whether there is one.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// Events are taken in; a reload is over.
    pub fn ready(&self) {
        self.tell(&[NotifyState::Ready]);
    }

    /// What `systemctl status` shows, in one line.
    pub fn status(&self, line: &str) {
        let refused = self.0.as_ref().is_some_and(|link| link.refused.load(Ordering::Relaxed));
        let line = line.replace(char::is_control, " ");
        let line = if refused { format!("{line}; {REFUSED}") } else { line };
        self.tell(&[NotifyState::Status(&line)]);
    }

    /// A reload begins; [`Manager::ready`] ends it.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            // In one message: systemd 253 and later wait for a reload that is younger than their own signal.
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(_) => self.tell(&[NotifyState::Reloading]),
        }
    }

    /// The end begins, and may take `longest` before the manager hears more.
    pub fn stopping(&self, longest: Duration) {
        self.tell(&[NotifyState::Stopping, extended(longest)]);
    }

    /// The start or the end goes on, and may take `longest` before the manager hears more.
    pub fn extend(&self, longest: Duration) {
        self.tell(&[extended(longest)]);
    }

    /// The daemon makes progress: feeds the watchdog.
    pub fn alive(&self) {
        self.tell(&[NotifyState::Watchdog]);
    }

    fn tell(&self, states: &[NotifyState<'_>]) {
        let Some(link) = &self.0 else { return };
        let text: String = states.iter().map(|state| format!("{state}\n")).collect();
        let sent = link.socket.send_to_addr(text.as_bytes(), &link.address);
        if let Err(error) = sent
            && !link.lost.swap(true, Ordering::Relaxed)
        {
            warn!(event = "manager_silent", %error, "the service manager does not take a message: what it shows may be old");
        }
    }
}

fn extended(longest: Duration) -> NotifyState<'static> {
    NotifyState::ExtendTimeoutUsec(u32::try_from(longest.as_micros()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 1_024];
        let count = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    #[test]
    fn the_manager_hears_each_state_at_a_path_and_at_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("target-notifyd-{}", uuid::Uuid::new_v4());
        let named = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let lying = UnixDatagram::bind(&path).unwrap();
        for (socket, address) in [(lying, path.into_os_string()), (named, format!("@{name}").into())] {
            let manager = Manager::at(address, Some(Duration::from_secs(3))).unwrap();
            assert!(manager.is_there() && manager.watchdog() == Some(Duration::from_secs(3)));
            manager.ready();
            assert_eq!(heard(&socket), "READY=1\n");
            manager.status("5 pending\nREADY=1");
            assert_eq!(heard(&socket), "STATUS=5 pending READY=1\n");
            manager.reloaded(false);
            assert_eq!(heard(&socket), format!("READY=1\nSTATUS={REFUSED}\n"));
            manager.status("none pending");
            assert_eq!(heard(&socket), format!("STATUS=none pending; {REFUSED}\n"));
            manager.reloaded(true);
            assert_eq!(heard(&socket), "READY=1\n");
            manager.reloading();
            let told = heard(&socket);
            let moment = told.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
            assert!(moment.trim().parse::<u64>().unwrap() > 0, "{told}");
            manager.stopping(Duration::from_secs(15));
            assert_eq!(heard(&socket), "STOPPING=1\nEXTEND_TIMEOUT_USEC=15000000\n");
            manager.extend(Duration::from_secs(9_999));
            assert_eq!(heard(&socket), format!("EXTEND_TIMEOUT_USEC={}\n", u32::MAX));
            manager.alive();
            assert_eq!(heard(&socket), "WATCHDOG=1\n");
        }
    }

    #[test]
    fn without_a_manager_and_with_one_that_went_away_nothing_happens() {
        let none = Manager::default();
        none.ready();
        assert!(!none.is_there() && none.watchdog().is_none());
        let folder = tempfile::tempdir().unwrap();
        let gone = Manager::at(folder.path().join("gone").into_os_string(), None).unwrap();
        gone.ready();
        gone.alive();
    }

    #[test]
    fn beside_other_threads_nothing_is_taken() {
        let other = std::thread::spawn(std::thread::park);
        let service = Service::inherit().unwrap();
        assert!(service.sockets.is_empty() && !service.manager.is_there());
        other.thread().unpark();
        other.join().unwrap();
    }
}
