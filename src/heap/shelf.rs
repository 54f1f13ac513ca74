//! The shelf: the run that a thread freed last, kept whole for its next large allocation, should that be as long.
//!
//! To give a run back to its arena and take it again costs some ten exchanges and two page-map stores a page. A run on
//! the shelf keeps its node and its claim, and comes and goes by one exchange each way. (Malloc's unsorted bin and
//! mimalloc's cache of segments serve the same habit of programs: to free a block and take one like it.)
//!
//! A slot is one word: the node's index, the run's pages, and the tick when it was put there; zero is an empty slot. Each
//! thread has its own, which it may share with another. More would keep memory of one length from allocations of another:
//! with a slot for each length, mixed ones had up to two fifths more page faults. Mappings (`huge`) have a shelf of few slots,
//! where a thread looks into each.
//!
//! | state of a run | owner |
//! |---|---|
//! | in a slot | nobody: who takes it from there by exchange (an allocation of that length, a tick once it has rested, a trim) has it |
//! | taken | the taker, who uses it or gives it to its arena |
//!
//! Invariant: a run in a slot is claimed, its node has `bytes = 0`, the page map names the node for all of its pages but
//! the first, which is null as for everything that has been freed. The slots' runs are at most `SLOTS * LONGEST` pages. (Of
//! mappings see `huge`: nothing claims them, and the page map names nothing there.)

use crate::config::PAGE;
use crate::sync::{AtomicU64, Fault, Ordering, planted};
use crate::tagged::Index;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Shelf<const SLOTS: usize, const LONGEST: usize> {
    slots: [AtomicU64; SLOTS],
}

/// A run on the shelf, or just taken from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shelved {
    pub(super) node: Index,
    pub(super) pages: usize,
    stamp: u16,
}

const EMPTY: u64 = 0;

impl Shelved {
    pub(super) fn new(node: Index, pages: usize, now: u32) -> Self {
        Self { node, pages, stamp: now as u16 }
    }

    fn from_bits(bits: u64) -> Option<Self> {
        let run = Self { node: bits as Index, pages: (bits >> 32) as u16 as usize, stamp: (bits >> 48) as u16 };
        (bits != EMPTY).then_some(run)
    }

    fn bits(self) -> u64 {
        self.node as u64 | (self.pages as u64) << 32 | (self.stamp as u64) << 48
    }
}

impl<const SLOTS: usize, const LONGEST: usize> Shelf<SLOTS, LONGEST> {
    const_fn! {
        pub(super) const fn new() -> Self {
            Self { slots: array_of![AtomicU64::new(EMPTY); SLOTS] }
        }
    }

    fn slot(&self, thread: Index) -> &AtomicU64 {
        &self.slots[thread as usize % SLOTS]
    }

    /// Puts a run that the caller owns where `thread` will look for it. Returns what the caller must give to its arena:
    /// what was there before, or the run itself if it is too long. O(1).
    pub(super) fn put(&self, thread: Index, run: Shelved) -> Option<Shelved> {
        const { assert!(LONGEST <= u16::MAX as usize, "a slot has room for no more") };
        if run.pages > LONGEST {
            return Some(run);
        }
        // ORDERING: Release pairs with the Acquire of whoever takes it: what was done to the run and its node is done.
        // Acquire, as in `take_if`, for what was there.
        let both = if planted(Fault::ShelfPut) { Ordering::Relaxed } else { Ordering::AcqRel };
        Shelved::from_bits(self.slot(thread).swap(run.bits(), both))
    }

    /// Takes a run of exactly so many pages from where `thread` looks. O(1).
    pub(super) fn take(&self, thread: Index, pages: usize) -> Option<Shelved> {
        self.take_if(self.slot(thread), |run| run.pages == pages)
    }

    /// Takes what the thread has put where it looks first.
    pub(super) fn take_own(&self, thread: Index) -> Option<Shelved> {
        self.take_if(self.slot(thread), |_| true)
    }

    /// Takes the first of the runs that will do. O(slots).
    pub(super) fn take_any(&self, wanted: impl Fn(Shelved) -> bool) -> Option<Shelved> {
        self.slots.iter().find_map(|slot| self.take_if(slot, &wanted))
    }

    /// Takes what has rested, from any thread; calls `give` with each.
    #[unsafe(link_section = ".millpond_cold")]
    pub(super) fn clear(&self, rested: impl Fn(u16) -> bool, mut give: impl FnMut(Shelved)) {
        self.slots.iter().filter_map(|slot| self.take_if(slot, |run| rested(run.stamp))).for_each(&mut give);
    }

    fn take_if(&self, slot: &AtomicU64, wanted: impl Fn(Shelved) -> bool) -> Option<Shelved> {
        let bits = slot.load(Ordering::Relaxed);
        let run = Shelved::from_bits(bits).filter(|run| wanted(*run))?;
        if planted(Fault::ShelfTake) {
            // ORDERING: as below.
            slot.load(Ordering::Acquire);
            slot.store(EMPTY, Ordering::Relaxed);
            return Some(run);
        }
        // ORDERING: Acquire pairs with `put`. No tag: if the word is the same, so is the run, and it is there.
        slot.compare_exchange(bits, EMPTY, Ordering::Acquire, Ordering::Relaxed).is_ok().then_some(run)
    }

    /// The runs that there are: a moment's picture.
    pub(super) fn runs(&self) -> impl Iterator<Item = Shelved> {
        self.slots.iter().filter_map(|slot| Shelved::from_bits(slot.load(Ordering::Relaxed)))
    }

    /// Bytes of the runs that there are: a moment's picture.
    pub(super) fn bytes(&self) -> usize {
        self.runs().map(|run| run.pages * PAGE).sum()
    }
}
