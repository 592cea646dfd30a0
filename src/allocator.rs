//! Where memory comes from: small blocks cost an event less processor time than the system's (`bench deliver` shows it).
#![expect(unsafe_code, reason = "an allocator is unsafe by its nature")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::c_char;

use tikv_jemallocator::Jemalloc;

/// From this size on, in bytes, the system's allocator is the better one: it gives large blocks back at once, and zeroed
/// ones take no memory before they are used, of which the storage engine has many.
const LARGE: usize = 256 * 1_024;

/// Has the system's allocator map each large block by itself, and give it back when it goes. As it stands it takes blocks of a
/// size that was once given back for small ones from then on, and keeps them in between others.
#[cfg(target_env = "gnu")]
pub(crate) fn settle() {
    // SAFETY: it changes a number, and nothing else runs yet.
    let _known = unsafe { nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, LARGE as nix::libc::c_int) };
}

/// Other systems have no such number.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn settle() {}

#[global_allocator]
static ALLOCATOR: BySize = BySize;

/// Two arenas and a short decay, so that what a burst took is given back, and no page more for each large block.
#[unsafe(export_name = "_rjem_malloc_conf")]
static SETTINGS: Settings =
    Settings(c"narenas:2,dirty_decay_ms:200,muzzy_decay_ms:0,cache_oblivious:false".as_ptr());

/// A pointer as the C of jemalloc has it.
#[repr(transparent)]
struct Settings(*const c_char);

// SAFETY: it points to a literal.
unsafe impl Sync for Settings {}

/// jemalloc for small blocks, the system for large ones.
struct BySize;

// SAFETY: each block goes back to the allocator that it came from, since its layout alone says which one that is. A block
// that grows or shrinks over the limit is a new one, which is what `realloc` may do.
unsafe impl GlobalAlloc for BySize {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match layout.size() < LARGE {
            true => unsafe { Jemalloc.alloc(layout) },
            false => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match layout.size() < LARGE {
            true => unsafe { Jemalloc.alloc_zeroed(layout) },
            false => unsafe { System.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match layout.size() < LARGE {
            true => unsafe { Jemalloc.dealloc(block, layout) },
            false => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        match (layout.size() < LARGE, size < LARGE) {
            (true, true) => unsafe { Jemalloc.realloc(block, layout, size) },
            (false, false) => unsafe { System.realloc(block, layout, size) },
            _ => unsafe {
                let moved = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
                if !moved.is_null() {
                    std::ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
                    self.dealloc(block, layout);
                }
                moved
            },
        }
    }
}
