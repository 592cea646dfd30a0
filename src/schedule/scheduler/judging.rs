//! What an outcome means for the events of its attempt.

use super::{
    Answer, Buried, Cause, DeadReason, Duration, LaneState, MAX_PARKED, Moment, Notice, Outcome, Parked,
    Scheduler, Settled, UnderWay, Verdict, Waiting,
};

/// Whether an event that should be set aside was.
enum Aside {
    Buried,
    /// It was not to be; it backs off.
    Kept(Waiting),
    /// There was no room for it; it is parked.
    Parked,
}

impl Scheduler {
    pub(super) fn judge(
        &mut self,
        now: Moment,
        mut attempt: UnderWay,
        judged: Verdict,
        outcome: &Outcome,
        lane: &mut LaneState,
        settled: &mut Settled,
    ) {
        let events = std::mem::take(&mut attempt.events);
        match judged {
            Verdict::Delivered => {
                settled.delivered.extend(events.iter().map(|event| event.seq));
                self.delivers(&attempt);
                if !attempt.parked {
                    calm(lane);
                }
            }
            Verdict::Partial => self.judge_partial(now, &attempt, events, outcome, lane, settled),
            Verdict::Split => {
                lane.put_back_in_halves(events);
                lane.not_before = Moment::ZERO;
            }
            Verdict::Bury => {
                let mut kept = Vec::new();
                for event in events {
                    let aside =
                        self.set_aside(now, &attempt, event, DeadReason::Refused, outcome, lane, settled);
                    kept.extend(aside_kept(aside));
                }
                if kept.is_empty() {
                    if !attempt.parked {
                        calm(lane);
                    }
                } else {
                    self.back_off(now, &attempt, kept, outcome, lane);
                }
            }
            Verdict::Misconfigured | Verdict::SessionBusy | Verdict::Retry { .. } => {
                let blames = matches!(judged, Verdict::Misconfigured | Verdict::Retry { host_failed: true });
                self.judge_failed(now, &attempt, events, blames, outcome, lane, settled);
            }
        }
    }

