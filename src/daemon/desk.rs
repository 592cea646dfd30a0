//! Receipts that are owed: from the moment that a submission is stored until the last of its events is final.
//!
//! Guarantees:
//! - a slip is laid down before anybody can send the events, and answered after their settlement is durable;
//! - what answers are kept for receipts is bounded by [`MAX_KEPT_BYTES`]; beyond it a receipt comes without its response;
//! - a receiver that is slow or gone costs nothing but its slips, and holds nothing up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::value::RawValue;

use crate::event::{Burial, EventId, Seq};
use crate::ingest::Slip;
use crate::wire::receipt::{self, Answer, Dead};

/// What answers may take in memory for all receipts that wait, in bytes.
const MAX_KEPT_BYTES: usize = 64 * 1_024 * 1_024;

/// The slips by the first sequence number of their submissions. A lock, because the queue's thread lays slips down at the
/// very moment of their storage; it is held for the work of one batch.
#[derive(Clone, Debug, Default)]
pub(super) struct Desk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<Seq, Waiting>,
    kept: usize,
}

#[derive(Debug)]
struct Waiting {
    slip: Slip,
    left: usize,
    /// What became of each event so far.
    events: Vec<Fate>,
    answer: Option<Arc<Answer>>,
    /// What of answers it keeps, in bytes.
    kept: usize,
    /// Whether something did not fit.
    cut: bool,
}

#[derive(Clone, Debug)]
enum Fate {
    Open,
    Delivered(Option<Box<RawValue>>),
    Dead(Dead),
}

impl Desk {
    /// Lays the slip of a submission down whose first event is `first`.
    pub(super) fn lay(&self, first: Seq, slip: Slip) {
        let count = slip.ids.len();
        let events = vec![Fate::Open; count];
        let waiting = Waiting { slip, left: count, events, answer: None, kept: 0, cut: false };
        self.lock().waiting.insert(first, waiting);
    }

    /// Whether a receipt is owed for one of these.
    pub(super) fn watches(&self, seqs: &[Seq]) -> bool {
        let state = self.lock();
        !state.waiting.is_empty() && seqs.iter().any(|seq| state.find(*seq).is_some())
    }

    /// These are final, and that is durable.
    pub(super) fn settled(&self, delivered: &[Seq], buried: &[Burial], answer: Option<&Answer>) {
        let mut state = self.lock();
        if state.waiting.is_empty() {
            return;
        }
        let frame = answer.map(|answer| Arc::new(answer.without_notifications()));
        for seq in delivered {
            state.fate(*seq, frame.as_ref(), |id| {
                Fate::Delivered(
                    answer.and_then(|answer| answer.notification(id.as_str())).map(ToOwned::to_owned),
                )
            });
        }
        for Burial { seq, reason, detail } in buried {
            state.fate(*seq, None, |id| dead(id, reason.as_str(), detail));
        }
    }

    /// These cannot be read back from the disk, and were moved to quarantine.
    pub(super) fn lost(&self, seqs: &[Seq]) {
        let mut state = self.lock();
        for seq in seqs {
            state.fate(*seq, None, |id| {
                dead(id, "quarantined", "the disk gave back other bytes than were written")
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is whole at each line where a panic could strike.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn dead(id: &EventId, reason: &'static str, detail: &str) -> Fate {
    Fate::Dead(Dead { id: id.as_str().to_owned(), reason, detail: detail.to_owned() })
}

impl State {
    /// The submission of `seq`, by its first number, and the place in it.
    fn find(&self, seq: Seq) -> Option<(Seq, usize)> {
        let (first, waiting) = self.waiting.range(..=seq).next_back()?;
        let place = usize::try_from(seq.0 - first.0).ok()?;
        (place < waiting.events.len()).then_some((*first, place))
    }

    fn fate(&mut self, seq: Seq, answer: Option<&Arc<Answer>>, fate: impl FnOnce(&EventId) -> Fate) {
        let Some((first, place)) = self.find(seq) else { return };
        let room = MAX_KEPT_BYTES.saturating_sub(self.kept);
        let Some(waiting) = self.waiting.get_mut(&first) else { return };
        let before = waiting.kept;
        waiting.settle(place, answer, room, fate);
        self.kept = (self.kept + waiting.kept).saturating_sub(before);
        if waiting.left == 0
            && let Some(done) = self.waiting.remove(&first)
        {
            self.kept = self.kept.saturating_sub(done.kept);
            done.send();
        }
    }
}

impl Waiting {
    fn settle(
        &mut self,
        place: usize,
        answer: Option<&Arc<Answer>>,
        room: usize,
        fate: impl FnOnce(&EventId) -> Fate,
    ) {
        let (Some(id), Some(event)) = (self.slip.ids.get(place), self.events.get_mut(place)) else { return };
        if !matches!(event, Fate::Open) {
            return;
        }
        *event = fate(id);
        self.left -= 1;
        let mut more = match event {
            Fate::Delivered(Some(notification)) => notification.get().len(),
            Fate::Dead(dead) => dead.detail.len(),
            _ => 0,
        };
        if let Some(answer) = answer {
            more += answer.frame_bytes();
            self.answer = Some(Arc::clone(answer));
        }
        if self.cut || more > room {
            self.cut = true;
            self.answer = None;
            if let Fate::Delivered(notification) = event {
                *notification = None;
            }
        } else {
            self.kept += more;
        }
    }

    fn send(self) {
        let Self { mut slip, events, answer, .. } = self;
        let (mut dead, mut delivered, mut notifications) = (Vec::new(), Vec::new(), Vec::new());
        let (ids, reference) = (std::mem::take(&mut slip.ids), slip.reference.take());
        let reference = reference.as_deref();
        for (id, event) in ids.iter().zip(events) {
            match event {
                Fate::Dead(one) => dead.push(one),
                Fate::Delivered(notification) => {
                    delivered.push(id);
                    notifications.push(notification);
                }
                Fate::Open => {}
            }
        }
        let text = match dead.is_empty() {
            true => receipt::delivered(reference, &ids, answer.as_deref(), &notifications),
            false => receipt::dead(reference, &delivered, &dead),
        };
        if slip.fits(text.len()) {
            return slip.send(text);
        }
        // Producers that take no receipts hold all that may be held: the outcome alone is told, in its own share.
        dead.iter_mut().for_each(|one| one.detail.clear());
        let text = match dead.is_empty() {
            true => receipt::delivered(reference, &ids, None, &[]),
            false => receipt::dead(reference, &delivered, &dead),
        };
        slip.send(text);
    }
}
