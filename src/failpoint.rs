//! Places at which a test lets the process die, as if somebody had killed it there.
//!
//! `TARGET_NOTIFYD_FAILPOINT=commit.applied:3` kills it as it comes to that place for the third time. Only builds with
//! debug assertions have them; in a release nothing of this is there.

/// The process dies here if the environment says so: at the place `what.when`.
#[cfg(debug_assertions)]
pub(crate) fn reach(what: &str, when: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicI64, Ordering};

    static CHOSEN: OnceLock<Option<(String, AtomicI64)>> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| {
        let text = std::env::var("TARGET_NOTIFYD_FAILPOINT").ok()?;
        let (name, count) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), AtomicI64::new(count.parse().unwrap_or(1))))
    });
    let Some((name, left)) = chosen else { return };
    if name.split_once('.') == Some((what, when)) && left.fetch_sub(1, Ordering::Relaxed) == 1 {
        // Nothing is flushed, closed or told. Should the signal fail, the process ends all the same.
        let _killed = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
        std::process::abort();
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
#[inline]
pub(crate) fn reach(_what: &str, _when: &str) {}
