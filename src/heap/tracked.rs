//! Allocation with a tracker beside the heap: each call goes by its records.
//!
//! *Tracked*: each allocation has a record; a free that finds none, or one that is freed already, ends the process with a line
//! that says what is known. *Hardened*: also, bytes behind each allocation are checked when it is freed; what is freed is
//! overwritten and kept back for as long as the next frees take, and what was written to it meanwhile is noticed.

use super::Heap;
use crate::arena::Fill;
use crate::config::{CANARY, KEPT_MAX};
use crate::log::tell;
use crate::modes::{Birth, Misuse, Seen, Tracker};
use crate::os;
use crate::report::{Mode, Stats};
use crate::size_class::{Class, INFO, at_place};
use crate::span::LARGE;
use crate::tagged::NONE;
use crate::thread_cache::ThreadCache;
use core::fmt;
use core::ptr::{NonNull, with_exposed_provenance_mut};

/// What freed memory is overwritten with.
const JUNK: u8 = 0xdf;

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
}

impl Tracked<'_> {
    /// What is asked of the heap for an allocation of `size` bytes.
    pub(crate) fn padded(&self, size: usize) -> usize {
        if self.mode == Mode::Hardened { size.saturating_add(CANARY) } else { size }
    }

    /// An allocation of `size` bytes aligned to `align`, from the class that serves `padded(size)` bytes, or whole pages.
    pub(crate) fn alloc(&self, size: usize, align: usize, class: Option<Class>, fill: Fill) -> Option<NonNull<u8>> {
        let padded = self.padded(size);
        let once = || match class {
            Some(class) => self.take(class),
            None => self.heap.alloc_large(self.index(), padded, align, fill),
        };
        let at = once().or_else(|| {
            // What is kept back goes before a request fails.
            self.release_kept();
            once()
        })?;
        let address = at.as_ptr().expose_provenance();
        let thread = self.cache.map_or_else(os::thread_id, ThreadCache::thread);
        let birth = Birth { size, align, thread, now: os::coarse_ms(), tag: self.tag };
        if self.tracker.begin(address, birth).is_none() {
            self.give(address);
            return None;
        }
        // SAFETY: at least `padded` bytes, the caller's alone.
        unsafe {
            if fill == Fill::Zero && class.is_some() {
                at.write_bytes(0, size);
            }
            if padded > size {
                canary(address).iter().enumerate().for_each(|(byte, value)| at.add(size + byte).write(*value));
            }
        }
        tell!(Cache, "{size} bytes allocated at {address:#x}");
        Some(at)
    }

    fn take(&self, class: Class) -> Option<NonNull<u8>> {
        match self.cache {
            Some(cache) => cache.bin(class).pop().or_else(|| self.heap.alloc_slow(cache, class)),
            None => self.heap.alloc_shared(class),
        }
    }

    fn index(&self) -> u32 {
        self.cache.map_or(NONE, ThreadCache::index)
    }

    /// Gives the heap back what it has given out.
    fn give(&self, address: usize) {
        let Some(chunk) = NonNull::new(with_exposed_provenance_mut(address)) else { return };
        match self.heap.spans.page_map.noted(address) {
            0 => self.heap.free_large(self.index(), address),
            note => {
                let class = at_place(note as usize - 1);
                match self.cache {
                    Some(cache) if cache.bin(class).push(chunk) => {}
                    Some(cache) => self.heap.free_slow(cache, class, chunk),
                    None => self.heap.free_shared(class, chunk),
                }
            }
        }
    }

    /// Frees an allocation, of that size and alignment if the caller says so. Ends the process if it is none. `late`: an
    /// allocation without a record may be one from before there were any.
    pub(crate) fn free(&self, address: usize, layout: Option<(usize, usize)>, late: bool) {
        let thread = self.cache.map_or_else(os::thread_id, ThreadCache::thread);
        let seen = match self.tracker.end(address, layout, thread, os::coarse_ms()) {
            Ok(seen) => seen,
            Err(Misuse::Unknown) if late && self.heap.usable_size(address).is_some() => return self.give(address),
            Err(misuse) => self.die(address, layout, misuse),
        };
        tell!(Cache, "{} bytes freed at {address:#x}, id {}", seen.size, seen.id);
        if self.mode != Mode::Hardened {
            self.give(address);
        } else {
            self.check_canary(&seen);
            if seen.size <= KEPT_MAX {
                // SAFETY: the caller's allocation, which nobody uses any more.
                unsafe { with_exposed_provenance_mut::<u8>(address).write_bytes(JUNK, seen.size) };
            } else {
                self.give(address);
            }
        }
        if let Some(old) = self.tracker.remember(seen.index) {
            self.release(&old);
            self.tracker.retire(&old);
        }
    }

    /// Gives a freed allocation back that was kept until now, if it was.
    fn release(&self, old: &Seen) {
        if self.mode == Mode::Hardened && old.size <= KEPT_MAX {
            self.check_junk(old);
            self.give(old.address);
        }
    }

    /// Gives back all that is kept back.
    pub(crate) fn release_kept(&self) {
        if self.mode == Mode::Hardened {
            self.tracker.forget_all(|old| self.release(&old));
        }
    }

    /// How many freed allocations are kept back, and their bytes as the heap has served them: a moment's picture.
    pub(crate) fn kept(&self) -> (u64, usize) {
        let mut kept = (0, 0);
        if self.mode == Mode::Hardened {
            self.tracker.walk_recent(|old| {
                if old.size <= KEPT_MAX {
                    kept = (kept.0 + 1, kept.1 + self.heap.usable_size(old.address).unwrap_or(0));
                }
            });
        }
        kept
    }

    /// Adds what the records know to the heap's statistics.
    pub(crate) fn add_to(&self, stats: Stats) -> Stats {
        let (count, bytes) = self.kept();
        let tables = self.tracker.bytes();
        Stats {
            live: stats.live.saturating_sub(bytes),
            quarantine: bytes,
            deallocations: stats.deallocations + count,
            metadata: stats.metadata + tables,
            committed: stats.committed + tables,
            reserved: stats.reserved + tables,
            ..stats
        }
    }

    fn check_canary(&self, seen: &Seen) {
        let at = with_exposed_provenance_mut::<u8>(seen.address + seen.size);
        let expected = canary(seen.address);
        // SAFETY: bytes of the allocation, behind those that the program asked for.
        let bad = (0..CANARY).find(|byte| unsafe { at.add(*byte).read() } != expected[*byte]);
        if let Some(byte) = bad {
            let (address, known) = (seen.address, Known(seen, self.tracker));
            os::die(format_args!("write {byte} bytes past the end of {address:#x}: {known}"));
        }
    }

    fn check_junk(&self, seen: &Seen) {
        let at = with_exposed_provenance_mut::<u8>(seen.address);
        // SAFETY: kept back since it was freed: ours.
        let bad = (0..seen.size).find(|byte| unsafe { at.add(*byte).read() } != JUNK);
        if let Some(byte) = bad {
            let (address, known) = (seen.address, Known(seen, self.tracker));
            os::die(format_args!("write to {address:#x} after it was freed, {byte} bytes into it: {known}"));
        }
    }

    #[cold]
    fn die(&self, address: usize, layout: Option<(usize, usize)>, misuse: Misuse) -> ! {
        match misuse {
            Misuse::Double(seen) => {
                os::die(format_args!("double free of {address:#x}: {}", Known(&seen, self.tracker)))
            }
            Misuse::Layout(seen) => {
                let (size, align) = layout.unwrap_or_default();
                let known = Known(&seen, self.tracker);
                os::die(format_args!(
                    "free of {address:#x} with a size that is not its own, {size} bytes aligned to {align}: {known}"
                ))
            }
            Misuse::Unknown => self.die_unknown(address),
        }
    }

    fn die_unknown(&self, address: usize) -> ! {
        if let Some(seen) = self.around(address) {
            let (into, known) = (address - seen.address, Known(&seen, self.tracker));
            let start = seen.address;
            os::die(format_args!("free of {address:#x}, {into} bytes into the allocation {start:#x}: {known}"));
        }
        let here = (&raw const address).addr();
        let what = match address {
            0..4096 => "a small number, no address",
            _ if address >> 47 != 0 => "no address that a program can have",
            _ if address.abs_diff(here) < 1 << 20 => "an address on this thread's stack",
            _ if self.heap.owns(address) => "where no allocation begins",
            _ => "which is not an allocation of Millpond's",
        };
        os::die(format_args!("free of {address:#x}, {what}"))
    }

    /// The allocation in which an address lies, live or freed not long ago.
    fn around(&self, address: usize) -> Option<Seen> {
        let head = self.heap.spans.page_map.get(address)?;
        let start = if head.kind() >= LARGE {
            head.start()
        } else {
            let info = INFO.get(head.kind() as Class)?;
            head.start() + info.index(address.checked_sub(head.start())?) * info.size
        };
        self.tracker.find(start)
    }
}

/// What is written behind an allocation: no two addresses have the same, and no byte is a letter, a small number or all ones.
fn canary(address: usize) -> [u8; CANARY] {
    let word = (address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    core::array::from_fn(|byte| word[byte % word.len()] & 0x3f | 0x80)
}

/// What is known of an allocation, in words.
struct Known<'a>(&'a Seen, &'a Tracker);

impl fmt::Display for Known<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seen, since) = (self.0, |ms: u64| ms.saturating_sub(self.1.origin_ms()));
        let seconds = |ms: u64| (since(ms) / 1000, since(ms) % 1000);
        let (whole, part) = seconds(seen.born_ms);
        write!(f, "{} bytes, id {}, allocated by thread {} at {whole}.{part:03} s", seen.size, seen.id, seen.thread)?;
        if !seen.tag.is_empty() {
            write!(f, " for {}", seen.tag)?;
        }
        if !seen.is_live {
            let (whole, part) = seconds(seen.freed_ms);
            write!(f, ", freed by thread {} at {whole}.{part:03} s", seen.freed_by)?;
        }
        Ok(())
    }
}
