//! The real queue beside the naive one.

mod compare;
mod damage;

use std::sync::Mutex;

use futures_util::future::{BoxFuture, FutureExt, join_all};
use tokio::sync::mpsc;

use self::compare::{records_of, same};
use super::naive::{MAX_EVENTS, Naive, No};
use super::*;
use crate::queue::commit_error::CommitError;
use crate::queue::engine::Engine;
use crate::queue::space::Free;

const MIN_FREE: u64 = 1 << 24;
const RESERVE: u64 = 1 << 20;

/// The free bytes of the disk.
static FREE: AtomicU64 = AtomicU64::new(u64::MAX);
/// The time, in milliseconds.
static CLOCK: AtomicU64 = AtomicU64::new(0);
/// The database whose next commit meets the full disk when it is written.
static FULL_BEHIND: Mutex<Option<PathBuf>> = Mutex::new(None);

/// A commit of the database at `path` is written: whether the test lets the engine meet the full disk all the same.
pub(in crate::queue) fn meet_full_disk(path: &Path) -> Result<(), CommitError> {
    let met = FULL_BEHIND.lock().unwrap().take_if(|of| of == path);
    let full = || CommitError::Engine(sled::Error::Io(io::ErrorKind::StorageFull.into()));
    met.map_or(Ok(()), |_| Err(full()))
}

/// Has the engine meet the full disk once the next commit of the database of `store` is written.
pub(in crate::queue) fn fill_behind(store: &Store) {
    *FULL_BEHIND.lock().unwrap() = Some(store.view.read(|engine| engine.path().to_owned()));
}

/// What an ask was answered.
pub(super) enum Answer {
    Appended(Vec<Appended>),
    Requeued(Requeued),
    Done,
    /// Nobody knows.
    None,
}

/// What an ask means for the naive queue, given its answer, and whether the disk may have been full meanwhile.
pub(super) type Expected = Box<dyn FnOnce(&mut Naive, Answer, bool)>;

/// The records of a closed database.
type Records = BTreeMap<Vec<u8>, Vec<u8>>;

pub(super) struct Pair {
    pub(super) naive: Naive,
    pub(super) settings: Settings,
    pub(super) queue: Option<Queue>,
    pub(super) live: Option<mpsc::Receiver<Added>>,
    /// Whether there is a reserve.
    reserve: bool,
    disk: Disk,
    step: usize,
}

impl Pair {
    pub(super) fn new(folder: &Path) -> Self {
        let settings =
            Settings { min_free: MIN_FREE, reserve: RESERVE, max_events: MAX_EVENTS, ..settings(folder) };
        let (naive, disk) = (Naive::new(), Disk::Free);
        let mut pair = Self { naive, settings, queue: None, live: None, reserve: true, disk, step: 0 };
        CLOCK.store(0, Ordering::Relaxed);
        pair.fill(disk);
        pair.open();
        pair
    }

    fn open(&mut self) {
        self.open_only();
        self.naive.open();
    }

    pub(super) fn open_only(&mut self) {
        let now: Now = Arc::new(|| Moment::from_millis(CLOCK.load(Ordering::Relaxed)));
        let probe = |_: &Path| Ok::<_, io::Error>(Free::of_bytes(FREE.load(Ordering::Relaxed)));
        let mut queue = Queue::open_with(self.settings.clone(), &account("acme"), now, probe, false).unwrap();
        self.live = Some(queue.live());
        self.queue = Some(queue);
        self.look_at_disk();
    }

    pub(super) fn store(&self) -> Store {
        self.queue.as_ref().unwrap().store()
    }

    /// Closes the queue, and holds what lies on the disk against the naive one.
    async fn close(&mut self) -> (PathBuf, Records) {
        let store = self.store();
        let path = store.view.read(|engine| engine.path().to_owned());
        drop(store);
        self.queue.take().unwrap().shutdown().await.unwrap();
        let engine = Engine::new_at(&path).unwrap();
        let records = records_of(&engine);
        self.look_at_records(&records, &open::ledger(&engine).unwrap());
        (path, records)
    }

    /// What the queue knows of the disk once it looked.
    fn look_at_disk(&mut self) {
        match self.disk {
            Disk::Free => self.reserve = true,
            Disk::Full => self.reserve = false,
            Disk::Short | Disk::Low => {}
        }
        self.naive.room = self.reserve && matches!(self.disk, Disk::Free | Disk::Short);
    }

