//! What an answer makes us do: a total function of the outcome, one arm for each row of what Target answers.
//!
//! What depends on history (expiry, isolation, parking, the pause of a host, the fuse) is decided from this by what
//! keeps that history. Cancellation and shutdown are no outcomes, so there is no verdict for them.

use crate::event::Answer;

/// What one outcome means for the events of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All are processed: remove them.
    Delivered,
    /// Those listed are processed; the others wait and are tried again.
    Partial,
    /// Refused as a whole, with more than one event in it: split in halves, and send these at once.
    Split,
    /// One event, refused for good: a dead letter.
    Bury,
    /// The configuration or a producer is wrong: keep everything, back the lane off; several in a row pause the host.
    Misconfigured,
    /// The session has too many requests: back off this session alone.
    SessionBusy,
    /// Not now: back off; `Retry-After` binds. Counts for the breaker where it is a failure of the host.
    Retry {
        /// Whether the host failed (no answer, or 5xx), as its breaker counts it.
        host_failed: bool,
    },
}

/// The verdict on `answer` for a request with `events` events.
#[must_use]
pub fn verdict(answer: &Answer, events: usize) -> Verdict {
    match answer {
        Answer::Accepted => Verdict::Delivered,
        Answer::Listed(listed) if listed.len() == events && listed.iter().all(|here| *here) => {
            Verdict::Delivered
        }
        Answer::Listed(_) => Verdict::Partial,
        Answer::Unreadable => Verdict::Retry { host_failed: false },
        Answer::Failed(_) => Verdict::Retry { host_failed: true },
        Answer::Status(status) => match status {
            401 | 403 | 404 | 300..=399 => Verdict::Misconfigured,
            420 => Verdict::SessionBusy,
            408 | 425 | 429 => Verdict::Retry { host_failed: false },
            400..=499 if events > 1 => Verdict::Split,
            400..=499 => Verdict::Bury,
            // 5xx, and what HTTP does not know: nobody can say what was processed.
            _ => Verdict::Retry { host_failed: true },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Failure;

    #[test]
    fn the_table_is_held() {
        let retry = |host_failed| Verdict::Retry { host_failed };
        for (answer, events, expected) in [
            (Answer::Accepted, 2, Verdict::Delivered),
            (Answer::Listed(vec![true, true]), 2, Verdict::Delivered),
            (Answer::Listed(vec![true, false]), 2, Verdict::Partial),
            (Answer::Listed(vec![false, false]), 2, Verdict::Partial),
            (Answer::Listed(vec![true]), 2, Verdict::Partial),
            (Answer::Unreadable, 1, retry(false)),
            (Answer::Status(400), 2, Verdict::Split),
            (Answer::Status(400), 1, Verdict::Bury),
            (Answer::Status(413), 50, Verdict::Split),
            (Answer::Status(413), 1, Verdict::Bury),
            (Answer::Status(422), 1, Verdict::Bury),
            (Answer::Status(302), 1, Verdict::Misconfigured),
            (Answer::Status(401), 9, Verdict::Misconfigured),
            (Answer::Status(403), 1, Verdict::Misconfigured),
            (Answer::Status(404), 1, Verdict::Misconfigured),
            (Answer::Status(420), 1, Verdict::SessionBusy),
            (Answer::Status(408), 1, retry(false)),
            (Answer::Status(425), 1, retry(false)),
            (Answer::Status(429), 1, retry(false)),
            (Answer::Status(500), 1, retry(true)),
            (Answer::Status(503), 7, retry(true)),
        ] {
            assert_eq!(verdict(&answer, events), expected, "{answer:?} for {events}");
        }
        for failure in [Failure::Dns, Failure::Connect, Failure::Tls, Failure::Reset, Failure::Timeout] {
            assert_eq!(verdict(&Answer::Failed(failure), 1), retry(true), "{failure}");
        }
    }

    #[test]
    fn no_status_delivers_or_buries_what_it_should_not() {
        for status in 0..=u16::MAX {
            let refused =
                (400..500).contains(&status) && ![401, 403, 404, 408, 420, 425, 429].contains(&status);
            let judged = verdict(&Answer::Status(status), 1);
            assert_eq!(judged == Verdict::Bury, refused, "{status}");
            assert_ne!(judged, Verdict::Delivered, "{status}");
        }
    }
}
