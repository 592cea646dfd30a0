//! Hosts: which one a lane goes to, which one is next, and where lanes go when one opens or shuts.

use std::collections::BTreeSet;

use super::{Cause, Cluster, Gate, Host, HostState, Lane, Moment, Place, Scheduler, Visitor, Why};

impl Scheduler {
    /// Where the lane's next request goes: the cluster of its visitor, the one that the event names, the one that an
    /// answer named, or the default; and the client's own host where that one is shut and no probe is due, unless an
    /// operator stopped it.
    pub(super) fn host_of(&self, now: Moment, lane: Lane) -> Host {
        let next = self.lanes.get(&lane).and_then(|state| state.next(now, &self.settings));
        let (visitor, named) = next.map(|event| (event.visitor, event.cluster)).unwrap_or_default();
        self.host_for(now, lane, visitor, named)
    }

    /// The same for a lane whose first event is of this visitor, and names this cluster.
    pub(super) fn host_for(
        &self,
        now: Moment,
        lane: Lane,
        visitor: Option<Visitor>,
        named: Option<Cluster>,
    ) -> Host {
        if !self.settings.edge_routing {
            return Host::Client;
        }
        let cluster = self.learned.cluster(now, lane, visitor, named).or(self.settings.default_cluster);
        let Some(cluster) = cluster else { return Host::Client };
        let host = Host::Edge(cluster);
        match self.hosts.get(&host) {
            Some(state) if state.turns_away(now, lane) && !self.is_own_stopped() => Host::Client,
            None if self.hosts.len() > self.settings.max_hosts
                || self.controls.pauses.contains_key(&Some(host)) =>
            {
                Host::Client
            }
            _ => host,
        }
    }

    /// Whether only probes can be sent now, whatever is read: then replacing known events by others is useless. A pause
    /// for a wrong configuration does not count: other events may carry a sound one.
    pub(super) fn nothing_goes(&self, now: Moment) -> bool {
        let is_closed = |host: &HostState| match host.gate {
            Gate::Shut { why, .. } => why == Why::Breaker,
            Gate::Open => host.is_asking(now),
        };
        let is_down = |host: &HostState| host.stopped || is_closed(host);
        self.all_paused() || !self.settings.edge_routing && self.hosts.get(&Host::Client).is_some_and(is_down)
    }

    /// The next host with work that it takes, and whether that is a probe; hosts take turns.
    pub(super) fn next_host(&mut self, now: Moment) -> Option<(Host, bool)> {
        let able = |(host, state): (&Host, &HostState)| {
            let probe = state.has_room(now)?;
            (!state.queue.is_empty()).then_some((*host, probe, state.in_flight))
        };
        let after = self.hosts.range((std::ops::Bound::Excluded(self.turn), std::ops::Bound::Unbounded));
        let able: Vec<_> = after.chain(self.hosts.range(..=self.turn)).filter_map(able).collect();
        let within = able.iter().find(|(_, _, in_flight)| *in_flight < self.settings.host_concurrency);
        // The bound of a host binds only while another has work due, and could take it.
        let (host, probe, _) = *within.or_else(|| able.first().filter(|_| able.len() == 1))?;
        self.turn = host;
        Some((host, probe))
    }

    /// Which lane of a host goes next. The probes of a pause take turns between the ends of the queue, but for a lane
    /// whose owner is not among those refused.
    pub(super) fn next_lane(&mut self, host: Host, probe: bool) -> Option<Lane> {
        if !probe {
            return self.hosts.get_mut(&host)?.queue.pop_front();
        }
        let chosen = self.sounder(host);
        let state = self.hosts.get_mut(&host)?;
        state.probes += 1;
        let lanes = &self.lanes;
        let sound =
            |lane: &&Lane| lanes.get(lane).is_some_and(|one| !one.events.is_empty() && one.strikes == 0);
        let last = state.paused().is_some() && state.probes.is_multiple_of(2);
        // One that comes back from its backoff is behind those that arrived after it: it is no arrival.
        let fresh = |lane: &&Lane| sound(lane) && lanes.get(lane).is_some_and(|one| one.failures == 0);
        let arrived = || state.queue.iter().rev().find(fresh).filter(|_| last);
        let waiting = || arrived().or_else(|| state.queue.iter().find(sound)).or_else(|| state.queue.front());
        let lane = chosen.or_else(|| waiting().copied())?;
        state.queue.retain(|other| *other != lane);
        Some(lane)
    }

    /// The first lane of a host whose event may be sound though the answers to others paused that.
    pub(super) fn sounder(&self, name: Host) -> Option<Lane> {
        let host = self.hosts.get(&name).filter(|host| host.paused() == Some(Cause::Misconfigured))?;
        let front = |lane: &Lane| self.lanes.get(lane).and_then(|state| state.events.front());
        let is_sounder = |lane: &&Lane| front(lane).is_some_and(|event| host.blames_others(event.owner));
        host.queue.iter().find(is_sounder).copied()
    }

    /// Moves the lanes back whose edge host takes requests again, and that wait for the client's own host. Where that
    /// one has room for them they stay.
    pub(super) fn come_back(&mut self, now: Moment) {
        let Some(own) = self.hosts.get(&Host::Client).filter(|own| own.has_room(now) != Some(false)) else {
            return;
        };
        let back: BTreeSet<Lane> =
            own.queue.iter().copied().filter(|lane| self.has_open_edge(now, *lane)).collect();
        if !back.is_empty() {
            self.refile_lanes(now, &back);
        }
    }

    fn has_open_edge(&self, now: Moment, lane: Lane) -> bool {
        let host = self.host_of(now, lane);
        let is_open = |edge: &HostState| edge.takes(now) == Some(false);
        host != Host::Client && (self.is_own_stopped() || self.hosts.get(&host).is_none_or(is_open))
    }

    /// Whether an operator stopped the client's own host: then nobody falls back to it, and each edge host is probed by
    /// its own lanes.
    fn is_own_stopped(&self) -> bool {
        self.hosts.get(&Host::Client).is_some_and(|own| own.stopped)
    }

    /// Takes the lanes away from a host that takes requests no more, where they have another.
    pub(super) fn leave(&mut self, now: Moment, host: Host) {
        match host {
            Host::Client => self.come_back(now),
            Host::Edge(_) => self.fall_back(now, host),
        }
    }

    /// Moves the lanes of all edge hosts that are shut to the client's own host, which an operator lets go on.
    pub(super) fn fall_back_all(&mut self, now: Moment) {
        let shut = self.hosts.iter().filter(|(_, host)| host.is_shut() || host.stopped);
        let shut: Vec<Host> = shut.map(|(name, _)| *name).collect();
        for name in shut {
            self.fall_back(now, name);
        }
    }

    /// Moves the lanes of an edge host that was shut to the client's own host.
    pub(super) fn fall_back(&mut self, now: Moment, host: Host) {
        if host == Host::Client || self.is_own_stopped() {
            return;
        }
        let lanes: Vec<Lane> =
            self.hosts.get_mut(&host).map(|host| host.queue.drain(..).collect()).unwrap_or_default();
        for lane in lanes {
            self.set_place(lane, Place::Idle);
            self.place(now, lane);
        }
    }
}
