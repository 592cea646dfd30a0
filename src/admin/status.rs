//! `status`: the one screen.

use std::collections::BTreeMap;

use super::connection::{Answered, Peer};
use super::names::seconds;
use super::office::{Limits, Office, Refusal};
use super::protocol::{Advice, Answer, Done, Hold, HostLine, Pause, Status, VERSION};
use crate::daemon::figures::Figures;
use crate::delivery::Backlog;
use crate::event::{Host, Lane, Moment, Seq};
use crate::schedule::{Cause, Controls, Hindrance, HostView, Scheduler, Selection};
use crate::wire::hash;

/// What an event is taken to need where none is held to tell, in bytes.
const USUAL_EVENT_BYTES: f64 = 1_024.0;
/// The file grows by up to so many times the payload.
const FILE_FACTOR: f64 = 3.0;

/// What the scheduler knows for the status.
struct Known {
    now: Moment,
    hosts: Vec<HostView>,
    controls: Controls,
    stuck: bool,
    /// The first events of the sessions that are held, in the order of the holds.
    first_held: Vec<Seq>,
}

pub(super) async fn status<B: Backlog>(office: &Office<B>, peer: &mut Peer) -> Answered {
    let status = state(office).await?;
    peer.tell(&Answer::Status(Box::new(status))).await?;
    Ok(Done::default())
}

async fn state<B: Backlog>(office: &Office<B>) -> Result<Status, Refusal> {
    let figures = office.meter.figures().await;
    let (limit, after) = office.patience;
    let known = office.operate(move |scheduler, now| Known {
        now,
        hosts: scheduler.host_views(),
        controls: scheduler.controls().clone(),
        stuck: scheduler.stuck(now, limit, after).is_some(),
        first_held: held_lanes(scheduler)
            .filter_map(|lane| Some(scheduler.lane_view(now, lane)?.first))
            .collect(),
    });
    let known = known.await?;
    let (fits_s, full_first) = fits(&figures, &office.limits);
    let full = is_full(&figures, &office.limits);
    let state = match (known.stuck, full, known.controls.pauses.contains_key(&None)) {
        (true, ..) => "stuck",
        (_, true, _) => "full",
        (_, _, true) => "paused",
        _ => "running",
    };
    Ok(Status {
        state: state.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: VERSION,
        client: office.account.client.clone(),
        drained_s: drained(&figures),
        fits_s,
        full_first: full_first.to_owned(),
        advice: advice(&known, &figures, &office.limits),
        paused: known.controls.pauses.iter().map(|(host, pause)| paused(known.now, *host, pause)).collect(),
        held: held(office, &known).await?,
        hosts: known.hosts.iter().map(|view| host_line(known.now, view)).collect(),
        figures,
    })
}

/// Seconds until nothing waits, at the rates of the last minute.
fn drained(figures: &Figures) -> Option<f64> {
    if figures.pending == 0 {
        return Some(0.0);
    }
    let rate = figures.rate_out.m1 - figures.rate_in.m1;
    (rate > 0.0).then(|| (figures.pending as f64 / rate).ceil())
}

/// Seconds until a limit is reached if nothing goes out, and which.
fn fits(figures: &Figures, limits: &Limits) -> (Option<f64>, &'static str) {
    // The larger one: an outage lasts, and what came in a quarter of an hour ago may come again.
    let rate = figures.rate_in.m1.max(figures.rate_in.m15);
    let held = (figures.pending + figures.dead_held) as f64;
    let each = if held > 0.0 { figures.held_bytes as f64 / held } else { USUAL_EVENT_BYTES };
    let events = limits.max_events.saturating_sub(figures.pending) as f64;
    let bytes = limits.max_bytes.saturating_sub(figures.held_bytes) as f64 / each.max(1.0);
    let free = figures.disk_free_bytes.unwrap_or(0).saturating_sub(limits.min_free) as f64;
    let disk = free / (each.max(1.0) * FILE_FACTOR);
    let all = [(events, "events"), (bytes, "bytes"), (disk, "disk")];
    let (left, first) = all.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((0.0, "events"));
    ((rate > 0.0).then(|| (left / rate).floor()), first)
}

/// Whether producers are answered `storage_full` or `queue_full`.
fn is_full(figures: &Figures, limits: &Limits) -> bool {
    figures.disk_free_bytes.is_some_and(|free| free < limits.min_free)
        || figures.pending >= limits.max_events
        || figures.held_bytes >= limits.max_bytes
}

/// The name of the host of a pause.
pub(super) fn host_or_all(host: Option<Host>) -> String {
    host.map_or_else(|| "all".to_owned(), |host| host.to_string())
}

fn paused(now: Moment, host: Option<Host>, pause: &crate::schedule::Pause) -> Pause {
    Pause {
        host: host_or_all(host),
        reason: pause.reason.clone(),
        since_s: seconds(now.since(pause.since)),
        left_s: pause.until.map(|until| seconds(until.since(now))),
    }
}

fn held_lanes(scheduler: &Scheduler) -> impl Iterator<Item = Lane> {
    scheduler.controls().holds.keys().filter_map(|what| match what {
        Selection::Lane(lane) => Some(*lane),
        Selection::All | Selection::Host(_) => None,
    })
}

async fn held<B: Backlog>(office: &Office<B>, known: &Known) -> Result<Vec<Hold>, Refusal> {
    // A hold knows a session by its hash in the queue, which is not the one that is shown: an event of it tells the id.
    let firsts = known.first_held.clone();
    let events = office.read(move |store| store.load(&firsts)).await?;
    let names: BTreeMap<Lane, String> = (events.iter().flatten())
        .map(|event| (hash::lane(&event.envelope.session), office.show(event.envelope.session.as_str())))
        .collect();
    let of = |what: &Selection| match what {
        Selection::All => "all".to_owned(),
        Selection::Host(host) => format!("host {host}"),
        Selection::Lane(lane) => match names.get(lane) {
            Some(name) => format!("session {name}"),
            None => "a session".to_owned(),
        },
    };
    let held = |(what, since): (&Selection, &Moment)| Hold {
        of: of(what),
        since_s: seconds(known.now.since(*since)),
    };
    Ok(known.controls.holds.iter().map(held).collect())
}

