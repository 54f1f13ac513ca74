//! A heap's calls where there is more to do than to serve them: records, times, or samples for a profile; and the look at all
//! that is recorded.

use super::{AllocError, Heap};
use crate::arena::Fill;
use crate::global::{self, HEAP};
use crate::os;
use crate::report::Mode;
use crate::times::{self, Call, Times};
use core::alloc::Layout;
use core::ptr::NonNull;

impl Heap {
    /// With records, timed, or profiled.
    #[cold]
    #[inline(never)]
    pub(super) fn alloc_watched(&self, layout: Layout, fill: Fill) -> Result<NonNull<u8>, AllocError> {
        let frame = os::frame();
        let start = self.begin(Call::Alloc);
        let at = match fill {
            _ if self.inner().mode != Mode::Fast => self.alloc_tracked(frame, layout, fill),
            Fill::Any => self.alloc_plain(layout),
            Fill::Zero => self.alloc_plain_zeroed(layout),
        };
        self.end(Call::Alloc, start);
        if let Ok(at) = at {
            self.sample(frame, at, layout.size());
        }
        at
    }

    /// Whether nothing that is allocated, as far as can be seen without records, begins there: tells so, and ends the process
    /// but for a witness.
    #[cold]
    pub(super) fn is_misused(&self, verb: &str, ptr: NonNull<u8>) -> bool {
        let (inner, address) = (self.inner(), ptr.addr().get());
        let is_known = inner.core.usable_size(address).is_some() || inner.fallback.is_some() && self.is_foreign(ptr);
        if !is_known {
            self.tracked().accuse_of_unknown(verb, address);
        }
        !is_known
    }

    /// Whether an allocation is to be in the profile by the heap: not what a fallback has from the global heap, which sees to
    /// that itself.
    fn is_sampled(&self, at: NonNull<u8>) -> bool {
        let inner = self.inner();
        inner.profiled && (inner.fallback.is_none() || HEAP.spans.page_map.get(at.addr().get()).is_none())
    }

    /// The caller of the function with this frame has been given an allocation.
    fn sample(&self, frame: usize, at: NonNull<u8>, size: usize) {
        if self.is_sampled(at) {
            global::watch::sampled(frame, at.as_ptr(), size);
        }
    }

    /// An allocation is about to be freed.
    fn end_sample(&self, at: NonNull<u8>) {
        if self.is_sampled(at) {
            global::watch::sample_ends(at.addr().get());
        }
    }

    /// Resizes an allocation by `resize`, for whoever called the function with this frame.
    pub(super) fn resampled(
        &self,
        frame: usize,
        (at, size): (NonNull<u8>, usize),
        resize: impl FnOnce() -> Option<NonNull<u8>>,
    ) -> Option<NonNull<u8>> {
        if !self.inner().profiled {
            return resize();
        }
        let resizing = self.is_sampled(at).then(|| global::watch::resizing(at.addr().get()));
        let resized = resize();
        resizing.into_iter().for_each(|resizing| resizing.end(resized.is_some()));
        resized.inspect(|at| self.sample(frame, *at, size))
    }

    /// In the mode [`Mode::Hardened`], looks for overwritten memory in all that is live and all that is kept back, and returns how
    /// many allocations were overwritten: as [`check_memory`](crate::check_memory), but that lines go to who hears of misuse, if the
    /// builder was told of one. A heap's drop does not look.
    ///
    /// # Panics
    /// If a closure of the builder's does: see [`HeapBuilder::on_misuse`](crate::HeapBuilder::on_misuse).
    pub fn check_memory(&self) -> usize {
        self.tracked().check_memory(false)
    }

    /// The calling thread's times; `None` if calls are not timed, or it has no index.
    fn times(&self) -> Option<&Times> {
        let inner = self.inner();
        if inner.timed { times::of(&inner.times, global::cache()?.index()) } else { None }
    }

    /// When a call began; zero if it is not timed.
    #[inline(always)]
    fn begin(&self, call: Call) -> u64 {
        if self.inner().timed { self.begin_timed(call) } else { 0 }
    }

    #[inline(never)]
    fn begin_timed(&self, call: Call) -> u64 {
        let is_due = self.times().is_some_and(|times| times.is_due(call));
        if is_due { os::nanoseconds() } else { 0 }
    }

    #[inline(always)]
    fn end(&self, call: Call, start: u64) {
        if start != 0 {
            self.end_timed(call, start);
        }
    }

    #[cold]
    #[inline(never)]
    fn end_timed(&self, call: Call, start: u64) {
        if let Some(times) = self.times() {
            times.count(call, os::nanoseconds().saturating_sub(start).saturating_sub(global::watch::clock_ns()));
        }
    }

    /// # Safety
    /// As [`free`](Self::free).
    #[cold]
    #[inline(never)]
    pub(super) unsafe fn free_watched(&self, ptr: NonNull<u8>, layout: Layout) {
        let frame = os::frame();
        self.end_sample(ptr);
        let start = self.begin(Call::Free);
        // SAFETY: the caller's word.
        unsafe {
            if self.inner().mode != Mode::Fast {
                self.free_tracked(frame, ptr, layout);
            } else if !(self.inner().tracker.witness.hears() && self.is_misused("free", ptr)) {
                self.free_plain(ptr, layout);
            }
        }
        self.end(Call::Free, start);
    }
}
