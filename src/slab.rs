//! Slabs: where metadata nodes live, known by a 32-bit index.
//!
//! A slab holds nodes of one type and size in segments that double, so that an index becomes an address by a shift and
//! one load. Nodes are **type-stable**: memory that once held a node holds a node of that type for ever. So the link of a
//! node that another thread has taken meanwhile is stale but never garbage, and that makes the [`Stack`] safe (Michael,
//! *Scalable lock-free dynamic memory allocation*, PLDI 2004, relies on the same).
//!
//! | state of a node | owner |
//! |---|---|
//! | fresh: index not below `fresh` | nobody |
//! | taken | whoever [`take`](Slab::take) returned it to, and then whatever structure they put it in |
//! | free | a stack of the slab's; there may be several, by *home*: what is returned near one is taken there again |
//!
//! Invariant: `fresh = taken + free`.

use crate::config::{SLAB_FIRST, SLAB_SEGMENTS, ZERO_IS_NODE};
use crate::os;
use crate::stack::{Nodes, Stack};
use crate::sync::{AtomicPtr, AtomicU32, AtomicUsize, Fault, Ordering, Point, planted, point};
use crate::tagged::Index;
use core::marker::PhantomData;
use core::ops::Range;
use core::ptr;
use crossbeam_utils::CachePadded;

/// What a slab can hold: a header of atomics, followed by `words` atomic words for types that want them.
///
/// # Safety
/// Where `ZERO_IS_NODE`, memory of zeros must be a valid node. `link` must always return the same word, which only
/// stacks may use while the node is in one.
pub(crate) unsafe trait Node: Sized {
    /// How many fresh nodes whoever takes one near a home takes with it, at most; the others are free there. Two threads that touch the
    /// same fresh OS page at a time each wait for the system to fill it.
    const AT_ONCE: u32 = 1;

    /// Bytes of a node with `words` words behind its header; a multiple of its alignment.
    fn stride(words: usize) -> usize;

    /// The word that links the node in a stack.
    fn link(&self) -> &AtomicU32;

    /// Makes a node in place.
    ///
    /// # Safety
    /// `at` points to `stride(words)` writable bytes, suitably aligned, that nobody else uses.
    unsafe fn make(at: *mut Self, words: usize);

    /// Tells the node its index, the same each time, before it is handed out.
    fn name(&self, index: Index);
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Slab<T, const STACKS: usize = 1> {
    /// Words behind each header. Set by `shape`, so that a slab, and with it a heap, is all zeros at first: a static heap
    /// then takes no room in the program's file.
    words: AtomicUsize,
    segments: [AtomicPtr<u8>; SLAB_SEGMENTS],
    /// On lines of its own: each take and give writes it, each `get` only reads what is above.
    supply: CachePadded<Supply<STACKS>>,
    node: PhantomData<fn() -> T>,
}

/// The nodes that nobody has.
#[derive(Debug)]
struct Supply<const STACKS: usize> {
    fresh: AtomicU32,
    free: [Free; STACKS],
}

/// A line of the processor's caches.
#[derive(Debug)]
#[repr(align(64))]
struct Free(Stack);

/// Segment and place in it of the node number `at`, counted from zero.
#[inline]
const fn place(at: u32) -> (usize, u32) {
    let shifted = at as u64 + SLAB_FIRST as u64;
    let segment = shifted.ilog2() - SLAB_FIRST.ilog2();
    (segment as usize, (shifted - ((SLAB_FIRST as u64) << segment)) as u32)
}

impl<T: Node, const STACKS: usize> Slab<T, STACKS> {
    const_fn! {
        /// An empty slab whose nodes have no words behind their headers.
        pub(crate) const fn new() -> Self {
            Self {
                words: AtomicUsize::new(0),
                segments: array_of![AtomicPtr::new(ptr::null_mut()); SLAB_SEGMENTS],
                supply: CachePadded::new(Supply { fresh: AtomicU32::new(0), free: array_of![Free(Stack::new()); STACKS] }),
                node: PhantomData,
            }
        }
    }

    /// Says, always the same, how many words its nodes have behind their headers; before the first is taken.
    pub(crate) fn shape(&self, words: usize) {
        // Relaxed: whoever has an index got it, on whatever way, from a thread that has been here.
        if self.words.load(Ordering::Relaxed) != words {
            self.words.store(words, Ordering::Relaxed);
        }
    }

    fn stride(&self) -> usize {
        T::stride(self.words.load(Ordering::Relaxed))
    }

