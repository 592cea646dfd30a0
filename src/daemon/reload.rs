//! Changes of a running daemon: one set of settings, handed to everybody whom it concerns.
//!
//! What takes a restart (the account, the endpoints, the socket, the folder) is not looked at: who reloads has kept it as it
//! was, see [`Config::reloaded`](crate::config::Config::reloaded).

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::report::Pace;
use super::{Settings, descriptors, identifiers};
use crate::delivery::{Ask, Manner, Transport};
use crate::figures::{Limits, Meter};
use crate::ingest;
use crate::queue::Store;
use crate::wire::Identifiers;

/// Hands new settings to a running daemon.
#[derive(Clone, Debug)]
pub struct Reloader {
    reloads: mpsc::Sender<Reload>,
    transport: Transport,
}

/// New settings, and who waits until they are in force.
pub(super) struct Reload {
    pub(super) settings: Settings,
    pub(super) done: oneshot::Sender<()>,
}

impl Reloader {
    /// One reload waits at a time.
    pub(super) fn new(transport: Transport) -> (Self, mpsc::Receiver<Reload>) {
        let (reloads, receiver) = mpsc::channel(1);
        (Self { reloads, transport }, receiver)
    }

    /// Puts `settings` in force, and returns once they are; `false` where the daemon ends.
    pub async fn reload(&self, settings: Settings) -> bool {
        let (done, in_force) = oneshot::channel();
        let sent = self.reloads.send(Reload { settings, done }).await;
        sent.is_ok() && in_force.await.is_ok()
    }

    /// Has the file of root certificates that runs read again, and tells what came of it.
    ///
    /// Not where the daemon waits for its end: a disk may never answer. A file that cannot be used holds up nothing else of a
    /// reload, since what was read of it before works on.
    pub async fn read_authorities_again(&self) {
        let transport = self.transport.clone();
        match spawn_blocking(move || transport.read_authorities_again()).await {
            Ok(Ok(true)) => info!(
                event = "certificates_changed",
                "other certificates are trusted, of target.ca_file or of the system: connections that are made from now on go by them"
            ),
            Ok(Err(error)) => warn!(
                event = "certificates_kept", %error,
                "the certificates that were read before stay in force. Mend what the error names, then: target-notifyd check, systemctl reload target-notifyd"
            ),
            // Nothing is new, or the runtime ends.
            Ok(Ok(false)) | Err(_) => {}
        }
    }
}

/// Those whom a reload concerns.
pub(super) struct Reach {
    pub(super) ingest: ingest::Control,
    pub(super) store: Store,
    pub(super) meter: Meter,
    pub(super) log_key: [u8; 16],
    pub(super) identify: watch::Sender<Identifiers>,
    pub(super) pace: watch::Sender<Pace>,
}

impl Reach {
    /// Hands the settings on. The flusher acts on them with its next turn, the writer with its next commit.
    pub(super) async fn apply(&self, mut settings: Settings) {
        settings.ingest.max_connections = descriptors::provide(&settings);
        self.identify.send_replace(identifiers(settings.identifiers, self.log_key));
        let pace = Pace::of(&settings);
        let Settings { ingest, defaults, queue, transport, schedule, .. } = settings;
        self.ingest.change(ingest, Arc::new(defaults));
        self.meter.limit(Limits::of(&queue));
        self.store.limit(queue);
        let manner = Manner { schedule, max_answer: transport.max_answer };
        // A flusher that has ended needs no manners.
        let _ended = self.meter.asks().send(Ask::Change(Box::new(manner))).await;
        self.pace.send_replace(pace);
    }
}
