//! What the scheduler has to tell, as log lines: what happened, to which host or event, and what to do.

use std::time::Duration;

use humantime::{FormattedDuration, format_duration};
use tracing::{error, info, warn};

use crate::event::Host;
use crate::schedule::{Cause, MAX_PARKED, Notice, Status, Stuck};
use crate::wire::Identifiers;

/// Logs that delivery is stuck, or goes on, where that changed.
pub(super) fn stuck(found: Option<Stuck>, before: Option<Stuck>, status: Status) {
    match (found, before) {
        (Some(Stuck::Slots), None) => error!(
            event = "stuck", state = ?status,
            "delivery is stuck: every request lasts longer than it may. Check whether the disk answers, then: systemctl restart target-notifyd; events are kept"
        ),
        (Some(Stuck::Due), None) => error!(
            event = "stuck", state = ?status,
            "delivery is stuck: work is due and nothing is attempted. Please report it, then: systemctl restart target-notifyd; events are kept"
        ),
        (Some(Stuck::Store), None) => error!(
            event = "stuck", state = ?status,
            "delivery is stuck: the queue does not answer. Check whether the disk answers, then: systemctl restart target-notifyd; events are kept"
        ),
        (None, Some(_)) => info!(event = "unstuck", "delivery goes on"),
        _ => {}
    }
}

/// A wait in whole milliseconds: a date that a host names leaves more digits than anybody wants to read.
fn shown(wait: Duration) -> FormattedDuration {
    let millis = wait.as_micros().div_ceil(1_000);
    format_duration(Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX)))
}

/// Logs one notice; what a host said in it shows no more than `identifiers` allows.
pub(super) fn log(notice: &Notice, identifiers: Identifiers) {
    match notice {
        Notice::BreakerOpened { host: host @ Host::Edge(_), wait, detail } => warn!(
            event = "breaker_opened", %host, wait = %shown(*wait), detail = %identifiers.said(detail),
            "the host fails: its sessions go to the client's own host, and one request probes it. Nothing is lost; if it stays so: target-notifyd status"
        ),
        Notice::BreakerOpened { host, wait, detail } => warn!(
            event = "breaker_opened", %host, wait = %shown(*wait), detail = %identifiers.said(detail),
            "the host fails: its sessions wait, and one request probes it. Nothing is lost; if it stays so: target-notifyd status"
        ),
        Notice::HostServes { host, at_most } => {
            info!(event = "host_serves", %host, at_most, "requests go to the host again");
        }
        Notice::HostPaused { host, cause: Cause::Misconfigured, detail } => error!(
            event = "host_paused", %host, detail = %identifiers.said(detail),
            "the host is paused: it refuses the account. Check target.client, target.organization_id, target.property_token and the endpoints with target-notifyd check; events are kept, and target-notifyd resume tries at once"
        ),
        Notice::HostPaused { host, cause: Cause::Fuse, detail } => error!(
            event = "host_paused", %host, detail = %identifiers.said(detail),
            "the host is paused: it refuses everything, which is not the events' fault. Events are kept, and single ones probe it; target-notifyd dead list shows what was refused, target-notifyd resume tries at once"
        ),
        Notice::HostBusy { host, wait } => {
            warn!(event = "host_busy", %host, wait = %shown(*wait), "the host is busy, and asked all sessions to wait");
        }
        Notice::Parked { seq, detail } => warn!(
            event = "parked", %seq, detail = %identifiers.said(detail),
            "an event fails by itself: it is parked, tried again at most every retry.max, and holds nothing back; target-notifyd queue shows it"
        ),
        Notice::ParkedFull { seq } => error!(
            event = "parked_full", %seq, limit = MAX_PARKED,
            "an event fails by itself and as many as may be are parked: it holds its session back. See what they share: target-notifyd queue"
        ),
        // Only a number, which is told with others.
        Notice::LeftOut { .. } => {}
        Notice::ArrivedInFuture { seq, ahead } => warn!(
            event = "event_in_future", %seq, ahead = ?ahead,
            "an event arrived in the future: the clock was set back. Nothing expires for queue.max_age; check the time service: timedatectl"
        ),
        Notice::PauseOver { host } => {
            let host = host.map_or_else(|| "all".to_owned(), |host| host.to_string());
            info!(event = "pause_over", %host, "a pause is over, as the operator asked: the host is served again");
        }
        Notice::DeadLettersFull { seq } => error!(
            event = "dead_letters_full", %seq,
            "queue.dead_max_events is reached: an event that should become a dead letter is parked. Make room: target-notifyd dead export --numbers numbers > letters.jsonl && xargs -r -n 5000 target-notifyd dead delete < numbers"
        ),
    }
}
