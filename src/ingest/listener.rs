//! The listening socket: who may connect, and how many.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockType, SockaddrLike, UnixAddr, getsockname, getsockopt, sockopt};
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::connection::{Shared, serve};
use super::vacate::{Obstacle, vacate};
use super::{Admission, Control, Counts, Failures, MAX_SLIP_BYTES, Settings};
use crate::event::{noun, unwritable};
use crate::wire::reply::{self, Code, Rejection, Unavailable};

/// What a producer over the connection limit is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why the socket could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BindError {
    /// Something that is not ours lies at the path.
    #[error("{} {obstacle}, or set another ingest.socket", path.display())]
    Taken {
        /// The socket's path.
        path: PathBuf,
        /// What lies there.
        obstacle: Obstacle,
    },
    /// The inherited socket is of another kind.
    #[error(
        "the socket \"notify\" that was handed over is no listening Unix stream socket: set ListenStream= to a path in the socket unit"
    )]
    Inherited,
    /// The system refused.
    #[error(
        "the socket {} cannot be made: {source}; {}",
        path.display(), unwritable(source, "check that its folder exists and may be written")
    )]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// The producers' socket.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    /// Where producers find it, for the log.
    place: String,
    /// The path of one that we made.
    own: Option<PathBuf>,
    counts: Arc<Counts>,
    control: Control,
}

impl Listener {
    /// Makes the socket; a file that a crash left behind is replaced, one that is served is not.
    ///
    /// # Errors
    /// [`BindError`]; nothing was changed then.
    pub fn bind(control: Control) -> Result<Self, BindError> {
        let rules = control.rules();
        let path = &rules.settings.socket;
        let failed = |source| BindError::Io { path: path.clone(), source };
        if let Some(obstacle) = vacate(path).map_err(failed)? {
            return Err(BindError::Taken { path: path.clone(), obstacle });
        }
        let socket = StdListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(rules.settings.mode))
            .map_err(failed)?;
        Self::on(socket, path.display().to_string(), Some(path.clone()), control)
    }

    /// Takes over a socket that another process made, and listens on: a service manager keeps it over restarts. It stays
    /// as it is, with the mode and the owner that it has.
    ///
    /// # Errors
    /// [`BindError::Inherited`]: it is of another kind.
    pub fn inherited(socket: OwnedFd, control: Control) -> Result<Self, BindError> {
        let listens = getsockopt(&socket, sockopt::AcceptConn) == Ok(true)
            && getsockopt(&socket, sockopt::SockType) == Ok(SockType::Stream);
        let address = getsockname::<UnixAddr>(socket.as_raw_fd());
        let Some(address) = address.ok().filter(|one| listens && one.family() == Some(AddressFamily::Unix))
        else {
            return Err(BindError::Inherited);
        };
        let configured = &control.rules().settings.socket;
        if address.path() != Some(configured) {
            warn!(
                event = "socket_differs", inherited = %address, configured = %configured.display(),
                "the inherited socket has another path than ingest.socket: the inherited one is served"
            );
        }
        Self::on(StdListener::from(socket), address.to_string(), None, control)
    }

    fn on(
        socket: StdListener,
        place: String,
        own: Option<PathBuf>,
        control: Control,
    ) -> Result<Self, BindError> {
        let failed = |source| BindError::Io { path: control.rules().settings.socket.clone(), source };
        socket.set_nonblocking(true).map_err(failed)?;
        let socket = UnixListener::from_std(socket).map_err(failed)?;
        Ok(Self { socket, place, own, counts: Arc::default(), control })
    }

    /// Where it is: an inherited one may lie elsewhere than is configured.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// What comes in, in numbers.
    #[must_use]
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// Serves producers until `shutdown` is cancelled; returns once every connection has ended. A socket of our own is gone
    /// then, and who had connected to it by that time was served.
    pub async fn run<A, C>(self, admission: A, wall_ms: C, shutdown: CancellationToken)
    where
        A: Admission,
        C: Fn() -> u64 + Send + Sync + 'static,
    {
        let Self { socket, own, counts, control, .. } = self;
        let slips = Arc::new(Semaphore::new(MAX_SLIP_BYTES / 1_024));
        let stop = shutdown.clone();
        let shared = Arc::new(Shared { control, admission, wall_ms, slips, shutdown, counts });
        let mut crowd =
            Crowd { shared, connections: JoinSet::new(), by_user: HashMap::new(), last_producer: 0 };
        let mut failures = Failures::of("ingest.socket");
        loop {
            // What waits for a connection, and `join_next`, lose nothing when they are dropped.
            tokio::select! {
                (stream, _) = failures.outlast(|| socket.accept()) => crowd.admit(stream),
                Some(Ok(user)) = crowd.connections.join_next(), if !crowd.connections.is_empty() => crowd.ended(user),
                () = stop.cancelled() => break,
            }
        }
        if let Some(path) = own {
            // While the queue is locked, so that no other daemon can have made it. Before the last are taken: none comes after them.
            let _gone = std::fs::remove_file(path);
            waiting(socket).for_each(|stream| crowd.admit(stream));
        } else {
            // Whoever waits in it waits for the next start.
            drop(socket);
        }
        while crowd.connections.join_next().await.is_some() {}
    }
}

