//! A fake store and a fake Target around the scheduler, in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::event::{Answer, DeadReason, Entry, Fingerprint, IdHash, Lane, Moment, Outcome, Owner, Seq};
use crate::schedule::{Attempt, Backoff, Notice, Random, Reading, Scheduler, Settings};

const SCAN: Duration = Duration::from_millis(1);
const COMMIT: Duration = Duration::from_millis(5);
pub(super) const ANSWER: Duration = Duration::from_millis(20);
pub(super) const PAGE: usize = 256;

pub(in crate::schedule) fn settings() -> Settings {
    Settings {
        linger: Duration::from_millis(500),
        max_events: 50,
        max_bytes: 512 * 1_024,
        backoff: Backoff { initial: secs(1), max: secs(300), multiplier: 2.0 },
        isolate_after: 3,
        park_after: 6,
        unlisted_max: 6,
        concurrency: 64,
        host_concurrency: 32,
        max_hosts: 32,
        rate_limit: 0,
        breaker_failures: 5,
        breaker_open: secs(2),
        breaker_max: secs(10),
        max_age: secs(7 * 86_400),
        index_max_bytes: 48 << 20,
        default_cluster: None,
        edge_routing: true,
        slot_limit: secs(70),
        stuck_after: secs(60),
    }
}

pub(super) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn entry(lane: u64) -> Entry {
    // Spread as a hash would be.
    let hash = u128::from(Random::new(lane).bits()) << 64 | u128::from(Random::new(!lane).bits());
    Entry {
        seq: Seq(0),
        lane: Lane(hash),
        envelope: Fingerprint(1),
        id: IdHash(0),
        arrived: Moment::ZERO,
        cluster: None,
        owner: Owner(1),
        visitor: None,
        bytes: 100,
    }
}

pub(super) enum Happening {
    Scanned(Vec<Entry>, Seq),
    Answered(u64, Outcome),
    Durable(Vec<Seq>),
}

/// What the fake Target does with an attempt: when it answers, and what.
type Policy<'p> = Box<dyn FnMut(Moment, &Attempt, &[Entry], &mut Random) -> (Duration, Answer) + 'p>;

pub(super) struct Sim<'p> {
    seed: u64,
    pub(super) now: Moment,
    pub(super) scheduler: Scheduler,
    pub(super) settings: Settings,
    pub(super) random: Random,
    /// The store: the event of each sequence number from 1 on, and when it was settled durably.
    pub(super) events: Vec<Entry>,
    durable: BTreeSet<Seq>,
    pub(super) delivered: BTreeMap<Seq, Moment>,
    pub(super) buried: BTreeMap<Seq, (DeadReason, Moment)>,
    happenings: BTreeMap<(Moment, u64), Happening>,
    count: u64,
    in_flight: BTreeMap<u64, Attempt>,
    pub(super) attempts: Vec<(Moment, Attempt)>,
    pub(super) readings: Vec<Reading>,
    /// The most events that were in the index at a time.
    pub(super) most_indexed: usize,
    pub(super) notices: Vec<Notice>,
    /// The newest event of each lane that was sent.
    sent: BTreeMap<Lane, Seq>,
    policy: Policy<'p>,
    pub(super) retry_after: Option<Duration>,
}

impl<'p> Sim<'p> {
    pub(super) fn new(
        seed: u64,
        settings: Settings,
        policy: impl FnMut(Moment, &Attempt, &[Entry], &mut Random) -> (Duration, Answer) + 'p,
    ) -> Self {
        Self {
            seed,
            now: Moment::from_millis(1_000_000),
            scheduler: Scheduler::new(settings.clone(), seed),
            settings,
            random: Random::new(seed ^ 0xabcd),
            events: Vec::new(),
            durable: BTreeSet::new(),
            delivered: BTreeMap::new(),
            buried: BTreeMap::new(),
            happenings: BTreeMap::new(),
            count: 0,
            in_flight: BTreeMap::new(),
            attempts: Vec::new(),
            readings: Vec::new(),
            most_indexed: 0,
            notices: Vec::new(),
            sent: BTreeMap::new(),
            policy: Box::new(policy),
            retry_after: None,
        }
    }

    /// Adds one event to the store, and tells the scheduler where the tail is, or hands it over.
    pub(super) fn add(&mut self, entry: Entry, live: bool) -> Seq {
        let seq = Seq(self.events.len() as u64 + 1);
        let arrived = if entry.arrived == Moment::ZERO { self.now } else { entry.arrived };
        let entry = Entry { seq, id: IdHash(seq.0), arrived, ..entry };
        self.events.push(entry);
        match live {
            true => self.scheduler.handle_live(self.now, seq, seq.next(), &[entry]),
            false => self.scheduler.handle_tail(seq.next()),
        }
        seq
    }

    fn at(&mut self, wait: Duration, happening: Happening) {
        self.count += 1;
        self.happenings.insert((self.now.after(wait), self.count), happening);
    }

    fn entry(&self, seq: Seq) -> Entry {
        self.events[seq.0 as usize - 1]
    }

