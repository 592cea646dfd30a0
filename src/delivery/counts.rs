//! What went out to Target since the start, in numbers: requests by what came of them, and how long they took.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::event::{Answer, Failure};
use crate::schedule::{Verdict, verdict};

/// The upper bounds of the buckets that latencies are counted in, in milliseconds; a last bucket has none.
const LATENCY_BOUNDS_MS: [u64; 20] = [
    2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 1_000, 2_000, 3_000, 5_000, 10_000, 30_000,
    60_000,
];
const BUCKETS: usize = LATENCY_BOUNDS_MS.len() + 1;

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 200, and every event is listed.
    Listed,
    /// 200, and an event is not listed.
    Partial,
    /// 204.
    Accepted,
    /// A 2xx that says nothing of the events.
    Unreadable,
    /// Refused for good: 4xx but for those below.
    Refused,
    /// 401, 403, 404, or a redirect: the configuration is wrong.
    Misconfigured,
    /// 420, 408, 425, 429: not now.
    Busy,
    /// 5xx, and what HTTP does not know.
    ServerError,
    /// No answer, and why.
    Failed(Failure),
}

impl Kind {
    /// Every kind, in the order in which they are counted.
    pub const ALL: [Self; 13] = [
        Self::Listed,
        Self::Partial,
        Self::Accepted,
        Self::Unreadable,
        Self::Refused,
        Self::Misconfigured,
        Self::Busy,
        Self::ServerError,
        Self::Failed(Failure::Dns),
        Self::Failed(Failure::Connect),
        Self::Failed(Failure::Tls),
        Self::Failed(Failure::Reset),
        Self::Failed(Failure::Timeout),
    ];

    /// The kind of an answer.
    #[must_use]
    pub fn of(answer: &Answer) -> Self {
        match answer {
            Answer::Listed(listed) if listed.iter().all(|here| *here) => Self::Listed,
            Answer::Listed(_) => Self::Partial,
            Answer::Accepted => Self::Accepted,
            Answer::Unreadable => Self::Unreadable,
            Answer::Status(_) => match verdict(answer, 1) {
                Verdict::Misconfigured => Self::Misconfigured,
                Verdict::SessionBusy | Verdict::Retry { host_failed: false } => Self::Busy,
                Verdict::Retry { host_failed: true } => Self::ServerError,
                _ => Self::Refused,
            },
            Answer::Failed(failure) => Self::Failed(*failure),
        }
    }

    /// The name that the metrics use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listed => "listed",
            Self::Partial => "partial",
            Self::Accepted => "accepted",
            Self::Unreadable => "unreadable",
            Self::Refused => "refused",
            Self::Misconfigured => "misconfigured",
            Self::Busy => "busy",
            Self::ServerError => "server_error",
            Self::Failed(Failure::Dns) => "dns",
            Self::Failed(Failure::Connect) => "connect",
            Self::Failed(Failure::Tls) => "tls",
            Self::Failed(Failure::Reset) => "reset",
            Self::Failed(Failure::Timeout) => "timeout",
        }
    }

    /// Whether it tells how fast Target is: it answered, or had all the time that there was.
    fn is_timed(self) -> bool {
        matches!(self, Self::Failed(Failure::Timeout)) || !matches!(self, Self::Failed(_))
    }
}

/// The numbers; the flusher counts, anybody reads. Nothing else is ordered by them.
#[derive(Debug, Default)]
pub struct Counts {
    requests: [AtomicU64; Kind::ALL.len()],
    latencies: [AtomicU64; BUCKETS],
    /// How long the requests of each bucket took together.
    latency_micros: [AtomicU64; BUCKETS],
}

