//! The global allocator: one static heap, and the way from a thread to its cache.
//!
//! The fast path is inlined into the program: the layout's class, the thread's bin, pop or push. Everything else is behind one
//! call.
//!
//! | a thread's slot points to | when | its calls |
//! |---|---|---|
//! | `UNBORN` | before its first miss | miss; the first makes its cache |
//! | its cache | then | are served by its bins |
//! | its *front*, a cache that is always empty | while there is a mode or calls are watched | miss, and go by records and samples |
//! | `DEAD` | once its cache is given back, at its end | miss, and take the shared path, for destructors that run later still |

pub(crate) mod asked;
mod configured;
pub(crate) mod doors;
pub(crate) mod tally;
pub(crate) mod watch;

pub(crate) use asked::fill;
pub use asked::{check, check_memory, flush_thread, map, owns, set_log, set_thp, stats, trim, usable_size};
pub use configured::WithMode;
pub(crate) use configured::configure;
#[allow(unused_imports, reason = "only the C library calls them")]
pub(crate) use configured::{begin, configure_within_calloc};
pub(crate) use doors::{alloc_large, alloc_large_zeroed, alloc_missed, free_large, free_missed};
pub(crate) use watch::{SAMPLER, is_sampling, start_sampling, stop_sampling};

use doors::{alloc_missed_zeroed, realloc_watched, resize_or_move};

use crate::heap::{Heap, Tracked};
use crate::heaps::Heaps;
use crate::leaks::{All, Source};
use crate::modes::Tracker;
use crate::report::Mode;
use crate::size_class;
use crate::slab::Slab;
use crate::slot::{self, DEAD, UNBORN};
use crate::sync::{AtomicU32, Ordering};
use crate::tagged::{Index, NONE};
use crate::tags::Tags;
use crate::thread_cache::ThreadCache;
use core::alloc::{GlobalAlloc, Layout};
use core::ffi::c_void;
use core::ptr::{self, NonNull};

pub(crate) static HEAP: Heap = Heap::new();

/// The records, in the modes that keep them.
pub(crate) static TRACKER: Tracker = Tracker::new();
/// The heaps beside it.
pub(crate) static HEAPS: Heaps = Heaps::new();
/// For who searches all of them.
pub(crate) static ALL: All<'static> = All { program: Source { heap: &HEAP, tracker: &TRACKER }, others: &HEAPS };
/// What the slots of threads point to in those modes, and where calls are watched: caches that are always empty, so that each
/// call misses and comes here.
/// Each has the index of the thread's own cache.
static FRONTS: Slab<ThreadCache> = Slab::new();
/// The tags of all threads: none before the first is said.
pub(crate) static TAGS: Slab<Tags> = Slab::new();
/// The mode, whether anything was allocated before it was chosen, what is watched, whether slots may point to fronts, whether the
/// environment has been read, and what it wishes for the program's end: beside what each miss touches anyhow.
#[inline(always)]
fn mode_word() -> &'static AtomicU32 {
    &HEAP.note
}
const MODES: u32 = 0xff;
const LATE: u32 = 1 << 8;
const SEALED: u32 = 1 << 11;
const BEGUN: u32 = 1 << 13;
const CONFIGURED: u32 = 1 << 14;
const ENTERED: u32 = 1 << 15;

/// The allocator, to be installed as the program's global allocator.
///
/// ```
/// use millpond::Millpond;
///
/// #[global_allocator]
/// static GLOBAL: Millpond = Millpond;
///
/// let words: Vec<String> = "calm as a millpond".split(' ').map(String::from).collect();
/// assert_eq!(words.len(), 4);
/// ```
///
/// * **Sizes and alignments**: all. Up to 256 KiB, a size is rounded up to its class: 8 B apart up to 48 B, then 64 B and
///   four to a doubling, so that above 64 B less than a fifth is lost. Larger sizes are rounded up to pages of 64 KiB.
///   Any power of two is served as alignment.
/// * **Cost**: `alloc` and `dealloc` of pooled sizes are O(1), on the fast path without an atomic read-modify-write.
/// * **Exhaustion**: where there is no memory, all that is free is given back and the request tried once more; then `alloc`,
///   `alloc_zeroed` and `realloc` return null. Everything stays usable.
/// * **Threads**: lock-free. May be used before `main`, in thread-local destructors, and in the child of a `fork` of a
///   multithreaded program; not from a signal handler that may have interrupted it.
/// * **Misuse** that is noticed ends the process with one line on stderr: a chunk that comes back to its span twice, an
///   address at which no chunk begins, a size of another class. It is noticed not on the fast path but when the chunk leaves
///   the thread's cache; until then a chunk that was freed twice may be handed out twice. [`Mode`] has what notices more.
/// * **Collections**: with the feature `allocator-api2` it is an `Allocator` too, installed as the program's or not. Collections
///   grow in place where `realloc` does: below 256 KiB within the class, above it where the pages behind are free.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "programs name the value")]
pub struct Millpond;

