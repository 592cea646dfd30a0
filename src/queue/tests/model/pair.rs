//! The real queue beside the naive one.

use std::sync::Mutex;

use futures_util::future::{BoxFuture, FutureExt, join_all};
use tokio::sync::mpsc;

use super::naive::{MAX_EVENTS, Naive, No};
use super::*;
use crate::queue::batch::Batch;
use crate::queue::engine::{CommitError, Engine};
use crate::queue::keys::{DEAD, MARK, MEMBERS, PAGE, PageKey, QUARANTINE, numbered, seq_of};
use crate::wire::record::Page;

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
    pub(super) live: Option<mpsc::Receiver<Committed>>,
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
        let probe = |_: &Path| Ok::<_, io::Error>(FREE.load(Ordering::Relaxed));
        let queue = Queue::open_with(self.settings.clone(), &account("acme"), now, probe, false).unwrap();
        self.live = queue.store().live();
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
            Some(Fault::Behind) => {
                *FULL_BEHIND.lock().unwrap() = Some(store.view.read(|engine| engine.path().to_owned()));
            }
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
                asked.map(done).boxed()
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

    /// The submissions of an ask, which is the so many-th of its action.
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

    async fn corrupt(&mut self, record: Record, nth: usize) {
        let (path, records) = self.close().await;
        let tag = match record {
            Record::Page | Record::Lost => PAGE,
            Record::Mark => MARK,
            Record::Members => MEMBERS,
            Record::Letter => DEAD,
        };
        let all: Vec<&Vec<u8>> = records.keys().filter(|key| key.first() == Some(&tag)).collect();
        let Some(name) = nth.checked_rem(all.len()).map(|at| all[at].clone()) else { return self.open() };
        let mut batch = Batch::default();
        // The same bytes damaged, since bytes that are held are counted by their number.
        let damaged: Vec<u8> = records[&name].iter().map(|byte| byte.wrapping_add(0x55)).collect();
        batch.insert(name.as_slice(), damaged);
        let seq = seq_of(tag, &name).unwrap();
        let pages = pages_of(&records);
        let users = |first: Seq| pages.iter().filter(move |(_, apart)| **apart == Some(first));
        let parts = |prefix: Vec<u8>| records.keys().filter(move |key| key.starts_with(&prefix));
        let (mut gone, mut set_aside) = (Vec::new(), Vec::new());
        match record {
            Record::Page | Record::Lost => {
                let page = PageKey::read(&name).unwrap().0;
                set_aside.extend(parts(numbered(PAGE, seq)));
                let alone = pages[&page].filter(|first| users(*first).count() == 1);
                set_aside.extend(alone.into_iter().flat_map(|first| parts(numbered(MEMBERS, first))));
                gone.push(page);
            }
            Record::Members => {
                set_aside.extend(parts(numbered(MEMBERS, seq)));
                for (page, _) in users(seq) {
                    set_aside.extend(parts(numbered(PAGE, page.first)));
                    gone.push(*page);
                }
            }
            Record::Mark => {
                let page = pages.keys().find(|page| page.first == seq).unwrap();
                let back = (page.first.0..page.next().0).filter(|seq| self.naive.settled.contains(seq));
                self.naive.waiting.extend(back);
            }
            Record::Letter => {
                self.naive.letters.remove(&seq.0);
                self.naive.damaged_letters.insert(seq.0);
            }
        }
        if record == Record::Lost {
            for key in &set_aside {
                batch.remove(key.as_slice());
                self.naive.stolen += records[*key].len() as u64;
            }
            batch.remove(numbered(MARK, seq));
            gone.drain(..).for_each(|page| self.naive.waiting.retain(|seq| page.bit(Seq(*seq)) == 0));
            set_aside.clear();
        }
        let engine = Engine::new_at(&path).unwrap();
        engine.commit(batch).unwrap();
        drop(engine);
        self.open();
        let entries = self.scan();
        if record == Record::Members {
            // Nobody looks at it before somebody sends its events.
            assert_eq!(entries, self.naive.entries());
            let lost: Vec<Seq> =
                gone.iter().flat_map(|page| (page.first.0..page.next().0).map(Seq)).collect();
            assert!(self.store().load(&lost).unwrap().iter().all(Option::is_none));
            self.store().pulse().await.unwrap();
        }
        for page in gone {
            self.naive.quarantine(page.first.0..page.next().0);
        }
        self.naive.set_aside += set_aside.len();
    }

    /// What the queue shows, some pages at a time.
    pub(super) fn scan(&self) -> Vec<Entry> {
        let (store, mut from, mut entries) = (self.store(), Seq(1), Vec::new());
        loop {
            let scan = store.scan(from, 70).unwrap();
            entries.extend(scan.entries);
            from = scan.next;
            if scan.end {
                return entries;
            }
        }
    }

    /// Holds the queue against the naive one.
    pub(super) async fn compare(&mut self) {
        let store = self.store();
        // Whatever was settled is removed by the commit after that, and needs no scan for it.
        store.pulse().await.unwrap();
        let pages = records(&store, b"e").into_iter().filter_map(|(name, _)| PageKey::read(&name));
        let covered = |page: PageKey| self.naive.waiting.range(page.first.0..page.next().0).next();
        assert!(pages.map(|(page, _)| covered(page)).all(|some| some.is_some()), "a settled page is left");
        let (entries, expected) = (self.scan(), self.naive.entries());
        // What a scan finds is counted by the commit before this.
        store.pulse().await.unwrap();
        let survey = store.survey(Seq(0), Seq(u64::MAX), usize::MAX).unwrap();
        let seen: Vec<_> = survey.found.into_iter().map(|one| one.entry).collect();
        let ledger = store.ledger();
        let naive = &mut self.naive;
        same(&entries, &expected);
        same(&seen, &expected);
        assert_eq!((ledger.balance, ledger.next.0), (naive.balance, naive.next));
        if !naive.blurred {
            assert_eq!(ledger.imbalance(), naive.imbalance());
        }
        let letters = store.dead(Seq(0), usize::MAX).unwrap();
        same(&letters, &naive.letters.values().cloned().collect::<Vec<_>>());
        assert_eq!(ledger.dead_held, (letters.len() + naive.damaged_letters.len()) as u64);
        for (reason, count) in store.counts().buried() {
            assert_eq!(count, naive.buried.iter().filter(|one| **one == reason).count() as u64, "{reason:?}");
        }
        assert_eq!(store.counts().surplus(), naive.surplus);
        let live = self.live.as_mut().unwrap();
        let told: Vec<_> =
            std::iter::from_fn(|| live.try_recv().ok()).flat_map(|committed| committed.entries).collect();
        same(&told, &std::mem::take(&mut naive.told));
        let some = Pick { from: self.step % 7, step: 7 }.of(naive.waiting.iter().copied());
        let loaded = store.load(&seqs_of(&some)).unwrap();
        let events = some.iter().map(|seq| Some(naive.events[seq].clone()));
        same(&loaded, &events.collect::<Vec<_>>());
        // Removals go on meanwhile: a look at the records counts between two equal looks at the counters.
        let (held, ledger) = loop {
            let before = store.meta("ledger").unwrap().unwrap();
            let all = [b"e", b"v", b"d"].into_iter().flat_map(|tag| records(&store, tag));
            let held: u64 = all.map(|(_, value)| value.len() as u64).sum();
            if store.meta("ledger").unwrap().as_deref() == Some(&before) {
                break (held, Ledger::decode(&before).unwrap());
            }
        };
        assert_eq!(ledger.held_bytes, held + naive.stolen);
        assert_eq!(records(&store, b"q").len(), naive.set_aside);
    }

    /// Holds what lies on the disk of a closed queue against the naive one: nothing is left behind.
    fn look_at_records(&self, records: &Records, ledger: &Ledger) {
        let naive = &self.naive;
        assert_eq!((ledger.balance, ledger.next.0), (naive.balance, naive.next));
        let of = |tag: u8| records.iter().filter(move |(key, _)| key.first() == Some(&tag));
        let held: usize = [PAGE, MEMBERS, DEAD].into_iter().flat_map(of).map(|(_, value)| value.len()).sum();
        assert_eq!(ledger.held_bytes, held as u64 + naive.stolen);
        let pages = pages_of(records);
        let covered = |page: &PageKey| naive.waiting.range(page.first.0..page.next().0).count();
        assert!(pages.keys().all(|page| covered(page) > 0), "a settled page is left behind");
        assert_eq!(pages.keys().map(covered).sum::<usize>(), naive.waiting.len());
        let numbers = |tag| of(tag).map(|(key, _)| seq_of(tag, key).unwrap()).collect::<BTreeSet<Seq>>();
        assert!(numbers(MARK).is_subset(&numbers(PAGE)), "a mark is left behind");
        let used: BTreeSet<Seq> = pages.values().flatten().copied().collect();
        assert_eq!(numbers(MEMBERS), used, "an envelope is left behind, or gone");
        let letters = naive.letters.keys().chain(&naive.damaged_letters).copied().map(Seq);
        assert_eq!(numbers(DEAD), letters.collect());
        assert_eq!(of(QUARANTINE).count(), naive.set_aside);
    }

    pub(super) async fn end(mut self) {
        self.close().await;
    }
}

