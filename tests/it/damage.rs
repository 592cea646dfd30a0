//! Damage that a start has to repair before it may open a queue, and that takes nothing which can be read.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use tempfile::TempDir;

use crate::kill::copied;
use crate::power::check::open;
use crate::support::queue_settings;

/// The unit of the engine's log, as `src/queue/engine.rs` has it.
const SEGMENT_BYTES: u64 = 512 * 1_024;

/// Takes the header away from a segment of a stopped queue: the engine would not know of it, and it has pages in use.
pub(crate) fn hide_a_segment(queue: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut segments = 1..;
    loop {
        let tried = TempDir::new().expect("a folder");
        copied(queue, tried.path());
        let at = segments.next().expect("a number") * SEGMENT_BYTES;
        hide(tried.path(), at);
        let opened = open(queue_settings(tried.path())).expect("the queue opens");
        runtime.block_on(opened.shutdown()).expect("the queue closes");
        if tried.path().join("quarantine/events.1").exists() {
            return hide(queue, at);
        }
    }
}

fn hide(queue: &Path, at: u64) {
    let log = File::options().write(true).open(queue.join("events.1/db")).expect("a log");
    assert!(at < log.metadata().expect("a file").len(), "no segment is in use");
    log.write_all_at(&[0; 20], at).expect("the log can be written");
}