// SAFETY: chunks are distinct, large enough and aligned (see `size_class`), stay where they are until freed, and no
// method unwinds.
unsafe impl GlobalAlloc for Millpond {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(place) = size_class::place_of(layout.size(), layout.align()) else {
            return alloc_large(layout.size(), layout.align());
        };
        // SAFETY: the slot always points to a cache, a static one or this thread's; the place is a bin's.
        let bin = unsafe { (*slot::get()).bin_at(place) };
        match bin.pop() {
            Some(chunk) => chunk.as_ptr(),
            None => alloc_missed(layout.size(), layout.align(), place),
        }
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // From here on the rounded size is enough: to keep the other would cost a move.
        let Some(rounded) = size_class::rounded(layout.size(), layout.align()) else {
            return free_large(ptr, layout.size(), layout.align());
        };
        let Some(place) = size_class::place_of_rounded(rounded) else {
            return free_large(ptr, rounded, layout.align());
        };
        // SAFETY: as in `alloc`.
        let bin = unsafe { (*slot::get()).bin_at(place) };
        // SAFETY: the caller's pointer comes from `alloc`, hence is not null.
        let chunk = unsafe { NonNull::new_unchecked(ptr) };
        if !bin.push(chunk) {
            free_missed(chunk, rounded, layout.align(), place);
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some(place) = size_class::place_of(layout.size(), layout.align()) else {
            return alloc_large_zeroed(layout.size(), layout.align());
        };
        // SAFETY: as in `alloc`.
        let bin = unsafe { (*slot::get()).bin_at(place) };
        let Some(chunk) = bin.pop() else { return alloc_missed_zeroed(layout.size(), layout.align(), place) };
        // SAFETY: a chunk of at least that size, just now taken.
        unsafe { ptr::write_bytes(chunk.as_ptr(), 0, layout.size()) };
        chunk.as_ptr()
    }

    #[inline]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        let old = size_class::place_of(size, align);
        let new = size_class::place_of(new_size, align);
        if !is_plain() {
            // SAFETY: the caller's.
            return unsafe { realloc_watched(ptr, layout, new_size) };
        }
        if old.is_some() && old == new {
            return ptr;
        }
        // SAFETY: the caller's.
        unsafe { resize_or_move(ptr, layout, new_size) }
    }
}

/// The calling thread's cache, made if it is unborn; `None` if it is dead, or there is no memory for a cache.
#[inline]
fn own_cache() -> Option<&'static ThreadCache> {
    match living_cache() {
        Some(own) => {
            face(slot::get(), own);
            Some(own)
        }
        None => new_cache(),
    }
}

/// The calling thread's cache, if it has one and nothing stands before it: there is no mode, and nothing is watched, timed or
/// measured.
#[inline(always)]
fn plain_cache() -> Option<&'static ThreadCache> {
    // SAFETY: the slot always points to a cache, a static one or this thread's.
    let there = unsafe { &*slot::get() };
    let is_plain = is_plain() && !watch::is(watch::MEASURED);
    (is_plain && there.index() != NONE && ptr::eq(there.behind(), there)).then_some(there)
}

#[cold]
#[inline(never)]
fn new_cache() -> Option<&'static ThreadCache> {
    if ptr::eq(slot::get(), &raw const DEAD) {
        HEAP.settle_without_cache();
        return None;
    }
    configure();
    // What was entered there for the program's end may have allocated, and then the thread has one.
    if let Some(own) = living_cache() {
        return Some(own);
    }
    let cache = HEAP.join(wipe)?;
    // The slot first: the registration may allocate.
    if front_of(cache).is_some_and(|front| slot::set(front))
        && slot::at_thread_exit(&HEAP.key, thread_ends, (&raw const *cache).cast())
    {
        return Some(cache);
    }
    slot::set(&raw const UNBORN.0);
    HEAP.leave(cache);
    None
}