fn host_line(now: Moment, view: &HostView) -> HostLine {
    let (state, until) = match view.hindrance {
        None => ("open", None),
        Some(Hindrance::Breaker(until)) => ("breaker", Some(until)),
        Some(Hindrance::Paused(Cause::Misconfigured, until)) => {
            ("paused: it refuses the account", Some(until))
        }
        Some(Hindrance::Paused(Cause::Fuse, until)) => ("paused: it refuses everything", Some(until)),
        Some(Hindrance::Busy(until)) => ("busy", Some(until)),
        Some(Hindrance::Stopped) => ("paused by an operator", None),
        Some(Hindrance::AllStopped) => ("all paused by an operator", None),
    };
    HostLine {
        host: view.host.to_string(),
        state: state.to_owned(),
        wait_s: until.map(|until| seconds(until.since(now))),
        waiting: view.waiting,
        in_flight: view.in_flight,
    }
}

/// What may be done, the most urgent first.
fn advice(known: &Known, figures: &Figures, limits: &Limits) -> Vec<Advice> {
    let mut all = Vec::new();
    let mut add = |about: String, run: &str| all.push(Advice { about, run: run.to_owned() });
    if known.stuck {
        let about = "work is due and nothing is attempted: restart the daemon, and report it";
        add(about.to_owned(), "systemctl restart target-notifyd");
    }
    if figures.disk_free_bytes.is_some_and(|free| free < limits.min_free) {
        let about = "the disk has less free space than queue.min_free: producers are answered storage_full";
        // The queue's file does not shrink, whatever is deleted from it.
        add(about.to_owned(), "df -h");
    } else if is_full(figures, limits) {
        let about = "queue.max_bytes or queue.max_events is reached: producers are answered queue_full; why it waits:";
        add(about.to_owned(), "target-notifyd queue");
    }
    for (host, pause) in &known.controls.pauses {
        let about = format!("{} is paused by an operator: {}", host_or_all(*host), pause.reason);
        match host {
            None => add(about, "target-notifyd resume"),
            Some(host) => add(about, &format!("target-notifyd resume --host '{host}'")),
        }
    }
    for view in &known.hosts {
        let host = view.host;
        match view.hindrance {
            Some(Hindrance::Paused(Cause::Misconfigured, _)) => {
                let about =
                    format!("{host} refuses the account: check target.client, organisation and property");
                add(about, "target-notifyd check");
            }
            Some(Hindrance::Paused(Cause::Fuse, _)) => {
                let about = format!("{host} refuses everything: see what all events share, then");
                add(about, &format!("target-notifyd dead list; target-notifyd resume --host '{host}'"));
            }
            Some(Hindrance::Breaker(_)) => {
                let about = format!("{host} fails: events wait and it is probed; its errors:");
                add(about, "target-notifyd tail --outcome retry -n 5");
            }
            _ => {}
        }
    }
    if !known.controls.holds.is_empty() {
        let about = format!("{} holds keep events back", known.controls.holds.len());
        add(about, "target-notifyd queue release --all");
    }
    if figures.dead_held >= limits.dead_max_events {
        let about = "no more dead letters may be held: what should be set aside is parked";
        add(
            about.to_owned(),
            "target-notifyd dead export > letters.jsonl && target-notifyd dead delete --all",
        );
    } else if figures.dead_held > 0 {
        add(format!("{} dead letters are held", figures.dead_held), "target-notifyd dead list");
    }
    if figures.parked > 0 {
        add(format!("{} events fail by themselves", figures.parked), "target-notifyd queue");
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::figures::Rates;

    fn figures(pending: u64, into: f64, out: f64) -> Figures {
        let rates = |rate| Rates { m1: rate, m5: rate, m15: rate };
        Figures {
            pending,
            rate_in: rates(into),
            rate_out: rates(out),
            held_bytes: pending * 100,
            disk_free_bytes: Some(1 << 40),
            ..Figures::default()
        }
    }

    #[test]
    fn the_forecast_is_a_matter_of_rates_and_room() {
        for (pending, into, out, expected) in [
            (0, 5.0, 0.0, Some(0.0)),
            (100, 5.0, 15.0, Some(10.0)),
            (100, 5.0, 5.0, None),
            (100, 0.0, 0.0, None),
        ] {
            assert_eq!(drained(&figures(pending, into, out)), expected, "{pending} {into} {out}");
        }
        let limits = Limits { max_events: 1_000, max_bytes: 50_000, min_free: 1 << 30, dead_max_events: 10 };
        // 100 bytes each: 40,000 bytes are left for 400 events, and 900 more may wait.
        assert_eq!(fits(&figures(100, 4.0, 0.0), &limits), (Some(100.0), "bytes"));
        let limits = Limits { max_bytes: u64::MAX, ..limits };
        assert_eq!(fits(&figures(100, 4.0, 0.0), &limits), (Some(225.0), "events"));
        let full = Figures { disk_free_bytes: Some(1 << 29), ..figures(100, 4.0, 0.0) };
        assert_eq!(fits(&full, &limits), (Some(0.0), "disk"));
        assert_eq!(fits(&figures(100, 0.0, 0.0), &limits).0, None);
        assert_eq!(fits(&figures(2_000, 1.0, 0.0), &limits), (Some(0.0), "events"));
    }
}
