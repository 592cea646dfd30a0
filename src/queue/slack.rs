//! Lets the engine's idle threads sleep.
//!
//! sled 0.34.7 keeps seven threads for its reads and writes. Each looks once a second whether there is work, though new
//! work wakes it: seven wake-ups a second of an idle daemon. The system may be late with a thread's timers by the
//! thread's slack, which a new thread has from the one that starts it. Only timers are late: what wakes a thread, wakes
//! it at once.

use std::num::NonZeroU64;

use rustix::thread::set_current_timer_slack;

/// How late the timers of the engine's threads may be, in nanoseconds: a minute. Nothing but their look for work counts
/// on them.
const SLACK_NANOS: Option<NonZeroU64> = NonZeroU64::new(60 * 1_000_000_000);
/// How late the timers of a thread may be that waits for something, in nanoseconds: the system's own slack.
const NO_SLACK_NANOS: Option<NonZeroU64> = NonZeroU64::new(50_000);

/// Runs `starts`, with slack for all threads that it starts. It must not wait for a time itself, nor call this.
pub(super) fn with_slack<T>(starts: impl FnOnce() -> T) -> T {
    during(SLACK_NANOS, starts)
}

/// Runs `waits`, which may wait in one of the engine's threads and counts on the end of its wait.
pub(super) fn without_slack<T>(waits: impl FnOnce() -> T) -> T {
    during(NO_SLACK_NANOS, waits)
}

fn during<T>(slack: Option<NonZeroU64>, work: impl FnOnce() -> T) -> T {
    // Where a sandbox forbids it, the threads wake up as they would without it.
    let _set = set_current_timer_slack(slack);
    let done = work();
    // None stands for what the thread began with.
    let _set = set_current_timer_slack(None);
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slack() -> u64 {
        let path = format!("/proc/{}/timerslack_ns", nix::unistd::gettid());
        std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }

    #[test]
    fn a_thread_that_is_started_has_slack_but_for_its_waits_and_who_starts_it_has_none() {
        let before = slack();
        let started = with_slack(|| {
            std::thread::spawn(|| {
                let begun = slack();
                (begun, without_slack(slack), slack())
            })
        });
        assert_eq!(slack(), before);
        let minute = SLACK_NANOS.map_or(0, NonZeroU64::get);
        let system = NO_SLACK_NANOS.map_or(0, NonZeroU64::get);
        assert_eq!(started.join().unwrap(), (minute, system, minute));
    }
}