    /// The node `index`, which [`take`](Self::take) has handed out at some time.
    #[inline]
    pub(crate) fn get(&self, index: Index) -> &T {
        let (segment, at) = place(index - 1);
        // ORDERING: Acquire pairs with the exchange in `segment`: the nodes of the segment are made.
        let start = self.segments[segment].load(Ordering::Acquire);
        debug_assert!(!start.is_null(), "no segment for {index}");
        // SAFETY: the segment of an index that was handed out is published, holds made nodes, and stays for ever.
        unsafe { &*start.add(at as usize * self.stride()).cast() }
    }

    /// A node for the caller alone: one that was returned, else a fresh one. `None` if there is no memory for more.
    pub(crate) fn take(&self) -> Option<&T> {
        self.take_from(0, Index::MAX, 1)
    }

    /// The same, with an index below `end`: `None` if all of these are taken. Of a slab from which nobody takes otherwise.
    pub(crate) fn take_below(&self, end: Index) -> Option<&T> {
        self.take_from(0, end, 1)
    }

    /// The same; of those that were returned, one that was returned [near](Self::give_near) the same home, or else as near as there
    /// is one. Homes are numbered from zero, below `STACKS`, a power of two.
    pub(crate) fn take_near(&self, home: usize) -> Option<&T> {
        self.take_from(home, Index::MAX, T::AT_ONCE)
    }

    #[inline(always)]
    fn take_from(&self, home: usize, end: Index, most: u32) -> Option<&T> {
        if let Some(index) = (0..STACKS).find_map(|step| self.supply.free[home ^ step].0.pop(self)) {
            let node = self.get(index);
            // Again: whoever took it first may have vanished before it was named.
            node.name(index);
            return Some(node);
        }
        self.take_fresh(home, end, most)
    }

    /// The same where nothing was returned.
    #[cold]
    #[inline(never)]
    fn take_fresh(&self, home: usize, end: Index, most: u32) -> Option<&T> {
        // Relaxed: the exchange below decides.
        let mut at = self.supply.fresh.load(Ordering::Relaxed);
        let count = loop {
            let (segment, first) = place(at);
            if segment >= SLAB_SEGMENTS || at + 1 >= end {
                return None;
            }
            if !planted(Fault::SlabSegment) {
                self.segment(segment)?;
            }
            // Up to where as many end, or the segment does.
            let count = most - first % most;
            let count = count.min((SLAB_FIRST << segment) - first);
            if planted(Fault::SlabFresh) {
                // ORDERING: as below.
                self.supply.fresh.store(at + count, Ordering::Release);
                break count;
            }
            // ORDERING: Release pairs with the Acquire in `made`: the segment is there.
            match self.supply.fresh.compare_exchange_weak(at, at + count, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => break count,
                Err(now) => at = now,
            }
        };
        if planted(Fault::SlabSegment) {
            self.segment(place(at).0)?;
        }
        // The last first: they are taken in their order.
        for index in (at + 2..at + 1 + count).rev() {
            self.get(index).name(index);
            self.give_near(home, index);
        }
        let node = self.get(at + 1);
        node.name(at + 1);
        Some(node)
    }

    /// The node `index`, if [`reach`](Self::reach) has made it: for a slab whose nodes belong to what has the same index
    /// elsewhere.
    #[inline]
    pub(crate) fn reached(&self, index: Index) -> Option<&T> {
        let (segment, at) = place(index - 1);
        // ORDERING: Acquire pairs with the exchange in `segment`: the nodes of the segment are made.
        let order = if planted(Fault::ReachedRelaxed) { Ordering::Relaxed } else { Ordering::Acquire };
        let start = self.segments.get(segment)?.load(order);
        // SAFETY: as in `get`.
        (!start.is_null()).then(|| unsafe { &*start.add(at as usize * self.stride()).cast() })
    }

    /// Makes the node `index`, and all below it, for the caller, who has that index elsewhere: such a slab gives no others.
    /// `None` if there is no memory for it.
    pub(crate) fn reach(&self, index: Index) -> Option<&T> {
        let (last, _) = place(index - 1);
        if last >= SLAB_SEGMENTS {
            return None;
        }
        if !planted(Fault::SlabReach) {
            (0..=last).try_for_each(|segment| self.segment(segment))?;
        }
        let mut made = self.supply.fresh.load(Ordering::Relaxed);
        while made < index {
            // ORDERING: Release pairs with the Acquire in `made`: the segments are there.
            match self.supply.fresh.compare_exchange_weak(made, index, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => made = now,
            }
        }
        if planted(Fault::SlabReach) {
            (0..=last).try_for_each(|segment| self.segment(segment))?;
        }
        let node = self.get(index);
        node.name(index);
        Some(node)
    }

