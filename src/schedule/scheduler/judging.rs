//! What an outcome means for the events of its attempt.

use super::{
    Answer, Burial, Cause, DeadReason, Duration, LaneState, MAX_PARKED, Moment, Notice, Outcome, Parked,
    Scheduler, Settled, UnderWay, Verdict, Waiting,
};

/// One attempt while its events, which were taken out of it, are judged.
pub(super) struct Judging<'a> {
    pub(super) now: Moment,
    pub(super) attempt: &'a UnderWay,
    pub(super) outcome: &'a Outcome,
    /// Its lane, out of the index meanwhile.
    pub(super) lane: LaneState,
    /// What comes of it so far.
    pub(super) settled: Settled,
}

impl Judging<'_> {
    /// The lane begins anew.
    fn calm(&mut self) {
        self.lane.failures = 0;
        self.lane.strikes = 0;
        self.lane.not_before = Moment::ZERO;
    }

    /// The same after a success, but for one of a parked event: that says nothing of the lane.
    fn calm_unless_parked(&mut self) {
        if !self.attempt.parked {
            self.calm();
        }
    }
}

impl Scheduler {
    pub(super) fn judge(&mut self, on: &mut Judging<'_>, events: Vec<Waiting>, judged: Verdict) {
        match judged {
            Verdict::Delivered => {
                on.settled.delivered.extend(events.iter().map(|event| event.seq));
                self.note_delivered(on.attempt);
                on.calm_unless_parked();
            }
            Verdict::Partial => self.judge_partial(on, events),
            Verdict::Split => {
                on.lane.put_back_in_halves(events);
                on.lane.not_before = Moment::ZERO;
            }
            Verdict::Bury => {
                let mut kept = Vec::new();
                for event in events {
                    kept.extend(self.set_aside(on, event, DeadReason::Refused));
                }
                match kept.is_empty() {
                    true => on.calm_unless_parked(),
                    false => self.back_off(on, kept),
                }
            }
            Verdict::Misconfigured | Verdict::SessionBusy | Verdict::Retry { .. } => {
                let blames = matches!(judged, Verdict::Misconfigured | Verdict::Retry { host_failed: true });
                self.judge_failed(on, events, blames);
            }
        }
    }

    fn judge_partial(&mut self, on: &mut Judging<'_>, events: Vec<Waiting>) {
        let flags: &[bool] = match &on.outcome.answer {
            Answer::Listed(flags) => flags,
            _ => &[],
        };
        let flags = flags.iter().copied().chain(std::iter::repeat(false));
        let (listed, left): (Vec<_>, Vec<_>) = events.into_iter().zip(flags).partition(|(_, listed)| *listed);
        if !listed.is_empty() {
            on.settled.delivered.extend(listed.iter().map(|(event, _)| event.seq));
            self.note_delivered(on.attempt);
            on.lane.failures = 0;
        }
        on.lane.strikes = 0;
        let mut kept = Vec::new();
        for (mut event, _) in left {
            event.unlisted += 1;
            let reason = match event.unlisted >= self.settings.unlisted_max {
                true => Some(DeadReason::NotAcknowledged),
                false => self.expired(on.now, &event),
            };
            match reason {
                None => kept.push(event),
                Some(reason) => kept.extend(self.set_aside(on, event, reason)),
            }
        }
        if !kept.is_empty() {
            self.back_off(on, kept);
        }
    }

    fn judge_failed(&mut self, on: &mut Judging<'_>, events: Vec<Waiting>, blames: bool) {
        let sent_alone = events.len() == 1;
        let mut kept = Vec::new();
        for event in events {
            match self.expired(on.now, &event) {
                None => kept.push(event),
                Some(reason) => kept.extend(self.set_aside(on, event, reason)),
            }
        }
        let (parked, lane) = (on.attempt.parked, &mut on.lane);
        let served = self.hosts.get(&on.attempt.host).map_or(0, |host| host.served);
        // A strike counts only where the host served others since the last one: in an outage nobody is to blame.
        let struck = blames && !parked && (lane.strikes == 0 || served > lane.served);
        if struck {
            lane.strikes += 1;
            lane.served = served;
        } else if !blames && !parked {
            lane.strikes = 0;
        }
        if sent_alone
            && struck
            && let Some(event) = kept.first_mut()
        {
            event.alone += 1;
            if event.alone >= self.settings.park_after {
                self.back_off(on, Vec::new());
                for event in kept {
                    self.park(on, event);
                }
                return;
            }
        }
        if kept.len() > 1 && lane.strikes >= self.settings.isolate_after {
            // Each half shows at its next failure whether it has the guilty event.
            lane.strikes = self.settings.isolate_after.saturating_sub(1);
            lane.put_back_in_halves(std::mem::take(&mut kept));
        }
        self.back_off(on, kept);
    }

