//! An allocator that counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

pub(crate) struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static CALLS: AtomicUsize = AtomicUsize::new(0);

/// Octets that are allocated now.
#[allow(dead_code, reason = "one of two programs uses it")]
pub(crate) fn held() -> usize {
    HELD.load(Ordering::Relaxed)
}

/// How often memory was allocated or an allocation was resized.
#[allow(dead_code, reason = "one of two programs uses it")]
pub(crate) fn calls() -> usize {
    CALLS.load(Ordering::Relaxed)
}

/// Adds to a counter, which wraps around. Not atomic as a whole: these programs have one thread,
/// and a locked instruction would be measured.
fn count(counter: &AtomicUsize, number: usize) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(number), Ordering::Relaxed);
}

// SAFETY: each call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(&HELD, layout.size());
        count(&CALLS, 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(&HELD, layout.size().wrapping_neg());
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(&HELD, size.wrapping_sub(layout.size()));
        count(&CALLS, 1);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