    /// Gives all segments back, at the heap's end.
    ///
    /// # Safety
    /// No node is used any more.
    pub(crate) unsafe fn dispose(&self) {
        for (segment, slot) in self.segments.iter().enumerate() {
            // Relaxed: whoever says that nobody uses it any more comes after all who did.
            let start = slot.load(Ordering::Relaxed);
            if !start.is_null() {
                os::release_metadata(start.expose_provenance(), ((SLAB_FIRST as usize) << segment) * self.stride());
            }
        }
    }

    /// Takes a node back from its only owner.
    pub(crate) fn give(&self, index: Index) {
        self.give_near(0, index);
    }

    /// The same, for whoever takes one near that home.
    pub(crate) fn give_near(&self, home: usize, index: Index) {
        self.supply.free[home].0.push(self, index);
    }

    /// Makes sure that a segment is there. Built privately, published by one exchange; the loser undoes.
    fn segment(&self, segment: usize) -> Option<()> {
        let slot = &self.segments[segment];
        // Relaxed: only whether it is there; `get` acquires it.
        if !slot.load(Ordering::Relaxed).is_null() {
            return Some(());
        }
        let nodes = (SLAB_FIRST as usize) << segment;
        let stride = self.stride();
        let at = os::metadata(nodes * stride)?;
        let start = ptr::with_exposed_provenance_mut::<u8>(at);
        if !ZERO_IS_NODE {
            for node in 0..nodes {
                // SAFETY: the segment is ours alone, and the node lies inside it.
                unsafe { T::make(start.add(node * stride).cast(), self.words.load(Ordering::Relaxed)) };
            }
        }
        point(Point::FirstUse);
        // ORDERING: Release publishes the nodes that were made, and pairs with the Acquire load of `get`.
        // Relaxed on failure: the winner's segment is looked at through `get` only.
        if planted(Fault::SlabStore) {
            slot.store(start, Ordering::Release);
        } else if slot.compare_exchange(ptr::null_mut(), start, Ordering::Release, Ordering::Relaxed).is_err() {
            os::release_metadata(at, nodes * stride);
        }
        Some(())
    }

    /// How many nodes have ever been handed out: indices 1 up to this are valid for [`get`](Self::get).
    pub(crate) fn made(&self) -> u32 {
        // ORDERING: Acquire pairs with the Release in `take_fresh` and `reach`: the segments of all these are there.
        self.supply.fresh.load(Ordering::Acquire)
    }

    /// All nodes ever handed out.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        // From zero on: of a range that includes its end, compilers make twice as much code.
        (0..self.made()).map(|at| self.get(at + 1))
    }

    /// Calls `visit` with the memory of each segment.
    pub(crate) fn walk_memory(&self, visit: &mut dyn FnMut(Range<usize>)) {
        for (segment, slot) in self.segments.iter().enumerate() {
            // Relaxed: the address is all that is asked for.
            let start = slot.load(Ordering::Relaxed).addr();
            if start != 0 {
                visit(start..start + ((SLAB_FIRST as usize) << segment) * self.stride());
            }
        }
    }

    /// Bytes of all nodes ever handed out.
    pub(crate) fn bytes(&self) -> usize {
        self.made() as usize * self.stride()
    }

    /// Calls `visit` with each free node, while no other thread uses the slab.
    pub(crate) fn walk_free(&self, mut visit: impl FnMut(Index)) {
        for free in &self.supply.free {
            free.0.walk(self, self.made() as usize, &mut visit);
        }
    }

    /// How many nodes are free, while no other thread uses the slab; `None` if the list of them is not well-formed.
    pub(crate) fn free_nodes(&self) -> Option<usize> {
        let mut count = 0;
        let sound = self.supply.free.iter().all(|free| free.0.walk(self, self.made() as usize, |_| count += 1));
        sound.then_some(count)
    }
}

impl<T: Node, const STACKS: usize> Nodes for Slab<T, STACKS> {
    #[inline]
    fn link(&self, index: Index) -> &AtomicU32 {
        self.get(index).link()
    }
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;

    struct Bare(AtomicU32);

