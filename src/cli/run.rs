//! `run`: the daemon, what it is made of, and what it ends with.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::Exit;
use super::reload::Reloads;
use super::signals::{on_end_of_input, on_signals};
use crate::config::{Config, Sources};
use crate::daemon::{self, Daemon, DaemonError};
use crate::event::Account;
use crate::queue::OpenError;
use crate::service::Service;
use crate::telemetry::Logging;
use crate::trial::UNTIL_EOF;
use crate::{admin, queue, schedule};

/// What a daemon comes from beside its configuration.
pub(super) struct Environment {
    pub(super) sources: Sources,
    pub(super) logging: Logging,
    pub(super) service: Service,
}

/// Takes events in and delivers them, until a signal.
pub(super) async fn run(config: Config, account: Account, adopt: bool, environment: Environment) -> Exit {
    let Environment { sources, logging, service } = environment;
    let shutdown = CancellationToken::new();
    let is_trial = std::env::var_os(UNTIL_EOF).is_some();
    if is_trial && let Err(error) = on_end_of_input(shutdown.clone()) {
        error!(
            event = "input_failed", %error,
            "the daemon is to run until its standard input ends, and that is no pipe. Unset TARGET_NOTIFYD_UNTIL_EOF, which demo and bench alone need: target-notifyd run ends with a signal then"
        );
        return Exit::Configuration;
    }
    // From here on SIGHUP ends nothing; one that comes too early is answered as soon as the daemon runs.
    let hangups = match on_signals(shutdown.clone()).and_then(|()| signal(SignalKind::hangup())) {
        Ok(hangups) => hangups,
        Err(error) => {
            error!(event = "signals_failed", %error, "signals cannot be listened for; check the limits with ulimit -a");
            return Exit::Disk;
        }
    };
    let manager = service.manager.clone();
    let settings = move |config: &Config| settings(config, account.clone(), adopt);
    let opened = tokio::select! {
        opened = Daemon::open_under(settings(&config), service) => opened,
        // What is cut off here is as safe as at a kill, and may take minutes: nobody was answered yet.
        () = shutdown.cancelled() => {
            info!(event = "opening_ended", "the daemon was told to end while it opened the queue, and ends at once");
            return Exit::Success;
        }
    };
    let ended = match opened {
        Ok(daemon) => {
            let reloader = daemon.reloader();
            Reloads { sources, running: config, settings, logging, reloader, manager }.spawn(hangups);
            daemon.run(shutdown).await
        }
        Err(failure) => Err(failure),
    };
    match ended {
        Ok(_) => Exit::Success,
        Err(failure) => {
            match &failure {
                DaemonError::Open(error @ OpenError::OtherAccount { .. }) => error!(
                    event = "account_mismatch", %error,
                    "the queue belongs to another account. Set target.client and target.organization_id back, or send its events to the new account: target-notifyd run --adopt-queue"
                ),
                error => error!(
                    event = "failed", %error,
                    "the daemon ended; systemctl status target-notifyd shows its exit code"
                ),
            }
            exit(&failure)
        }
    }
}

fn exit(failure: &DaemonError) -> Exit {
    match failure {
        DaemonError::Bind(_) | DaemonError::Metrics(_) => Exit::Socket,
        DaemonError::Transport(_) => Exit::Configuration,
        DaemonError::Open(OpenError::InUse(_)) => Exit::InUse,
        DaemonError::Open(OpenError::Newer { .. } | OpenError::OtherAccount { .. }) => Exit::Configuration,
        _ => Exit::Disk,
    }
}

pub(super) fn settings(config: &Config, account: Account, adopt: bool) -> daemon::Settings {
    let queue = &config.queue;
    daemon::Settings {
        ingest: config.ingest_settings(),
        defaults: config.wire_defaults(Some(jiff::tz::TimeZone::system())),
        queue: queue::Settings {
            path: queue.path.clone(),
            max_bytes: queue.max_bytes,
            max_events: queue.max_events,
            min_free: queue.min_free,
            reserve: queue.reserve,
            dead_max_events: queue.dead_max_events,
            journal_bytes: queue::journal_bytes(queue.max_bytes),
            adopt,
        },
        transport: config.transport_settings(&account),
        schedule: schedule(config),
        grace: config.shutdown.grace,
        summary_interval: config.log.summary_interval,
        identifiers: config.log.identifiers,
        dead_max_age: config.queue.dead_max_age,
        admin: admin::Settings { socket: config.admin.socket.clone(), mode: config.admin.mode },
        metrics_listen: config.admin.metrics_listen.clone(),
        account,
    }
}

pub(super) fn schedule(config: &Config) -> schedule::Settings {
    let (batch, retry, delivery) = (&config.batch, &config.retry, &config.delivery);
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    schedule::Settings {
        linger: batch.linger,
        max_events: count(batch.max_events),
        max_bytes: batch.max_bytes,
        backoff: config.backoff(),
        isolate_after: retry.isolate_after,
        park_after: retry.park_after,
        unlisted_max: retry.unlisted_max,
        concurrency: count(delivery.concurrency),
        host_concurrency: count(delivery.host_concurrency),
        max_hosts: count(delivery.max_hosts),
        rate_limit: delivery.rate_limit,
        breaker_failures: delivery.breaker_failures,
        breaker_open: delivery.breaker_open,
        breaker_max: delivery.breaker_max,
        max_age: config.queue.max_age,
        index_max_bytes: config.queue.index_max_bytes,
        default_cluster: config.target.location_hint,
        edge_routing: config.target.edge_endpoint.is_some(),
        slot_limit: config.target.timeout + delivery.stuck_after,
        stuck_after: delivery.stuck_after,
    }
}
