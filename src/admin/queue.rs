//! `queue`: what waits, and why; and `queue drop`.

use std::collections::BTreeMap;

use tracing::warn;

use super::connection::{Answered, End, Peer};
use super::names::seconds;
use super::office::{Office, Refusal};
use super::protocol::{self, Answer, Done, Of};
use super::select::{Pages, Sessions};
use super::status::host_or_all;
use super::{MAX_LISTED, PAGE_BYTES, PAGE_EVENTS};
use crate::event::{Burial, DeadReason, Entry, Event, Host, Lane, Moment, Seq, SessionId, noun};
use crate::queue::Store;
use crate::schedule::{
    AGE_MINUTES, Ages, Cause, Extent, Hindrance, LaneView, Settings, Standing, cut_reason,
};

/// What of a lane the disk tells.
struct Found {
    session: Option<SessionId>,
    first: Seq,
    arrived: Moment,
    host: Host,
    events: u64,
}

/// A list of lanes, oldest first, with the ages of all events that were looked at.
struct Listing {
    now: Moment,
    ages: Ages,
    lanes: Vec<(Lane, Found)>,
    views: BTreeMap<Lane, LaneView>,
}

pub(super) async fn list(office: &Office, peer: &mut Peer, limit: usize, scan: bool) -> Answered {
    let limit = limit.min(MAX_LISTED);
    let (extent, settings) = office.extent().await?;
    let listing = match scan {
        true => scanned(office, &extent, &settings, limit).await?,
        false => in_memory(office, limit).await?,
    };
    let looked_at = listing.ages.total();
    for row in age_rows(&listing.ages) {
        peer.tell(&Answer::Ages(row)).await?;
    }
    let (mut shown, mut sessions) = (0, 0);
    for (lane, found) in &listing.lanes {
        let line = lane_line(office, listing.now, found, listing.views.get(lane));
        (shown, sessions) = (shown + line.events, sessions + 1);
        peer.tell(&Answer::Lane(line)).await?;
    }
    let pending = office.store.ledger().counted();
    let unread = pending.saturating_sub(looked_at);
    let note = match unread {
        0 => String::new(),
        // What comes in and goes out meanwhile is no reason to say so.
        _ if extent.whole || scan => String::new(),
        _ => format!("{unread} more events are on the disk only: --scan reads them all"),
    };
    let left_out = pending.saturating_sub(shown);
    Ok(Done {
        count: Some(pending),
        sessions: Some(sessions),
        left_out: Some(left_out),
        note,
        ..Done::default()
    })
}

/// What is in memory, as the scheduler sees it.
async fn in_memory(office: &Office, limit: usize) -> Result<Listing, Refusal> {
    let asked = office.operate(move |scheduler, now| {
        let views = scheduler.oldest_lanes(now, limit);
        (now, scheduler.ages(now), views)
    });
    let (now, ages, views) = asked.await?;
    let mut lanes = Vec::with_capacity(views.len());
    for page in views.chunks(PAGE_EVENTS) {
        let seqs: Vec<Seq> = page.iter().map(|view| view.first).collect();
        let sessions = office.read(move |store| store.sessions(&seqs)).await?;
        lanes.extend(page.iter().zip(sessions).map(|(view, session)| {
            let LaneView { first, arrived, host, count, .. } = *view;
            (view.lane, Found { session, first, arrived, host, events: count as u64 })
        }));
    }
    Ok(Listing { now, ages, lanes, views: views.into_iter().map(|view| (view.lane, view)).collect() })
}

/// What is on the disk: exact counts of the oldest lanes, and the ages of all.
async fn scanned(
    office: &Office,
    extent: &Extent,
    settings: &Settings,
    limit: usize,
) -> Result<Listing, Refusal> {
    let now = office.clock.now();
    let mut ages = Ages::default();
    let mut order: Vec<Lane> = Vec::new();
    let mut lanes: BTreeMap<Lane, Found> = BTreeMap::new();
    let mut pages = Pages::new(office, extent);
    while let Some(found) = pages.next(office).await? {
        for one in found {
            let Entry { seq, lane, arrived, cluster, .. } = one.entry;
            let host = settings.own_host(cluster);
            ages.add(host, now.since(arrived));
            // The queue's order is that of arrival: the first lanes that are met are the oldest.
            match lanes.get_mut(&lane) {
                Some(found) => found.events += 1,
                None if order.len() < limit => {
                    order.push(lane);
                    let session = Some(one.session);
                    lanes.insert(lane, Found { session, first: seq, arrived, host, events: 1 });
                }
                None => {}
            }
        }
    }
    let asked = order.clone();
    let views = office.operate(move |scheduler, now| {
        let view = |lane: Lane| Some((lane, scheduler.lane_view(now, lane)?));
        asked.into_iter().filter_map(view).collect::<BTreeMap<_, _>>()
    });
    let views = views.await?;
    let lanes = order.into_iter().filter_map(|lane| lanes.remove_entry(&lane)).collect();
    Ok(Listing { now, ages, lanes, views })
}

