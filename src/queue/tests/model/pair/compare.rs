//! What the queue shows and keeps, held against the naive one.

use super::*;
use crate::event::Entry;
use crate::queue::keys::{DEAD, MARK, MEMBERS, PAGE, PageKey, QUARANTINE, seq_of};
use crate::wire::record::Page;

impl Pair {
    /// What the queue shows, some pages at a time.
    pub(in crate::queue::tests::model) fn scan(&self) -> Vec<Entry> {
        let (store, mut from, mut entries) = (self.store(), Seq(1), Vec::new());
        loop {
            // The pages that it finds are believed until they change; its events are no part of this comparison.
            let scan = store.scan_next(from, 70).unwrap();
            store.kept.lock().unwrap().forget_read();
            entries.extend(scan.entries);
            from = scan.next;
            if scan.next >= store.tail() {
                return entries;
            }
        }
    }

    /// Holds the queue against the naive one.
    pub(in crate::queue::tests::model) async fn compare(&mut self) {
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
    pub(super) fn look_at_records(&self, records: &Records, ledger: &Ledger) {
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
}

/// Two equal lists; shows the first place where they are not.
#[track_caller]
pub(super) fn same<T: PartialEq + std::fmt::Debug>(found: &[T], expected: &[T]) {
    let differs = (0..found.len().max(expected.len())).find(|at| found.get(*at) != expected.get(*at));
    let text = |list: &[T], at| format!("{:.400?}", list.get(at));
    if let Some(at) = differs {
        let (lengths, one) = ((found.len(), expected.len()), text(found, at));
        panic!("at {at}, of {lengths:?} found and expected: {one:.400} is not {:.400}", text(expected, at));
    }
}

pub(super) fn records_of(engine: &Engine) -> Records {
    let record = |record: Result<merged::Record, sled::Error>| {
        let (key, value) = record.unwrap();
        (key.to_vec(), value.to_vec())
    };
    engine.from(vec![]).map(record).collect()
}

/// The pages, each with the place of the large envelope that it refers to.
pub(super) fn pages_of(records: &Records) -> BTreeMap<PageKey, Option<Seq>> {
    let mut joined: BTreeMap<PageKey, Vec<u8>> = BTreeMap::new();
    for (name, value) in records {
        if let Some((key, _)) = PageKey::read(name) {
            joined.entry(key).or_default().extend(value);
        }
    }
    let apart = |record: &[u8]| Page::decode(record).unwrap().apart().map(|apart| Seq(apart.first));
    joined.iter().map(|(key, record)| (*key, apart(record))).collect()
}
