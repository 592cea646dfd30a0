//! Records that are damaged or lost while the queue is closed.

use super::compare::pages_of;
use super::*;
use crate::queue::batch::Batch;
use crate::queue::keys::{DEAD, MARK, MEMBERS, PAGE, PageKey, numbered, seq_of};

impl Pair {
    pub(super) async fn corrupt(&mut self, record: Record, nth: usize) {
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
}
