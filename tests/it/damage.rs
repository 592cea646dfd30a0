//! Damage that a start has to repair before it may open a queue.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::kill::copied;
use crate::power::check::open;
use crate::support::queue_settings;

/// The unit of the engine's log, as `src/queue/engine.rs` has it.
const SEGMENT_BYTES: u64 = 512 * 1_024;
/// The database of a queue that was never repaired.
const DATABASE: &str = "events.1";

/// Zeros in a file of a stopped queue.
#[derive(Debug)]
pub(crate) struct Damage {
    pub(crate) file: PathBuf,
    pub(crate) at: u64,
    pub(crate) zeros: usize,
}

impl Damage {
    pub(crate) fn strike(&self) {
        let file = File::options().write(true).open(&self.file).expect("a file");
        let end = self.at + self.zeros as u64;
        assert!(end <= file.metadata().expect("a file").len(), "no start repairs damage of this kind");
        file.write_all_at(&vec![0; self.zeros], self.at).expect("the file can be written");
    }

    /// How many events a start that repairs it counts as lost, tried on a copy of the queue; `None` where none has to, or can.
    fn loses(&self, queue: &Path) -> Option<u64> {
        let tried = TempDir::new().expect("a folder");
        copied(queue, tried.path());
        let inside = self.file.strip_prefix(queue).expect("the file is the queue's");
        Self { file: tried.path().join(inside), ..*self }.strike();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        // Without its counters it is not opened.
        let opened = open(queue_settings(tried.path())).ok()?;
        let lost = opened.store().ledger().balance.quarantined;
        runtime.block_on(opened.shutdown()).expect("the queue closes");
        tried.path().join("quarantine").join(DATABASE).exists().then_some(lost)
    }
}

/// A segment of the engine's log without its header: the engine would not know of it, and it has pages in use. It takes
/// nothing that can be read.
pub(crate) fn hidden_segment(queue: &Path) -> Damage {
    let file = queue.join(DATABASE).join("db");
    let mut all = (1..).map(|number| Damage { file: file.clone(), at: number * SEGMENT_BYTES, zeros: 20 });
    all.find(|damage| damage.loses(queue) == Some(0)).expect("no end of them")
}

/// Pages of the engine that cannot be read, nor what is behind them by the engine.
pub(crate) fn lost_pages(queue: &Path) -> Damage {
    let file = queue.join(DATABASE).join("db");
    let at = |number| SEGMENT_BYTES + number * SEGMENT_BYTES / 8;
    first_that_loses(queue, (1..).map(|number| Damage { file: file.clone(), at: at(number), zeros: 8_192 }))
}

/// Commits in the middle of the journal that cannot be read.
pub(crate) fn lost_commits(queue: &Path) -> Damage {
    let entries = fs::read_dir(queue.join(DATABASE)).expect("a database");
    let paths = entries.map(|entry| entry.expect("a folder can be listed").path());
    let number = |path: &PathBuf| path.extension()?.to_str()?.parse::<u64>().ok();
    let segments = paths.filter(|path| path.file_stem().is_some_and(|stem| stem == "journal"));
    let file = segments.min_by_key(number).expect("a journal");
    first_that_loses(queue, (1..).map(|number| Damage { file: file.clone(), at: number * 1_024, zeros: 512 }))
}

fn first_that_loses(queue: &Path, mut all: impl Iterator<Item = Damage>) -> Damage {
    all.find(|damage| damage.loses(queue).is_some_and(|lost| lost > 0)).expect("no end of them")
}

/// Takes the header away from a segment of a stopped queue.
pub(crate) fn hide_a_segment(queue: &Path) {
    hidden_segment(queue).strike();
}
