//! `pause`, `resume`, `flush`, and `queue hold`, `release` and `retry`.
//!
//! A change is made by the scheduler, written by the queue, and then answered. A crash between leaves it undone, and it was
//! not answered; a change that is written and not answered is in force after the next start. Where the disk has no room, the
//! answer comes all the same, within [`LONGEST_STORING`]: it says that the change is in force, and not written yet.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::try_join_all;
use jiff::Timestamp;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use super::connection::{Answered, Peer};
use super::names;
use super::office::{Office, Refusal};
use super::protocol::{Answer, Done, Of};
use super::status::{host_line, host_or_all};
use crate::event::{Host, Moment, SessionId};
use crate::queue::{Failed, Store};
use crate::schedule::{Changed, Controls, MAX_HOLDS, MAX_PAUSES, Pause, Scheduler, Selection, cut_reason};
use crate::wire::{controls, hash};

/// The name under which the queue keeps what is stopped.
const CONTROLS: &str = "controls";
/// The longest that an answer waits until a change is durable.
const LONGEST_STORING: Duration = Duration::from_secs(2);
/// How often a waiting flush looks, and how often it says so.
const LOOK: Duration = Duration::from_millis(100);
const LOOKS_A_WORD: u64 = 10;

/// What an earlier process was told to stop.
///
/// # Errors
/// [`Failed`]: the queue cannot be read.
pub fn restored(store: &Store) -> Result<Controls, Failed> {
    let Some(record) = store.meta(CONTROLS)? else { return Ok(Controls::default()) };
    Ok(controls::decode(&record).unwrap_or_else(|damage| {
        warn!(event = "controls_unreadable", %damage, "what an operator paused and held cannot be read: nothing is; run target-notifyd status");
        Controls::default()
    }))
}

/// A change that was made.
struct Made {
    changed: Changed,
    /// All that is stopped now.
    controls: Controls,
    /// Why it is not durable yet, where that is so.
    unstored: Option<&'static str>,
}

/// Makes a change, which may hold a `session`, and writes it.
async fn change(
    office: &Office,
    session: Option<SessionId>,
    change: impl FnOnce(&mut Scheduler, Moment) -> Changed + Send + 'static,
) -> Result<Made, Refusal> {
    let mut held = office.held.lock().await;
    let made = office.operate(move |scheduler, now| (change(scheduler, now), scheduler.controls().clone()));
    let (changed, controls) = made.await?;
    let mut storing = Vec::new();
    // Before its hold: a crash between them leaves an id too many, which the next change takes out, and no hold without one.
    if session.is_some() && changed != Changed::Full {
        storing.extend(office.keep_held(&mut held, &controls, session));
    }
    if changed == Changed::Yes {
        storing.push(office.store.put_meta(CONTROLS, controls::encode(&controls)).boxed());
        // Behind a release, for the same reason.
        storing.extend(office.keep_held(&mut held, &controls, None));
    }
    // The writer keeps the order: another change need not wait until this one is durable.
    drop(held);
    let unstored = match timeout(LONGEST_STORING, try_join_all(storing)).await {
        Ok(stored) => stored.map(|_| None)?,
        Err(_) => Some(unstored(&office.store)),
    };
    Ok(Made { changed, controls, unstored })
}

/// Why a change is not durable yet.
fn unstored(store: &Store) -> &'static str {
    match store.counts().waits_for_room() {
        true => "the disk of the queue is full (df -h, df -i)",
        false => "the disk of the queue does not answer",
    }
}

/// The answer to a change, of which these `notes` are to be known, but for empty ones.
fn done(changed: Changed, mut notes: Vec<String>, unstored: Option<&str>) -> Done {
    notes.extend(unstored.map(|why| {
        format!(
            "NOT YET STORED, since {why}: it is in force, and stored as soon as it can be; where the daemon ends before, its next \
             start does not know of it"
        )
    }));
    notes.retain(|note| !note.is_empty());
    let unstored = unstored.is_some();
    Done { changed: changed == Changed::Yes, unstored, note: notes.join("; "), ..Done::default() }
}

