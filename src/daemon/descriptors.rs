//! How many files may be open: the limit of the system, held against what our own limits need.
//!
//! Guarantee: where the system gives too few, producers' connections get what the queue and delivery leave over, so that a
//! crowd of producers is told `too_many_connections` instead of taking the descriptors that others need.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::warn;

use super::Settings;
use crate::delivery::idle_connections;

/// What the queue, the log, the runtime, the admin socket and look-ups of names take, with room to spare.
const OWN: usize = 128;

/// What the limits of a daemon need.
#[derive(Clone, Copy, Debug)]
struct Need {
    /// For everything but producers.
    own: usize,
    /// For producers (`ingest.max_connections`).
    connections: usize,
}

impl Need {
    fn of(settings: &Settings) -> Self {
        let schedule = &settings.schedule;
        let hosts = if schedule.edge_routing { schedule.max_hosts.saturating_add(1) } else { 1 };
        let idle = hosts.saturating_mul(idle_connections(schedule.concurrency));
        let own = OWN.saturating_add(schedule.concurrency).saturating_add(idle);
        Self { own, connections: settings.ingest.max_connections }
    }

    fn all(self) -> usize {
        self.own.saturating_add(self.connections)
    }

    /// How many connections fit below `limit`: what is left over, or a quarter of it, since hosts seldom all have as many
    /// idle connections as they may.
    fn fitting(self, limit: usize) -> usize {
        self.connections.min(limit.saturating_sub(self.own).max(limit / 4).max(1))
    }
}

/// How many files a daemon may open, and needs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Files {
    /// The limit that a start has: the hard one, to which it raises the soft one.
    pub limit: u64,
    /// What all limits of the configuration need together.
    pub needed: usize,
    /// How many connections of producers are taken in by that.
    pub connections: usize,
}

impl Files {
    /// The files of a daemon with `settings`, started as this process was.
    ///
    /// # Errors
    /// The system's.
    pub fn of(settings: &Settings) -> Result<Self, nix::Error> {
        let (need, (_, limit)) = (Need::of(settings), getrlimit(Resource::RLIMIT_NOFILE)?);
        let fits = usize::try_from(limit).unwrap_or(usize::MAX);
        let connections = if fits < need.all() { need.fitting(fits) } else { need.connections };
        Ok(Self { limit, needed: need.all(), connections })
    }
}

/// Raises the soft limit of open files to what the limits need, as far as the hard one lets it; how many connections of
/// producers may be taken in.
pub(super) fn provide(settings: &Settings) -> usize {
    let need = Need::of(settings);
    let limit = match raise(need.all() as u64) {
        Ok(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
        Err(error) => {
            warn!(event = "files_limit_fixed", %error, needed = need.all(), "the limit of open files could not be raised. Set LimitNOFILE=: systemctl edit target-notifyd");
            return need.connections;
        }
    };
    if limit >= need.all() {
        return need.connections;
    }
    let connections = need.fitting(limit);
    warn!(
        event = "files_limit_low",
        limit,
        needed = need.all(),
        connections,
        "fewer files may be open than the limits need: fewer connections are taken in. Raise LimitNOFILE=: systemctl edit target-notifyd"
    );
    connections
}

/// The soft limit, which was raised to `needed` where it was lower and the hard one is not.
fn raise(needed: u64) -> Result<u64, nix::Error> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = needed.min(hard);
    if soft >= wanted {
        return Ok(soft);
    }
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn producers_get_what_the_others_leave() {
        let need = Need { own: 1_000, connections: 1_024 };
        for (limit, connections) in
            [(1 << 20, 1_024), (2_024, 1_024), (2_000, 1_000), (1_024, 256), (256, 64), (3, 1), (0, 1)]
        {
            assert_eq!(need.fitting(limit), connections, "{limit}");
        }
    }

    #[test]
    fn the_limit_is_never_lowered() {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(raise(1), Ok(soft));
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE), Ok((soft, hard)));
        assert_eq!(raise(soft.min(hard)), Ok(soft));
    }
}
