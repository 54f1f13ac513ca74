//! Places: from an address at which an allocation begins to the word that names its record.
//!
//! Each page of the heap has a word for each chunk that can begin in it: which one is that of an address follows from the
//! size of the page's chunks, so that the words in use lie side by side. Tables of them are made where there are
//! allocations, one for some pages each, and stay; what is not touched of a table takes no memory.
//!
//! A word belongs to whoever has the chunk: the allocator's hand-over of the chunk hands it over too. When a page comes to
//! have chunks of another size, its words are theirs: what stands there of earlier ones is told by its address, and used
//! again. Where there is no memory for further records, whoever has a chunk, or a page, takes the record of an ended allocation
//! from its word, for another (see `heap::unbind`).
//!
//! Invariant: a record is named by one word at most.

use crate::config::{ADDRESS_BITS, GRAIN, LEAF_BITS, PAGE, PAGE_SHIFT, PLOT_SHIFT, ROOT_BITS, ZERO_IS_NODE};
use crate::os;
use crate::sync::{AtomicPtr, AtomicU32, AtomicUsize, Fault, Ordering, planted};
use crate::tagged::NONE;
use core::ptr::{null_mut, with_exposed_provenance_mut};

/// Words of a page.
const WORDS: usize = PAGE / GRAIN;
/// Words of a plot.
const PLOT: usize = WORDS << (PLOT_SHIFT - PAGE_SHIFT);
/// Words that are counted together.
const SHARE: usize = if WORDS < 1024 { WORDS } else { 1024 };
/// Addresses below one entry of the root.
const LEAF_SHIFT: u32 = PAGE_SHIFT + LEAF_BITS;
/// Plots below one entry of the root.
const LEAF: usize = 1 << (LEAF_SHIFT - PLOT_SHIFT);

type Plot = AtomicPtr<AtomicU32>;

/// Where an allocation begins: the address, and which of its page's words is its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) address: usize,
    pub(crate) word: usize,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Places {
    root: [AtomicPtr<Plot>; 1 << ROOT_BITS],
    bytes: AtomicUsize,
}

/// A table of `len` entries made by `make`; published in `slot` by one exchange, the loser undoes. Says whether it is the
/// caller's own. `None`: no memory.
fn publish<T>(slot: &AtomicPtr<T>, len: usize, make: impl Fn() -> T) -> Option<(*mut T, bool)> {
    let bytes = len * size_of::<T>();
    let at = os::metadata(bytes)?;
    let table = with_exposed_provenance_mut::<T>(at);
    if !ZERO_IS_NODE {
        // SAFETY: inside the bytes that were mapped just now.
        (0..len).for_each(|entry| unsafe { table.add(entry).write(make()) });
    }
    if planted(Fault::PlotStore) {
        slot.store(table, Ordering::Relaxed);
        return Some((table, true));
    }
    // ORDERING: Release publishes the table; Acquire, on failure, sees the winner's made.
    match slot.compare_exchange(null_mut(), table, Ordering::Release, Ordering::Acquire) {
        Ok(_) => Some((table, true)),
        Err(winner) => {
            os::release_metadata(at, bytes);
            Some((winner, false))
        }
    }
}

impl Places {
    const_fn! {
        pub(crate) const fn new() -> Self {
            Self { root: array_of![AtomicPtr::new(null_mut()); 1 << ROOT_BITS], bytes: AtomicUsize::new(0) }
        }
    }

    /// The word of a place, if its table is there: O(1), three dependent loads.
    #[inline]
    pub(crate) fn get(&self, place: Place) -> Option<&AtomicU32> {
        // SAFETY: one of the page's words.
        self.page(place.address).map(|words| unsafe { &*words.add(place.word % WORDS) })
    }

    /// The words of a page; none if there is no table for it. O(1).
    pub(crate) fn of_page(&self, address: usize) -> &[AtomicU32] {
        // SAFETY: there are so many, and they stay for ever.
        self.page(address).map_or(&[], |words| unsafe { core::slice::from_raw_parts(words, WORDS) })
    }