/// Has the thread's slot, which points `there`, point to its cache or to the front of that, as is right by now.
#[inline]
fn face(there: *const ThreadCache, own: &'static ThreadCache) {
    // One that is measured has a front where all is plain, and keeps it here.
    if ptr::eq(there, own) != is_plain() {
        turn(own);
    }
}

#[cold]
#[inline(never)]
fn turn(own: &'static ThreadCache) {
    if let Some(right) = front_of(own) {
        slot::set(right);
    }
}

/// Runs at a thread's end, among other destructors; those that come later use the shared path.
unsafe extern "C" fn thread_ends(cache: *mut c_void) {
    slot::set(&raw const DEAD);
    // SAFETY: what was registered: this thread's cache, which nobody else owns.
    HEAP.leave(unsafe { &*cache.cast::<ThreadCache>() });
}

extern "C" fn wipe() {
    HEAP.wipe();
}

/// The mode in force: that of `MILLPOND_MODE`, else that with which the program's allocator was made, else [`Mode::Fast`]. O(1).
#[inline]
pub fn mode() -> Mode {
    // Relaxed: chosen once, and before its thread allocates anything: see `configured`.
    match mode_word().load(Ordering::Relaxed) & MODES {
        0 => Mode::Fast,
        1 => Mode::Tracked,
        _ => Mode::Hardened,
    }
}

/// Whether calls are to be served by the threads' caches themselves: no mode is on, and nothing is watched.
#[inline]
pub(crate) fn is_plain() -> bool {
    // Relaxed: as in `mode`; who sees a change late goes on as before for so long.
    mode_word().load(Ordering::Relaxed) & (MODES | watch::TIMED | watch::SAMPLED) == 0
}

/// Whether there may be allocations without a record.
pub(crate) fn is_late() -> bool {
    mode_word().load(Ordering::Relaxed) & LATE != 0
}

/// Adds to the word of the mode something for which calls must come here. Where the thread has a cache by now, it gets a front
/// for it.
fn seal(what: u32) {
    let own = living_cache();
    mode_word().fetch_or(what | SEALED, Ordering::Relaxed);
    if let Some(front) = own.and_then(front_of) {
        slot::set(front);
    }
}

/// What a thread's slot is to point to: its cache, or the front of it. `None`: no memory for one.
fn front_of(cache: &'static ThreadCache) -> Option<&'static ThreadCache> {
    if is_plain() && !cache.tally.is_on() {
        return Some(cache);
    }
    FRONTS.reach(cache.index()).inspect(|front| front.stand_before(cache))
}

/// The heap with its records, if there are any.
pub(crate) fn tracked() -> Option<Tracked<'static>> {
    tracked_by(living_cache())
}

/// The same, for the thread with this cache, if it has one. A fork is settled first: from then on the cache has the thread's
/// number, which records tell.
#[inline]
fn tracked_by(cache: Option<&'static ThreadCache>) -> Option<Tracked<'static>> {
    let mode = mode();
    if mode == Mode::Fast {
        return None;
    }
    if let Some(cache) = cache {
        HEAP.settle_fork(cache);
    }
    let tag = cache.map_or("", ThreadCache::tag);
    Some(Tracked { heap: &HEAP, tracker: &TRACKER, mode, cache, tag, frame: 0 })
}

/// The index of the calling thread's cache; `NONE` without one.
pub(crate) fn thread() -> Index {
    // SAFETY: the slot always points to a cache, a static one or this thread's.
    unsafe { &*slot::get() }.index()
}

/// The calling thread's cache, made if it is unborn; `None` if there can be none.
#[inline]
pub(crate) fn cache() -> Option<&'static ThreadCache> {
    own_cache()
}

/// The same, for who is to know the thread's number: in the child of a fork it is a new one.
#[inline]
pub(crate) fn settled_cache() -> Option<&'static ThreadCache> {
    own_cache().inspect(|own| HEAP.settle_fork(own))
}

/// Settles the fork by which the calling thread came to be, if nothing has yet: from then on it is known which threads are no
/// more. The words of the thread's caches of other heaps are out of date afterwards.
pub(crate) fn settle_fork() {
    match living_cache() {
        Some(own) => HEAP.settle_fork(own),
        None => HEAP.settle_without_cache(),
    }
}

/// The calling thread's cache, if it has one: that behind its front.
#[inline]
pub(crate) fn living_cache() -> Option<&'static ThreadCache> {
    // SAFETY: the slot always points to a cache, a static one or this thread's.
    let there = unsafe { &*slot::get() };
    (there.index() != NONE).then(|| there.behind())
}