impl Counts {
    /// Counts a request that took `took`.
    pub(super) fn add(&self, answer: &Answer, took: Duration) {
        let kind = Kind::of(answer);
        if let Some(count) =
            Kind::ALL.iter().position(|one| *one == kind).and_then(|at| self.requests.get(at))
        {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if !kind.is_timed() {
            return;
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BOUNDS_MS.iter().position(|bound| micros <= bound * 1_000);
        let bucket = bucket.unwrap_or(LATENCY_BOUNDS_MS.len());
        for (sums, more) in [(&self.latencies, 1), (&self.latency_micros, micros)] {
            if let Some(sum) = sums.get(bucket) {
                sum.fetch_add(more, Ordering::Relaxed);
            }
        }
    }

    /// How many requests came to each kind.
    pub fn requests(&self) -> impl Iterator<Item = (Kind, u64)> {
        Kind::ALL.into_iter().zip(self.requests.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// How long requests took: those that were answered, and those that ran out of time.
    #[must_use]
    pub fn latency(&self) -> Latency {
        let loaded = |sums: &[AtomicU64; BUCKETS]| sums.each_ref().map(|sum| sum.load(Ordering::Relaxed));
        Latency { counts: loaded(&self.latencies), micros: loaded(&self.latency_micros) }
    }
}

/// How long requests took, in the buckets of `LATENCY_BOUNDS_MS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// How many fell into each bucket.
    counts: [u64; BUCKETS],
    /// How long those of each bucket took together.
    micros: [u64; BUCKETS],
}

impl Latency {
    /// What was added since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut left = *self;
        let pairs = [(&mut left.counts, earlier.counts), (&mut left.micros, earlier.micros)];
        for (sum, before) in pairs.into_iter().flat_map(|(sums, before)| sums.iter_mut().zip(before)) {
            *sum = sum.saturating_sub(before);
        }
        left
    }

    /// How many requests there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How long they took together.
    #[must_use]
    pub fn total(&self) -> Duration {
        Duration::from_micros(self.micros.iter().fold(0, |sum, more| sum.saturating_add(*more)))
    }

    /// Each bucket's upper bound, `None` for the last one, and how many fell into it.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        let bounds = LATENCY_BOUNDS_MS.iter().copied().map(Some).chain([None]);
        bounds.zip(self.counts)
    }

    /// The time in milliseconds within which the share `quantile` of the requests ended, `None` without any: what those of
    /// its bucket took on average. Many end at one moment, that of the timeout, which lies anywhere in a wide bucket.
    #[must_use]
    pub fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        let rank = quantile.clamp(0.0, 1.0) * self.count() as f64;
        let (mut below, mut lower) = (0.0, 0.0);
        for ((bound, count), micros) in self.buckets().zip(self.micros) {
            below += count as f64;
            let bound = bound.map_or(f64::INFINITY, |bound| bound as f64);
            if count > 0 && below >= rank {
                // Within the bucket, since its two sums are not read at one moment.
                return Some((micros as f64 / count as f64 / 1_000.0).clamp(lower, bound));
            }
            lower = bound;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_and_a_place_of_its_own() {
        let counts = Counts::default();
        for (answer, kind) in [
            (Answer::Listed(vec![true, true]), "listed"),
            (Answer::Listed(vec![true, false]), "partial"),
            (Answer::Accepted, "accepted"),
            (Answer::Unreadable, "unreadable"),
            (Answer::Status(413), "refused"),
            (Answer::Status(403), "misconfigured"),
            (Answer::Status(302), "misconfigured"),
            (Answer::Status(420), "busy"),
            (Answer::Status(503), "server_error"),
            (Answer::Status(0), "server_error"),
            (Answer::Failed(Failure::Dns), "dns"),
            (Answer::Failed(Failure::Connect), "connect"),
            (Answer::Failed(Failure::Tls), "tls"),
            (Answer::Failed(Failure::Reset), "reset"),
            (Answer::Failed(Failure::Timeout), "timeout"),
        ] {
            assert_eq!(Kind::of(&answer).as_str(), kind, "{answer:?}");
            counts.add(&answer, Duration::from_millis(7));
        }
        assert_eq!(counts.requests().map(|(_, count)| count).sum::<u64>(), 15);
        assert!(counts.requests().all(|(_, count)| count > 0));
        // No connection says nothing of how fast Target is.
        assert_eq!((counts.latency().count(), counts.latency().total()), (11, Duration::from_millis(77)));
    }

    #[test]
    fn quantiles_are_what_requests_took_and_differences_forget_what_was_before() {
        let counts = Counts::default();
        assert_eq!(counts.latency().quantile_ms(0.5), None);
        for _ in 0..98 {
            counts.add(&Answer::Accepted, Duration::from_millis(40));
        }
        let before = counts.latency();
        for _ in 0..2 {
            counts.add(&Answer::Accepted, Duration::from_millis(4_000));
        }
        let quantile = |quantile| counts.latency().quantile_ms(quantile).unwrap();
        assert_eq!((quantile(0.0), quantile(0.5), quantile(0.99)), (40.0, 40.0, 4_000.0));
        let since = counts.latency().since(&before);
        assert_eq!((since.count(), since.quantile_ms(0.01)), (2, Some(4_000.0)));
        // The timeouts of a Target that hangs.
        let before = counts.latency();
        for took in [10_001, 10_002, 10_003] {
            counts.add(&Answer::Failed(Failure::Timeout), Duration::from_millis(took));
        }
        let since = counts.latency().since(&before);
        assert_eq!([0.5, 0.99].map(|share| since.quantile_ms(share)), [Some(10_002.0); 2]);
        // Of two sums that are read one after the other, the second may lack the last request, or have it alone.
        let torn = |micros| {
            let mut latency = before.since(&before);
            (latency.counts[3], latency.micros[3]) = (2, micros);
            latency.quantile_ms(0.5)
        };
        assert_eq!([torn(11_000), torn(60_000)], [Some(10.0), Some(20.0)]);
        counts.add(&Answer::Accepted, Duration::MAX);
        assert!(quantile(1.0) > 60_000.0);
    }
}
