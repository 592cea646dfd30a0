//! The scheduler over whole histories: a fake store, a fake Target, virtual time. A failure prints its seed.

mod expiry;
mod forgotten;
mod limits;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::event::{
    Answer, Cluster, DeadReason, Entry, Failure, Fingerprint, Host, IdHash, Lane, Moment, Outcome, Owner, Seq,
};

const SCAN: Duration = Duration::from_millis(1);
const COMMIT: Duration = Duration::from_millis(5);
const ANSWER: Duration = Duration::from_millis(20);
const PAGE: usize = 256;

fn settings() -> Settings {
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
    }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn entry(lane: u64) -> Entry {
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

enum Happening {
    Scanned(Vec<Entry>, Seq),
    Answered(u64, Outcome),
    Durable(Vec<Seq>),
}

/// What the fake Target does with an attempt: when it answers, and what.
type Policy<'p> = Box<dyn FnMut(Moment, &Attempt, &[Entry], &mut Random) -> (Duration, Answer) + 'p>;

struct Sim<'p> {
    seed: u64,
    now: Moment,
    scheduler: Scheduler,
    settings: Settings,
    random: Random,
    /// The store: the event of each sequence number from 1 on, and when it was settled durably.
    events: Vec<Entry>,
    durable: BTreeSet<Seq>,
    delivered: BTreeMap<Seq, Moment>,
    buried: BTreeMap<Seq, (DeadReason, Moment)>,
    happenings: BTreeMap<(Moment, u64), Happening>,
    count: u64,
    in_flight: BTreeMap<u64, Attempt>,
    attempts: Vec<(Moment, Attempt)>,
    notices: Vec<Notice>,
    /// The newest event of each lane that was sent.
    sent: BTreeMap<Lane, Seq>,
    policy: Policy<'p>,
    retry_after: Option<Duration>,
}

