//! What one history is drawn from: the settings, the faults of hosts, sessions and events, and how often it crashes.

use std::time::Duration;

use crate::event::{Cluster, Failure};
use crate::schedule::{Backoff, Random, Settings};

/// The hosts that the fake Target tells apart: the client's own, and the clusters 35 and 36 with all others.
pub(super) const HOSTS: usize = 3;

/// What a host does with requests, whatever is in them.
#[derive(Clone, Copy, Debug)]
pub(super) enum Weather {
    /// It serves.
    Fine,
    /// How many of a hundred answers are drawn from everything that there is.
    Noisy(u64),
    /// No connection.
    Down(Failure),
    /// No answer before the timeout.
    Hangs,
    /// This status for everything.
    Answers(u16),
    /// 429 or 503, with `Retry-After`.
    Busy,
}

/// What is wrong with an event, whatever its host does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// Every request with it is refused with this status.
    Poison(u16),
    /// No answer lists it.
    Unlisted,
    /// Every request with it fails, until Target heals.
    Crasher(u16),
}

/// One history, before it happens. The same seed gives the same plan.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) settings: Settings,
    /// How long a request may take.
    pub(super) timeout: Duration,
    pub(super) grace: Duration,
    /// How many different sessions, and different envelopes in each, there are.
    pub(super) sessions: u64,
    pub(super) envelopes: u64,
    /// Whether all envelopes of a session have one fingerprint.
    pub(super) collide: bool,
    /// How many things the producers and the operator do, and for how long: then Target heals.
    pub(super) actions: u64,
    pub(super) lasts: Duration,
    /// The most events of one commit's submission.
    pub(super) submission: u64,
    /// One action in this many is a crash, an orderly stop, a failure of the disk; 0: none.
    pub(super) crash: u64,
    pub(super) stop: u64,
    pub(super) disk_fails: u64,
    /// One event in this many has this fault; 0: none.
    pub(super) poison: u64,
    pub(super) unlisted: u64,
    pub(super) crasher: u64,
    pub(super) damaged: u64,
    /// One session in this many is answered 420, one owner's envelopes 403, until Target heals; 0: none.
    pub(super) busy_session: u64,
    pub(super) wrong_owner: bool,
    /// The weather at each host, by phases of equal length.
    pub(super) weather: Vec<[Weather; HOSTS]>,
    /// The longest commit, and the most events that a scan finds.
    pub(super) commit: Duration,
    pub(super) page: u64,
    /// How many commits wait to be heard of; others are read.
    pub(super) live_room: usize,
    pub(super) dead_max: u64,
}

/// A number below `bound`.
pub(super) fn below(random: &mut Random, bound: u64) -> u64 {
    random.bits() % bound.max(1)
}

/// Whether one in `count` happens; never for 0.
pub(super) fn one_in(random: &mut Random, count: u64) -> bool {
    count > 0 && random.bits().is_multiple_of(count)
}

pub(super) fn pick<T: Clone>(random: &mut Random, from: &[T]) -> T {
    from[usize::try_from(below(random, from.len() as u64)).unwrap()].clone()
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

impl Plan {
    pub(super) fn draw(r: &mut Random) -> Self {
        let large = one_in(r, 64);
        let phases = 1 + below(r, 4);
        Self {
            timeout: pick(r, &[secs(1), secs(10)]),
            grace: pick(r, &[secs(0), millis(300), secs(20)]),
            sessions: pick(r, &[1, 2, 5, 12, 40]),
            envelopes: pick(r, &[1, 1, 2, 3]),
            collide: one_in(r, 8),
            actions: if large { 300 } else { 5 + below(r, 40) },
            lasts: secs(pick(r, &[5, 60, 600])),
            submission: if large { 12 } else { pick(r, &[1, 3, 6]) },
            crash: pick(r, &[0, 10, 20, 40]),
            stop: pick(r, &[0, 20, 40]),
            disk_fails: pick(r, &[0, 0, 40]),
            poison: pick(r, &[0, 0, 10, 40]),
            unlisted: pick(r, &[0, 0, 0, 20]),
            crasher: pick(r, &[0, 0, 0, 15, 40]),
            damaged: pick(r, &[0, 0, 0, 40]),
            busy_session: pick(r, &[0, 0, 0, 4]),
            wrong_owner: one_in(r, 8),
            weather: (0..phases).map(|_| std::array::from_fn(|_| draw_weather(r))).collect(),
            commit: millis(pick(r, &[1, 10, 10, 2_000])),
            page: pick(r, &[3, 16, 256, 2_048]),
            live_room: pick(r, &[1, 4, 256]),
            dead_max: pick(r, &[u64::MAX, u64::MAX, u64::MAX, 0, 3]),
            settings: draw_settings(r),
        }
    }
}

fn draw_settings(r: &mut Random) -> Settings {
    let concurrency = pick(r, &[1, 2, 8, 64]);
    Settings {
        linger: millis(pick(r, &[0, 50, 500])),
        max_events: pick(r, &[1, 3, 10, 50]),
        max_bytes: pick(r, &[150, 1_000, 512 * 1_024]),
        backoff: Backoff {
            initial: millis(pick(r, &[100, 1_000])),
            max: secs(pick(r, &[10, 60, 300])),
            multiplier: pick(r, &[1.0, 2.0, 3.0]),
        },
        isolate_after: pick(r, &[1, 3]),
        park_after: pick(r, &[1, 2, 6]),
        unlisted_max: pick(r, &[1, 3, 6]),
        concurrency,
        host_concurrency: pick(r, &[1, 2, 32]).min(concurrency),
        max_hosts: pick(r, &[1, 2, 32]),
        rate_limit: pick(r, &[0, 0, 0, 7, 50]),
        breaker_failures: pick(r, &[1, 5]),
        breaker_open: secs(2),
        breaker_max: secs(10),
        max_age: secs(pick(r, &[30, 600, 7 * 86_400, 7 * 86_400])),
        index_max_bytes: pick(r, &[4 << 10, 16 << 10, 48 << 20, 48 << 20]),
        default_cluster: pick(r, &[None, None, Cluster::parse("35")]),
        edge_routing: !one_in(r, 4),
        // No timeout of a plan is longer than ten seconds.
        slot_limit: secs(70),
        stuck_after: secs(60),
    }
}

fn draw_weather(r: &mut Random) -> Weather {
    match below(r, 12) {
        0..3 => Weather::Fine,
        3..7 => Weather::Noisy(pick(r, &[5, 20, 50, 90])),
        7 => Weather::Down(draw_failure(r)),
        8 => Weather::Hangs,
        9 => Weather::Busy,
        10 => Weather::Answers(pick(r, &[500, 502, 503, 504, 599])),
        _ => Weather::Answers(pick(r, &[400, 413, 401, 403, 404, 302, 420, 429])),
    }
}

pub(super) fn draw_failure(r: &mut Random) -> Failure {
    pick(r, &[Failure::Dns, Failure::Connect, Failure::Tls, Failure::Reset])
}
