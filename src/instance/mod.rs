//! Heaps as values: allocators beside the global one, each with pools, arenas and a limit of its own.
//!
//! The core is the global allocator's, in a mapping of the heap's own. A thread's cache of a heap has the same index as its
//! cache of the global heap: see `heap::lease`. Here stands what the core does not know: which pools there are, what happens
//! when the heap is exhausted, the soft limit and other closures of the program's, the bitset.
//!
//! Invariant: each chunk that the core has given out lies in a span of one of the table's pools, or has whole pages of its own.

mod asked;
mod builder;
#[cfg(feature = "allocator-api2")]
mod collections;
mod known;
mod report;
mod resize;
mod watched;

use builder::Tell;
pub use builder::{BuildError, HeapBuilder, PoolTable};
pub use report::AllocError;

use crate::arena::{Fill, Passed};
use crate::global::{self, HEAP, HEAPS};
use crate::heap::Tracked;
use crate::heaps::Body;
use crate::modes::Hear;
use crate::os;
use crate::report::Mode;
use crate::size_class::{self, CLASSES, Class, INFO};
use crate::sync::Counter;
use crate::tagged::{Index, NONE};
use crate::thread_cache::ThreadCache;
use core::alloc::{GlobalAlloc, Layout};
use core::fmt;
use core::ops::Deref;
use core::ptr::{self, NonNull};

/// An allocator that serves what a heap cannot: see [`HeapBuilder::fallback`].
pub type Fallback = &'static (dyn GlobalAlloc + Sync);

/// In `Inner::serves`: no class of the table serves it.
const UNSERVED: u16 = u16::MAX;

/// An allocator as a value: with pools, memory and a limit of its own.
///
/// ```
/// use core::alloc::Layout;
/// use millpond::Heap;
///
/// let heap = Heap::builder().capacity(1 << 20).build()?;
/// let layout = Layout::new::<[u64; 8]>();
/// let block = heap.alloc(layout)?;
/// // SAFETY: 64 bytes, ours until they are freed, once and with their layout.
/// unsafe {
///     block.write_bytes(7, layout.size());
///     heap.free(block, layout);
/// }
/// assert_eq!(heap.stats().live, 0);
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
///
/// * **Threads**: lock-free. Any thread may allocate, and free what another has allocated; each has a cache of its own. There is
///   one owner, who drops it: share it by reference, in an `Arc` or in a `static` `LazyLock`.
/// * **Sizes and alignments**: as of [`Millpond`](crate::Millpond), or by the pools of its own [`PoolTable`]; what is larger than
///   the largest pool gets whole pages of 64 KiB.
/// * **Records**: with [`ids`](HeapBuilder::ids) or [`mode`](HeapBuilder::mode) each allocation has an ID, and misuse is
///   named and ends the process, or is heard of by [`on_misuse`](HeapBuilder::on_misuse).
/// * **Collections**: with the feature `allocator-api2` it is an `Allocator`: collections borrow it (`&Heap`), or have a heap of
///   their own.
/// * **End**: dropping the heap gives all of its memory back to the system at once, what is live too; where another thread's search
///   for [`leaks`](crate::leaks()) is looking at it, that does so when it is done.
/// * **Cost**: the global allocator's and some 60 instructions a call. A heap that is hardly used takes some 100 KiB.
/// * **Fork**: the child has the heap as it was. What lay in caches of vanished threads is found by [`trim`](Self::trim), or
///   used by new threads; what these threads had in hand stays missing.
pub struct Heap {
    inner: NonNull<Inner>,
}

// SAFETY: all that a heap has is shared by atomics, and the core is made for threads.
unsafe impl Send for Heap {}
// SAFETY: as above.
unsafe impl Sync for Heap {}
/// No panic leaves a heap half changed: one that a closure of the program's begins (of a soft limit, of misuse) finds
/// what was being done either undone or done. What such a closure has captured is not looked at.
impl core::panic::UnwindSafe for Heap {}
impl core::panic::RefUnwindSafe for Heap {}

/// What is done if a function of the program's panics.
struct Undo<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for Undo<F> {
    fn drop(&mut self) {
        if let Some(undo) = self.0.take() {
            undo();
        }
    }
}

