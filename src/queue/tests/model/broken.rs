//! The disk fails under the queue, and the next start makes a new database of what can be read.

use std::sync::Mutex;

use super::pair::{Answer, Pair};
use super::*;
use crate::queue::commit_error::CommitError;
use crate::queue::folder;
use crate::queue::replay::replay;

/// The database whose next commit fails, and whether that is written before.
static FAILS: Mutex<Option<(PathBuf, bool)>> = Mutex::new(None);

/// A commit of the database at `path` is about to be written, or is: whether the test lets the disk fail.
pub(in crate::queue) fn disk_fails(path: &Path, written: bool) -> Result<(), CommitError> {
    let met = FAILS.lock().unwrap().take_if(|(of, behind)| of == path && *behind == written);
    met.map_or(Ok(()), |_| Err(CommitError::Sync(io::Error::other("input/output error"))))
}

impl Pair {
    pub(super) async fn break_disk(&mut self, ask: &Ask, left: Left) {
        let store = self.store();
        let database = store.view.read(|engine| engine.path().to_owned());
        *FAILS.lock().unwrap() = Some((database, left != Left::Nothing));
        let (held, mut expected) = (self.naive.held(), Vec::new());
        let answer = self.prepare(&store, ask, &held, &mut expected).await;
        // What takes no commit is answered.
        while !matches!(self.write_down(&store).await, Answer::None) {}
        assert_eq!(*FAILS.lock().unwrap(), None);
        drop(store);
        self.live = None;
        let failed = self.queue.take().unwrap().shutdown().await;
        assert!(matches!(failed, Err(Failed::Disk { .. })), "{failed:?}");
        if left == Left::Part {
            self.tear();
        }

        self.open_only();
        let root = self.settings.path.clone();
        assert!(!root.join("failed").exists());
        // A database that is copied was opened before, without its snapshots.
        let aside = fs::read_dir(root.join("quarantine")).unwrap().map(|one| one.unwrap().file_name());
        let repaired = !aside.into_iter().any(|name| name.to_string_lossy().starts_with("snap."));
        fs::remove_dir_all(root.join("quarantine")).unwrap();
        let store = self.store();
        let ledger = store.ledger();
        // What was answered is there. What was not is there whole, where it was written, or not at all.
        let unknown = matches!(answer, Answer::None);
        if !(unknown && self.naive.counts(&ledger, repaired)) {
            assert!(!unknown || left == Left::All, "a part of a commit counts");
            let apply = expected.pop().unwrap();
            apply(&mut self.naive, answer, false);
        }
        let naive = &self.naive;
        assert!(naive.counts(&ledger, repaired), "{ledger:?} is not {:?}, {}", naive.balance, naive.next);
        self.naive.open();
        if repaired {
            self.naive.repaired(records(&store, b"q").len());
        }
        // Settled pages that it did not come to remove are found by a scan.
        self.scan();
        store.pulse().await.unwrap();
    }

    /// Takes the last byte of the last commit away, with the zeros behind it.
    fn tear(&self) {
        let database = folder::current(&self.settings.path).unwrap().unwrap();
        let bytes = replay(&database).unwrap().bytes();
        let number = |path: &PathBuf| path.extension()?.to_str()?.parse::<u64>().ok();
        let files = fs::read_dir(database).unwrap().map(|one| one.unwrap().path());
        let journal = files.filter(|path| path.file_stem().is_some_and(|stem| stem == "journal"));
        let mut journal: Vec<PathBuf> = journal.collect();
        journal.sort_by_key(number);
        let last = fs::File::options().write(true).open(journal.pop().unwrap()).unwrap();
        let before: u64 = journal.iter().map(|path| fs::metadata(path).unwrap().len()).sum();
        last.set_len(bytes - before - 1).unwrap();
    }
}