    /// Where a page's words begin, `WORDS` of them side by side.
    #[inline]
    fn page(&self, address: usize) -> Option<*const AtomicU32> {
        // ORDERING: Acquire pairs with the exchange in `publish`: the table is made.
        let leaf = self.root.get(address >> LEAF_SHIFT)?.load(Ordering::Acquire);
        if leaf.is_null() {
            return None;
        }
        // SAFETY: a published leaf has this many entries and stays for ever.
        let slot = unsafe { &*leaf.add((address >> PLOT_SHIFT) % LEAF) };
        // ORDERING: as above.
        let plot = slot.load(Ordering::Acquire);
        // SAFETY: so has, and does, a plot.
        (!plot.is_null()).then(|| unsafe { plot.add((address >> PAGE_SHIFT) * WORDS % PLOT).cast_const() })
    }

    /// The same; the table is made if need be. `None`: there is no memory for it.
    #[inline]
    pub(crate) fn make(&self, place: Place) -> Option<&AtomicU32> {
        self.get(place).or_else(|| {
            self.grow(place.address)?;
            self.get(place)
        })
    }

    #[cold]
    fn grow(&self, address: usize) -> Option<()> {
        let slot = self.root.get(address >> LEAF_SHIFT)?;
        // ORDERING: Acquire, as in `get`.
        let mut leaf = slot.load(Ordering::Acquire);
        if leaf.is_null() {
            let own;
            (leaf, own) = publish(slot, LEAF, || AtomicPtr::new(null_mut()))?;
            if own {
                self.bytes.fetch_add(LEAF * size_of::<Plot>(), Ordering::Relaxed);
            }
        }
        // SAFETY: as in `get`.
        publish(unsafe { &*leaf.add((address >> PLOT_SHIFT) % LEAF) }, PLOT, || AtomicU32::new(NONE))?;
        Some(())
    }

    /// Counts that a word has come to name a record, with the memory of those beside it.
    #[inline]
    pub(crate) fn count(&self, place: Place) {
        if place.word % SHARE == 0 {
            self.bytes.fetch_add(SHARE * size_of::<AtomicU32>(), Ordering::Relaxed);
        }
    }

    /// Counts that it no longer does.
    pub(crate) fn uncount(&self, word: usize) {
        if word % SHARE != 0 {
            return;
        }
        if planted(Fault::UncountStore) {
            let bytes = self.bytes.load(Ordering::Relaxed) - SHARE * size_of::<AtomicU32>();
            self.bytes.store(bytes, Ordering::Relaxed);
        } else {
            self.bytes.fetch_sub(SHARE * size_of::<AtomicU32>(), Ordering::Relaxed);
        }
    }

    /// Bytes of the tables, as far as their words name records.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Gives all tables back, at the heap's end.
    ///
    /// # Safety
    /// They are not used any more.
    pub(crate) unsafe fn dispose(&self) {
        for slot in &self.root {
            // Relaxed, as below: whoever says that nobody uses them any more comes after all who did.
            let leaf = slot.load(Ordering::Relaxed);
            if leaf.is_null() {
                continue;
            }
            for plot in 0..LEAF {
                // SAFETY: as in `get`.
                let plot = unsafe { &*leaf.add(plot) }.load(Ordering::Relaxed);
                if !plot.is_null() {
                    os::release_metadata(plot.expose_provenance(), PLOT * size_of::<AtomicU32>());
                }
            }
            os::release_metadata(leaf.expose_provenance(), LEAF * size_of::<Plot>());
        }
    }
}

const _: () = assert!(LEAF_SHIFT >= PLOT_SHIFT && PLOT_SHIFT >= PAGE_SHIFT && ADDRESS_BITS == LEAF_SHIFT + ROOT_BITS);