impl<'p> Sim<'p> {
    fn new(
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
            notices: Vec::new(),
            sent: BTreeMap::new(),
            policy: Box::new(policy),
            retry_after: None,
        }
    }

    /// Adds one event to the store, and tells the scheduler where the tail is, or hands it over.
    fn add(&mut self, entry: Entry, live: bool) -> Seq {
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
    fn act(&mut self) {
        if let Some(from) = self.scheduler.poll_read(self.now) {
            let rest = self.events.iter().skip(from.0 as usize - 1).take(PAGE);
            let next = Seq(from.0 + rest.clone().count() as u64);
            // The answer shows the store as it was when it was read, which is when it was asked for.
            let entries = rest.filter(|one| !self.durable.contains(&one.seq)).copied().collect();
            self.at(SCAN, Happening::Scanned(entries, next));
        }
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
        while let Some(notice) = self.scheduler.poll_notice() {
            self.notices.push(notice);
        }
        let status = self.scheduler.status();
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

    fn happen(&mut self, happening: Happening) {
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
    fn run(&mut self, until: Moment) {
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

    fn after(&self, wait: Duration) -> Moment {
        self.now.after(wait)
    }
}

fn all_listed(entries: &[Entry]) -> Answer {
    Answer::Listed(vec![true; entries.len()])
}

#[test]
fn everything_settles_through_faults_of_every_kind() {
    for seed in 1..=12 {
        let healed = Moment::from_millis(1_000_000).after(secs(120));
        let mut sim =
            Sim::new(seed, Settings { index_max_bytes: 1 << 20, ..settings() }, |now, _, entries, random| {
                if now >= healed {
                    return (ANSWER, all_listed(entries));
                }
                let answer = match random.bits() % 12 {
                    0 => Answer::Status(500),
                    1 => Answer::Status(503),
                    2 => Answer::Status(429),
                    3 => Answer::Status(420),
                    4 => Answer::Failed(Failure::Reset),
                    5 => return (secs(10), Answer::Failed(Failure::Timeout)),
                    6 => Answer::Unreadable,
                    7 => Answer::Listed(entries.iter().map(|_| random.bits() % 2 == 0).collect()),
                    8 if entries.len() > 1 => Answer::Status(400),
                    _ => all_listed(entries),
                };
                (Duration::from_millis(random.bits() % 100), answer)
            });
        for number in 0..6_000_u64 {
            let lane = sim.random.bits() % 400;
            let envelope = Fingerprint(u128::from(sim.random.bits() % 8 / 7));
            let cluster = if lane.is_multiple_of(5) { Cluster::parse("35") } else { None };
            sim.add(Entry { envelope, cluster, ..entry(lane) }, number % 3 > 0);
            if number % 100 == 0 {
                sim.run(sim.after(Duration::from_millis(700)));
            }
        }
        sim.run(healed.after(secs(900)));
        assert!(sim.buried.is_empty(), "seed {seed}: {:?}", sim.buried.len());
        assert_eq!(sim.delivered.len(), 6_000, "seed {seed}: {:?}", sim.scheduler.status());
    }
}

#[test]
fn a_poisoned_event_in_fifty_becomes_a_dead_letter_alone() {
    let poisoned = |seq: Seq| seq.0 % 50 == 17;
    let mut sim =
        Sim::new(1, settings(), |_, _, entries, _| match entries.iter().any(|one| poisoned(one.seq)) {
            true => (ANSWER, Answer::Status(400)),
            false => (ANSWER, all_listed(entries)),
        });
    for _ in 0..1_000 {
        sim.add(entry(sim.events.len() as u64 / 50), true);
    }
    sim.run(sim.after(secs(60)));
    let expected: Vec<u64> = (1..=1_000).filter(|seq| poisoned(Seq(*seq))).collect();
    assert_eq!(sim.buried.keys().map(|seq| seq.0).collect::<Vec<_>>(), expected);
    assert_eq!(sim.delivered.len(), 980);
    // 2·log2(50) + 2 for each.
    assert!(sim.attempts.len() <= 20 + 20 * 13, "{} requests", sim.attempts.len());
}

#[test]
fn an_outage_is_probed_seldom_and_ends_quickly() {
    let start = Moment::from_millis(1_000_000);
    let healed = start.after(secs(60));
    let mut sim = Sim::new(2, settings(), |now, _, entries, _| match now < healed {
        true => (Duration::from_millis(1), Answer::Failed(Failure::Connect)),
        false => (ANSWER, all_listed(entries)),
    });
    for lane in 0..5_000 {
        sim.add(entry(lane), true);
    }
    sim.run(healed);
    let later = sim.attempts.iter().filter(|(at, _)| *at > start.after(secs(3))).count();
    assert!(later < 57, "{later} attempts");
    sim.run(healed.after(secs(300)));
    assert_eq!(sim.delivered.len(), 5_000);
    let first = sim.delivered.values().min().unwrap();
    assert!(*first <= healed.after(secs(12)), "{:?}", first.since(healed));
    assert!(matches!(sim.notices[0], Notice::BreakerOpened { host: Host::Client, .. }));
}

#[test]
fn a_busy_session_and_a_dead_cluster_delay_nobody_else() {
    let history = |faulty: bool| {
        let busy = entry(0).lane;
        let mut sim = Sim::new(3, settings(), |_, attempt, entries, _| {
            if faulty && attempt.lane == busy {
                (ANSWER, Answer::Status(420))
            } else if faulty && attempt.host != Host::Client {
                (ANSWER, Answer::Failed(Failure::Connect))
            } else {
                (ANSWER, all_listed(entries))
            }
        });
        for round in 0..20_u64 {
            for lane in 0..20 {
                let cluster = if (1..=4).contains(&lane) { Cluster::parse("35") } else { None };
                sim.add(Entry { cluster, ..entry(lane) }, true);
            }
            sim.run(sim.after(Duration::from_millis(700 + round)));
        }
        sim.run(sim.after(secs(1_000)));
        let down = sim.delivered.keys().filter(|seq| (1..=4).contains(&((seq.0 - 1) % 20))).count();
        assert_eq!(down, 80, "the cluster's sessions go to the client's own host");
        let healthy = sim.delivered.into_iter().filter(|(seq, _)| (seq.0 - 1) % 20 > 4);
        healthy.collect::<Vec<_>>()
    };
    assert_eq!(history(true), history(false));
}

#[test]
fn a_target_that_refuses_everything_trips_the_fuse() {
    for refusal in [Answer::Status(400), Answer::Listed(vec![])] {
        let healed = Moment::from_millis(1_000_000).after(secs(3_600));
        let mut sim = Sim::new(4, settings(), |now, _, entries, _| match now < healed {
            true => (ANSWER, refusal.clone()),
            false => (ANSWER, all_listed(entries)),
        });
        for number in 0..320 {
            sim.add(entry(number % 32), true);
        }
        sim.run(healed);
        let dead = sim.buried.len();
        assert!((100..=110).contains(&dead), "{dead} dead letters");
        assert!(sim.notices.iter().any(|one| matches!(one, Notice::HostPaused { cause: Cause::Fuse, .. })));
        sim.run(healed.after(secs(1_000)));
        assert_eq!(sim.delivered.len() + sim.buried.len(), 320);
        assert_eq!(sim.buried.len(), dead);
    }
}

#[test]
fn a_session_alone_on_an_edge_that_hangs_is_served_by_the_clients_own_host() {
    // A probe lasts longer than the wait between two of them: as it ends, the next one is due already.
    let hang = settings().breaker_max * 2;
    let mut sim = Sim::new(6, settings(), |_, attempt, entries, _| match attempt.host {
        Host::Client => (ANSWER, all_listed(entries)),
        Host::Edge(_) => (hang, Answer::Failed(Failure::Timeout)),
    });
    for _ in 0..3 {
        sim.add(Entry { cluster: Cluster::parse("35"), ..entry(1) }, true);
    }
    sim.run(sim.after(hang * 8));
    assert_eq!(sim.delivered.len(), 3);
}

#[test]
fn what_arrives_after_the_fuse_is_probed_before_what_failed() {
    let mut sim = Sim::new(4, settings(), |_, _, entries, _| match entries[0].owner {
        Owner(2) => (ANSWER, Answer::Status(400)),
        _ => (ANSWER, all_listed(entries)),
    });
    for number in 0..400 {
        sim.add(Entry { owner: Owner(2), ..entry(number % 40) }, true);
    }
    sim.run(sim.after(secs(5)));
    assert!(sim.notices.iter().any(|one| matches!(one, Notice::HostPaused { cause: Cause::Fuse, .. })));
    // Forty sessions whose events are refused wait before these, and come back from their backoff behind them.
    for number in 100..120 {
        sim.add(entry(number), true);
    }
    sim.run(sim.after(sim.settings.breaker_max * 4));
    assert_eq!(sim.delivered.len(), 20);
}

#[test]
fn a_wrong_token_pauses_nobody_else_and_a_wrong_account_pauses_all() {
    let mut sim = Sim::new(5, settings(), |_, _, entries, _| match entries[0].owner {
        Owner(2) => (ANSWER, Answer::Status(403)),
        _ => (ANSWER, all_listed(entries)),
    });
    for number in 0..400_u64 {
        let owner = Owner(if number % 20 < 4 { 2 } else { 1 });
        sim.add(Entry { owner, ..entry(number % 20) }, true);
    }
    sim.run(sim.after(secs(30)));
    assert_eq!(sim.delivered.len(), 320);
    assert!(sim.delivered.values().all(|at| *at <= Moment::from_millis(1_000_000).after(secs(2))));
    drop(sim);

    let healed = Moment::from_millis(1_000_000).after(secs(600));
    let mut sim = Sim::new(5, settings(), |now, _, entries, _| match now < healed {
        true => (ANSWER, Answer::Status(404)),
        false => (ANSWER, all_listed(entries)),
    });
    for number in 0..400 {
        sim.add(entry(number), true);
    }
    sim.run(healed);
    assert!(sim.buried.is_empty());
    let probes = sim
        .attempts
        .iter()
        .filter(|(at, _)| *at > healed.after(secs(0)) || at.since(Moment::from_millis(1_000_000)) > secs(5));
    assert!(probes.count() <= 61, "one probe every breaker_max");
    sim.run(healed.after(secs(1_000)));
    assert_eq!(sim.delivered.len(), 400);
}

#[test]
fn an_event_that_fails_by_itself_is_parked_and_dies_of_age() {
    let bad = Seq(25);
    let settings = Settings { max_age: secs(3_600), ..settings() };
    let mut sim = Sim::new(6, settings, |_, _, entries, _| match entries.iter().any(|one| one.seq == bad) {
        true => (ANSWER, Answer::Status(503)),
        false => (ANSWER, all_listed(entries)),
    });
    for number in 0..50 {
        sim.add(entry(number / 50), true);
    }
    // Others keep the host serving.
    for _ in 0..1_200 {
        sim.add(entry(1_000 + sim.events.len() as u64 % 7), true);
        sim.run(sim.after(secs(1)));
    }
    assert!(sim.notices.iter().any(|one| matches!(one, Notice::Parked { seq, .. } if *seq == bad)));
    assert_eq!(sim.delivered.len(), sim.events.len() - 1);
    for _ in 0..3_000 {
        sim.add(entry(1_000), true);
        sim.run(sim.after(secs(1)));
    }
    assert_eq!(
        sim.buried.iter().map(|(seq, (reason, _))| (*seq, *reason)).collect::<Vec<_>>(),
        [(bad, DeadReason::Expired)]
    );
}

#[test]
fn a_window_of_blocked_events_hides_no_healthy_session() {
    let start = Moment::from_millis(1_000_000);
    let blocked: BTreeSet<Lane> = (0..10_000).map(|lane| entry(lane).lane).collect();
    let settings = Settings { index_max_bytes: 2 << 20, ..settings() };
    let healed = start.after(secs(200));
    let mut sim = Sim::new(7, settings, |now, attempt, entries, _| {
        match blocked.contains(&attempt.lane) && now < healed {
            true => (ANSWER, Answer::Status(420)),
            false => (ANSWER, all_listed(entries)),
        }
    });
    for number in 0..20_000 {
        sim.add(entry(number % 10_000), false);
    }
    for lane in 10_000..20_000 {
        sim.add(entry(lane), false);
    }
    sim.run(start.after(secs(120)));
    let healthy = sim.delivered.keys().filter(|seq| seq.0 > 20_000).count();
    assert_eq!(healthy, 10_000, "{:?}", sim.scheduler.status());
    sim.run(healed.after(secs(900)));
    assert_eq!(sim.delivered.len(), 30_000, "{:?}", sim.scheduler.status());
    // The marks go with the next pass.
    for _ in 0..30 {
        sim.add(entry(10_000), true);
        sim.run(sim.after(secs(1)));
    }
    assert_eq!(sim.scheduler.status().forgotten_buckets, 0);
}

#[test]
fn a_repeated_id_and_another_envelope_end_a_batch_and_linger_ends_at_once_then() {
    let mut sim = Sim::new(8, settings(), |_, _, entries, _| (ANSWER, all_listed(entries)));
    sim.add(entry(1), true);
    let again = Entry { seq: Seq(2), id: IdHash(1), arrived: sim.now, ..entry(1) };
    sim.events.push(again);
    sim.scheduler.handle_live(sim.now, Seq(2), Seq(3), &[again]);
    sim.add(Entry { envelope: Fingerprint(9), ..entry(1) }, true);
    sim.run(sim.after(secs(5)));
    let batches: Vec<_> =
        sim.attempts.iter().map(|(at, one)| (at.as_millis() - 1_000_000, one.seqs.len())).collect();
    assert_eq!(batches, [(0, 1), (20, 1), (500, 1)]);
}