/// Those who have connected and were not taken yet. Not by way of the runtime, which knows only what it has heard of so far.
fn waiting(socket: UnixListener) -> impl Iterator<Item = UnixStream> {
    let socket = socket.into_std().ok();
    std::iter::from_fn(move || {
        let (stream, _) = socket.as_ref()?.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        UnixStream::from_std(stream).ok()
    })
}

/// Everybody who is connected.
struct Crowd<A, C> {
    shared: Arc<Shared<A, C>>,
    /// Each ends with its user.
    connections: JoinSet<u32>,
    by_user: HashMap<u32, usize>,
    last_producer: u64,
}

impl<A, C> Crowd<A, C>
where
    A: Admission,
    C: Fn() -> u64 + Send + Sync + 'static,
{
    /// Serves a peer, or turns it away.
    fn admit(&mut self, stream: UnixStream) {
        let Ok(peer) = stream.peer_cred() else { return };
        let (user, all) = (peer.uid(), self.connections.len());
        let own = self.by_user.get(&user).copied().unwrap_or(0);
        if let Some(line) = refusal(&self.shared.control.rules().settings, user, peer.gid(), all, own) {
            self.shared.counts.turned_away.add(1);
            refuse(&stream, &line);
            return;
        }
        self.by_user.insert(user, own + 1);
        self.last_producer += 1;
        self.shared.counts.connections.add(1);
        let (producer, shared) = (self.last_producer, Arc::clone(&self.shared));
        self.connections.spawn(async move {
            serve(stream, user, producer, shared).await;
            user
        });
    }

    fn ended(&mut self, user: u32) {
        self.shared.counts.connections.remove(1);
        if let Some(count) = self.by_user.get_mut(&user) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_user.remove(&user);
            }
        }
    }
}

/// The line that a peer is turned away with, if it is.
fn refusal(settings: &Settings, user: u32, group: u32, all: usize, own: usize) -> Option<String> {
    let listed = settings.allow_users.contains(&user) || settings.allow_groups.contains(&group);
    let open = settings.allow_users.is_empty() && settings.allow_groups.is_empty();
    if !listed && !open {
        let message = format!("user {user} may not submit events (ingest.allow_users, ingest.allow_groups)");
        let rejection = Rejection { code: Code::Forbidden, message, path: None, reference: None };
        return Some(reply::rejected(&rejection));
    }
    let limits = [
        ("ingest.max_connections", all >= settings.max_connections),
        ("ingest.max_connections_per_user", own >= settings.max_connections_per_user),
    ];
    let (limit, _) = limits.into_iter().find(|(_, is_reached)| *is_reached)?;
    let are = noun(all as u64, "connection is open", "connections are open");
    let message = format!("{all} {are}, {own} of them by user {user} ({limit})");
    Some(reply::unavailable(Unavailable::TooManyConnections, &message, None, RETRY_AFTER))
}

/// Writes the one line; a new socket's empty buffer takes it at once, so nobody waits for the peer.
fn refuse(stream: &UnixStream, line: &str) {
    if let Err(error) = stream.try_write(format!("{line}\n").as_bytes()) {
        debug!(event = "refusal_untold", %error, "a connection was refused, and could not be told why; the summary counts it as turned away");
    }
}
