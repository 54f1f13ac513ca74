//! Allocation with a tracker beside the heap: each call goes by its records.
//!
//! *Tracked*: each allocation has a record; a free that finds none, or one that is freed already, ends the process with a line
//! that says what is known. *Hardened*: also, bytes behind each allocation are checked when it is freed; what is freed is
//! overwritten and kept back for as long as the next frees take, and what was written to it meanwhile is noticed. What has pages
//! of its own is the matter of `guard`, what lies around allocations of `edges`.

use super::Heap;
use super::told::Written;
use crate::arena::Fill;
use crate::config::{CALLERS, CANARY, KEPT_MAX, PAGE};
use crate::log::tell;
use crate::modes::{Birth, Ended, JUNK, Misuse, Place, Tracker};
use crate::os;
use crate::report::{Mode, Stats};
use crate::size_class::{Class, INFO, at_place};
use crate::tagged::NONE;
use crate::thread_cache::{Lot, ThreadCache};
use core::ptr::{NonNull, with_exposed_provenance_mut};

/// A heap with its tracker, for one call.
#[derive(Clone, Copy)]
pub(crate) struct Tracked<'a> {
    pub(crate) heap: &'a Heap,
    pub(crate) tracker: &'a Tracker,
    pub(crate) mode: Mode,
    /// The calling thread's cache of the heap, if it has one.
    pub(crate) cache: Option<&'a ThreadCache>,
    /// What the thread's allocations are for.
    pub(crate) tag: &'static str,
    /// The frame of the function that the program called; zero if that is not known.
    pub(crate) frame: usize,
}

impl Heap {
    /// The place of an allocation that begins at an address: by its page's note, where it has one.
    #[inline]
    pub(crate) fn place(&self, address: usize) -> Place {
        noted_place(self.spans.page_map.noted(address), address)
    }
}

/// The same, where the page's note is known.
#[inline]
fn noted_place(note: u32, address: usize) -> Place {
    match note {
        0 => Place { address, word: 0 },
        note => place_in(at_place(note as usize - 1), address),
    }
}

/// The place of a chunk of this class.
#[inline]
pub(super) fn place_in(class: Class, address: usize) -> Place {
    Place { address, word: INFO[class].index(address % PAGE) }
}

