//! Makes every write of sled's log durable before sled relies on it.
//!
//! sled frees a segment of its log once the pages that replace it are "stable", and may write over it at once. On Linux it
//! calls a range stable after `sync_file_range`, which makes nothing durable: where power fails before the next real sync,
//! the old pages are gone and the new ones never came. So this program brings its own `sync_file_range`, which is a whole
//! `fdatasync`. Then "stable" means stable, whatever a commit fills, and a flush of sled is a sync.
//!
//! A linker that takes the system's function instead is possible: [`in_effect`] tells, and then [`super::engine`] syncs by
//! itself after each flush, as good as that gets.

use std::ffi::{c_int, c_uint};
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::fdatasync;

/// Whether sled's writes are synced by this module.
pub(super) fn in_effect() -> bool {
    std::ptr::fn_addr_eq(
        sync_file_range as unsafe extern "C" fn(c_int, i64, i64, c_uint) -> c_int,
        libc::sync_file_range as unsafe extern "C" fn(c_int, i64, i64, c_uint) -> c_int,
    )
}

/// Takes the place of the system's function of this name, for whose only caller see above.
///
/// Every error is EIO: what a failed sync could not place is gone, also where the disk was full, so sled must not take it
/// for a full disk, after which the same database can be opened again.
#[expect(
    unsafe_code,
    reason = "there is no other way into sled between its write and its use of what it wrote"
)]
#[unsafe(no_mangle)]
unsafe extern "C" fn sync_file_range(file: c_int, _from: i64, _bytes: i64, _flags: c_uint) -> c_int {
    // SAFETY: sled owns the file and holds it open for the whole call.
    let file = unsafe { BorrowedFd::borrow_raw(file) };
    loop {
        match fdatasync(file) {
            Ok(()) => return 0,
            Err(Errno::EINTR) => {}
            Err(_) => {
                Errno::EIO.set();
                return -1;
            }
        }
    }
}