    /// Does all that is to be done now.
    pub(super) fn act(&mut self) {
        while let Some(attempt) = self.scheduler.poll_attempt(self.now) {
            let entries: Vec<Entry> = attempt.seqs.iter().map(|seq| self.entry(*seq)).collect();
            self.check(&attempt, &entries);
            let (latency, answer) = (self.policy)(self.now, &attempt, &entries, &mut self.random);
            let outcome = Outcome {
                answer,
                retry_after: self.retry_after,
                edge: None,
                known: None,
                detail: String::new(),
            };
            self.at(latency, Happening::Answered(attempt.id, outcome));
            let newest = self.sent.entry(attempt.lane).or_default();
            *newest = attempt.seqs.iter().copied().fold(*newest, Seq::max);
            self.attempts.push((self.now, attempt.clone()));
            self.in_flight.insert(attempt.id, attempt);
        }
        if let Some(reading @ Reading { from, .. }) = self.scheduler.poll_read(self.now) {
            self.readings.push(reading);
            let rest = self.events.iter().skip(from.0 as usize - 1).take(PAGE);
            let next = Seq(from.0 + rest.clone().count() as u64);
            // The answer shows the store as it was when it was read, which is when it was asked for.
            let entries = rest.filter(|one| !self.durable.contains(&one.seq)).copied().collect();
            self.at(SCAN, Happening::Scanned(entries, next));
        }
        while let Some(notice) = self.scheduler.poll_notice() {
            self.notices.push(notice);
        }
        let status = self.scheduler.status();
        self.most_indexed = self.most_indexed.max(status.indexed);
        let bytes = status.indexed as u64 * 256;
        assert!(bytes <= self.settings.index_max_bytes + PAGE as u64 * 256, "seed {}: {status:?}", self.seed);
    }

    fn check(&self, attempt: &Attempt, entries: &[Entry]) {
        let seed = self.seed;
        let others = self.in_flight.values();
        assert!(
            others.clone().all(|other| other.lane != attempt.lane),
            "seed {seed}: two requests of a lane"
        );
        assert!(others.count() < self.settings.concurrency, "seed {seed}: slots");
        assert!(entries.len() <= self.settings.max_events, "seed {seed}: batch");
        let ids: BTreeSet<IdHash> = entries.iter().map(|one| one.id).collect();
        assert_eq!(ids.len(), entries.len(), "seed {seed}: a repeated id");
        assert!(
            entries.iter().all(|one| one.lane == attempt.lane && one.envelope == entries[0].envelope),
            "seed {seed}: a mixed batch"
        );
        assert!(entries.windows(2).all(|two| two[0].seq < two[1].seq), "seed {seed}: order in a batch");
        let settled =
            |one: &Entry| self.delivered.contains_key(&one.seq) || self.buried.contains_key(&one.seq);
        assert!(!entries.iter().any(settled), "seed {seed}: sent after it was settled");
    }

    pub(super) fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Scanned(entries, next) => self.scheduler.handle_scan(self.now, &entries, next),
            Happening::Durable(seqs) => {
                self.scheduler.handle_settled(self.now, &seqs);
                self.durable.extend(seqs);
            }
            Happening::Answered(id, outcome) => {
                self.in_flight.remove(&id);
                let settled = self.scheduler.handle_outcome(self.now, id, &outcome);
                for seq in &settled.delivered {
                    let before = self.delivered.insert(*seq, self.now);
                    assert!(before.is_none() && !self.buried.contains_key(seq), "seed {}", self.seed);
                }
                for one in &settled.buried {
                    let before = self.buried.insert(one.seq, (one.reason, self.now));
                    assert!(before.is_none() && !self.delivered.contains_key(&one.seq), "seed {}", self.seed);
                }
                let all = settled.delivered.iter().copied().chain(settled.buried.iter().map(|one| one.seq));
                let all: Vec<Seq> = all.collect();
                if !all.is_empty() {
                    self.at(COMMIT, Happening::Durable(all));
                }
            }
        }
    }

    /// Runs until `until`, or until everything is settled.
    pub(super) fn run(&mut self, until: Moment) {
        loop {
            self.act();
            let next = self.happenings.keys().next().map(|(at, _)| *at);
            let wake = self.scheduler.next_wake(self.now);
            let at = [next, wake].into_iter().flatten().min().filter(|at| *at <= until);
            let Some(at) = at.filter(|_| self.durable.len() < self.events.len()) else {
                self.now = self.now.max(until);
                return;
            };
            self.now = self.now.max(at);
            if wake == Some(at) && next != Some(at) {
                // A wake-up that leads to nothing must not come again at once.
                let before = (self.attempts.len(), self.count);
                self.act();
                let again = self.scheduler.next_wake(self.now);
                let moved = before != (self.attempts.len(), self.count) || again != wake;
                assert!(moved, "seed {}: the scheduler spins at {at:?}", self.seed);
            }
            while let Some(entry) = self.happenings.first_entry().filter(|one| one.key().0 <= self.now) {
                let happening = entry.remove();
                self.happen(happening);
            }
        }
    }

    pub(super) fn after(&self, wait: Duration) -> Moment {
        self.now.after(wait)
    }
}

pub(super) fn all_listed(entries: &[Entry]) -> Answer {
    Answer::Listed(vec![true; entries.len()])
}