    fn fill(&mut self, disk: Disk) {
        self.disk = disk;
        let free = match disk {
            Disk::Free => u64::MAX,
            Disk::Short => MIN_FREE + 1,
            Disk::Low => MIN_FREE - 1,
            Disk::Full => 1_000,
        };
        FREE.store(free, Ordering::Relaxed);
    }

    pub(super) async fn act(&mut self, action: &Action) {
        self.step += 1;
        match action {
            Action::Ask(asks, fault) => self.ask(asks, *fault).await,
            Action::Load(pick) => {
                let chosen = pick.of(self.naive.events.keys().copied());
                let recent = self.store().take_recent(&seqs_of(&chosen));
                same(&recent, &self.naive.take_recent(&chosen));
            }
            Action::Wait(millis) => {
                CLOCK.fetch_add(*millis, Ordering::Relaxed);
                self.naive.now = Moment::from_millis(CLOCK.load(Ordering::Relaxed));
            }
            Action::Fill(disk) => {
                self.fill(*disk);
                self.store().pulse().await.unwrap();
                self.look_at_disk();
            }
            Action::Reopen => {
                self.close().await;
                self.open();
            }
            Action::Corrupt(record, nth) => self.corrupt(*record, *nth).await,
            Action::Break(ask, left) => self.break_disk(ask, *left).await,
        }
    }

    async fn ask(&mut self, asks: &[Ask], fault: Option<Fault>) {
        // Producers last: in one commit their events follow those that are requeued.
        let (appends, others): (Vec<&Ask>, Vec<&Ask>) =
            asks.iter().partition(|ask| matches!(ask, Ask::Append(_) | Ask::Rest(_)));
        let store = self.store();
        let mut asked: Vec<BoxFuture<'_, Answer>> = Vec::new();
        let begins = matches!(fault, Some(Fault::Before | Fault::Behind));
        match fault {
            Some(Fault::Before) => self.meet_full_disk(),
            Some(Fault::Behind) => fill_behind(&store),
            Some(Fault::Next) | None => {}
        }
        if begins {
            // So that there is a commit that can meet it.
            asked.push(self.write_down(&store));
        }
        // What may be requeued is known before: in the commit that buries it, a letter cannot come back.
        let (held, first) = (self.naive.held(), asked.len());
        let mut expected = Vec::new();
        for ask in others.into_iter().chain(appends) {
            asked.push(self.prepare(&store, ask, &held, &mut expected));
        }
        let answers = join_all(asked).await;
        for (apply, answer) in expected.into_iter().zip(answers.into_iter().skip(first)) {
            assert!(!matches!(answer, Answer::None), "it is answered");
            apply(&mut self.naive, answer, begins);
        }
        if fault == Some(Fault::Next) {
            self.meet_full_disk();
        }
        if fault.is_some() {
            // The reserve was given up; it is made again where the disk is free.
            self.reserve = false;
            // Once that is written, no pause is left of the fault.
            self.write_down(&store).await;
            assert_eq!(*FULL_BEHIND.lock().unwrap(), None);
            self.look_at_disk();
        }
    }

    /// The engine meets the full disk in the next commit.
    fn meet_full_disk(&self) {
        let store = self.store();
        store.commands.send(Command::Reopen(store.view.times_opened().unwrap()));
    }

