//! What has to be true of a queue after a loss of power.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Formatter};
use std::path::Path;
use std::sync::Arc;

use target_notifyd::event::{Event, Moment, Seq};
use target_notifyd::queue::salvage::{SalvageError, Stopped};
use target_notifyd::queue::{Now, OpenError, Queue, Settings, failed_before};
use target_notifyd::wire::reply::Appended;
use target_notifyd::wire::submission::Submission;

use super::record::Record;
use crate::support::{account, append, defaults, queue_settings};

/// How many sessions the events are of.
const SESSIONS: u64 = 40;

/// The ids of the events of the line `number`.
pub(crate) fn ids(number: u64) -> impl Iterator<Item = String> {
    (0..events(number)).map(move |position| format!("e{number}.{position}"))
}

fn events(number: u64) -> u64 {
    1 + number * 7 % 9
}

/// The line with the number `number`: of one to nine events, now and then with a large envelope or large events.
pub(crate) fn line(number: u64) -> String {
    let (session, count) = (number % SESSIONS, events(number));
    let bytes = match number % 50 {
        17 => 30_000,
        _ => 50 + number * 131 % 900,
    };
    let members = match number % 20 {
        3 => 5_000,
        _ => number * 37 % 200,
    };
    let event = |position| {
        let filling = filling(number * 10 + position, bytes);
        format!(
            r#"{{"id":"e{number}.{position}","impressionId":"i{number}.{position}","timestamp":{},"type":"click","mbox":{{"name":"home","state":"{filling}"}}}}"#,
            number + 1
        )
    };
    let events = (0..count).map(event).collect::<Vec<_>>().join(",");
    let page = filling(number, members);
    format!(
        r#"{{"session_id":"s{session}","receipt":true,"request":{{"context":{{"channel":"web","browser":{{"host":"{page}"}}}},"notifications":[{events}]}}}}"#
    )
}

/// Letters that tell one event from another, so that bytes at the wrong place are seen.
fn filling(seed: u64, bytes: u64) -> String {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let letter = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + u8::try_from((state >> 33) % 26).unwrap_or(0))
    };
    (0..bytes).map(letter).collect()
}

/// The submission with the number `number`, as the daemon stores it.
pub(crate) fn submission(number: u64) -> Submission {
    Submission::parse(line(number).as_bytes(), &defaults(), 1).expect("a good line")
}

/// The number of the line and the position in it that an id names.
fn parts(id: &str) -> Option<(u64, usize)> {
    let (number, position) = id.strip_prefix('e')?.split_once('.')?;
    Some((number.parse().ok()?, position.parse().ok()?))
}

/// Opens the queue of an image.
pub(crate) type Opening = fn(Settings) -> Result<Queue, OpenError>;

pub(crate) fn open(settings: Settings) -> Result<Queue, OpenError> {
    Queue::open(settings, &account(), now())
}

/// As a newer program opens it, whose steps rewrite every record.
pub(crate) fn rehearse(settings: Settings) -> Result<Queue, OpenError> {
    Queue::rehearse(settings, &account(), now())
}

pub(crate) fn now() -> Now {
    Arc::new(|| Moment::from_millis(1_700_000_000_000))
}

/// What a queue holds after it was damaged, by the ids of the events; none of them was answered by Target.
pub(crate) struct Held {
    /// Those that can be read.
    ids: BTreeSet<String>,
    /// Those that were acknowledged, and cannot be read.
    lost: BTreeSet<String>,
}

impl Held {
    /// Reads the queue in `path` without the engine, as it is after the step `at`.
    pub(crate) fn read(path: &Path, record: &Record, at: usize) -> Self {
        let mut ids = BTreeSet::new();
        let read = Stopped::open(path).and_then(|stopped| {
            stopped.events(|event| {
                is_genuine(&event).unwrap_or_else(|error| panic!("the damaged queue: {error}"));
                ids.insert(event.id.as_str().to_owned());
                Ok::<_, SalvageError>(())
            })
        });
        read.unwrap_or_else(|error| panic!("the damaged queue: {error}"));
        let acknowledged = record.acknowledged.iter().filter(|(_, known)| **known <= at);
        let lost = acknowledged.map(|(id, _)| id.clone()).filter(|id| !ids.contains(id)).collect();
        Self { ids, lost }
    }
}

impl Display for Held {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "after the damage {} events can be read, {} cannot", self.ids.len(), self.lost.len())
    }
}

/// What is known of a queue when the power is lost.
pub(crate) struct Known<'k> {
    pub(crate) record: &'k Record,
    /// The step after which it is lost.
    pub(crate) at: usize,
    /// What it held after it was damaged, if it was.
    pub(crate) held: Option<&'k Held>,
    /// Whether it may be taken for a damaged one, of which all is kept.
    pub(crate) looks_damaged: bool,
}