/// What is mapped for a heap: what it is made of, at the beginning, where those find it who look through all heaps, and what
/// the program has chosen.
#[repr(C)]
struct Inner {
    body: Body,
    /// For each class of sizes, the class of the table that serves it.
    serves: [u16; CLASSES],
    fallback: Option<Fallback>,
    fallbacks: Counter,
    soft: Option<Tell>,
    /// What the tracker's witness is.
    hear: Option<Hear>,
    capacity: usize,
    mode: Mode,
    /// Whether calls come straight to the bins: no records, no timing.
    plain: bool,
    /// Whether calls are timed.
    timed: bool,
    /// Whether its allocations are in the profile.
    profiled: bool,
}

impl Deref for Inner {
    type Target = Body;

    fn deref(&self) -> &Body {
        &self.body
    }
}

impl Heap {
    /// Describes a heap step by step; [`HeapBuilder::build`] makes it.
    pub fn builder<'a>() -> HeapBuilder<'a> {
        HeapBuilder::new()
    }

    /// A heap with the default pools and no limit.
    ///
    /// # Errors
    /// [`BuildError::Memory`] if the system has no memory for its tables.
    pub fn new() -> Result<Self, BuildError> {
        Self::builder().build()
    }

    fn inner(&self) -> &Inner {
        // SAFETY: mapped and made by the builder, until the drop.
        unsafe { self.inner.as_ref() }
    }

    /// The calling thread's cache; `None` if it has no index: at its end, or without memory for one.
    #[inline]
    fn cache(&self) -> Option<&ThreadCache> {
        self.inner().core.cache_of(global::cache()?, &HEAP.caches)
    }

    /// Memory for `layout`, not initialised. A size of zero gets an address of its own too.
    ///
    /// O(1) for pooled sizes, but for upkeep. From any thread.
    ///
    /// # Errors
    /// [`AllocError`] if the heap's capacity or the system's memory is used up, even after all that is free has been given
    /// back, but for [other threads' loaded magazines](HeapBuilder::capacity), and the fallback, if there is one, has no memory
    /// either. What is live stays as it was.
    ///
    /// # Panics
    /// If a closure of the builder's does: then nothing is allocated.
    #[inline]
    pub fn alloc(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        if !self.inner().plain {
            return self.alloc_watched(layout, Fill::Any);
        }
        self.alloc_plain(layout)
    }

    #[inline(always)]
    fn alloc_plain(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        if let Some(class) = self.inner().class_of(layout) {
            let cache = self.cache();
            return match cache.and_then(|cache| cache.bin(class).pop()) {
                Some(chunk) => Ok(chunk),
                None => self.alloc_missed(cache, class, layout),
            };
        }
        self.alloc_large(layout, Fill::Any)
    }

