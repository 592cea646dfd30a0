//! What may happen to thousands of events at once, told without a line for each.
//!
//! Of each kind the first [`BY_NAME`] of a minute have lines of their own; the others are counted, and told in one line
//! with their numbers once the minute is over, or when this is dropped: nothing is left untold by an end of any kind.

use std::time::Duration;

use tokio::sync::watch;
use tracing::{error, warn};

use super::notice;
use crate::event::{Burial, DeadReason, Moment, Seq};
use crate::schedule::Notice;
use crate::wire::Identifiers;

/// How many of a kind are told one by one in [`EVERY`].
const BY_NAME: u64 = 10;
/// How often the others are told, in one line.
const EVERY: Duration = Duration::from_secs(60);

/// What happens to a single event, or with a single answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Refused,
    NotAcknowledged,
    Expired,
    Parked,
    ParkedFull,
    DeadLettersFull,
    Unread,
    InFuture,
    HostBusy,
}

/// The number of kinds.
const KINDS: usize = Kind::HostBusy as usize + 1;

/// What was told since the minute began.
#[derive(Debug)]
pub(super) struct Told {
    /// How visitors' ids appear in what a host said.
    identifiers: watch::Receiver<Identifiers>,
    /// The end of the minute, if one has begun.
    until: Option<Moment>,
    seen: [u64; KINDS],
    /// What the scheduler did not keep by name.
    other: u64,
    /// The last dead letter that is only counted.
    last: Option<Seq>,
}

impl Told {
    pub(super) fn new(identifiers: watch::Receiver<Identifiers>) -> Self {
        Self { identifiers, until: None, seen: [0; KINDS], other: 0, last: None }
    }

    /// Tells what the scheduler has to say.
    pub(super) fn notice(&mut self, now: Moment, told: &Notice) {
        let kind = match told {
            Notice::Parked { .. } => Kind::Parked,
            Notice::ParkedFull { .. } => Kind::ParkedFull,
            Notice::DeadLettersFull { .. } => Kind::DeadLettersFull,
            Notice::ArrivedInFuture { .. } => Kind::InFuture,
            // Every answer of such a host may ask for a wait.
            Notice::HostBusy { .. } => Kind::HostBusy,
            Notice::LeftOut { count } => {
                self.begin(now);
                self.other += count;
                return;
            }
            // There are as many as hosts.
            _ => return notice::log(told, *self.identifiers.borrow()),
        };
        if self.count(now, kind) {
            notice::log(told, *self.identifiers.borrow());
        }
    }

    /// Tells what the disk did not give.
    pub(super) fn unread(&mut self, now: Moment, first: Option<Seq>, error: &str) {
        if self.count(now, Kind::Unread) {
            error!(
                event = "events_unread",
                first = first.map(|seq| seq.0),
                error,
                "events cannot be read from the disk: they wait, and are tried again; all others go on. Check the disk: journalctl -k"
            );
        }
    }

    /// Tells what was set aside.
    pub(super) fn letters(&mut self, now: Moment, buried: &[Burial]) {
        for one in buried {
            let kind = match one.reason {
                DeadReason::NotAcknowledged => Kind::NotAcknowledged,
                DeadReason::Expired => Kind::Expired,
                // What an operator drops does not come this way.
                DeadReason::Refused | DeadReason::Dropped => Kind::Refused,
            };
            if self.count(now, kind) {
                let detail = self.identifiers.borrow().said(&one.detail);
                error!(
                    event = "dead_letter", seq = %one.seq, reason = %one.reason, %detail,
                    "an event was set aside as a dead letter; target-notifyd dead show with its seq shows it, target-notifyd dead requeue sends it again"
                );
            } else {
                self.last = Some(one.seq);
            }
        }
    }

    /// When there is something to tell.
    pub(super) fn due(&self) -> Option<Moment> {
        self.until.filter(|_| self.other > 0 || self.seen.iter().any(|seen| *seen > BY_NAME))
    }

    /// Tells the numbers of a minute that is over.
    pub(super) fn tell(&mut self, now: Moment) {
        if self.until.is_some_and(|until| until <= now) {
            self.end();
        }
    }