fn age_rows(ages: &Ages) -> Vec<protocol::Ages> {
    let mut total = vec![0; AGE_MINUTES.len() + 1];
    let mut rows = Vec::new();
    for (host, counts) in ages.rows() {
        for (sum, count) in total.iter_mut().zip(counts) {
            *sum += count;
        }
        let host = host.map_or_else(|| "others".to_owned(), |host| host.to_string());
        rows.push(age_row(host, counts.to_vec()));
    }
    rows.insert(0, age_row("TOTAL".to_owned(), total));
    rows
}

fn age_row(host: String, counts: Vec<u64>) -> protocol::Ages {
    protocol::Ages { host, total: counts.iter().sum(), counts, minutes: AGE_MINUTES.to_vec() }
}

fn lane_line(office: &Office, now: Moment, found: &Found, view: Option<&LaneView>) -> protocol::Lane {
    let session = found.session.as_ref().map(|session| office.show(session.as_str()));
    let (state, because, until) = match view.map(|view| view.standing) {
        Some(standing) => told(standing),
        None => ("on_disk", "it is looked at again within 10 seconds".to_owned(), None),
    };
    let error = view.and_then(|view| view.error.as_ref());
    protocol::Lane {
        // It may have been delivered a moment ago.
        session: session.unwrap_or_else(|| "-".to_owned()),
        host: found.host.to_string(),
        events: found.events,
        parked: view.map_or(0, |view| view.parked as u64),
        age_s: seconds(now.since(found.arrived)),
        first: found.first.0,
        state: state.to_owned(),
        because,
        wait_s: until.map(|until| seconds(until.since(now))),
        failures: view.map_or(0, |view| u64::from(view.failures)),
        error: error.map(|error| error.text.clone()),
        error_s: error.map(|error| seconds(now.since(error.at))),
    }
}

fn told(standing: Standing) -> (&'static str, String, Option<Moment>) {
    let plain = |state, until| (state, String::new(), until);
    match standing {
        Standing::Collecting(until) => plain("collecting", Some(until)),
        Standing::Due => plain("due", None),
        Standing::UnderWay => plain("under_way", None),
        Standing::BackingOff(until) => plain("backing_off", Some(until)),
        Standing::Parked(until) => plain("parked", Some(until)),
        Standing::Held => plain("held", None),
        Standing::Hindered(host, Hindrance::Breaker(until)) => {
            ("breaker", format!("{host} fails"), Some(until))
        }
        Standing::Hindered(host, Hindrance::Busy(until)) => {
            ("busy", format!("{host} asked to wait"), Some(until))
        }
        Standing::Hindered(host, Hindrance::Paused(cause, until)) => {
            let what = match cause {
                Cause::Misconfigured => "refuses the account",
                Cause::Fuse => "refuses everything",
            };
            ("paused", format!("{host} {what}"), Some(until))
        }
        Standing::Hindered(host, Hindrance::Stopped) => {
            ("paused", format!("an operator paused {}", host_or_all(Some(host))), None)
        }
        Standing::Hindered(_, Hindrance::AllStopped) => {
            ("paused", format!("an operator paused {}", host_or_all(None)), None)
        }
    }
}

pub(super) async fn show(office: &Office, peer: &mut Peer, session: &str, limit: usize) -> Answered {
    let lane = office.lane(session).await?;
    let (extent, settings) = office.extent().await?;
    let limit = limit.min(MAX_LISTED) as u64;
    let (mut shown, mut count) = (0, 0);
    let mut pages = Pages::new(office, &extent);
    while let Some(found) = pages.next(office).await? {
        let own = found.iter().filter(|one| one.entry.lane == lane);
        let seqs: Vec<Seq> = own.map(|one| one.entry.seq).collect();
        count += seqs.len() as u64;
        let room = usize::try_from(limit - shown).unwrap_or(usize::MAX);
        let mut wanted: Vec<Seq> = seqs.into_iter().take(room).collect();
        while !wanted.is_empty() {
            let some = office.read(move |store| {
                let events = store.load_some(&wanted, PAGE_BYTES)?;
                Ok((wanted.split_off(events.len()), events))
            });
            let (rest, events) = some.await?;
            wanted = rest;
            for event in events.into_iter().flatten() {
                shown += 1;
                peer.tell(&Answer::Event(event_line(office, &settings, &event))).await?;
            }
        }
    }
    if count == 0 {
        let message = format!("nothing of the session {session} waits");
        return Err(Refusal::of("not_found", message).into());
    }
    Ok(Done { count: Some(count), left_out: Some(count - shown), ..Done::default() })
}

