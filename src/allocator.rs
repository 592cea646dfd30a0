//! Where memory comes from: small blocks cost an event less processor time than the system's (`bench deliver` shows it).
#![expect(unsafe_code, reason = "an allocator is unsafe by its nature")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::c_char;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

use rustix::mm::{MapFlags, MremapFlags, ProtFlags, mmap_anonymous, mremap, munmap};
use target_notifyd::queue::LOG_SEGMENT_BYTES;
use tikv_jemallocator::Jemalloc;

/// From this size on, in bytes, a block is mapped by itself: it is given back to the system at once, and zeroed ones take no memory
/// before they are used, of which the storage engine has many.
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

/// The size of the storage engine's segments. It takes a block for each that it writes, and for each that it reads at a
/// start, and the system takes longer to map one, page by page, than the engine to fill it.
const SEGMENT: usize = LOG_SEGMENT_BYTES;
/// What the engine aligns such blocks to, in bytes.
const SEGMENT_ALIGNMENT: usize = 8_192;

/// Blocks of that size that are free, for the next.
static SPARES: [AtomicPtr<u8>; 8] = [const { AtomicPtr::new(null_mut()) }; 8];

/// The least that the system maps, in bytes, and the alignment of what it maps.
const PAGE: usize = 4_096;

/// Where a block comes from, and goes to.
enum Source {
    /// Small blocks.
    Jemalloc,
    /// Large tables. The compiler knows this one, and asks for zeros where a table is filled with them, as the engine does with
    /// some 20 MiB that it never uses: but only where it sees so far, so what is done with the others is not inlined.
    System,
    /// Large blocks of bytes: they begin with a page, which the system copies to twice as fast as to what lies behind a header.
    Mapped,
}

impl Source {
    fn of(layout: Layout) -> Self {
        match (layout.size(), layout.align()) {
            (..LARGE, _) => Self::Jemalloc,
            (_, 1 | PAGE) | (SEGMENT, SEGMENT_ALIGNMENT) => Self::Mapped,
            _ => Self::System,
        }
    }
}

/// Each block from where its layout says.
struct BySize;

/// A large block of bytes.
#[inline(never)]
fn mapped(layout: Layout) -> *mut u8 {
    spare(layout).unwrap_or_else(|| map(layout))
}

/// The same, all of it zeros.
#[inline(never)]
fn zeroed(layout: Layout) -> *mut u8 {
    let Some(block) = spare(layout) else { return map(layout) };
    // SAFETY: it has so many bytes, and nobody else knows of it.
    unsafe { block.write_bytes(0, layout.size()) };
    block
}

/// Maps a block, all of it zeros; null where the system has none.
fn map(layout: Layout) -> *mut u8 {
    let alignment = if layout.size() == SEGMENT { SEGMENT_ALIGNMENT } else { PAGE };
    let (bytes, more) = (layout.size().next_multiple_of(PAGE), alignment - PAGE);
    let (access, kind) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: it is mapped where nothing is.
    let Ok(begin) = (unsafe { mmap_anonymous(null_mut(), bytes + more, access, kind) }) else {
        return null_mut();
    };
    let before = begin.align_offset(alignment);
    // SAFETY: both ends are of what was mapped, and nobody knows of them.
    unsafe {
        unmap(begin.cast(), before);
        unmap(begin.byte_add(before + bytes).cast(), more - before);
    }
    begin.wrapping_byte_add(before).cast()
}

/// A spare block for `layout`, where there is one; what stands in it is anything.
fn spare(layout: Layout) -> Option<*mut u8> {
    // What was written to it before it was given back is seen with it.
    let taken = || SPARES.iter().map(|spare| spare.swap(null_mut(), Ordering::Acquire));
    (layout.size() == SEGMENT).then(taken)?.find(|block| !block.is_null())
}

/// Keeps a large block that is free, where it may be a spare one, or gives it back.
#[inline(never)]
unsafe fn give_back(block: *mut u8, layout: Layout) {
    // One that grew to that size may begin anywhere.
    let may_be_spare = layout.size() == SEGMENT && block.addr().is_multiple_of(SEGMENT_ALIGNMENT);
    let kept = |spare: &AtomicPtr<u8>| {
        spare.compare_exchange(null_mut(), block, Ordering::Release, Ordering::Relaxed).is_ok()
    };
    if !(may_be_spare && SPARES.iter().any(kept)) {
        unsafe { unmap(block, layout.size()) }
    }
}

unsafe fn unmap(begin: *mut u8, bytes: usize) {
    if bytes > 0 {
        // Nothing can be done about it, and the memory is only not free then.
        let _unmapped = unsafe { munmap(begin.cast(), bytes) };
    }
}

