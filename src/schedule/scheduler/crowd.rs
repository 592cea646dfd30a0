//! What fills the index for long, if anything does: events behind it could perhaps go at once.

use super::window::enough;
use super::{Duration, Entry, Host, Moment, Pace, Scheduler};

/// What is in the index fills it for long if it lasts for more seconds than this.
const CROWDS: u128 = 20;
/// How often lanes are looked for that have more than their share of a full index, at most: all lanes are looked at.
pub(super) const TRIMS_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Crowd {
    /// The host whose many lanes leave others no room in the index.
    pub(super) host: Option<Host>,
    /// Whether a few lanes with many requests each do: then none may have more of it than its even share.
    pub(super) is_hogged: bool,
    /// How fast events go out while the index is nearly full.
    pace: Pace,
    /// Before this no lanes are looked for that have more than their share.
    trims_from: Moment,
}

impl Crowd {
    pub(super) fn is_any(&self) -> bool {
        self.host.is_some() || self.is_hogged
    }

    pub(super) fn note_begun(&mut self, events: usize) {
        self.pace.note_begun(events);
    }

    /// When it may show that the index is hogged.
    pub(super) fn shows_at(&self) -> Option<Moment> {
        self.pace.shows_at()
    }

    /// Whether lanes that have more than their share are to be looked for now.
    pub(super) fn begin_trim(&mut self, now: Moment) -> bool {
        let begins = self.is_hogged && self.trims_from <= now;
        if begins {
            self.trims_from = now.after(TRIMS_EVERY);
        }
        begins
    }
}

impl Scheduler {
    /// Finds what fills the index for long, if anything: a few lanes with many requests each, or one host with many
    /// lanes. Without edge hosts, forgetting a host's lanes gains nothing; while all is paused nothing could go.
    pub(super) fn look_for_crowd(&mut self, now: Moment) {
        (self.crowd.host, self.crowd.is_hogged) = (None, false);
        if self.nothing_goes(now) || self.is_hungry() {
            self.crowd.pace.reset();
            self.hosts.values_mut().for_each(|host| host.pace.reset());
            return;
        }
        if !self.is_tight() {
            return;
        }
        self.crowd.pace.count(now);
        self.crowd.is_hogged = self.crowd.pace.lasts_surely(self.indexed, CROWDS);
        if !self.settings.edge_routing {
            return;
        }
        let open = self.hosts.iter_mut().filter(|(_, host)| host.takes(now) == Some(false));
        let Some((name, host)) = open.max_by_key(|(_, host)| host.queue.len()) else { return };
        let due = host.queue.len();
        if due <= enough(self.settings.host_concurrency) {
            return;
        }
        // Of the events in the index as many as of its lanes: some lanes make a hundred requests.
        let events = self.indexed * due / self.lanes.len().max(1);
        host.pace.count(now);
        if host.pace.lasts_surely(events.max(due), CROWDS) {
            self.crowd.host = Some(*name);
        }
    }

    /// Whether the first event of a lane is left on the disk, since its host crowds the index. What joins a lane is
    /// not: it makes no request more.
    pub(super) fn is_crowded_out(&self, now: Moment, entry: &Entry) -> bool {
        let Some(crowd) = self.crowd.host.filter(|_| self.is_tight()) else { return false };
        !self.lanes.contains_key(&entry.lane)
            && self.host_for(now, entry.lane, entry.visitor, entry.cluster) == crowd
    }
}
