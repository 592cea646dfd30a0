//! What an answer says of its host: whether it takes requests, and whether all its lanes wait.

use super::{
    Answer, Cause, Duration, Failure, Gate, Host, Moment, Notice, Outcome, Owner, Scheduler, UnderWay,
    Verdict, Why,
};

/// The verdict on an outcome that counts for the breaker of its host.
const HOST_FAILED: Verdict = Verdict::Retry { host_failed: true };

impl Scheduler {
    /// What an answer says of its host.
    pub(super) fn judge_host(&mut self, now: Moment, attempt: &UnderWay, judged: Verdict, outcome: &Outcome) {
        for (name, other) in &mut self.hosts {
            // It was tried elsewhere: it may probe again.
            other.gave_up = other.gave_up.filter(|gone| *gone != attempt.lane || *name == attempt.host);
        }
        let Some(host) = self.hosts.get_mut(&attempt.host) else { return };
        let served = is_served(outcome);
        if served {
            host.note_served();
        }
        if judged != HOST_FAILED {
            host.note_answered();
        }
        if !matches!(outcome.answer, Answer::Failed(_)) {
            host.width.note_answered(self.settings.concurrency);
        }
        if served && !attempt.probe && host.paused() == Some(Cause::Misconfigured) {
            // It was under way as the host was paused: the host serves others than those that it refused.
            self.reopen(now, attempt.host);
        }
        let isolated =
            attempt.parked || attempt.events.iter().any(|event| event.alone >= self.settings.isolate_after);
        if !isolated {
            self.heed_wait(now, attempt, outcome);
        }
        match self.hosts.get(&attempt.host).map(|host| host.gate) {
            Some(Gate::Shut { why, wait, .. }) if attempt.probe => {
                self.judge_probe(now, attempt, judged, outcome, (why, wait));
            }
            Some(Gate::Open) if !isolated => self.judge_answer(now, attempt, judged, outcome),
            _ => {}
        }
    }

    /// Where a host asks for a wait, and is busy as a whole, all its lanes wait.
    fn heed_wait(&mut self, now: Moment, attempt: &UnderWay, outcome: &Outcome) {
        let Some(asked) = outcome.retry_after else { return };
        let Some(host) = self.hosts.get_mut(&attempt.host) else { return };
        let busy = matches!(outcome.answer, Answer::Status(429 | 503));
        let until = now.after(asked.min(self.settings.backoff.max));
        if host.count_answer(attempt.lane, busy) && until > now && host.note_wait(now, until) {
            self.notices.add(Notice::HostBusy { host: attempt.host, wait: until.since(now) });
        }
    }

    /// What the answer to a probe says of its host, which is shut for `why`, and was for `wait`.
    fn judge_probe(
        &mut self,
        now: Moment,
        attempt: &UnderWay,
        judged: Verdict,
        outcome: &Outcome,
        (why, wait): (Why, Duration),
    ) {
        let name = attempt.host;
        let good = match why {
            Why::Breaker => judged != HOST_FAILED,
            Why::Pause(Cause::Misconfigured) => is_served(outcome),
            Why::Pause(Cause::Fuse) => match &outcome.answer {
                Answer::Listed(listed) => listed.contains(&true),
                answer => *answer == Answer::Accepted,
            },
        };
        if good {
            self.reopen(now, name);
            return;
        }
        let Some(host) = self.hosts.get_mut(&name) else { return };
        let wait = match why {
            Why::Breaker => (wait * 2).min(self.settings.breaker_max),
            Why::Pause(_) => self.settings.breaker_max,
        };
        // Counted from the start of the probe: a host that hangs is not probed more seldom for it.
        host.stay_shut(attempt.lane, attempt.began.after(wait), wait, why, &outcome.detail);
        if let Why::Pause(cause) = why
            && host.note_failed_probe(now, cause)
        {
            self.notices.add(Notice::HostPaused { host: name, cause, detail: outcome.detail.clone() });
        }
        if matches!(judged, Verdict::Retry { .. }) {
            // Each that comes would be sent to a host that is down.
            host.hasten_none_before(attempt.began.after(self.settings.breaker_open));
        }
        if judged == Verdict::Misconfigured {
            host.note_refused(attempt.owner());
            self.probe_sounder(now, name);
        }
    }

    /// What an answer says of a host that takes requests.
    fn judge_answer(&mut self, now: Moment, attempt: &UnderWay, judged: Verdict, outcome: &Outcome) {
        let (name, lane) = (attempt.host, attempt.lane);
        let Some(host) = self.hosts.get_mut(&name) else { return };
        if judged == Verdict::Misconfigured && host.count_misconfigured(lane, attempt.owner()) {
            self.pause(now, name, Cause::Misconfigured, outcome.detail.clone());
        } else if judged == HOST_FAILED && host.count_failure(lane, self.settings.breaker_failures) {
            let (wait, detail) = (self.settings.breaker_open, outcome.detail.clone());
            host.shut(now, now.after(wait), wait, Why::Breaker, &detail);
            if outcome.answer == Answer::Failed(Failure::Timeout) {
                host.width.narrow(now, attempt.answered, host.in_flight, attempt.beside);
            }
            self.notices.add(Notice::BreakerOpened { host: name, wait, detail });
            self.leave(now, name);
        }
    }

    fn reopen(&mut self, now: Moment, name: Host) {
        let Some(host) = self.hosts.get_mut(&name) else { return };
        if host.reopen() {
            let at_most = host.width.most();
            self.notices.add(Notice::HostServes { host: name, at_most });
        }
        if let Some(until) = host.opens().filter(|until| *until > now) {
            self.notices.add(Notice::HostBusy { host: name, wait: until.since(now) });
        }
        self.come_back(now);
    }

    /// Where a lane waits whose event may be sound, the host is probed at once.
    fn probe_sounder(&mut self, now: Moment, name: Host) {
        if self.sounder(name).is_some()
            && let Some(host) = self.hosts.get_mut(&name)
        {
            host.probe_from(now);
        }
    }

    pub(super) fn pause(&mut self, now: Moment, name: Host, cause: Cause, detail: String) {
        let Some(host) = self.hosts.get_mut(&name) else { return };
        if host.paused().is_some() {
            return;
        }
        let wait = self.settings.breaker_max;
        host.shut(now, now.after(wait), wait, Why::Pause(cause), &detail);
        if host.note_pause(now, cause) {
            self.notices.add(Notice::HostPaused { host: name, cause, detail });
        }
        self.probe_sounder(now, name);
        self.leave(now, name);
    }
}

impl UnderWay {
    /// Whose its first event is.
    fn owner(&self) -> Owner {
        self.events.first().map_or(Owner(0), |event| event.owner)
    }
}

/// Whether an answer says that its host serves.
fn is_served(outcome: &Outcome) -> bool {
    matches!(outcome.answer, Answer::Listed(_) | Answer::Accepted | Answer::Unreadable)
}