fn done(done: Result<(), Failed>) -> Answer {
    done.map_or(Answer::None, |()| Answer::Done)
}

/// Two equal lists; shows the first place where they are not.
#[track_caller]
fn same<T: PartialEq + std::fmt::Debug>(found: &[T], expected: &[T]) {
    let differs = (0..found.len().max(expected.len())).find(|at| found.get(*at) != expected.get(*at));
    let text = |list: &[T], at| format!("{:.400?}", list.get(at));
    if let Some(at) = differs {
        let (lengths, one) = ((found.len(), expected.len()), text(found, at));
        panic!("at {at}, of {lengths:?} found and expected: {one:.400} is not {:.400}", text(expected, at));
    }
}

fn seqs_of(numbers: &[u64]) -> Vec<Seq> {
    numbers.iter().copied().map(Seq).collect()
}

fn records_of(engine: &Engine) -> Records {
    let record = |record: Result<(sled::IVec, sled::IVec), sled::Error>| {
        let (key, value) = record.unwrap();
        (key.to_vec(), value.to_vec())
    };
    engine.from(vec![]).map(record).collect()
}

/// The pages, each with the place of the large envelope that it refers to.
fn pages_of(records: &Records) -> BTreeMap<PageKey, Option<Seq>> {
    let mut joined: BTreeMap<PageKey, Vec<u8>> = BTreeMap::new();
    for (name, value) in records {
        if let Some((key, _)) = PageKey::read(name) {
            joined.entry(key).or_default().extend(value);
        }
    }
    let apart = |record: &[u8]| Page::decode(record).unwrap().apart().map(|apart| Seq(apart.first));
    joined.iter().map(|(key, record)| (*key, apart(record))).collect()
}