/// Holds the queue in `path` against what was known when the power was lost.
pub(crate) fn check(path: &Path, opening: Opening, known: &Known<'_>) -> Result<(), String> {
    let Known { record, at, held, looks_damaged } = *known;
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let (marked, before) = (failed_before(path), databases(path));
        let queue = opening(queue_settings(path)).map_err(|error| format!("it does not open: {error}"))?;
        // Where no mark of a failed disk has it copied, the one database stays what it is.
        let is_whole = held.is_none() && !looks_damaged && !marked;
        if is_whole && before.len() == 1 && databases(path) != before {
            return Err("what a loss of power leaves was taken for damage".to_owned());
        }
        let lost = held.map_or(0, |held| held.lost.len() as u64);
        let found = whole(&queue, lost)?;
        if let Some(id) = held.and_then(|held| held.ids.iter().find(|id| !found.contains_key(*id))) {
            return Err(format!("{id} could be read after the damage, and is lost"));
        }
        for (id, known) in &record.acknowledged {
            let answered = record.answered.get(id).is_some_and(|answered| *answered <= at);
            let was_lost = held.is_some_and(|held| held.lost.contains(id));
            if *known <= at && !answered && !was_lost && !found.contains_key(id) {
                return Err(format!("{id} was acknowledged at step {known}, and is lost"));
            }
        }
        for (id, known) in &record.receipts {
            if *known <= at && found.contains_key(id) {
                return Err(format!("{id} had its receipt at step {known}, and is there again"));
            }
        }
        let acknowledged = record.acknowledged.values().filter(|known| **known <= at).count() as u64;
        let accepted = queue.store().ledger().balance.accepted;
        if accepted < acknowledged {
            return Err(format!("{acknowledged} were acknowledged, but the account says {accepted}"));
        }
        goes_on(queue, path, opening, found, lost).await
    })
}

/// The names of the databases in the queue's folder.
pub(crate) fn databases(path: &Path) -> BTreeSet<String> {
    // Absent where nothing was begun.
    let entries = std::fs::read_dir(path).into_iter().flatten();
    let names = entries.map(|entry| entry.expect("a folder can be listed").file_name());
    let names = names.filter_map(|name| name.into_string().ok());
    names.filter(|name| name.starts_with("events.") && name != "events.new").collect()
}

/// Every event in the queue, by its id; each is one that was submitted, byte for byte, and the account balances with
/// so many that were lost.
fn whole(queue: &Queue, lost: u64) -> Result<BTreeMap<String, Seq>, String> {
    let store = queue.store();
    let scan = store.scan(Seq(0), usize::MAX).map_err(|error| error.to_string())?;
    let seqs: Vec<Seq> = scan.entries.iter().map(|entry| entry.seq).collect();
    let mut found = BTreeMap::new();
    for (seq, event) in seqs.iter().zip(store.load(&seqs).map_err(|error| error.to_string())?) {
        let event = event.ok_or_else(|| format!("event {seq} is listed, but cannot be read"))?;
        let id = event.id.as_str().to_owned();
        is_genuine(&event)?;
        if found.insert(id.clone(), *seq).is_some() {
            return Err(format!("{id} is there twice"));
        }
    }
    let balance = store.ledger().balance;
    if balance.pending() != found.len() as u64 || balance.quarantined != lost {
        return Err(format!("the account does not balance: {balance:?}, and {} are there", found.len()));
    }
    Ok(found)
}

/// Whether the event is what its id says.
pub(crate) fn is_genuine(event: &Event) -> Result<(), String> {
    let id = event.id.as_str();
    let (number, position) = parts(id).ok_or_else(|| format!("{id} was invented"))?;
    let given = submission(number);
    let same = given.notifications.get(position).is_some_and(|given| given.json == event.notification);
    match same && *given.envelope == *event.envelope {
        true => Ok(()),
        false => Err(format!("{id} has the wrong bytes")),
    }
}

/// The queue takes a new event and settles an old one; both last over a reopen.
async fn goes_on(
    queue: Queue,
    path: &Path,
    opening: Opening,
    mut found: BTreeMap<String, Seq>,
    lost: u64,
) -> Result<(), String> {
    let failed = |error: target_notifyd::queue::Failed| format!("it cannot be used: {error}");
    const NEW: u64 = 1 << 40;
    if let Some((_, seq)) = found.pop_first() {
        queue.store().settle(vec![seq], vec![]).await.map_err(failed)?;
    }
    let answer = append(&queue, vec![submission(NEW)]).await;
    if answer.as_deref() != Some(&[Appended::Stored]) {
        return Err(format!("it takes no new event: {answer:?}"));
    }
    queue.shutdown().await.map_err(failed)?;
    let queue = opening(queue_settings(path)).map_err(|error| format!("it does not open again: {error}"))?;
    let mut again = whole(&queue, lost)?;
    queue.shutdown().await.map_err(failed)?;
    for event in &submission(NEW).notifications {
        again.remove(event.id.as_str()).ok_or("the new event is lost")?;
    }
    match again.keys().eq(found.keys()) {
        true => Ok(()),
        false => Err(format!("{} events became {} by a reopen", found.len(), again.len())),
    }
}
