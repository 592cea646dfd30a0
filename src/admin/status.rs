//! `status`: the one screen.

use std::collections::BTreeMap;

use super::connection::{Answered, Peer};
use super::names::seconds;
use super::office::{Office, Refusal};
use super::protocol::{Advice, Answer, Done, Hold, HostLine, Pause, Status, VERSION};
use crate::event::{Host, Lane, Moment, Seq, count, noun};
use crate::figures::{Figures, Limits, Meter};
use crate::schedule::{Cause, Controls, Hindrance, HostView, Scheduler, Selection};
use crate::wire::hash;

/// Keeps the dead letters in a file, and makes room for others; those that come meanwhile stay.
const EMPTY_LETTERS: &str = "target-notifyd dead export --numbers numbers > letters.jsonl && xargs -r -n 5000 target-notifyd dead delete < numbers";

/// What the scheduler knows for the status.
struct Known {
    now: Moment,
    hosts: Vec<HostView>,
    controls: Controls,
    stuck: bool,
    /// The first events of the sessions that are held, in the order of the holds.
    first_held: Vec<Seq>,
}

pub(super) async fn status(office: &Office, peer: &mut Peer) -> Answered {
    let status = state(office).await?;
    peer.tell(&Answer::Status(Box::new(status))).await?;
    Ok(Done::default())
}

async fn state(office: &Office) -> Result<Status, Refusal> {
    let figures = office.meter.figures().await;
    let known = office.operate(move |scheduler, now| Known {
        now,
        hosts: scheduler.host_views(),
        controls: scheduler.controls().clone(),
        stuck: scheduler.stuck(now).is_some(),
        first_held: held_lanes(scheduler)
            .filter_map(|lane| Some(scheduler.lane_view(now, lane)?.first))
            .collect(),
    });
    let known = known.await?;
    let limits = office.meter.limits();
    let full = limits.reached(&figures);
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
        advice: advice(&known, &figures, &limits, &office.meter),
        paused: known.controls.pauses.iter().map(|(host, pause)| paused(known.now, *host, pause)).collect(),
        held: held(office, &known).await?,
        hosts: known.hosts.iter().map(|view| host_line(known.now, view)).collect(),
        figures,
    })
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