// SAFETY: each block goes back to where it came from, since its layout alone says where that is. A block that grows or shrinks
// over the limit is a new one, which is what `realloc` may do.
unsafe impl GlobalAlloc for BySize {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match Source::of(layout) {
            Source::Jemalloc => unsafe { Jemalloc.alloc(layout) },
            Source::System => unsafe { System.alloc(layout) },
            Source::Mapped => mapped(layout),
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match Source::of(layout) {
            Source::Jemalloc => unsafe { Jemalloc.alloc_zeroed(layout) },
            Source::System => unsafe { System.alloc_zeroed(layout) },
            Source::Mapped => zeroed(layout),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match Source::of(layout) {
            Source::Jemalloc => unsafe { Jemalloc.dealloc(block, layout) },
            Source::System => unsafe { System.dealloc(block, layout) },
            Source::Mapped => unsafe { give_back(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (Source::of(layout), Source::of(new)) {
            (Source::Jemalloc, Source::Jemalloc) => unsafe { Jemalloc.realloc(block, layout, size) },
            (Source::System, Source::System) => unsafe { System.realloc(block, layout, size) },
            (Source::Mapped, Source::Mapped) if layout.align() <= PAGE => unsafe {
                match mremap(block.cast(), layout.size(), size, MremapFlags::MAYMOVE) {
                    Ok(moved) => moved.cast(),
                    // What it does not need stays mapped.
                    Err(_) if size <= layout.size() => block,
                    Err(_) => null_mut(),
                }
            },
            _ => unsafe {
                let moved = self.alloc(new);
                if !moved.is_null() {
                    std::ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
                    self.dealloc(block, layout);
                }
                moved
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(bytes: usize, alignment: usize) -> Layout {
        Layout::from_size_align(bytes, alignment).unwrap()
    }

    /// The bytes of a block.
    ///
    /// # Safety
    /// It has so many.
    unsafe fn bytes<'b>(block: *mut u8, count: usize) -> &'b [u8] {
        // SAFETY: the caller says so.
        unsafe { std::slice::from_raw_parts(block, count) }
    }

    // One test, since all have the same spare blocks.
    #[test]
    fn blocks_of_a_segment_are_kept_for_the_next() {
        let (aligned, plain) = (layout(SEGMENT, SEGMENT_ALIGNMENT), layout(SEGMENT, 1));
        // SAFETY: each block goes back once, with a layout of its size, and is written and read within its bounds.
        unsafe {
            let first = BySize.alloc(aligned);
            first.write_bytes(1, SEGMENT);
            BySize.dealloc(first, aligned);
            let zeroed = BySize.alloc_zeroed(plain);
            assert_eq!(zeroed, first);
            assert!(bytes(zeroed, SEGMENT).iter().all(|byte| *byte == 0));
            let other = BySize.alloc(aligned);
            assert_ne!(other, zeroed, "it is in use");
            BySize.dealloc(zeroed, plain);
            BySize.dealloc(other, aligned);

            // One that grew to their size may be kept, or not.
            let grown = BySize.alloc(layout(LARGE, 1));
            grown.write_bytes(7, LARGE);
            let grown = BySize.realloc(grown, layout(LARGE, 1), SEGMENT);
            assert!(bytes(grown, LARGE).iter().all(|byte| *byte == 7));
            BySize.dealloc(grown, plain);

            // More than are kept.
            let mut blocks: Vec<*mut u8> = (0..2 * SPARES.len()).map(|_| BySize.alloc(plain)).collect();
            assert!(blocks.iter().all(|block| block.addr().is_multiple_of(SEGMENT_ALIGNMENT)));
            blocks.iter().for_each(|block| block.write_bytes(1, SEGMENT));
            blocks.sort_unstable();
            blocks.dedup();
            assert_eq!(blocks.len(), 2 * SPARES.len(), "each is one of its own");
            blocks.into_iter().for_each(|block| BySize.dealloc(block, plain));
        }
    }

    #[test]
    fn a_block_keeps_what_it_has_as_it_grows_and_shrinks() {
        for alignment in [1, 8, 64, PAGE, 4 * PAGE] {
            let sizes = [100, LARGE - 1, LARGE, 3 * LARGE + 5, 40 * LARGE, LARGE + 1, 17];
            // SAFETY: as above.
            unsafe {
                let mut block = BySize.alloc_zeroed(layout(sizes[0], alignment));
                block.write_bytes(9, 17);
                for pair in sizes.windows(2) {
                    let [from, to] = *pair else { continue };
                    block = BySize.realloc(block, layout(from, alignment), to);
                    assert!(!block.is_null() && block.addr().is_multiple_of(alignment));
                    assert_eq!(bytes(block, 17), [9; 17]);
                    block.add(to - 1).write(9);
                }
                BySize.dealloc(block, layout(17, alignment));
            }
        }
    }
}