fn full(what: String, next: &str) -> Refusal {
    Refusal::of("limit", format!("nothing was changed: {what}, and there may be no more; {next}"))
}

pub(super) async fn pause(
    office: &Office,
    peer: &Peer,
    host: Option<&str>,
    for_ms: Option<u64>,
    reason: &str,
) -> Answered {
    let host = host.map(names::host).transpose()?;
    let reason = cut_reason(reason);
    let told = reason.clone();
    let before = office.operate(move |scheduler, _| scheduler.controls().pauses.get(&host).cloned()).await?;
    let paused = change(office, None, move |scheduler, now| {
        let until = for_ms.map(|ms| now.after(Duration::from_millis(ms)));
        scheduler.pause_host(now, host, Pause { reason, since: now, until })
    });
    let Made { changed, controls, unstored } = paused.await?;
    if changed == Changed::Full {
        let next = "target-notifyd status lists them, target-notifyd resume --host HOST ends one, and a pause without --host \
                    stops all hosts together";
        return Err(full(format!("{MAX_PAUSES} hosts are paused"), next).into());
    }
    let name = host_or_all(host);
    let until = controls.pauses.get(&host).map_or_else(String::new, end);
    let replaced = before.map(|before| format!("until {}, for {}", end(&before), before.reason));
    info!(
        event = "paused", user = peer.user, host = %name, reason = %told, until = %until, replaced, unstored,
        "an operator paused delivery: events are kept; target-notifyd resume ends it"
    );
    let mut notes = vec![format!("until {until}")];
    notes.extend(replaced.map(|before| format!("it takes the place of the pause {before}")));
    if let Some(Host::Edge(cluster)) = host {
        notes.push(format!(
            "its sessions are served by the client's own host meanwhile; target-notifyd queue hold --host {cluster} keeps \
             their events back"
        ));
    }
    Ok(done(changed, notes, unstored))
}

/// When a pause ends.
fn end(pause: &Pause) -> String {
    let seconds = pause.until.map(|until| i64::try_from(until.as_millis() / 1_000));
    match seconds.map(|seconds| Timestamp::from_second(seconds.unwrap_or(i64::MAX))) {
        Some(Ok(at)) => at.to_string(),
        // No calendar reaches further.
        Some(Err(_)) | None => "it is resumed".to_owned(),
    }
}

pub(super) async fn resume(office: &Office, peer: &Peer, host: Option<&str>) -> Answered {
    let host = host.map(names::host).transpose()?;
    let Made { changed, controls, unstored } =
        change(office, None, move |scheduler, now| scheduler.resume_host(now, host)).await?;
    if changed == Changed::Yes {
        info!(event = "resumed", user = peer.user, host = %host_or_all(host), unstored, "an operator resumed delivery");
    }
    let left = names::still_in_force(controls.pauses.len(), "pause", "pauses");
    Ok(done(changed, vec![left], unstored))
}

pub(super) async fn hold(office: &Office, peer: &Peer, of: &Of, dry_run: bool) -> Answered {
    let (what, session) = match of {
        Of::Session(name) => {
            let session = office.session(name).await?;
            (Selection::Lane(hash::lane(&session)), Some(session))
        }
        Of::All | Of::Host(_) => (office.selection(of).await?, None),
    };
    let counted = office.count(move |lane, host| what.has(lane, host)).await?;
    let mut answer = Done::default();
    if !dry_run {
        let made = change(office, session, move |scheduler, now| scheduler.hold(now, what));
        let Made { changed, unstored, .. } = made.await?;
        if changed == Changed::Full {
            let next = "target-notifyd queue lists what is held, and target-notifyd queue release SESSION, --host HOST or --all \
                        ends a hold";
            return Err(full(format!("{MAX_HOLDS} holds are in force"), next).into());
        }
        info!(
            event = "held", user = peer.user, of = %named(office, of), events = counted.events, unstored,
            "an operator holds events back: target-notifyd queue release lets them go"
        );
        answer = done(changed, Vec::new(), unstored);
    }
    Ok(Done { count: Some(counted.events), sessions: counted.sessions, dry_run, ..answer })
}