    // SAFETY: a zero is valid, and the only word is the link.
    unsafe impl Node for Bare {
        fn stride(_: usize) -> usize {
            size_of::<Self>()
        }

        fn link(&self) -> &AtomicU32 {
            &self.0
        }

        unsafe fn make(at: *mut Self, _: usize) {
            // SAFETY: the caller gives the place.
            unsafe { at.write(Self(AtomicU32::new(0))) };
        }

        fn name(&self, _: Index) {}
    }

    fn lines<T>(part: &T) -> Range<usize> {
        let at = ptr::from_ref(part).addr();
        at / 64..(at + size_of::<T>()).div_ceil(64)
    }

    /// What was returned near a home is taken there first, last first, then what is near; and nothing is made while anything is free.
    #[test]
    fn homes_have_their_own_back() {
        let _system = os::fake::System::fresh();
        let slab = Slab::<Bare, 4>::new();
        slab.shape(0);
        let all: std::vec::Vec<Index> = (1..=6).collect();
        all.iter().for_each(|_| assert!(slab.take().is_some()));
        for (home, index) in [(2, 1), (2, 2), (3, 3), (0, 4), (1, 5), (1, 6)] {
            slab.give_near(home, index);
        }
        assert_eq!(slab.free_nodes(), Some(6));
        let mut walked = std::vec::Vec::new();
        slab.walk_free(|index| walked.push(index));
        walked.sort_unstable();
        assert_eq!(walked, all);
        for index in [2, 1, 3, 4, 6, 5] {
            assert!(ptr::eq(slab.take_near(2).unwrap(), slab.get(index)), "{index}");
        }
        assert_eq!((slab.made(), slab.free_nodes()), (6, Some(0)));
        assert!(ptr::eq(slab.take_near(2).unwrap(), slab.get(7)));
    }

    /// None beyond is ever made: it would have to be given back, and would lie on top of those that others give back meanwhile.
    #[test]
    fn so_many_are_made_and_no_more() {
        let _system = os::fake::System::fresh();
        let slab = Slab::<Bare>::new();
        slab.shape(0);
        assert_eq!((1..10).map(|_| slab.take_below(6).is_some() as u32).sum::<u32>(), 5);
        assert_eq!(slab.made(), 5);
        slab.give(2);
        assert!(ptr::eq(slab.take_below(6).unwrap(), slab.get(2)) && slab.take_below(6).is_none());
    }

    struct Twin(Bare);

    // SAFETY: as for the first.
    unsafe impl Node for Twin {
        const AT_ONCE: u32 = 8;

        fn stride(words: usize) -> usize {
            Bare::stride(words)
        }

        fn link(&self) -> &AtomicU32 {
            self.0.link()
        }

        unsafe fn make(at: *mut Self, words: usize) {
            // SAFETY: the caller's word.
            unsafe { Bare::make(at.cast(), words) };
        }

        fn name(&self, _: Index) {}
    }

    /// Neighbours go to one home, in their order; the first segment has less than that many.
    #[test]
    fn fresh_ones_come_to_a_home_several_at_a_time() {
        let _system = os::fake::System::fresh();
        let slab = Slab::<Twin, 2>::new();
        slab.shape(0);
        let take = |home: usize, index: Index| {
            assert!(ptr::eq(slab.take_near(home).unwrap(), slab.get(index)), "{index}");
            (slab.made(), slab.free_nodes().unwrap())
        };
        assert_eq!(take(0, 1), (4, 3));
        assert_eq!((2..5).fold((0, 0), |_, index| take(0, index)), (4, 0));
        assert_eq!(take(1, 5), (12, 7));
        assert_eq!(take(1, 6), (12, 6));
        assert_eq!(take(0, 7), (12, 5), "those of another before any that are fresh");
        assert_eq!((8..14).fold((0, 0), |_, index| take(0, index)), (20, 7));
    }

    #[test]
    fn what_each_take_writes_shares_no_line_with_what_each_get_reads() {
        let slabs: [Slab<Bare>; 3] = [const { Slab::new() }; 3];
        for (slab, other) in slabs.iter().flat_map(|slab| slabs.iter().map(move |other| (slab, other))) {
            for written in [lines(&slab.supply.fresh), lines(&slab.supply.free)] {
                for read in [lines(&other.words), lines(&other.segments)] {
                    assert!(written.end <= read.start || read.end <= written.start, "{written:?} and {read:?}");
                }
            }
        }
    }
}