    fn judge_partial(
        &mut self,
        now: Moment,
        attempt: &UnderWay,
        events: Vec<Waiting>,
        outcome: &Outcome,
        lane: &mut LaneState,
        settled: &mut Settled,
    ) {
        let flags: &[bool] = match &outcome.answer {
            Answer::Listed(flags) => flags,
            _ => &[],
        };
        let flags = flags.iter().copied().chain(std::iter::repeat(false));
        let (listed, left): (Vec<_>, Vec<_>) = events.into_iter().zip(flags).partition(|(_, listed)| *listed);
        if !listed.is_empty() {
            settled.delivered.extend(listed.iter().map(|(event, _)| event.seq));
            self.delivers(attempt);
            lane.failures = 0;
        }
        lane.strikes = 0;
        let mut kept = Vec::new();
        for (mut event, _) in left {
            event.unlisted += 1;
            let reason = match event.unlisted >= self.settings.unlisted_max {
                true => Some(DeadReason::NotAcknowledged),
                false => self.expired(now, &event),
            };
            match reason {
                None => kept.push(event),
                Some(reason) => {
                    kept.extend(aside_kept(
                        self.set_aside(now, attempt, event, reason, outcome, lane, settled),
                    ));
                }
            }
        }
        if !kept.is_empty() {
            self.back_off(now, attempt, kept, outcome, lane);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one attempt, its lane and what comes of it")]
    fn judge_failed(
        &mut self,
        now: Moment,
        attempt: &UnderWay,
        events: Vec<Waiting>,
        blames: bool,
        outcome: &Outcome,
        lane: &mut LaneState,
        settled: &mut Settled,
    ) {
        let sent_alone = events.len() == 1;
        let mut kept = Vec::new();
        for event in events {
            match self.expired(now, &event) {
                None => kept.push(event),
                Some(reason) => {
                    kept.extend(aside_kept(
                        self.set_aside(now, attempt, event, reason, outcome, lane, settled),
                    ));
                }
            }
        }
        let served = self.hosts.get(&attempt.host).map_or(0, |host| host.served);
        // A strike counts only where the host served others since the last one: in an outage nobody is to blame.
        let struck = blames && !attempt.parked && (lane.strikes == 0 || served > lane.served);
        if struck {
            lane.strikes += 1;
            lane.served = served;
        } else if !blames && !attempt.parked {
            lane.strikes = 0;
        }
        if sent_alone
            && struck
            && let Some(event) = kept.first_mut()
        {
            event.alone += 1;
            if event.alone >= self.settings.park_after {
                self.back_off(now, attempt, Vec::new(), outcome, lane);
                for event in kept {
                    self.park(now, attempt, event, outcome, lane);
                }
                return;
            }
        }
        if kept.len() > 1 && lane.strikes >= self.settings.isolate_after {
            // Each half shows at its next failure whether it has the guilty event.
            lane.strikes = self.settings.isolate_after.saturating_sub(1);
            lane.put_back_in_halves(std::mem::take(&mut kept));
        }
        self.back_off(now, attempt, kept, outcome, lane);
    }

    /// Halves show which event it is; that one backs off, and holds back its own session alone. It never expires by this: to set
    /// it aside it would have to be read.
    pub(super) fn judge_unread(
        &mut self,
        now: Moment,
        mut attempt: UnderWay,
        detail: &str,
        lane: &mut LaneState,
    ) {
        let events = std::mem::take(&mut attempt.events);
        if events.len() > 1 {
            lane.put_back_in_halves(events);
            return;
        }
        let (answer, detail) = (Answer::Unreadable, detail.to_owned());
        let outcome = Outcome { answer, retry_after: None, edge: None, known: None, detail };
        self.back_off(now, &attempt, events, &outcome, lane);
    }

    fn expired(&self, now: Moment, event: &Waiting) -> Option<DeadReason> {
        let old = now.since(event.arrived) > self.settings.max_age && now >= self.expiry_from;
        old.then_some(DeadReason::Expired)
    }

    fn delivers(&mut self, attempt: &UnderWay) {
        self.burials.end();
        if let Some(host) = self.hosts.get_mut(&attempt.host) {
            host.delivers();
        }
    }

    /// Puts events back that are tried again later.
    fn back_off(
        &mut self,
        now: Moment,
        attempt: &UnderWay,
        kept: Vec<Waiting>,
        outcome: &Outcome,
        lane: &mut LaneState,
    ) {
        if attempt.parked {
            for event in kept {
                self.keep_parked(now, event, lane);
            }
            return;
        }
        lane.failures = lane.failures.saturating_add(1);
        let wait = self.settings.backoff.wait(lane.failures, outcome.retry_after, &mut self.random);
        lane.not_before = now.after(wait);
        if let Some(next) = lane.events.front_mut()
            && kept.iter().any(|event| event.alone > 0 || event.boundary)
        {
            next.boundary = true;
        }
        lane.put_back(kept);
    }

    fn keep_parked(&mut self, now: Moment, event: Waiting, lane: &mut LaneState) {
        self.parked += 1;
        // The full wait, not a drawn one: at most one attempt every `retry.max` is promised.
        let not_before = now.after(self.settings.backoff.max.max(Duration::from_millis(1)));
        lane.parked.push(Parked { event, not_before });
    }

    fn park(
        &mut self,
        now: Moment,
        attempt: &UnderWay,
        event: Waiting,
        outcome: &Outcome,
        lane: &mut LaneState,
    ) {
        let seq = event.seq;
        if self.parked >= MAX_PARKED {
            self.notices.add(Notice::ParkedFull { seq });
            lane.put_back(vec![event]);
            return;
        }
        self.notices.add(Notice::Parked { lane: attempt.lane, seq, detail: outcome.detail.clone() });
        self.keep_parked(now, event, lane);
        calm(lane);
    }

    /// Sets an event aside, unless it is not the event's fault, or there is no room.
    #[expect(clippy::too_many_arguments, reason = "one attempt, its lane and what comes of it")]
    fn set_aside(
        &mut self,
        now: Moment,
        attempt: &UnderWay,
        event: Waiting,
        reason: DeadReason,
        outcome: &Outcome,
        lane: &mut LaneState,
        settled: &mut Settled,
    ) -> Aside {
        let Some(host) = self.hosts.get_mut(&attempt.host) else { return Aside::Kept(event) };
        if attempt.probe || host.paused() == Some(Cause::Fuse) {
            return Aside::Kept(event);
        }
        let (here, anywhere) = (host.would_bury(attempt.lane), self.burials.trips(attempt.lane));
        if here || anywhere {
            self.pause(now, attempt.host, Cause::Fuse, outcome.detail.clone());
            return Aside::Kept(event);
        }
        let seq = event.seq;
        if !self.dead_room {
            self.notices.add(Notice::DeadLettersFull { seq });
            if self.parked >= MAX_PARKED {
                return Aside::Kept(event);
            }
            self.keep_parked(now, event, lane);
            return Aside::Parked;
        }
        settled.buried.push(Buried { seq, reason, detail: outcome.detail.clone() });
        Aside::Buried
    }
}

fn aside_kept(aside: Aside) -> Option<Waiting> {
    match aside {
        Aside::Kept(event) => Some(event),
        Aside::Buried | Aside::Parked => None,
    }
}

/// The lane begins anew.
fn calm(lane: &mut LaneState) {
    lane.failures = 0;
    lane.strikes = 0;
    lane.not_before = Moment::ZERO;
}
