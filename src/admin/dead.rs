//! `dead`: the letters, and what may become of them.

use std::collections::BTreeSet;
use std::slice;
use std::time::Duration;

use tracing::{info, warn};

use super::connection::{Answered, End, Peer};
use super::names::{self, seconds};
use super::office::{Office, Refusal};
use super::protocol::{Answer, Done, Letter, Which};
use super::{MAX_LISTED, PAGE_BYTES, PAGE_EVENTS};
use crate::event::{DeadReason, Host, Moment, Seq, noun};
use crate::schedule::Settings;
use crate::wire::record::DeadLetter;
use crate::wire::submission::{Fidelity, again};

/// The most numbers that are named.
const NAMED: usize = 20;

/// What narrows the letters down, read.
struct Filter {
    seqs: BTreeSet<Seq>,
    reason: Option<DeadReason>,
    host: Option<Host>,
    session: Option<String>,
    older_than: Option<Duration>,
    newer_than: Option<Duration>,
    settings: Settings,
    now: Moment,
}

impl Filter {
    async fn new(office: &Office, which: &Which) -> Result<Self, Refusal> {
        let Which { seqs, reason, host, session, older_than_ms, newer_than_ms, .. } = which;
        let named = |name: &String| {
            DeadReason::parse(name).ok_or_else(|| {
                let all = DeadReason::ALL.map(DeadReason::as_str).join(", ");
                Refusal::of("malformed", format!("\"{name}\" is no reason: it is one of {all}"))
            })
        };
        Ok(Self {
            seqs: seqs.iter().copied().map(Seq).collect(),
            reason: reason.as_ref().map(named).transpose()?,
            host: host.as_deref().map(names::host).transpose()?,
            session: session.clone(),
            older_than: older_than_ms.map(Duration::from_millis),
            newer_than: newer_than_ms.map(Duration::from_millis),
            settings: office.extent().await?.1,
            now: office.clock.now(),
        })
    }

    fn takes(&self, office: &Office, letter: &DeadLetter) -> bool {
        let envelope = &letter.event.envelope;
        let (age, session) = (self.now.since(letter.at), envelope.session.as_str());
        (self.seqs.is_empty() || self.seqs.contains(&letter.event.seq))
            && self.reason.is_none_or(|reason| reason == letter.reason)
            && self.host.is_none_or(|host| self.settings.own_host(envelope.cluster) == host)
            && self.session.as_ref().is_none_or(|name| office.is(session, name))
            && self.older_than.is_none_or(|least| age >= least)
            && self.newer_than.is_none_or(|most| age <= most)
    }

    fn first(&self) -> Seq {
        self.seqs.first().copied().unwrap_or(Seq(0))
    }
}

/// What would change or delete letters must say which.
fn meant(which: &Which) -> Result<(), Refusal> {
    which.meant().map_err(|wrong| Refusal::of("ambiguous", wrong))
}

/// The letters that a filter takes, page by page. They lie in the order of their events: of those that are made meanwhile the
/// ones of new events are left out, and those of older events may be among them.
struct Pages<'f> {
    filter: &'f Filter,
    /// Where the next page begins; `None` behind the last.
    from: Option<Seq>,
    /// A requeued letter that is refused again comes back behind this.
    end: Seq,
    /// How many it took.
    count: u64,
    /// The numbers that were asked for and that none of them has.
    missing: BTreeSet<Seq>,
}

impl<'f> Pages<'f> {
    fn new(office: &Office, filter: &'f Filter) -> Self {
        let (end, missing) = (office.store.tail(), filter.seqs.clone());
        Self { filter, from: Some(filter.first()), end, count: 0, missing }
    }

    /// The next page, which may be empty; `None` where there is no more.
    async fn next(&mut self, office: &Office) -> Result<Option<Vec<DeadLetter>>, Refusal> {
        let Some(from) = self.from.take() else { return Ok(None) };
        let letters = office.read(move |store| store.dead_page(from, PAGE_EVENTS, PAGE_BYTES)).await?;
        let Some(last) = letters.last().map(|letter| letter.event.seq) else { return Ok(None) };
        let over = last >= self.end || self.filter.seqs.last().is_some_and(|wanted| last >= *wanted);
        self.from = (!over).then(|| last.next());
        let (end, filter) = (self.end, self.filter);
        let taken = letters.into_iter().filter(|one| one.event.seq < end && filter.takes(office, one));
        let taken: Vec<DeadLetter> = taken.collect();
        self.count += taken.len() as u64;
        for letter in &taken {
            self.missing.remove(&letter.event.seq);
        }
        Ok(Some(taken))
    }

    /// What became of them, of which so many were `changed`.
    fn done(&self, changed: u64, dry_run: bool) -> Done {
        Done {
            count: Some(if dry_run { self.count } else { changed }),
            missing: self.missing.len() as u64,
            changed: changed > 0,
            dry_run,
            note: self.note(),
            ..Done::default()
        }
    }

    /// Names the numbers that were asked for and of which there is no letter, as the filters have it.
    fn note(&self) -> String {
        let named: Vec<String> = self.missing.iter().take(NAMED).map(Seq::to_string).collect();
        let more = match self.missing.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        match named.is_empty() {
            true => String::new(),
            false => format!("no such dead letter: {}{more}", named.join(", ")),
        }
    }
}

