//! How long a lane waits before it tries again: exponential, with full jitter.
//!
//! Full jitter (a wait drawn evenly from zero to the bound) spreads lanes that failed together over the whole bound, so
//! that they don't come back together.

use std::time::Duration;

/// A small seeded generator (SplitMix64): the same seed gives the same history.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator that starts from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A wait drawn evenly from zero up to and with `bound`.
    pub fn up_to(&mut self, bound: Duration) -> Duration {
        let micros = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX - 1);
        // The high half of a 128-bit product is even over the range to within 2^-64 of a microsecond's share.
        let drawn = (u128::from(self.bits()) * (u128::from(micros) + 1)) >> 64;
        Duration::from_micros(u64::try_from(drawn).unwrap_or(micros))
    }
}

/// The bounds of the waits (`[retry]` in the configuration).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The bound after the first failure (`retry.initial`).
    pub initial: Duration,
    /// The largest bound (`retry.max`).
    pub max: Duration,
    /// How much the bound grows with each failure (`retry.multiplier`); below 1 counts as 1.
    pub multiplier: f64,
}

impl Backoff {
    /// The largest wait after `failures` failures in a row, the first being 1.
    #[must_use]
    pub fn bound(&self, failures: u32) -> Duration {
        let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = self.initial.as_secs_f64() * self.multiplier.max(1.0).powi(exponent);
        Duration::try_from_secs_f64(grown).unwrap_or(self.max).min(self.max)
    }

    /// The wait after `failures` failures in a row; never shorter than what the server asked for, which counts up to
    /// `max`.
    pub fn wait(&self, failures: u32, retry_after: Option<Duration>, random: &mut Random) -> Duration {
        let asked = retry_after.unwrap_or_default().min(self.max);
        random.up_to(self.bound(failures)).max(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff() -> Backoff {
        Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(300), multiplier: 2.0 }
    }

    #[test]
    fn the_bound_doubles_up_to_the_maximum() {
        for (failures, seconds) in [(0, 1), (1, 1), (2, 2), (3, 4), (9, 256), (10, 300), (u32::MAX, 300)] {
            assert_eq!(backoff().bound(failures), Duration::from_secs(seconds), "{failures}");
        }
    }

    #[test]
    fn waits_fill_the_whole_bound_and_never_pass_it() {
        let mut random = Random::new(7);
        let waits: Vec<Duration> = (0..1_000).map(|_| backoff().wait(3, None, &mut random)).collect();
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(4)));
        for quarter in 0..4 {
            let within = waits.iter().filter(|wait| wait.as_secs() == quarter).count();
            assert!((150..350).contains(&within), "{within} of 1000 in second {quarter}");
        }
    }

    #[test]
    fn a_server_may_ask_for_longer_up_to_the_maximum() {
        let mut random = Random::new(7);
        let asked = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(backoff().wait(1, asked(60), &mut random), Duration::from_secs(60));
        assert_eq!(backoff().wait(1, asked(86_400), &mut random), Duration::from_secs(300));
    }

    #[test]
    fn the_same_seed_gives_the_same_history() {
        let history = |seed| {
            let mut random = Random::new(seed);
            (0..10).map(|_| random.bits()).collect::<Vec<_>>()
        };
        assert_eq!(history(1), history(1));
        assert_ne!(history(1), history(2));
    }
}
