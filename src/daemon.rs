//! The daemon: the producers' socket, the queue and the flusher, joined; and the order in which they end.
//!
//! Guarantees:
//! - producers are served as soon as the queue is open; what it already holds is delivered beside that;
//! - at the end producers are answered first, then requests under way are waited for, then the queue is closed: nothing
//!   that was acknowledged depends on any of it.

mod aging;
mod aside;
mod descriptors;
mod desk;
pub mod metrics;
mod pulse;
mod readers;
mod reload;
mod report;
mod running;
pub mod scrape;
mod shelf;
#[cfg(test)]
mod stage;
mod teller;
mod timekeeper;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::aside::Aside;
pub use self::descriptors::Files;
use self::desk::Desk;
use self::pulse::Pulse;
pub use self::reload::Reloader;
use self::reload::{Reach, Reload};
use self::report::{Pace, Reporter};
use self::running::Running;
use self::scrape::{ListenError, Scraped};
use self::shelf::{Door, Shelf, blocking};
use self::teller::Teller;
use self::timekeeper::Timekeeper;
use crate::admin::{self, AdminSocket, Office};
use crate::config::IdentifierForm;
use crate::delivery::{self, Ask, Feed, Flusher, KnownVisitors, Transport, TransportError};
use crate::event::{Account, Clock, Moment};
use crate::figures::{Limits, Meter, Sources};
use crate::ingest::{self, BindError, Listener};
use crate::queue::{self, Failed, Ledger, OpenError, Queue, Store};
use crate::schedule::{self, LEARNED_FOR, MAX_LEARNED, Scheduler};
use crate::service::{Manager, Service};
use crate::wire::Identifiers;
use crate::wire::defaults::Defaults;

/// The most questions to the flusher that wait.
const WAITING_ASKS: usize = 64;
/// The name of the inherited socket that producers connect to.
pub const SOCKET_NAME: &str = "notify";
/// The name under which the queue keeps the key of the log's hashes.
const LOG_KEY: &str = "log-key";

/// Everything that a daemon is made from.
#[derive(Clone)]
pub struct Settings {
    /// The account that events are for.
    pub account: Account,
    /// The producers' socket.
    pub ingest: ingest::Settings,
    /// What is filled in.
    pub defaults: Defaults,
    /// The queue.
    pub queue: queue::Settings,
    /// The way to Target.
    pub transport: delivery::Settings,
    /// Batches, retries, limits.
    pub schedule: schedule::Settings,
    /// How long requests under way are waited for at the end (`shutdown.grace`).
    pub grace: Duration,
    /// How often the account is logged (`log.summary_interval`).
    pub summary_interval: Duration,
    /// How ids of visitors are logged (`log.identifiers`).
    pub identifiers: IdentifierForm,
    /// The operator's socket.
    pub admin: admin::Settings,
    /// After this long a dead letter is deleted (`queue.dead_max_age`); zero: never.
    pub dead_max_age: Duration,
    /// Where metrics are served (`admin.metrics_listen`); `None`: nowhere.
    pub metrics_listen: Option<String>,
}

/// Why the daemon did not start, or ended early.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// The queue does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The socket cannot be made.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The metrics cannot be served.
    #[error(transparent)]
    Metrics(#[from] ListenError),
    /// The settings of the transport are wrong.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] Failed),
    /// There may be no more threads.
    #[error(
        "the threads that read the queue cannot be started: {0}. Check the limits: ulimit -a, and TasksMax= of the service"
    )]
    Threads(std::io::Error),
    /// The system gives too little for the runtime of delivery.
    #[error(
        "delivery cannot be started: {0}. Check the limits: ulimit -a, and TasksMax= and LimitNOFILE= of the service"
    )]
    Delivering(std::io::Error),
    /// The flusher ended because the queue cannot be read.
    #[error("delivery ended: {0}")]
    Delivery(String),
    /// A part of the daemon panicked, which is a bug.
    #[error("a task of the daemon panicked, please report it: {0}")]
    Panic(#[from] JoinError),
}

/// A daemon whose queue is open and whose socket is made.
pub struct Daemon {
    settings: Settings,
    clock: Clock,
    queue: Queue,
    store: Store,
    control: ingest::Control,
    administered: Option<AdminSocket>,
    listener: Listener,
    transport: Transport,
    went: Arc<delivery::Counts>,
    meter: Meter,
    asks: mpsc::Receiver<Ask>,
    manager: Manager,
    reloader: Reloader,
    reloads: mpsc::Receiver<Reload>,
    scraped: Option<Scraped>,
}

impl Daemon {
    /// Opens the queue, then makes the socket. Nothing is served before [`Daemon::run`].
    ///
    /// # Errors
    /// [`DaemonError`]: what is stored stays stored.
    pub async fn open(settings: Settings) -> Result<Self, DaemonError> {
        Self::open_under(settings, Service::default()).await
    }