impl Tracked<'_> {
    /// What is asked of the heap for an allocation of `size` bytes.
    pub(crate) fn padded(&self, size: usize) -> usize {
        if self.mode == Mode::Hardened { size.saturating_add(CANARY) } else { size }
    }

    /// An allocation of `size` bytes aligned to `align`, from the class that serves `padded(size)` bytes, or whole pages.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn alloc(&self, size: usize, align: usize, class: Option<Class>, fill: Fill) -> Option<NonNull<u8>> {
        let padded = self.padded(size);
        let once = || match class {
            Some(class) => self.take(class),
            None => self.heap.alloc_large(self.index(), padded, align, fill),
        };
        if self.mode == Mode::Hardened && self.cache.is_some_and(|cache| self.tracker.is_sampled(&cache.lot)) {
            if let Some(at) = self.alloc_guarded(size, align, fill) {
                return Some(at);
            }
        }
        let mut at = once().or_else(|| self.alloc_after_release(padded, align, class, fill))?;
        if at.addr().get() % PAGE == 0 && self.mode == Mode::Hardened {
            if let Some(class) = class.filter(|class| self.keep_first(at.as_ptr().expose_provenance(), *class)) {
                at = self.take(class).or_else(|| self.alloc_after_release(padded, align, Some(class), fill))?;
            }
        }
        let address = at.as_ptr().expose_provenance();
        let place = class.map_or(Place { address, word: 0 }, |class| place_in(class, address));
        if padded > size {
            self.set_edges(address, size, class);
        }
        let Some(id) = self.begin(place, size, align) else {
            self.give(address);
            return None;
        };
        if fill == Fill::Zero && class.is_some() {
            // SAFETY: at least `padded` bytes, the caller's alone.
            unsafe { at.write_bytes(0, size) };
        }
        tell!(self.heap.voice(), Cache, "{size} bytes allocated at {address:#x}, id {id}");
        Some(at)
    }

    /// What is kept back goes before a request fails, unless that cannot help.
    #[cold]
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    fn alloc_after_release(
        &self,
        padded: usize,
        align: usize,
        class: Option<Class>,
        fill: Fill,
    ) -> Option<NonNull<u8>> {
        if class.is_none() && !self.heap.could_serve(padded, align) {
            return None;
        }
        self.release_kept();
        match class {
            Some(class) => self.take(class),
            None => self.heap.alloc_large(self.index(), padded, align, fill),
        }
    }

    /// Makes the record of an allocation and returns its ID. `None`: there is no memory for it.
    #[unsafe(link_section = ".millpond_cold")]
    #[inline]
    pub(super) fn begin(&self, place: Place, size: usize, align: usize) -> Option<u64> {
        self.begin_once(place, size, align).or_else(|| self.begin_again(place, size, align))
    }

    #[inline]
    #[unsafe(link_section = ".millpond_cold")]
    pub(super) fn begin_once(&self, place: Place, size: usize, align: usize) -> Option<u64> {
        let depth = self.tracker.depth();
        if depth == 0 { self.begin_with(place, size, align, &[]) } else { self.begin_traced(place, size, align, depth) }
    }

    #[cold]
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    fn begin_traced(&self, place: Place, size: usize, align: usize, depth: usize) -> Option<u64> {
        let mut callers = [0; CALLERS];
        let count = os::frames_from(self.frame, &mut callers[..depth]);
        self.begin_with(place, size, align, &callers[..count])
    }

    #[inline]
    fn begin_with(&self, place: Place, size: usize, align: usize, callers: &[usize]) -> Option<u64> {
        let thread = self.cache.map_or_else(os::thread_id, ThreadCache::thread);
        let birth = Birth { size, align, thread, now: os::coarse_ms(), tag: self.tag, callers };
        if let Some(cache) = self.cache {
            return self.tracker.begin(&cache.lot, place, birth);
        }
        let lot = Lot::new();
        let known = self.tracker.begin(&lot, place, birth);
        self.tracker.leave(&lot);
        known
    }

    #[unsafe(link_section = ".millpond_cold")]
    fn take(&self, class: Class) -> Option<NonNull<u8>> {
        match self.cache {
            Some(cache) => {
                let hit = cache.bin(class).pop();
                if hit.is_some() {
                    tell!(self.heap.voice(), Cache, "{} B: hit: the thread's magazine has a chunk", INFO[class].size);
                }
                let chunk = hit.or_else(|| self.heap.alloc_slow(cache, class));
                self.fetch_next(cache, class);
                chunk
            }
            None => self.heap.alloc_shared(class),
        }
    }

    /// Has the processor fetch what the next allocations of a class would wait for: the edges around a chunk, and records.
    #[inline]
    fn fetch_next(&self, cache: &ThreadCache, class: Class) {
        if self.mode == Mode::Hardened {
            if let Some(next) = cache.bin(class).peek(0) {
                os::prefetch_read(next - 1);
                os::prefetch_write(next + INFO[class].size - 1);
            }
        }
        if let Some(next) = cache.bin(class).peek(1) {
            self.tracker.prefetch(place_in(class, next));
        }
    }

    pub(super) fn index(&self) -> u32 {
        self.cache.map_or(NONE, ThreadCache::index)
    }

    /// Gives the heap back what it has given out.
    #[unsafe(link_section = ".millpond_cold")]
    pub(super) fn give(&self, address: usize) {
        let Some(chunk) = NonNull::new(with_exposed_provenance_mut(address)) else { return };
        match self.heap.spans.page_map.noted(address) {
            0 => self.heap.free_large(self.index(), address),
            note => {
                let class = at_place(note as usize - 1);
                match self.cache {
                    Some(cache) if cache.bin(class).push(chunk) => {}
                    Some(cache) => self.heap.free_after_miss(cache, class, chunk),
                    None => self.heap.free_shared(class, chunk),
                }
            }
        }
    }

    /// Frees an allocation, of that size and alignment if the caller says so and they are heeded. Ends the process if it is none. `late`: an
    /// allocation without a record may be one from before there were any.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn free(&self, address: usize, layout: Option<(usize, usize)>, late: bool) {
        let note = self.heap.spans.page_map.noted(address);
        let place = noted_place(note, address);
        // First of all, since it is most of what a free waits for.
        let record = self.tracker.fetch(place);
        if self.mode == Mode::Hardened {
            // It will be overwritten, once its record has been found; and what lies before it is looked at.
            os::prefetch_write(address);
            os::prefetch_read(address.wrapping_sub(1));
        }
        let thread = self.cache.map_or_else(os::thread_id, ThreadCache::thread);
        let ended = match self.tracker.end_of(record, place, layout, thread, os::coarse_ms()) {
            Ok(ended) => ended,
            Err(Misuse::Layout(_)) if !self.tracker.heeds_sizes() => return self.free(address, None, late),
            Err(Misuse::Unknown) if late && self.heap.usable_size(address).is_some() => return self.give(address),
            Err(misuse) => return self.accuse("free", address, layout, misuse),
        };
        if self.tracker.depth() > 0 {
            self.trace_free(place);
        }
        tell!(self.heap.voice(), Cache, "{} bytes freed at {address:#x}, id {}", ended.size, ended.id);
        if note == 0 && self.is_guarded(address) {
            return self.keep_guarded(&ended);
        }
        let is_hardened = self.mode == Mode::Hardened;
        if is_hardened {
            self.check_edges(&ended, (note != 0).then(|| at_place(note as usize - 1)));
        }
        let is_default = self.tracker.quarantine.is_default();
        if !is_hardened && is_default {
            return self.give(address);
        }
        if is_hardened && is_default && ended.size <= KEPT_MAX {
            // SAFETY: the caller's allocation, which nobody uses any more.
            unsafe { with_exposed_provenance_mut::<u8>(address).write_bytes(JUNK, ended.size) };
            if let Some((address, size)) = self.tracker.remember(thread, address, ended.size) {
                self.check_junk(address, size);
                self.give(address);
            }
            return;
        }
        self.keep_as_wished(thread, &ended);
    }

    /// The end of a free, where it is not one of the modes as they are by default.
    #[unsafe(link_section = ".millpond_cold")]
    fn keep_as_wished(&self, thread: u32, ended: &Ended) {
        let Ended { address, size, .. } = *ended;
        let quarantine = &self.tracker.quarantine;
        let is_kept = quarantine.keeps(self.mode, size);
        // A mapping that is not kept goes at once, or keeps its addresses alone: to write over it would only have the system find memory
        // for all of it that was never touched.
        let fill = quarantine.fill(self.mode, size).filter(|_| is_kept || !self.heap.is_huge(address));
        if let Some(byte) = fill {
            // SAFETY: the caller's allocation, which nobody uses any more.
            unsafe { with_exposed_provenance_mut::<u8>(address).write_bytes(byte, size) };
        }
        if !is_kept {
            if self.mode == Mode::Hardened && size > KEPT_MAX {
                return self.keep_run(ended);
            }
            return self.give(address);
        }
        quarantine.take(size);
        if let Some((address, size)) = self.tracker.remember(thread, address, size) {
            self.release(address, size, true);
        }
        while quarantine.is_over() {
            let Some((address, size)) = self.tracker.forget_oldest(self.tracker.longest(thread)) else { break };
            self.release(address, size, true);
        }
    }

    #[cold]
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    fn trace_free(&self, place: Place) {
        let mut callers = [0; CALLERS];
        let count = os::frames_from(self.frame, &mut callers[..self.tracker.depth()]);
        self.tracker.keep_freed(place, &callers[..count]);
    }

    /// Gives a freed allocation back that was kept until now, after a look at it.
    #[unsafe(link_section = ".millpond_cold")]
    pub(super) fn release(&self, address: usize, size: usize, look: bool) {
        let quarantine = &self.tracker.quarantine;
        // Long ones are remembered without their size, which the record has until another begins there.
        let recorded = || self.tracker.find(self.heap.place(address)).map_or(0, |seen| seen.size);
        let size = if size == 0 { recorded() } else { size };
        // First: a witness may panic, and what it is told of then stays out of use, but is kept back no more.
        quarantine.less(size);
        if let Some(byte) = quarantine.fill(self.mode, size).filter(|_| look) {
            self.check_fill(address, size, byte);
        }
        self.give(address);
    }

    /// Gives back all that is kept back.
    pub(crate) fn release_kept(&self) {
        if self.mode == Mode::Hardened || self.tracker.quarantine.keeps(self.mode, 0) {
            self.tracker.forget_firsts(|address| self.give(address));
            self.tracker.forget_all(|address, size| self.release(address, size, true));
            self.tracker.forget_runs(|address| _ = self.release_run(address));
        }
    }

    /// How many freed allocations are kept back, how many of them have pages of their own, and the bytes of all as the heap has
    /// served them: a moment's picture.
    pub(crate) fn kept(&self) -> (u64, u64, usize) {
        let mut kept = (0, 0, 0);
        if self.mode == Mode::Hardened || self.tracker.quarantine.keeps(self.mode, 0) {
            self.tracker.walk_kept(|address| {
                let start = if self.is_guarded(address) { address / PAGE * PAGE } else { address };
                let is_large = self.heap.spans.page_map.noted(address) == 0;
                let bytes = self.heap.usable_size(start).unwrap_or(0);
                kept = (kept.0 + 1, kept.1 + u64::from(is_large), kept.2 + bytes);
            });
        }
        kept
    }

    /// Adds what the records know to the heap's statistics.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn add_to(&self, stats: &mut Stats) {
        let (count, larges, bytes) = self.kept();
        stats.live = stats.live.saturating_sub(bytes);
        stats.large_live = stats.large_live.saturating_sub(larges);
        stats.quarantine = bytes;
        // Taken from the heap, and given back to it or still kept; while others go on, a moment's picture.
        let (firsts, first_bytes) = self.tracker.firsts_kept();
        stats.allocations = stats.allocations.saturating_sub(firsts);
        stats.allocated_bytes = stats.allocated_bytes.saturating_sub(first_bytes);
        stats.deallocations = (stats.deallocations + count).saturating_sub(firsts);
        stats.add_tables(self.tracker.bytes());
        if self.mode != Mode::Fast {
            let mut requested = 0;
            self.tracker.walk(|seen| requested += seen.size);
            stats.requested = Some(requested);
        }
    }

    /// The same as [`check_fill`](Self::check_fill), for junk in what is hardened and was kept as by default.
    #[inline]
    fn check_junk(&self, address: usize, size: usize) {
        const PIECE: usize = size_of::<u128>();
        if CANARY < PIECE {
            return self.check_fill(address, size, JUNK);
        }
        let at = with_exposed_provenance_mut::<u8>(address).cast::<u128>();
        let (whole, rest) = (size / PIECE, size % PIECE);
        // SAFETY: kept back since it was freed, and whole pieces of it.
        let bad = (0..whole).fold(0, |bad, piece| bad | (unsafe { at.add(piece).read_unaligned() } ^ JUNKS));
        // SAFETY: the canary's bytes, which nobody looks at any more, are behind it.
        let last = unsafe { at.add(whole).read_unaligned() } ^ JUNKS;
        if bad != 0 || last & !(u128::MAX << (8 * rest)) != 0 {
            self.check_fill(address, size, JUNK);
        }
    }

    #[cold]
    #[unsafe(link_section = ".millpond_cold")]
    fn check_fill(&self, address: usize, size: usize, fill: u8) {
        if let Some(byte) = self.changed(address, size, fill) {
            self.accuse_of(address, format_args!("{}", Written::Freed { address, byte }));
        }
    }

    /// The first byte of what is kept back, and in hand, that is not what was written over it.
    #[unsafe(link_section = ".millpond_cold")]
    pub(super) fn changed(&self, address: usize, size: usize, fill: u8) -> Option<usize> {
        // SAFETY: kept back since it was freed: ours.
        let kept = unsafe { core::slice::from_raw_parts(with_exposed_provenance_mut::<u8>(address), size) };
        // A piece at a time, without a branch for each byte.
        let is_whole = |piece: &[u8]| piece.iter().fold(0, |bad, byte| bad | (byte ^ fill)) == 0;
        if kept.chunks(256).all(is_whole) {
            return None;
        }
        kept.iter().position(|byte| *byte != fill)
    }

    /// Whether an allocation begins there that may be resized, of that size and alignment if the caller says so; `late`: one
    /// without a record may be from before there were any. If not, tells so before anything is read from there.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn can_be_resized(&self, address: usize, layout: Option<(usize, usize)>, late: bool) -> bool {
        if self.is_being_resized(address) {
            return false;
        }
        match self.tracker.find(self.heap.place(address)) {
            // As many bytes are copied as the caller says there are.
            Some(seen) if seen.is_live && layout.is_some_and(|layout| layout != (seen.size, seen.align)) => {
                self.accuse("realloc", address, layout, Misuse::Layout(seen));
                false
            }
            Some(seen) if seen.is_live => true,
            None if late && self.heap.usable_size(address).is_some() => true,
            _ => {
                self.accuse_of_realloc(address);
                false
            }
        }
    }
}

const JUNKS: u128 = u128::from_ne_bytes([JUNK; size_of::<u128>()]);
