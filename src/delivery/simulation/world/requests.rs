//! Target's side of a history: what must hold of every request, and what its answers allow.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Fate, SaidOf, World};
use crate::delivery::simulation::plan::Fault;
use crate::event::{Answer, EventId, Host, Lane, Outcome, Seq, SessionId};
use crate::wire::hash;

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(borrow)]
    context: &'a RawValue,
    #[serde(borrow)]
    notifications: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Marked {
    n: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Known {
    tnt_id: Option<String>,
}

impl World {
    /// A request comes in: everything that must hold of it does. Returns its name, and its events.
    pub(in crate::delivery::simulation) fn check_request(
        &mut self,
        host: Host,
        session: &SessionId,
        body: &[u8],
        ids: &[&str],
    ) -> (u64, Vec<Seq>) {
        let request: Request<'_> = serde_json::from_slice(body).unwrap();
        let mark = |one: &&RawValue| serde_json::from_str::<Marked>(one.get()).unwrap().n;
        let seqs: Vec<Seq> = request.notifications.iter().map(|one| self.by_serial[&mark(one)]).collect();
        self.note("request", format_args!("{host} {session} {seqs:?}"));
        assert_eq!(seqs.len(), ids.len());
        let lane = hash::lane(session);
        let now = self.now();
        for ((seq, sent), id) in seqs.iter().zip(&request.notifications).zip(ids) {
            let stored = self.stored(*seq);
            assert!(stored.fate == Fate::Waits && !stored.given_up, "{seq} is sent after it was settled");
            assert_eq!(
                sent.get().as_bytes(),
                &*stored.event.notification,
                "{seq} is sent otherwise than stored"
            );
            assert_eq!((stored.entry.lane, stored.event.id.as_str()), (lane, *id), "{seq}");
            assert!(
                stored.said.not_before <= now,
                "{seq} is sent before Retry-After is over: {:?}",
                stored.said
            );
            let context = format!(r#""context":{}"#, request.context.get());
            let members = std::str::from_utf8(&stored.event.envelope.members).unwrap();
            assert!(members.ends_with(&context), "{seq} is sent with another envelope: {members}");
        }
        self.check_visitor(&seqs, request.id.get());
        self.check_limits(host, lane, &seqs);
        self.check_order(lane, &seqs);
        self.check_stops(host, lane, &seqs);
        self.tokens += 1;
        self.in_flight.insert(self.tokens, (host, lane));
        if let Some(log) = &mut self.log {
            log.push((now, seqs.len()));
        }
        (self.tokens, seqs)
    }

    /// The request has the stored `id`, or the one that an answer gave for it.
    fn check_visitor(&self, seqs: &[Seq], sent: &str) {
        let event = &self.stored(seqs[0]).event;
        let members = std::str::from_utf8(&event.envelope.members).unwrap();
        if members.starts_with(&format!(r#""id":{sent},"#)) {
            return;
        }
        let visitor = event.envelope.visitor.expect("a tntId was put in beside the stored one");
        let known: Known = serde_json::from_str(sent).unwrap();
        let told = (hash::lane(&event.envelope.session), visitor, known.tnt_id.unwrap());
        assert!(self.told.contains(&told), "{seqs:?} are sent for somebody else: {sent}");
    }

    fn check_limits(&mut self, host: Host, lane: Lane, seqs: &[Seq]) {
        let now = self.now();
        let settings = &self.plan.settings;
        assert!(self.in_flight.len() < settings.concurrency, "more requests than slots");
        assert!(self.in_flight.values().all(|(_, other)| *other != lane), "two requests of a session");
        assert!(!seqs.is_empty() && seqs.len() <= settings.max_events, "{} events", seqs.len());
        let bytes: u64 = seqs.iter().map(|seq| u64::from(self.stored(*seq).entry.bytes)).sum();
        assert!(seqs.len() == 1 || bytes <= settings.max_bytes, "{bytes} bytes");
        let ids: BTreeSet<&EventId> = seqs.iter().map(|seq| &self.stored(*seq).event.id).collect();
        assert_eq!(ids.len(), seqs.len(), "an id twice");
        let edges: BTreeSet<Host> = self.in_flight.values().map(|(host, _)| *host).chain([host]).collect();
        assert!(edges.iter().filter(|one| **one != Host::Client).count() <= settings.max_hosts, "{edges:?}");
        assert!(settings.edge_routing || host == Host::Client, "{host}");
        if settings.rate_limit > 0 {
            let most = settings.rate_limit as usize;
            while self.begun.front().is_some_and(|at| now.since(*at) >= Duration::from_secs(1)) {
                self.begun.pop_front();
            }
            self.begun.push_back(now);
            // The timer is as fine as a millisecond.
            assert!(self.begun.len() <= most + 1, "{} requests within a second", self.begun.len());
        }
    }

    fn check_order(&mut self, lane: Lane, seqs: &[Seq]) {
        assert!(seqs.windows(2).all(|two| two[0] < two[1]), "{seqs:?}");
        let last = *seqs.last().unwrap();
        let older = self.open.get(&lane).into_iter().flat_map(|open| open.range(..last)).copied();
        let passed: Vec<Seq> = older.filter(|seq| !seqs.contains(seq)).collect();
        for seq in passed {
            let said = &self.stored(seq).said;
            let parked = self.may_be_parked(said);
            assert!(parked, "{seqs:?} pass over {seq}: {said:?}");
            self.note("passed over a parked event", format_args!("{seq}"));
        }
    }

    /// Whether an event failed by itself as often as it takes to be parked, or found no room among the dead letters.
    fn may_be_parked(&self, said: &SaidOf) -> bool {
        let settings = &self.plan.settings;
        let unburied =
            said.refused_alone.is_some() || said.failed_old || said.unlisted >= settings.unlisted_max;
        said.failed_alone >= settings.park_after || (self.no_room && unburied)
    }

    pub(in crate::delivery::simulation) fn over(&mut self, token: u64) {
        self.in_flight.remove(&token);
    }

    /// An answer, or its absence, reaches the flusher.
    pub(in crate::delivery::simulation) fn answered(&mut self, host: Host, seqs: &[Seq], outcome: &Outcome) {
        self.note(
            kind(outcome),
            format_args!("{host} {seqs:?} {:?} {:?}", outcome.answer, outcome.retry_after),
        );
        self.no_room |= !self.dead_room();
        let (now, alone) = (self.now(), seqs.len() == 1);
        let (max_age, most) = (self.plan.settings.max_age, self.plan.settings.backoff.max);
        let not_before = now.after(outcome.retry_after.unwrap_or_default().min(most));
        for (position, seq) in seqs.iter().enumerate() {
            let stored = self.stored_mut(*seq);
            let old = now.since(stored.event.arrived) > max_age;
            let said = &mut stored.said;
            match &outcome.answer {
                Answer::Accepted => said.processed = true,
                Answer::Listed(flags) if flags[position] => said.processed = true,
                Answer::Listed(_) => {
                    said.unlisted += 1;
                    said.failed_old |= old;
                }
                Answer::Status(400 | 402 | 405 | 410 | 413 | 414 | 422 | 451) => {
                    if alone {
                        said.refused_alone = Some(outcome.detail.clone());
                    }
                }
                answer => {
                    let quiet = matches!(answer, Answer::Unreadable | Answer::Status(408 | 420 | 425 | 429));
                    said.failed_alone += u32::from(alone && !quiet);
                    said.failed_old |= old;
                    said.not_before = not_before;
                }
            }
        }
    }

    /// An answer gives these events' visitor a `tntId`.
    pub(in crate::delivery::simulation) fn tells(&mut self, seqs: &[Seq], tnt_id: &str) {
        let envelope = &self.stored(seqs[0]).event.envelope;
        if let Some(visitor) = envelope.visitor {
            self.told.insert((hash::lane(&envelope.session), visitor, tnt_id.to_owned()));
        }
    }

    pub(in crate::delivery::simulation) fn faults(&self, seqs: &[Seq]) -> Vec<Fault> {
        seqs.iter().map(|seq| self.stored(*seq).fault).collect()
    }

    pub(in crate::delivery::simulation) fn is_busy_session(&self, seqs: &[Seq]) -> bool {
        let lane = self.stored(seqs[0]).entry.lane.0 as u64;
        self.plan.busy_session > 0 && (lane >> 7).is_multiple_of(self.plan.busy_session)
    }

    pub(in crate::delivery::simulation) fn is_wrong_owner(&self, seqs: &[Seq]) -> bool {
        self.plan.wrong_owner && self.stored(seqs[0]).event.envelope.owner.0 == 2
    }
}

/// The row of the table that an outcome belongs to.
fn kind(outcome: &Outcome) -> &'static str {
    match &outcome.answer {
        Answer::Listed(flags) if flags.iter().all(|flag| *flag) => "200, all listed",
        Answer::Listed(_) => "200, some missing",
        Answer::Unreadable => "200, unreadable",
        Answer::Accepted => "204",
        Answer::Status(400) => "400",
        Answer::Status(413) => "413",
        Answer::Status(401 | 403 | 404 | 300..=399) => "401, 403, 404, 3xx",
        Answer::Status(420) => "420",
        Answer::Status(408 | 425 | 429) => "408, 425, 429",
        Answer::Status(500..) => "5xx",
        Answer::Status(_) => "other 4xx",
        Answer::Failed(_) => "no answer",
    }
}