    /// As [`Daemon::open`], under a service manager: the socket [`SOCKET_NAME`] that it hands over is served instead of one of
    /// our own, and it is told what happens.
    ///
    /// # Errors
    /// [`DaemonError`]: what is stored stays stored.
    pub async fn open_under(mut settings: Settings, service: Service) -> Result<Self, DaemonError> {
        // Before anything is opened.
        settings.ingest.max_connections = descriptors::provide(&settings);
        let clock = Clock::start();
        let of = settings.transport.clone();
        // Not here: it waits for the disks of certificates, and an end does not wait for them.
        let transport = tokio::task::spawn_blocking(move || Transport::new(of)).await??;
        if let Some(error) = transport.unread_authorities() {
            warn!(
                event = "certificates_unread", %error,
                "some root certificates of the system are not trusted. Mend what the error names, then: target-notifyd check, systemctl reload target-notifyd"
            );
        }
        let (queue_settings, account) = (settings.queue.clone(), settings.account.clone());
        let open = move || Queue::open(queue_settings, &account, Arc::new(move || clock.now()));
        let opening = tokio::task::spawn_blocking(open);
        let queue = pulse::opened(&service.manager, &settings.queue.path, opening).await??;
        // After the queue: whoever holds its lock owns the sockets too. The producers' one last: who finds that finds the other.
        let administered = administered(&settings.admin);
        let control = ingest::Control::new(settings.ingest.clone(), Arc::new(settings.defaults.clone()));
        let listener = match inherited(service.sockets) {
            Some(socket) => Listener::inherited(socket, control.clone())?,
            None => Listener::bind(control.clone())?,
        };
        let scraped = settings.metrics_listen.as_deref().map(Scraped::bind).transpose()?;
        let (store, went) = (queue.store(), Arc::new(delivery::Counts::default()));
        let (ask, asks) = mpsc::channel(WAITING_ASKS);
        let meter = Meter::new(Sources {
            store: store.clone(),
            folder: settings.queue.path.clone(),
            limits: Limits::of(&settings.queue),
            clock,
            came: listener.counts(),
            went: Arc::clone(&went),
            asks: ask,
        });
        let (reloader, reloads) = Reloader::new(transport.clone());
        let manager = service.manager;
        Ok(Self {
            settings,
            clock,
            queue,
            store,
            control,
            administered,
            listener,
            transport,
            went,
            meter,
            asks,
            manager,
            reloader,
            reloads,
            scraped,
        })
    }

    /// The way to change it while it runs.
    #[must_use]
    pub fn reloader(&self) -> Reloader {
        self.reloader.clone()
    }

