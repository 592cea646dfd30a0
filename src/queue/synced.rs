//! Makes every write of sled's log durable before sled relies on it.
//!
//! sled frees a segment of its log once the pages that replace it are "stable", and may write over it at once. On Linux
//! it calls a range stable after `sync_file_range`, which makes nothing durable: where power fails before the next real
//! sync, the old pages are gone and the new ones never came. So this program brings its own `sync_file_range`, which is
//! a whole `fdatasync`. Then "stable" means stable, whatever a commit fills, and a flush of sled is a sync.
//!
//! A batch of sled is two writes: a manifest of a few bytes, and at once what it speaks of. So the sync of a small
//! write waits a moment for the next one, which covers both.
//!
//! Where the linker takes the system's function all the same, which [`in_effect`] tells, [`super::engine`] syncs by
//! itself after each flush: nothing better is left then.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_uint};
use std::os::fd::BorrowedFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::fdatasync;

use super::slack::without_slack;

/// What a write has at most that waits for the next one, in bytes: a manifest, and the header of a segment before it.
const SMALL_BYTES: i64 = 64;
/// How long it waits for the next one to begin its sync.
const NEXT_WAIT: Duration = Duration::from_millis(1);

/// The syncs of the files with these descriptors; there is one for each open database.
static FILES: Mutex<BTreeMap<c_int, Syncs>> = Mutex::new(BTreeMap::new());
/// Where a sync began or ended.
static MOVED: Condvar = Condvar::new();

/// The syncs of a file, numbered from 1. A number goes on where the descriptor becomes another file's.
#[derive(Debug, Default)]
struct Syncs {
    begun: u64,
    /// The last one that succeeded: all that was written before it began is durable.
    good: u64,
    /// The last one that failed: what was written before it began may be gone, and no later sync would tell.
    bad: u64,
}

/// Whether sled's writes are synced by this module.
pub(super) fn in_effect() -> bool {
    std::ptr::fn_addr_eq(
        sync_file_range as unsafe extern "C" fn(c_int, i64, i64, c_uint) -> c_int,
        libc::sync_file_range as unsafe extern "C" fn(c_int, i64, i64, c_uint) -> c_int,
    )
}

/// Takes the place of the system's function of this name, for whose only caller see above.
///
/// Every error is EIO: what a failed sync could not place is gone, also where the disk was full, so sled must not take
/// it for a full disk, after which the same database can be opened again.
#[expect(
    unsafe_code,
    reason = "there is no other way into sled between its write and its use of what it wrote"
)]
#[unsafe(no_mangle)]
unsafe extern "C" fn sync_file_range(file: c_int, _from: i64, bytes: i64, _flags: c_uint) -> c_int {
    let shared = if bytes <= SMALL_BYTES { without_slack(|| wait_for_next(file)) } else { None };
    // SAFETY: sled owns the file and holds it open for the whole call.
    let good = shared.unwrap_or_else(|| sync(file, unsafe { BorrowedFd::borrow_raw(file) }));
    if good {
        return 0;
    }
    Errno::EIO.set();
    -1
}

/// Whether the next sync of the file succeeds, once it has; `None` where none begins soon.
fn wait_for_next(file: c_int) -> Option<bool> {
    let until = Instant::now() + NEXT_WAIT;
    let mut files = lock();
    // What the caller wrote is in the system's hands, so whatever sync begins from now on covers it.
    let next = files.entry(file).or_default().begun + 1;
    loop {
        let syncs = files.entry(file).or_default();
        if syncs.bad >= next {
            return Some(false);
        }
        if syncs.good >= next {
            return Some(true);
        }
        let under_way = syncs.begun >= next;
        let left = until.saturating_duration_since(Instant::now());
        files = match under_way {
            true => MOVED.wait(files).unwrap_or_else(PoisonError::into_inner),
            false if left.is_zero() => return None,
            false => MOVED.wait_timeout(files, left).unwrap_or_else(PoisonError::into_inner).0,
        };
    }
}

/// Syncs the file; whether that succeeded.
fn sync(number: c_int, file: BorrowedFd<'_>) -> bool {
    let this = {
        let mut files = lock();
        let syncs = files.entry(number).or_default();
        syncs.begun += 1;
        syncs.begun
    };
    let mut result = fdatasync(file);
    while result == Err(Errno::EINTR) {
        result = fdatasync(file);
    }
    let mut files = lock();
    let syncs = files.entry(number).or_default();
    let last = if result.is_ok() { &mut syncs.good } else { &mut syncs.bad };
    *last = this.max(*last);
    MOVED.notify_all();
    result.is_ok()
}

fn lock() -> MutexGuard<'static, BTreeMap<c_int, Syncs>> {
    // Every change is whole at each line where a panic could strike.
    FILES.lock().unwrap_or_else(PoisonError::into_inner)
}