    pub(super) fn write_down<'a>(&self, store: &'a Store) -> BoxFuture<'a, Answer> {
        let value = self.step.to_be_bytes().to_vec();
        store.put_meta("step", value).map(done).boxed()
    }

    /// What is asked of the queue; what that means for the naive one is added to `expected`.
    pub(super) fn prepare<'a>(
        &mut self,
        store: &'a Store,
        ask: &Ask,
        held: &BTreeSet<u64>,
        expected: &mut Vec<Expected>,
    ) -> BoxFuture<'a, Answer> {
        let mut settle = |delivered: Vec<u64>, burials: Vec<Burial>| {
            let asked = store.settle(seqs_of(&delivered), burials.clone());
            expected.push(Box::new(move |naive, _, _| {
                naive.deliver(&delivered);
                naive.bury(&burials);
            }));
            asked.map(done).boxed()
        };
        let waiting = || self.naive.waiting.iter().copied();
        let bury = |seqs: Vec<u64>, reason| -> Vec<Burial> {
            let burial = |seq| Burial { seq: Seq(seq), reason, detail: format!("why {seq}") };
            seqs.into_iter().map(burial).collect()
        };
        match ask {
            Ask::Deliver(pick) => settle(pick.of(waiting()), vec![]),
            Ask::Bury(pick, reason) => settle(vec![], bury(pick.of(waiting()), *reason)),
            Ask::Expire(millis) => settle(vec![], bury(self.naive.old(*millis), DeadReason::Expired)),
            Ask::Again(pick) => {
                let never = [0, self.naive.next + 1_000];
                let again = pick.of(self
                    .naive
                    .settled
                    .iter()
                    .copied()
                    .filter(|seq| !self.naive.waiting.contains(seq)));
                let again: Vec<u64> = again.into_iter().chain(never).collect();
                settle(again.clone(), bury(again, DeadReason::Refused))
            }
            Ask::Requeue(pick) => {
                let chosen = pick.of(held.iter().copied());
                let seqs = seqs_of(&chosen);
                expected.push(Box::new(move |naive, answer, fault| {
                    let Answer::Requeued(answer) = answer else {
                        naive.requeue(&chosen, u64::MAX);
                        return;
                    };
                    // Before or behind the fault there was room, or not.
                    let room = naive.room;
                    naive.room |= fault;
                    let (moved, no) = naive.requeue(&chosen, if fault { answer.moved } else { u64::MAX });
                    naive.room = room;
                    assert_eq!((answer.moved, answer.refusal.is_some()), (moved, no.is_some()), "{answer:?}");
                    if let (Some(No::Place), Some(refusal)) = (no, answer.refusal) {
                        assert!(refusal.contains("queue.max_events"), "{refusal}");
                    }
                }));
                async move { store.requeue(&seqs).await.map_or(Answer::None, Answer::Requeued) }.boxed()
            }
            Ask::Delete(pick) => {
                let chosen = pick.of(held.iter().copied());
                let asked = store.delete_dead(seqs_of(&chosen));
                expected.push(Box::new(move |naive, _, _| naive.delete(&chosen)));
                asked.map(|deleted| done(deleted.map(drop))).boxed()
            }
            Ask::Append(_) | Ask::Rest(_) => {
                let batch = self.batch(ask, expected.len());
                let submitted = batch.clone();
                expected.push(Box::new(move |naive, answer, fault| {
                    let Answer::Appended(answers) = answer else {
                        for submission in &submitted {
                            let _refused = naive.append(submission);
                        }
                        return;
                    };
                    assert_eq!(answers.len(), submitted.len());
                    for (submission, answer) in submitted.iter().zip(answers) {
                        let refused = match answer {
                            Appended::Stored => None,
                            Appended::Refused { code, .. } => Some(code),
                        };
                        // Before or behind the fault there was room, or not.
                        if fault && refused == Some(Unavailable::StorageFull) {
                            continue;
                        }
                        let room = naive.room;
                        naive.room |= fault;
                        let expected = naive.append(submission).map(|no| match no {
                            No::Room => Unavailable::StorageFull,
                            No::Place => Unavailable::QueueFull,
                        });
                        naive.room = room;
                        assert_eq!(refused, expected);
                    }
                }));
                let appender = self.queue.as_ref().unwrap().appender();
                async move { told(appender, batch).await.map_or(Answer::None, Answer::Appended) }.boxed()
            }
        }
    }

    /// The submissions of an ask, which is the `number`-th of its action.
    fn batch(&self, ask: &Ask, number: usize) -> Vec<Submission> {
        let sizes = match ask {
            Ask::Append(sizes) => sizes.clone(),
            Ask::Rest(more) => {
                let rest = MAX_EVENTS.saturating_sub(self.naive.balance.pending());
                vec![(usize::try_from(rest).unwrap() + more, 0, 10)]
            }
            _ => vec![],
        };
        let name = |at: u64| format!("s{}.{number}.{at}", self.step);
        let sizes = (0..).zip(sizes).filter(|(_, (count, ..))| *count > 0);
        sizes.map(|(at, (count, bytes, members))| submission(&name(at), count, bytes, members)).collect()
    }

    pub(super) async fn end(mut self) {
        self.close().await;
    }
}

fn done(done: Result<(), Failed>) -> Answer {
    done.map_or(Answer::None, |()| Answer::Done)
}

fn seqs_of(numbers: &[u64]) -> Vec<Seq> {
    numbers.iter().copied().map(Seq).collect()
}