fn line(office: &Office, filter: &Filter, letter: &DeadLetter, whole: bool) -> Letter {
    let event = &letter.event;
    let request = whole.then(|| again(slice::from_ref(event)).line);
    Letter {
        seq: event.seq.0,
        id: event.id.as_str().to_owned(),
        session: office.show(event.envelope.session.as_str()),
        host: filter.settings.own_host(event.envelope.cluster).to_string(),
        reason: letter.reason.as_str().to_owned(),
        detail: letter.detail.clone(),
        age_s: seconds(filter.now.since(letter.at)),
        waited_s: seconds(letter.at.since(event.arrived)),
        request: request.and_then(|line| serde_json::from_str(&line).ok()),
    }
}

pub(super) async fn list(office: &Office, peer: &mut Peer, which: &Which, limit: usize) -> Answered {
    let filter = Filter::new(office, which).await?;
    let limit = limit.min(MAX_LISTED) as u64;
    let mut shown = 0;
    let mut pages = Pages::new(office, &filter);
    while let Some(letters) = pages.next(office).await? {
        for letter in letters {
            if shown < limit {
                shown += 1;
                peer.tell(&Answer::Letter(line(office, &filter, &letter, false))).await?;
            }
        }
    }
    Ok(Done { count: Some(pages.count), left_out: Some(pages.count - shown), ..Done::default() })
}

pub(super) async fn show(office: &Office, peer: &mut Peer, seq: u64) -> Answered {
    let filter = Filter::new(office, &Which { seqs: vec![seq], ..Which::default() }).await?;
    let letters = office.read(move |store| store.dead(Seq(seq), 1)).await?;
    match letters.first().filter(|letter| letter.event.seq == Seq(seq)) {
        Some(letter) => peer.tell(&Answer::Letter(line(office, &filter, letter, true))).await?,
        None => return Err(Refusal::of("not_found", format!("there is no dead letter {seq}")).into()),
    }
    Ok(Done { count: Some(1), ..Done::default() })
}

pub(super) async fn requeue(office: &Office, peer: &Peer, which: &Which, dry_run: bool) -> Answered {
    meant(which)?;
    let filter = Filter::new(office, which).await?;
    let (mut moved, mut refusal) = (0, None);
    let mut pages = Pages::new(office, &filter);
    let all = async {
        while let Some(letters) = pages.next(office).await? {
            if !dry_run && refusal.is_none() {
                peer.waits().await?;
                let seqs: Vec<Seq> = letters.iter().map(|letter| letter.event.seq).collect();
                let requeued = office.store.requeue(&seqs).await.map_err(Refusal::from)?;
                moved += requeued.moved;
                refusal = requeued.refusal;
            }
        }
        Ok(())
    };
    let ended: Result<(), End> = all.await;
    if moved > 0 {
        info!(
            event = "requeued",
            user = peer.user,
            events = moved,
            "an operator requeued dead letters: they are delivered again"
        );
    }
    ended.map_err(|end| end.after(&format!("{moved} {} requeued", noun(moved, "was", "were"))))?;
    if moved > 0 {
        room(office).await?;
    }
    if let Some(refusal) = refusal {
        let message = format!("{moved} of {} dead letters were requeued, then: {refusal}", pages.count);
        return Err(Refusal::of("limit", message).into());
    }
    Ok(pages.done(moved, dry_run))
}

pub(super) async fn delete(office: &Office, peer: &Peer, which: &Which, dry_run: bool) -> Answered {
    meant(which)?;
    let filter = Filter::new(office, which).await?;
    let mut pages = Pages::new(office, &filter);
    let mut deleted = 0;
    let all = async {
        while let Some(letters) = pages.next(office).await? {
            if !dry_run {
                peer.waits().await?;
                let seqs = letters.iter().map(|letter| letter.event.seq).collect();
                // Another operator may have been first.
                deleted += office.store.delete_dead(seqs).await.map_err(Refusal::from)?;
            }
        }
        Ok(())
    };
    let ended: Result<(), End> = all.await;
    if deleted > 0 {
        warn!(
            event = "letters_deleted",
            user = peer.user,
            letters = deleted,
            "an operator deleted dead letters for good"
        );
    }
    ended.map_err(|end| end.after(&format!("{deleted} {} deleted", noun(deleted, "was", "were"))))?;
    if deleted > 0 {
        room(office).await?;
    }
    Ok(pages.done(deleted, dry_run))
}

pub(super) async fn export(office: &Office, peer: &mut Peer, which: &Which) -> Answered {
    let filter = Filter::new(office, which).await?;
    let (mut count, mut left_out) = (0, 0);
    let mut pages = Pages::new(office, &filter);
    while let Some(letters) = pages.next(office).await? {
        for letter in letters {
            let again = again(slice::from_ref(&letter.event));
            let refused = match again.fidelity {
                Fidelity::Exact => None,
                Fidelity::Refused(why) => Some(why),
                Fidelity::Changed => Some("it would be stored as another event".to_owned()),
            };
            match refused {
                None => count += 1,
                Some(_) => left_out += 1,
            }
            let seq = letter.event.seq.0;
            peer.tell(&Answer::Submission { seq, line: again.line, refused }).await?;
        }
    }
    Ok(Done { count: Some(count), left_out: Some(left_out), ..Done::default() })
}

/// Tells the scheduler that there may be room for dead letters again.
async fn room(office: &Office) -> Result<(), Refusal> {
    let room = office.store.dead_room();
    office.operate(move |scheduler, _| scheduler.handle_dead_room(room)).await
}
