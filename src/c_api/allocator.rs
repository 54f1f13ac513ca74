//! Heaps for C, `include/allocator.h`: an allocator with a capacity, IDs and a bitset, as a value to learn with.

use super::family;
use crate::config::PAGE;
use crate::instance::Heap;
use crate::os;
use crate::report::Stats;
use core::alloc::Layout;
use core::fmt::Write;
use core::ptr::{self, NonNull, null_mut};

type Memory = *mut u8;
type Allocator = *mut Heap;

exported! {
    mp_allocator_create(capacity: usize, bits: usize) -> Allocator = create(capacity, bits);
    mp_allocator_malloc(allocator: Allocator, size: usize) -> Memory = malloc(&*allocator, size);
    mp_allocator_calloc(allocator: Allocator, count: usize, size: usize) -> Memory = calloc(&*allocator, count, size);
    mp_allocator_realloc(allocator: Allocator, ptr: Memory, size: usize) -> Memory = realloc(&*allocator, ptr, size);
    mp_allocator_free(allocator: Allocator, ptr: Memory) = free(&*allocator, ptr);
    mp_allocator_destroy(allocator: Allocator) = destroy(allocator);
    mp_allocator_get_id(allocator: Allocator, ptr: *const u8) -> i64 = id(&*allocator, ptr);
    mp_allocator_get_ptr(allocator: Allocator, id: i64) -> Memory = pointer(&*allocator, id);
    mp_allocator_set_bit(allocator: Allocator, index: usize, value: i32) -> i32 = bit(&*allocator, index, Some(value != 0));
    mp_allocator_get_bit(allocator: Allocator, index: usize) -> i32 = bit(&*allocator, index, None);
    mp_allocator_live(allocator: Allocator) -> usize = live(&*allocator);
    mp_allocator_print_stats(allocator: Allocator) = print(&*allocator);
}

fn create(capacity: usize, bits: usize) -> Allocator {
    let builder = Heap::builder().ids(true).bits(bits);
    let built = match capacity {
        0 => builder.build(),
        _ => builder.capacity(capacity.max(PAGE)).build(),
    };
    let Ok(heap) = built else {
        os::fail(os::Errno::NoMemory);
        return null_mut();
    };
    let place = family::malloc(size_of::<Heap>()).cast::<Heap>();
    if !place.is_null() {
        // SAFETY: memory for it, just now taken.
        unsafe { place.write(heap) };
    }
    place
}

/// # Safety
/// Null, or from `create`, and used no more; so is all that it gave out.
unsafe fn destroy(allocator: Allocator) {
    if !allocator.is_null() {
        // SAFETY: the caller's.
        unsafe {
            ptr::drop_in_place(allocator);
            family::free(allocator.cast());
        }
    }
}

/// What C promises of `size` bytes; `None` for more than there can be.
fn layout(size: usize) -> Option<Layout> {
    Layout::from_size_align(size, family::align_in_c(size)).ok()
}

fn served(at: Option<NonNull<u8>>) -> Memory {
    at.map_or_else(
        || {
            os::fail(os::Errno::NoMemory);
            null_mut()
        },
        NonNull::as_ptr,
    )
}

fn malloc(heap: &Heap, size: usize) -> Memory {
    served(layout(size).and_then(|layout| heap.alloc(layout).ok()))
}

fn calloc(heap: &Heap, count: usize, size: usize) -> Memory {
    let layout = count.checked_mul(size).and_then(layout);
    served(layout.and_then(|layout| heap.alloc_zeroed(layout).ok()))
}

/// # Safety
/// As C's `free`, of this heap.
unsafe fn free(heap: &Heap, ptr: Memory) {
    if let Some(ptr) = NonNull::new(ptr) {
        // SAFETY: the caller's.
        unsafe { heap.free_at(ptr) };
    }
}

/// # Safety
/// As C's `realloc`, of this heap.
unsafe fn realloc(heap: &Heap, ptr: Memory, size: usize) -> Memory {
    let Some(old) = NonNull::new(ptr) else { return malloc(heap, size) };
    if size == 0 {
        // SAFETY: the caller's.
        unsafe { free(heap, ptr) };
        return null_mut();
    }
    // SAFETY: the caller's.
    served(layout(size).and_then(|layout| unsafe { heap.realloc_at(old, layout) }.ok()))
}

fn id(heap: &Heap, ptr: *const u8) -> i64 {
    heap.id_of(ptr).map_or(-1, |id| id as i64)
}

fn pointer(heap: &Heap, id: i64) -> Memory {
    heap.ptr_of(id as u64).map_or(null_mut(), NonNull::as_ptr)
}

fn bit(heap: &Heap, index: usize, value: Option<bool>) -> i32 {
    let old = match value {
        Some(value) => heap.set_bit(index, value),
        None => heap.get_bit(index),
    };
    old.map_or(-1, i32::from)
}

fn live(heap: &Heap) -> usize {
    let mut stats = Stats::default();
    heap.fill(&mut stats);
    stats.live
}

fn print(heap: &Heap) {
    // A stream that takes no more has nobody to be told.
    let mut stats = Stats::default();
    heap.fill(&mut stats);
    let _ = writeln!(os::Stream::stdout(), "{stats}");
}
