//! The listening socket: who may ask, and how many at a time.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::connection::{refuse, serve};
use super::{MAX_CONNECTIONS, Office, Settings};
use crate::event::unwritable;
use crate::ingest::{Failures, Obstacle, vacate};

/// Why there is no socket.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AdminError {
    /// Something that is not ours lies at the path.
    #[error("{} {obstacle}, or set another admin.socket", path.display())]
    Taken {
        /// The socket's path.
        path: PathBuf,
        /// What lies there.
        obstacle: Obstacle,
    },
    /// The system refused.
    #[error(
        "the socket {} cannot be made: {source}; {}",
        path.display(), unwritable(source, "check its folder, or set another admin.socket")
    )]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// The operator's socket.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl AdminSocket {
    /// Makes the socket, and its folder where that is absent; a file that a crash left behind is replaced.
    ///
    /// # Errors
    /// [`AdminError`]; nothing was changed then.
    pub fn bind(settings: &Settings) -> Result<Self, AdminError> {
        let path = &settings.socket;
        let failed = |source| AdminError::Io { path: path.clone(), source };
        if let Some(folder) =
            path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        {
            fs::create_dir(folder).map_err(failed)?;
        }
        if let Some(obstacle) = vacate(path).map_err(failed)? {
            return Err(AdminError::Taken { path: path.clone(), obstacle });
        }
        let socket = StdListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, Permissions::from_mode(settings.mode)).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let listener = UnixListener::from_std(socket).map_err(failed)?;
        Ok(Self { listener, path: path.clone() })
    }

    /// Serves until the office closes; returns once every connection has ended, which none delays.
    pub async fn run(self, office: Arc<Office>) {
        let shutdown = office.closing.clone();
        let (mut connections, mut failures) = (JoinSet::new(), Failures::of("admin.socket"));
        loop {
            // What waits for a connection, and `join_next`, lose nothing when they are dropped.
            tokio::select! {
                (stream, _) = failures.outlast(|| self.listener.accept()) => {
                    if !may_ask(&stream) {
                        refuse(&stream, "forbidden", "only root and the daemon's user may ask");
                    } else if connections.len() >= MAX_CONNECTIONS {
                        let message = format!(
                            "{MAX_CONNECTIONS} connections to admin.socket are open, and no more may be: end a target-notifyd tail, status --watch or flush --wait"
                        );
                        refuse(&stream, "too_many_connections", &message);
                    } else {
                        let user = stream.peer_cred().map_or(0, |peer| peer.uid());
                        connections.spawn(serve(stream, user, Arc::clone(&office)));
                    }
                }
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                () = shutdown.cancelled() => break,
            }
        }
        drop(self);
        // None is broken off: they end where they wait for their peer, and between pages. What was taken out of the
        // scheduler must be settled before the flusher ends.
        while connections.join_next().await.is_some() {}
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // While it is still ours: nobody else can have made a socket of that name.
        let _gone = fs::remove_file(&self.path);
    }
}

/// Whether the peer is root or this process's user.
fn may_ask(stream: &UnixStream) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own)
}