    fn end(&mut self) {
        let seen = std::mem::take(&mut self.seen);
        self.until = None;
        let more = |kind: Kind| seen.get(kind as usize).map_or(0, |seen| seen.saturating_sub(BY_NAME));
        let (refused, not_acknowledged, expired) =
            (more(Kind::Refused), more(Kind::NotAcknowledged), more(Kind::Expired));
        let count = refused + not_acknowledged + expired;
        if count > 0 {
            error!(
                event = "dead_letters",
                count,
                refused,
                not_acknowledged,
                expired,
                last = self.last.take().map(|seq| seq.0),
                "so many more events were set aside as dead letters in the last minute; target-notifyd dead list shows them, target-notifyd dead requeue sends them again"
            );
        }
        let (parked, parked_full) = (more(Kind::Parked), more(Kind::ParkedFull));
        let (dead_letters_full, in_future) = (more(Kind::DeadLettersFull), more(Kind::InFuture));
        let (host_busy, other) = (more(Kind::HostBusy), std::mem::take(&mut self.other) + more(Kind::Unread));
        if parked + parked_full + dead_letters_full + in_future + host_busy + other > 0 {
            warn!(
                event = "notices_left_out",
                parked,
                parked_full,
                dead_letters_full,
                in_future,
                host_busy,
                other,
                "the same happened so many more times in the last minute; target-notifyd status has the totals"
            );
        }
    }

    /// Counts this one; says whether it has a line of its own.
    fn count(&mut self, now: Moment, kind: Kind) -> bool {
        self.begin(now);
        let Some(seen) = self.seen.get_mut(kind as usize) else { return true };
        *seen += 1;
        *seen <= BY_NAME
    }

    /// A minute begins with what is told first in it.
    fn begin(&mut self, now: Moment) {
        self.tell(now);
        self.until.get_or_insert(now.after(EVERY));
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Host;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// The lines of some work, as JSON.
    fn lines(work: impl FnOnce()) -> Vec<serde_json::Value> {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber =
            tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone());
        // While there is one subscriber alone, the thread that comes to a line first decides for all whether it is told:
        // perhaps another test's, which has none.
        let _another = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new());
        tracing::subscriber::with_default(subscriber.finish(), work);
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_flood_is_told_by_its_first_and_then_in_numbers_each_minute_and_at_the_end() {
        let at = |seconds: u64| Moment::from_millis(seconds * 1_000);
        let buried = |seq, reason| Burial {
            seq: Seq(seq),
            reason,
            detail: "bad token 4q2+zhWFJ3kcAlhjaT6eZdIXW==".to_owned(),
        };
        let lines = lines(|| {
            let mut told = Told::new(watch::channel(Identifiers::None).1);
            assert_eq!(told.due(), None);
            for seq in 0..1_000 {
                told.letters(at(1), &[buried(seq, DeadReason::Refused)]);
                told.notice(at(1), &Notice::ParkedFull { seq: Seq(seq) });
            }
            // A flood of one kind hides nothing of another.
            told.letters(at(2), &[buried(1_000, DeadReason::Expired)]);
            assert_eq!(told.due(), Some(at(61)));
            told.tell(at(60));
            told.tell(at(61));
            assert_eq!(told.due(), None);
            (0..12).for_each(|seq| told.letters(at(99), &[buried(seq, DeadReason::Expired)]));
            told.notice(at(99), &Notice::LeftOut { count: 7 });
            // Asked in microseconds, which nobody wants to read.
            for micros in [0, 1_625_905].into_iter().chain(0..28) {
                let wait = Duration::from_micros(micros);
                told.notice(at(99), &Notice::HostBusy { host: Host::Client, wait });
            }
        });
        let of = |event: &str| lines.iter().filter(|line| line["event"] == event).collect::<Vec<_>>();
        assert_eq!((of("dead_letter").len(), of("parked_full").len()), (10 + 1 + 10, 10));
        assert!(of("dead_letter").iter().all(|line| line["detail"] == "bad token …"), "{lines:?}");
        let letters: Vec<_> =
            of("dead_letters").iter().map(|line| (&line["refused"], &line["expired"])).collect();
        assert_eq!(letters, [(&990.into(), &0.into()), (&0.into(), &2.into())]);
        let others: Vec<_> =
            of("notices_left_out").iter().map(|line| (&line["parked_full"], &line["other"])).collect();
        assert_eq!(others, [(&990.into(), &0.into()), (&0.into(), &7.into())]);
        let busy: Vec<_> = of("host_busy").iter().map(|line| &line["wait"]).take(3).collect();
        assert_eq!(busy, ["0s", "1s 626ms", "0s"]);
        let more: Vec<_> = of("notices_left_out").iter().map(|line| &line["host_busy"]).collect();
        assert_eq!((of("host_busy").len(), more), (10, vec![&0.into(), &20.into()]));
        assert_eq!(lines.len(), 21 + 10 + 10 + 4);
    }
}