    /// As [`alloc`](Self::alloc), with all bytes zero.
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc).
    ///
    /// # Panics
    /// As [`alloc`](Self::alloc).
    pub fn alloc_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        if !self.inner().plain {
            return self.alloc_watched(layout, Fill::Zero);
        }
        self.alloc_plain_zeroed(layout)
    }

    #[inline]
    fn alloc_plain_zeroed(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        if self.inner().class_of(layout).is_none() {
            return self.alloc_large(layout, Fill::Zero);
        }
        let chunk = self.alloc_plain(layout)?;
        // SAFETY: at least that many bytes, just now taken.
        unsafe { chunk.write_bytes(0, layout.size()) };
        Ok(chunk)
    }

    #[cold]
    #[inline(never)]
    fn alloc_missed(
        &self,
        cache: Option<&ThreadCache>,
        class: Class,
        layout: Layout,
    ) -> Result<NonNull<u8>, AllocError> {
        let core = &self.inner().core;
        let once = |cache: Option<&ThreadCache>| match cache {
            Some(cache) => core.alloc_slow(cache, class),
            None => core.alloc_shared(class),
        };
        // A span may be too long for what is left where whole pages for this one alone are not.
        let alone = || {
            if INFO[class].pages < 2 {
                return None;
            }
            core.alloc_large(self.index(), layout.size(), layout.align(), Fill::Any)
        };
        let again = || if self.flush_all_ended() { once(self.cache()) } else { None };
        let chunk = once(cache).or_else(again).or_else(alone);
        self.mind_soft_limit(|| self.give_back(chunk, layout));
        chunk.map_or_else(|| self.fall_back(layout, Fill::Any), Ok)
    }

    #[cold]
    #[inline(never)]
    fn alloc_large(&self, layout: Layout, fill: Fill) -> Result<NonNull<u8>, AllocError> {
        let once = || self.inner().core.alloc_large(self.index(), layout.size(), layout.align(), fill);
        let large = once().or_else(|| if self.flush_all_ended() { once() } else { None });
        self.mind_soft_limit(|| self.give_back(large, layout));
        large.map_or_else(|| self.fall_back(layout, fill), Ok)
    }

    /// The heap with its records.
    fn tracked(&self) -> Tracked<'_> {
        self.tracked_for(0)
    }

    /// The same, for whoever called the function with this frame.
    #[inline(always)]
    fn tracked_for(&self, frame: usize) -> Tracked<'_> {
        let inner = self.inner();
        // Looked for once: it is in each call.
        let own = global::settled_cache();
        let tag = own.map_or("", ThreadCache::tag);
        let cache = own.and_then(|own| inner.core.cache_of(own, &HEAP.caches));
        Tracked { heap: &inner.core, tracker: &inner.tracker, mode: inner.mode, cache, tag, frame }
    }

    /// The same for a free, for which no tag is asked for.
    #[inline(always)]
    fn tracked_to_free(&self, frame: usize) -> Tracked<'_> {
        let inner = self.inner();
        let cache = global::settled_cache().and_then(|own| inner.core.cache_of(own, &HEAP.caches));
        Tracked { heap: &inner.core, tracker: &inner.tracker, mode: inner.mode, cache, tag: "", frame }
    }

    /// The class that serves a layout with what records want behind it.
    #[inline]
    fn class_of_padded(&self, tracked: &Tracked<'_>, layout: Layout) -> Option<Class> {
        let padded = Layout::from_size_align(tracked.padded(layout.size()), layout.align()).ok()?;
        self.inner().class_of(padded)
    }

    fn alloc_tracked(&self, frame: usize, layout: Layout, fill: Fill) -> Result<NonNull<u8>, AllocError> {
        let tracked = self.tracked_for(frame);
        let class = self.class_of_padded(&tracked, layout);
        let once = |tracked: &Tracked<'_>, class| tracked.alloc(layout.size(), layout.align(), class, fill);
        let at = once(&tracked, class).or_else(|| {
            self.flush_all_ended();
            let tracked = self.tracked_for(frame);
            once(&tracked, class).or_else(|| once(&tracked, None))
        });
        self.mind_soft_limit(|| self.give_back(at, layout));
        at.map_or_else(|| self.fall_back(layout, fill), Ok)
    }

    /// Gives back what lies in the caches of threads that are no more, and says whether there was any. Who had asked for the
    /// calling thread's cache before has to ask again: in the child of a fork it may be one of those.
    fn flush_all_ended(&self) -> bool {
        global::settle_fork();
        let core = &self.inner().core;
        let any = core.flush_all_left(|| HEAP.is_alone(os::process_id())) | core.flush_all_ended(&HEAP.caches);
        if any {
            // A thread that vanished in a fork may have put something where it was, and not have come to count it.
            core.spans.arenas.budget().count_change();
        }
        any
    }

    /// The index of the calling thread's cache, which is there; or `NONE`.
    fn index(&self) -> Index {
        self.cache().map_or(NONE, ThreadCache::index)
    }

    fn fall_back(&self, layout: Layout, fill: Fill) -> Result<NonNull<u8>, AllocError> {
        let inner = self.inner();
        let fallback = inner.fallback.ok_or(AllocError)?;
        // An allocator need not serve a size of zero; and nothing else can be aligned to the highest power of two.
        let layout = Layout::from_size_align(layout.size().max(1), layout.align()).map_err(|_| AllocError)?;
        // SAFETY: not of size zero.
        let at = unsafe {
            match fill {
                Fill::Any => fallback.alloc(layout),
                Fill::Zero => fallback.alloc_zeroed(layout),
            }
        };
        inner.fallbacks.add_shared(u64::from(!at.is_null()));
        self.of_fallback(at)
    }

    /// What the fallback has given. It may lie where the heap had something that has gone back to the system.
    fn of_fallback(&self, at: *mut u8) -> Result<NonNull<u8>, AllocError> {
        let at = NonNull::new(at).ok_or(AllocError)?;
        let inner = self.inner();
        if inner.mode != Mode::Fast {
            inner.tracker.forget(inner.core.place(at.addr().get()));
        }
        Ok(at)
    }

    #[inline]
    fn mind_soft_limit(&self, undo: impl FnOnce()) {
        if let Some(passed) = self.inner().core.spans.arenas.budget().take_passed() {
            let undo = Undo(Some(undo));
            self.meet_soft_limit(passed);
            core::mem::forget(undo);
        }
    }

    #[cold]
    fn meet_soft_limit(&self, passed: Passed) {
        let budget = self.inner().core.spans.arenas.budget();
        // Looks at what was kept back, so that a witness may be told, and panic.
        self.trim();
        budget.note_trimmed();
        if let (Passed::First, Some(tell)) = (passed, &self.inner().soft) {
            tell.tell(self, budget.used_bytes());
            // What was freed then, as is asked for there: else it would lie in pools, and count as used.
            self.trim();
            budget.note_trimmed();
        }
    }

    /// Gives back what was just taken for a caller who will not get it.
    fn give_back(&self, taken: Option<NonNull<u8>>, layout: Layout) {
        if let Some(taken) = taken {
            // SAFETY: an allocation of this heap, of that layout, which nobody else has heard of.
            unsafe { self.free(taken, layout) };
        }
    }

    /// Takes back what this heap, or its fallback, has given out for `layout`.
    ///
    /// O(1) but for upkeep, from any thread. An address that is noticed to be no allocation of the heap's ends the process; where
    /// there is a fallback, an address that is none of the heap's is passed to that.
    ///
    /// # Panics
    /// If a closure of the builder's does: see [`HeapBuilder::on_misuse`].
    ///
    /// # Safety
    /// `ptr` came from this heap for the same layout, and nobody uses it any more.
    #[inline]
    pub unsafe fn free(&self, ptr: NonNull<u8>, layout: Layout) {
        if !self.inner().plain {
            // SAFETY: the caller's word.
            return unsafe { self.free_watched(ptr, layout) };
        }
        // SAFETY: the caller's word.
        unsafe { self.free_plain(ptr, layout) };
    }

    /// # Safety
    /// As [`free`](Self::free).
    #[inline(always)]
    unsafe fn free_plain(&self, ptr: NonNull<u8>, layout: Layout) {
        let core = &self.inner().core;
        match core.spans.page_map.noted(ptr.addr().get()) {
            // SAFETY: the caller's word.
            0 => unsafe { self.free_other(ptr, layout) },
            note => {
                let class = size_class::at_place(note as usize - 1);
                let cache = self.cache();
                if !cache.is_some_and(|cache| cache.bin(class).push(ptr)) {
                    self.free_missed(cache, class, ptr);
                }
            }
        }
    }

    /// Takes back what this heap, which has no fallback, has given out.
    ///
    /// # Safety
    /// `ptr` came from this heap, and nobody uses it any more.
    #[cfg(feature = "prefixed")]
    #[inline(never)]
    pub(crate) unsafe fn free_at(&self, ptr: NonNull<u8>) {
        if self.inner().mode != Mode::Fast {
            return self.tracked_to_free(os::frame()).free(ptr.as_ptr().expose_provenance(), None, false);
        }
        // SAFETY: the caller's word. Without records and a fallback, nobody looks at the layout.
        unsafe { self.free(ptr, Layout::new::<u8>()) };
    }

    #[cold]
    #[inline(never)]
    fn free_missed(&self, cache: Option<&ThreadCache>, class: Class, ptr: NonNull<u8>) {
        match cache {
            Some(cache) => self.inner().core.free_after_miss(cache, class, ptr),
            None => self.inner().core.free_shared(class, ptr),
        }
    }

    /// # Safety
    /// As [`free`](Self::free).
    #[cold]
    #[inline(never)]
    unsafe fn free_other(&self, ptr: NonNull<u8>, layout: Layout) {
        match self.inner().fallback {
            // SAFETY: the caller's word: it came from the heap or from the fallback, and it is none of the heap's.
            Some(fallback) if self.is_foreign(ptr) => unsafe { fallback.dealloc(ptr.as_ptr(), unempty(layout)) },
            _ => self.inner().core.free_large(self.index(), ptr.as_ptr().expose_provenance()),
        }
    }

    /// # Safety
    /// As [`free`](Self::free).
    unsafe fn free_tracked(&self, frame: usize, ptr: NonNull<u8>, layout: Layout) {
        match self.inner().fallback {
            // SAFETY: as in `free_other`; and it is none that the heap has unmapped.
            Some(fallback) if self.is_of_fallback(ptr) => unsafe {
                fallback.dealloc(ptr.as_ptr(), unempty(layout));
            },
            _ => {
                let (address, said) = (ptr.as_ptr().expose_provenance(), (layout.size(), layout.align()));
                let tracked = self.tracked_to_free(frame);
                if !tracked.is_of_other_size("free", address, said) {
                    tracked.free(address, Some(said), false);
                }
            }
        }
    }

    /// Whether it can only be the fallback's: where there are records, of the heap's own nothing is known there.
    fn is_of_fallback(&self, ptr: NonNull<u8>) -> bool {
        let inner = self.inner();
        let place = inner.core.place(ptr.addr().get());
        let is_known = || inner.mode != Mode::Fast && inner.tracker.find(place).is_some();
        inner.fallback.is_some() && self.is_foreign(ptr) && !is_known()
    }

    fn is_foreign(&self, ptr: NonNull<u8>) -> bool {
        self.inner().core.spans.page_map.get(ptr.addr().get()).is_none()
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        if self.inner().profiled {
            global::watch::forget(|address| self.inner().core.owns(address));
        }
        // SAFETY: nobody has the heap any more, and its users had to be done with what it gave out. The closures are read once, and
        // dropped when all else is: what their drops do, and whether they panic, changes nothing here.
        unsafe {
            let inner = self.inner.as_ptr();
            let _closures = ((&raw const (*inner).soft).read(), (&raw const (*inner).hear).read());
            let entry = self.inner().entry;
            if entry == NONE || HEAPS.leave(entry, || HEAP.is_alone(os::process_id())) {
                Body::dispose(inner.expose_provenance());
            }
        }
    }
}