fn event_line(office: &Office, settings: &Settings, event: &Event) -> protocol::Event {
    protocol::Event {
        seq: event.seq.0,
        id: event.id.as_str().to_owned(),
        age_s: seconds(office.clock.now().since(event.arrived)),
        host: settings.own_host(event.envelope.cluster).to_string(),
        notification: serde_json::from_slice(&event.notification).unwrap_or_default(),
    }
}

/// Makes dead letters of events, but for those that are being sent.
pub(super) async fn set_aside(
    office: &Office,
    peer: &Peer,
    of: &Of,
    reason: &str,
    dry_run: bool,
) -> Answered {
    let what = office.selection(of).await?;
    let (extent, settings) = office.extent().await?;
    let detail = cut_reason(reason);
    if !dry_run {
        // Before anything is set aside that was not read since the start.
        while office.read(Store::compare_some).await? {}
    }
    let (mut dropped, mut busy, mut sessions) = (0, 0, Sessions::default());
    let mut pages = Pages::new(office, &extent);
    let all = async {
        while let Some(found) = pages.next(office).await? {
            let meant = |entry: &Entry| what.has(entry.lane, settings.own_host(entry.cluster));
            let events = found.iter().map(|one| &one.entry).filter(|entry| meant(entry));
            let events: Vec<(Lane, Seq)> = events.map(|entry| (entry.lane, entry.seq)).collect();
            if events.is_empty() {
                continue;
            }
            let count = events.len() as u64;
            let mut gone = office.operate(move |scheduler, _| scheduler.droppable(&events)).await?;
            fits(office, gone.len() as u64, dropped, dry_run)?;
            if !dry_run {
                peer.waits().await?;
                gone = drop_page(office, gone, &detail).await?;
            }
            dropped += gone.len() as u64;
            busy += count - gone.len() as u64;
            gone.iter().for_each(|(lane, _)| sessions.add(*lane));
        }
        Ok(())
    };
    let ended: Result<(), End> = all.await;
    let changed = dropped > 0 && !dry_run;
    if changed {
        warn!(
            event = "dropped", user = peer.user, events = dropped, reason = %detail,
            "an operator dropped events: they are dead letters; target-notifyd dead list --reason dropped shows them"
        );
    }
    ended.map_err(|end| {
        end.after(&format!("{dropped} {} dropped", noun(dropped, "event was", "events were")))
    })?;
    let left = match dry_run {
        true => noun(busy, "event is being sent and would be", "events are being sent and would be"),
        false => noun(busy, "event was being sent and was", "events were being sent and were"),
    };
    let note = if busy > 0 { format!("{busy} {left} left alone") } else { String::new() };
    let sessions = sessions.count();
    Ok(Done {
        count: Some(dropped),
        sessions,
        left_out: Some(busy),
        changed,
        dry_run,
        note,
        ..Done::default()
    })
}

/// Refuses a page of `count` events that do not fit beside the dead letters that are held; `before` of those that are meant
/// are, or would be, dropped.
fn fits(office: &Office, count: u64, before: u64, dry_run: bool) -> Result<(), Refusal> {
    let (held, most) = (office.store.ledger().dead_held, office.meter.limits().dead_max_events);
    let would = if dry_run { before } else { 0 };
    if held.saturating_add(would).saturating_add(count) <= most {
        return Ok(());
    }
    let before = match dry_run {
        true => format!("{before} {} be dropped", noun(before, "event would", "events would")),
        false => format!("{before} {} dropped", noun(before, "event was", "events were")),
    };
    let held = format!("{held} {} held", noun(held, "dead letter is", "dead letters are"));
    let more = format!("{count} more {} not fit", noun(count, "does", "do"));
    let message = format!(
        "queue.dead_max_events is {most}, {held}, and {more}; {before}: target-notifyd dead export --numbers numbers > letters.jsonl, xargs -r -n 5000 target-notifyd dead delete < numbers, and drop again, or raise queue.dead_max_events"
    );
    Err(Refusal::of("limit", message))
}

/// Drops what of `events` nobody is sending; gives those back.
async fn drop_page(
    office: &Office,
    events: Vec<(Lane, Seq)>,
    detail: &str,
) -> Result<Vec<(Lane, Seq)>, Refusal> {
    let taken = office.operate(move |scheduler, now| scheduler.take_out(now, &events)).await?;
    let seqs: Vec<Seq> = taken.iter().map(|(_, seq)| *seq).collect();
    // From here on to the settlement nothing may end this: who took the events out must settle them.
    let bury = |seq: &Seq| Burial { seq: *seq, reason: DeadReason::Dropped, detail: detail.to_owned() };
    (office.bury)(seqs.iter().map(bury).collect()).await?;
    let room = office.store.dead_room();
    let told = office.operate(move |scheduler, now| {
        scheduler.handle_settled(now, &seqs);
        scheduler.handle_dead_room(room);
    });
    // A flusher that has ended needs no telling: what was settled is.
    let _ended = told.await;
    Ok(taken)
}