async fn held(office: &Office, known: &Known) -> Result<Vec<Hold>, Refusal> {
    // A hold knows a session by its hash in the queue, which is not the one that is shown: an event of it tells the id, and
    // where none waits the ids of those that are held.
    let (firsts, held) = (known.first_held.clone(), office.held.lock().await.clone());
    // Not where a full disk keeps the database from being opened: that may last.
    let sessions = if known.controls.holds.is_empty() || office.store.is_away() {
        Vec::new()
    } else {
        office.read(move |store| store.sessions(&firsts)).await?
    };
    let names: BTreeMap<Lane, String> = (sessions.iter().flatten())
        .chain(&held)
        .map(|session| (hash::lane(session), office.show(session.as_str())))
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

pub(super) fn host_line(now: Moment, view: &HostView) -> HostLine {
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
    // What an operator paused has its own line, with its own age.
    let own = matches!(view.hindrance, Some(Hindrance::Breaker(_) | Hindrance::Paused(..)));
    HostLine {
        host: view.host.to_string(),
        state: state.to_owned(),
        since_s: view.trouble.as_ref().filter(|_| own).map(|trouble| seconds(now.since(trouble.since))),
        error: view.trouble.as_ref().map(|trouble| trouble.detail.clone()),
        wait_s: until.map(|until| seconds(until.since(now))),
        waiting: view.waiting,
        in_flight: view.in_flight,
        at_most: view.at_most,
    }
}

/// What may be done, the most urgent first.
fn advice(known: &Known, figures: &Figures, limits: &Limits, meter: &Meter) -> Vec<Advice> {
    let mut all = Vec::new();
    let mut add = |about: String, run: &str| all.push(Advice { about, run: run.to_owned() });
    if known.stuck {
        let about = "work is due and nothing is attempted: restart the daemon, and report it";
        add(about.to_owned(), "systemctl restart target-notifyd");
    }
    if figures.disk_free_bytes.is_some_and(|free| free < limits.min_free) {
        let about = "the disk has less free space than queue.min_free: producers are answered storage_full";
        // The queue's file does not shrink, whatever is deleted from it.
        add(about.to_owned(), &format!("df -h '{}'", meter.folder().display()));
    } else if figures.lacks_files() {
        let about = "the disk has room for too few more files: producers are answered storage_full";
        add(about.to_owned(), &format!("df -i '{}'", meter.folder().display()));
    } else if limits.reached(figures) {
        let about = format!("queue.max_{} is reached: producers are answered queue_full", figures.full_first);
        // They count in the bytes alone, and the queue shows none of them.
        if figures.full_first == "bytes" && figures.dead_held > figures.pending {
            add(
                format!("{about}; dead letters count in it: requeue them, or keep them elsewhere:"),
                EMPTY_LETTERS,
            );
        } else {
            add(format!("{about}; why it waits:"), "target-notifyd queue");
        }
    }
    for (host, pause) in &known.controls.pauses {
        let about = format!("{} is paused by an operator: {}", host_or_all(*host), pause.reason);
        match host {
            None => add(about, "target-notifyd resume"),
            Some(host) => add(about, &format!("target-notifyd resume --host '{host}'")),
        }
    }
    for view in &known.hosts {
        if let Some((about, run)) = host_advice(view) {
            add(about, &run);
        }
    }
    if meter.is_fruitless() && figures.pending > 0 {
        let about = "requests are answered and nothing is delivered: see what is answered";
        add(about.to_owned(), "target-notifyd tail --outcome retry");
    }
    if !known.controls.holds.is_empty() {
        let count = known.controls.holds.len() as u64;
        let about = format!("{count} {} events back", noun(count, "hold keeps", "holds keep"));
        add(about, "target-notifyd queue release --all");
    }
    if figures.dead_held > 0 && figures.dead_held >= limits.dead_max_events {
        let about = "no more dead letters may be held: what should be set aside is parked";
        add(about.to_owned(), EMPTY_LETTERS);
    } else if figures.dead_held > 0 {
        let held = noun(figures.dead_held, "dead letter is held", "dead letters are held");
        add(format!("{} {held}", count(figures.dead_held)), "target-notifyd dead list");
    }
    if figures.parked > 0 {
        let parked = noun(figures.parked as u64, "event fails by itself", "events fail by themselves");
        add(format!("{} {parked}", count(figures.parked as u64)), "target-notifyd queue");
    }
    all
}

/// What may be done about a host that takes nothing: what it is about, and a command.
fn host_advice(view: &HostView) -> Option<(String, String)> {
    let host = view.host;
    Some(match view.hindrance? {
        Hindrance::Paused(Cause::Misconfigured, _) => (
            format!(
                "{host} refuses the account: check target.client, target.organization_id, target.property_token and the endpoints"
            ),
            "target-notifyd check".to_owned(),
        ),
        Hindrance::Paused(Cause::Fuse, _) => (
            format!("{host} refuses everything: see what all events share, then"),
            format!("target-notifyd dead list; target-notifyd resume --host '{host}'"),
        ),
        Hindrance::Breaker(_) => {
            let (meanwhile, cluster) = match host {
                Host::Client => ("events wait", String::new()),
                Host::Edge(cluster) => (
                    "its events go to the client's own host",
                    format!(" -o target.location_hint={}", cluster.as_str()),
                ),
            };
            (
                format!("{host} fails: {meanwhile} and it is probed; whether this machine reaches it:"),
                format!("target-notifyd check --online{cluster}"),
            )
        }
        Hindrance::Busy(_) | Hindrance::Stopped | Hindrance::AllStopped => return None,
    })
}