impl fmt::Debug for Heap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heap")
            .field("mode", &self.mode())
            .field("capacity", &self.capacity())
            .field("soft_limit", &self.soft_limit())
            .field("at", &self.inner)
            .finish()
    }
}

impl Inner {
    /// The class that serves a layout: `None` for one that gets whole pages.
    #[inline]
    fn class_of(&self, layout: Layout) -> Option<Class> {
        let class = size_class::at_place(size_class::place_of(layout.size(), layout.align())?);
        let mut served = self.serves[class];
        // A pool of one's own table need not suit an alignment that its size would serve.
        while served != UNSERVED && INFO[served as Class].size & (layout.align() - 1) != 0 {
            served = self.serves.get(served as Class + 1).copied().unwrap_or(UNSERVED);
        }
        (served != UNSERVED).then_some(served as Class)
    }
}

/// What a fallback was asked for instead of a layout.
///
/// # Safety
/// It has given something out for that.
unsafe fn unempty(layout: Layout) -> Layout {
    // SAFETY: `fall_back` has seen that it is valid.
    unsafe { Layout::from_size_align_unchecked(layout.size().max(1), layout.align()) }
}

/// Maps a heap's tables; the core is made by the zeros of fresh memory.
fn map(fill: impl FnOnce(*mut Inner)) -> Option<NonNull<Inner>> {
    let at = os::scratch(size_of::<Inner>())?;
    let inner = ptr::with_exposed_provenance_mut::<Inner>(at);
    fill(inner);
    NonNull::new(inner)
}