pub(super) async fn release(office: &Office, peer: &Peer, of: &Of, dry_run: bool) -> Answered {
    let what = office.selection(of).await?;
    let holds = office.operate(|scheduler, _| scheduler.controls().holds.clone()).await?;
    let (ends, stays): (Vec<_>, Vec<_>) =
        holds.into_keys().partition(|hold| what == Selection::All || what == *hold);
    let mut notes = Vec::new();
    if ends.is_empty() {
        notes.push("there is no such hold".to_owned());
    }
    let mut left = stays.len();
    // What another hold holds stays held, and what none holds is not let go.
    let counted = office.count(move |lane, host| {
        let has = |holds: &[Selection]| holds.iter().any(|hold| hold.has(lane, host));
        has(&ends) && !has(&stays)
    });
    let counted = counted.await?;
    let (mut changed, mut unstored) = (Changed::Not, None);
    if !dry_run {
        let made = change(office, None, move |scheduler, now| scheduler.release_held(now, what)).await?;
        (changed, unstored, left) = (made.changed, made.unstored, made.controls.holds.len());
        if changed == Changed::Yes {
            info!(event = "released", user = peer.user, of = %named(office, of), unstored, "an operator released events");
        }
    }
    notes.push(names::still_in_force(left, "hold", "holds"));
    let answer = done(changed, notes, unstored);
    Ok(Done { count: Some(counted.events), sessions: counted.sessions, dry_run, ..answer })
}

pub(super) async fn retry(office: &Office, peer: &Peer, of: &Of, dry_run: bool) -> Answered {
    let what = office.selection(of).await?;
    let counted = office.count(move |lane, host| what.has(lane, host)).await?;
    if !dry_run {
        office.operate(move |scheduler, now| scheduler.retry(now, what)).await?;
        info!(event = "retry_asked", user = peer.user, of = %named(office, of), "an operator asked for a retry");
    }
    let (count, sessions) = (Some(counted.events), counted.sessions);
    Ok(Done { count, sessions, dry_run, changed: !dry_run, ..Done::default() })
}

pub(super) async fn flush(office: &Office, peer: &mut Peer, wait: bool) -> Answered {
    let end = office.store.tail();
    let flushed = office.operate(|scheduler, now| {
        scheduler.flush(now);
        kept_back(scheduler)
    });
    let note = flushed.await?;
    if !wait {
        return Ok(Done { changed: true, note, ..Done::default() });
    }
    // Looked at by a clock and not by each commit, of which there may be hundreds a second.
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looked = 0_u64;
    loop {
        // Both arms only wait.
        tokio::select! {
            gone = peer.gone() => return Err(gone),
            _ = looks.tick() => {}
        }
        if office.operate(|scheduler, _| scheduler.extent().lowest).await? >= end {
            // Nothing was kept back for ever, whatever is in force now.
            return Ok(Done { changed: true, ..Done::default() });
        }
        looked += 1;
        if looked.is_multiple_of(LOOKS_A_WORD) {
            let shut = office.operate(|scheduler, now| {
                let views = scheduler.host_views().into_iter().filter(|view| view.hindrance.is_some());
                (views.map(|view| host_line(now, &view)).collect(), kept_back(scheduler))
            });
            let (pending, (hosts, note)) = (office.store.ledger().counted(), shut.await?);
            peer.tell(&Answer::Waiting { pending, hosts, note }).await?;
        }
    }
}

/// That an operator keeps events back, if one does.
fn kept_back(scheduler: &Scheduler) -> String {
    let controls = scheduler.controls();
    match controls.pauses.is_empty() && controls.holds.is_empty() {
        true => String::new(),
        false => "a pause or a hold is in force, and keeps events back: target-notifyd status lists them"
            .to_owned(),
    }
}

/// A selection as it may be logged.
fn named(office: &Office, of: &Of) -> String {
    match of {
        Of::All => "all".to_owned(),
        Of::Host(host) => format!("host {host}"),
        Of::Session(session) => format!("session {}", office.show(session)),
    }
}