    /// The figures of the daemon, told while it runs. A meter keeps the queue's files open: drop it for another opening.
    #[must_use]
    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }

    /// Where the metrics are served.
    #[must_use]
    pub fn metrics_address(&self) -> Option<std::net::SocketAddr> {
        self.scraped.as_ref().and_then(|scraped| scraped.address().ok())
    }

    /// The account as it changes, by whole commits.
    #[must_use]
    pub fn ledger(&self) -> watch::Receiver<Ledger> {
        self.store.watch()
    }

    /// Runs until `shutdown`, and returns the account.
    ///
    /// # Errors
    /// [`DaemonError`]: what is stored stays stored.
    pub async fn run(self, shutdown: CancellationToken) -> Result<Ledger, DaemonError> {
        let mut running = self.start(shutdown.child_token()).await?;
        let why = running.watch().await;
        running.end(why).await
    }

    /// Starts the parts; producers after all that may fail, and that takes descriptors: they may take what is left of them.
    async fn start(self, closing: CancellationToken) -> Result<Running, DaemonError> {
        let balance = self.store.ledger().balance;
        info!(
            event = "started", socket = %self.listener.place(), pending = balance.pending(), accepted = balance.accepted,
            "the daemon takes events in"
        );
        let set = timekeeper::clock_set(&self.store, self.settings.schedule.max_age)?;
        let scheduler = self.scheduler(set)?;
        let Self { settings, clock, mut queue, store, control, listener, transport, went, meter, .. } = self;
        let Self { administered, asks, manager, scraped, reloads, .. } = self;

        let (desk, feed) = (Desk::default(), Feed::default());
        let (pace, paces) = watch::channel(Pace::of(&settings));
        let (log_key, held) = (log_key(&store)?, admin::restored_sessions(&store)?);
        let (identify, identifiers) = watch::channel(identifiers(settings.identifiers, log_key));
        let shelf = Shelf::new(store.clone(), desk.clone()).map_err(DaemonError::Threads)?;
        let (stopped, mut beside) = (CancellationToken::new(), JoinSet::new());
        let flusher = Flusher {
            backlog: shelf.clone(),
            edge: transport,
            scheduler,
            now: Arc::new(move || clock.now()),
            identifiers: identifiers.clone(),
            counts: went,
            feed: feed.clone(),
            grace: settings.grace,
            known: KnownVisitors::new(MAX_LEARNED, LEARNED_FOR),
        };
        let (teller, live, tail) = Teller::new(&mut queue);
        let delivery = flusher.run(live, tail, asks, stopped.clone());
        let delivering = Aside::start(delivery).map_err(DaemonError::Delivering)?;
        beside.spawn(teller.run(stopped.clone()));

        let mut serving = JoinSet::new();
        let office = Office {
            store: store.clone(),
            bury: Box::new(move |buried| shelf.clone().bury(buried)),
            meter: meter.clone(),
            clock,
            identifiers,
            feed,
            account: settings.account,
            held: Mutex::new(held),
            closing: closing.clone(),
        };
        if let Some(socket) = administered {
            serving.spawn(socket.run(Arc::new(office)));
        }
        let door = Door { appender: queue.appender(), desk };
        serving.spawn(listener.run(door, move || clock.wall_ms(), closing.clone()));

        let timekeeper =
            Timekeeper { store: store.clone(), clock, asks: meter.asks().clone(), pace: paces.clone(), set };
        beside.spawn(timekeeper.run(stopped.clone()));
        let reporter = Reporter { store: store.clone(), meter: meter.clone(), pace: paces };
        beside.spawn(reporter.run(stopped.clone()));
        if let Some(scraped) = scraped {
            beside.spawn(scraped.run(meter.clone(), stopped.clone()));
        }
        let over = CancellationToken::new();
        let pulse = Pulse {
            manager: manager.clone(),
            store: store.clone(),
            meter: meter.clone(),
            grace: settings.grace,
        };
        let pulse = tokio::spawn(pulse.run(closing.clone(), over.clone()));
        let reach = Reach { ingest: control, store: store.clone(), meter, log_key, identify, pace };
        manager.ready();
        let over = over.drop_guard();
        Ok(Running {
            queue,
            store,
            reach,
            reloads,
            serving,
            closing,
            delivering,
            beside,
            stopped,
            pulse,
            over,
        })
    }

    /// What decides, with what an earlier process has left to it, which last saw the clock `set`.
    fn scheduler(&self, set: Option<Moment>) -> Result<Scheduler, Failed> {
        let now = self.clock.now();
        let mut scheduler = Scheduler::new(self.settings.schedule.clone(), now.as_micros());
        if let Some(set) = set {
            // One that lies ahead was set back since.
            scheduler.delay_expiry(set.min(now).after(self.settings.schedule.max_age));
        }
        scheduler.restore(now, admin::restored(&self.store)?);
        Ok(scheduler)
    }
}

/// The operator's socket. Without one events are taken in and delivered all the same.
fn administered(settings: &admin::Settings) -> Option<AdminSocket> {
    AdminSocket::bind(settings)
        .inspect_err(|error| {
            error!(
                event = "admin_failed", %error,
                "the admin socket cannot be made: status, queue and the like do not work. Events are delivered; set admin.socket, then: systemctl restart target-notifyd"
            );
        })
        .ok()
}

/// The producers' socket among those that were handed over.
fn inherited(sockets: Vec<(String, OwnedFd)>) -> Option<OwnedFd> {
    let mut found = None;
    for (name, socket) in sockets {
        if name == SOCKET_NAME && found.is_none() {
            found = Some(socket);
        } else {
            warn!(event = "socket_unserved", %name, "a socket was handed over that nobody here serves: it is closed. Name one \"notify\" with FileDescriptorName=: systemctl edit target-notifyd.socket");
        }
    }
    found
}

/// How ids of visitors appear.
fn identifiers(form: IdentifierForm, log_key: [u8; 16]) -> Identifiers {
    match form {
        IdentifierForm::Plain => Identifiers::Plain,
        IdentifierForm::None => Identifiers::None,
        IdentifierForm::Hash => Identifiers::Hash(log_key),
    }
}

/// The key of the hashes of ids. It lives in the queue, so that lines of one queue can be held against each other over
/// restarts; made at the first start, whether it is used or not: a reload may find a disk without room for it. Where there is
/// none until its end, the next start makes another key.
fn log_key(store: &Store) -> Result<[u8; 16], Failed> {
    let kept = store.meta(LOG_KEY)?.and_then(|key| key.try_into().ok());
    if let Some(key) = kept {
        return Ok(key);
    }
    let key = *uuid::Uuid::new_v4().as_bytes();
    // Not waited for: on a disk without room a start would take nothing in, answer nobody, and hear of no end.
    drop(store.put_meta(LOG_KEY, key.to_vec()));
    Ok(key)
}