    /// Halves show which event it is; that one backs off, and holds back its own session alone. It never expires by
    /// this: to set it aside it would have to be read.
    pub(super) fn judge_unread(&mut self, on: &mut Judging<'_>, events: Vec<Waiting>) {
        match events.len() > 1 {
            true => on.lane.put_back_in_halves(events),
            false => self.back_off(on, events),
        }
    }

    fn expired(&self, now: Moment, event: &Waiting) -> Option<DeadReason> {
        let old = now.since(event.arrived) > self.settings.max_age && now >= self.expiry_from;
        old.then_some(DeadReason::Expired)
    }

    fn note_delivered(&mut self, attempt: &UnderWay) {
        self.burials.end();
        if let Some(host) = self.hosts.get_mut(&attempt.host) {
            host.note_delivered();
        }
    }

    /// Puts events back that are tried again later.
    fn back_off(&mut self, on: &mut Judging<'_>, kept: Vec<Waiting>) {
        if on.attempt.parked {
            for event in kept {
                self.keep_parked(on, event);
            }
            return;
        }
        let lane = &mut on.lane;
        lane.failures = lane.failures.saturating_add(1);
        let wait = self.settings.backoff.wait(lane.failures, on.outcome.retry_after, &mut self.random);
        lane.not_before = on.now.after(wait);
        if let Some(next) = lane.events.front_mut()
            && kept.iter().any(|event| event.alone > 0 || event.boundary)
        {
            next.boundary = true;
        }
        lane.put_back(kept);
    }

    fn keep_parked(&mut self, on: &mut Judging<'_>, event: Waiting) {
        self.parked += 1;
        // The full wait, not a drawn one: at most one attempt every `retry.max` is promised.
        let not_before = on.now.after(self.settings.backoff.max.max(Duration::from_millis(1)));
        on.lane.parked.push(Parked { event, not_before });
    }

    fn park(&mut self, on: &mut Judging<'_>, event: Waiting) {
        let seq = event.seq;
        if self.parked >= MAX_PARKED {
            self.notices.add(Notice::ParkedFull { seq });
            on.lane.put_back(vec![event]);
            return;
        }
        let detail = on.outcome.detail.clone();
        self.notices.add(Notice::Parked { seq, detail });
        self.keep_parked(on, event);
        on.calm();
    }

    /// Sets an event aside, or parks it where there is no room for a dead letter. Gives it back where it is not the
    /// event's fault, or no more may be parked: then it backs off.
    fn set_aside(&mut self, on: &mut Judging<'_>, event: Waiting, reason: DeadReason) -> Option<Waiting> {
        let Judging { attempt, outcome, .. } = *on;
        let Some(host) = self.hosts.get_mut(&attempt.host) else { return Some(event) };
        if attempt.probe || host.paused() == Some(Cause::Fuse) {
            return Some(event);
        }
        let (here, anywhere) = (host.count_burial(attempt.lane), self.burials.count_burial(attempt.lane));
        if here || anywhere {
            self.pause(on.now, attempt.host, Cause::Fuse, outcome.detail.clone());
            return Some(event);
        }
        let seq = event.seq;
        if !self.dead_room {
            self.notices.add(Notice::DeadLettersFull { seq });
            if self.parked >= MAX_PARKED {
                return Some(event);
            }
            self.keep_parked(on, event);
            return None;
        }
        on.settled.buried.push(Burial { seq, reason, detail: outcome.detail.clone() });
        None
    }
}
