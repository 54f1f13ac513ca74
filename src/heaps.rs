//! The heaps that there are beside the program's: for who goes through all of them, as a search for leaks does.
//!
//! A heap is *entered* when it is made and *left* when it is dropped. A search *holds* each while it looks. Whoever leaves a heap
//! waits for nobody: if it is held, the last to let go disposes of it instead. All of this is in one word of an entry: the heap's
//! address, in whose low bits, which are zero since it begins an OS page, stands how many hold it, and whether it was left.
//!
//! | word | who may look at the heap | who disposes of it |
//! |---|---|---|
//! | 0: no heap; the entry is free in its slab | | |
//! | address, nobody holds it | the program, who holds it next | who leaves it |
//! | address, `n` hold it | the program, the holders | as above, or below if they are slower |
//! | address, `n` hold it, left | the holders | the last of them |
//!
//! Entries are type-stable, so a word is looked at whoever's it is by now; a hold is of the heap whose address it had at that
//! exchange. (A count beside the pointer, in one word: Valois' scheme as Michael and Scott mended it, 1995, without its counts in the
//! nodes themselves.) In the child of a `fork`, what others held there is held for ever: the heap is disposed of by who leaves it,
//! if that thread is alone, and else stays, as does one that was left before the fork.
//!
//! Invariant: holders are counted before they look and until they have; a heap is disposed of once, when it was left and none look.

use crate::bitset::Bitset;
use crate::heap::Heap;
use crate::modes::Tracker;
use crate::os;
use crate::slab::{Node, Slab};
use crate::sync::{AtomicU32, AtomicUsize, Counter, Fault, Ordering, planted};
use crate::tagged::{Index, NONE};
use crate::times::Times;
use core::ptr::with_exposed_provenance;

/// The bit that says that the heap was left, and those of the holders' count below it.
const LEFT: usize = 1 << 11;
const HOLDERS: usize = LEFT - 1;

/// What a heap is made of that is not the program's choice. Valid as zeros, but for the bitset.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) core: Heap,
    pub(crate) tracker: Tracker,
    pub(crate) times: Slab<Times>,
    pub(crate) bits: Bitset,
    /// Bytes that are mapped for it and for what the program has chosen, which lies behind it.
    pub(crate) mapped: usize,
    /// Its entry; zero while it has none.
    pub(crate) entry: Index,
}

impl Body {
    /// Gives all memory back to the system at once, that in which the body itself lies too.
    ///
    /// # Safety
    /// At `address` there is one, at the beginning of its mapping. What the heap has given out is not used any more, and
    /// neither is the heap.
    #[inline(never)]
    pub(crate) unsafe fn dispose(address: usize) {
        // SAFETY: the caller's word.
        unsafe {
            let body = &*with_exposed_provenance::<Self>(address);
            body.core.dispose();
            body.tracker.dispose();
            body.times.dispose();
            body.bits.dispose();
            let mapped = body.mapped;
            os::release_metadata(address, mapped);
        }
    }
}

/// A place for a heap.
#[derive(Debug)]
struct Entry {
    link: AtomicU32,
    /// See the module's documentation.
    word: AtomicUsize,
    index: Counter,
}

// SAFETY: zeros are a place without a heap; the link is used by nothing else.
unsafe impl Node for Entry {
    fn stride(_: usize) -> usize {
        size_of::<Self>()
    }

    fn link(&self) -> &AtomicU32 {
        &self.link
    }

    unsafe fn make(at: *mut Self, _: usize) {
        // SAFETY: the caller gives the place.
        unsafe { at.write(Self { link: AtomicU32::new(NONE), word: AtomicUsize::new(0), index: Counter::new() }) };
    }

    fn name(&self, index: Index) {
        self.index.set(index.into());
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Heaps {
    entries: Slab<Entry>,
}

impl Heaps {
    const_fn! {
        pub(crate) const fn new() -> Self {
            Self { entries: Slab::new() }
        }
    }

    /// An entry for a heap, which is to know of it before it is [entered](Self::enter): from then on others look at it. `None`:
    /// there is no memory for that.
    pub(crate) fn place(&self) -> Option<Index> {
        Some(self.entries.take()?.index.get() as Index)
    }

    /// Enters the heap at an address, which begins an OS page, in the caller's entry.
    pub(crate) fn enter(&self, index: Index, address: usize) {
        debug_assert!(address & (HOLDERS | LEFT) == 0, "an OS page's address");
        // ORDERING: Release publishes the heap; pairs with the Acquire of `hold`.
        let order = if planted(Fault::EnterRelaxed) { Ordering::Relaxed } else { Ordering::Release };
        self.entries.get(index).word.store(address, order);
    }

    /// Leaves the heap of an entry. Whether the caller is to dispose of it: nobody holds it, or those who did are no more, since
    /// the calling thread is the only one, which is asked where it matters.
    pub(crate) fn leave(&self, index: Index, is_alone: impl FnOnce() -> bool) -> bool {
        let entry = self.entries.get(index);
        // ORDERING: Acquire pairs with the Release of `let_go`: what holders looked at is not used after this. Release pairs
        // with the Acquire there: who disposes of it in the caller's stead does so after all that the program did with it.
        let order = if planted(Fault::LeaveRelaxed) { Ordering::Relaxed } else { Ordering::AcqRel };
        let word = entry.word.fetch_or(LEFT, order);
        let is_last = word & HOLDERS == 0 || is_alone();
        if is_last {
            self.empty(entry);
        }
        is_last
    }

    /// The address of an entry's heap, which stays until the caller has [let go](Self::let_go) of it. `None`: there is none, or it was left,
    /// or very many hold it.
    pub(crate) fn hold(&self, index: Index) -> Option<usize> {
        let word = &self.entries.get(index).word;
        // Relaxed: the exchange below decides.
        let mut now = word.load(Ordering::Relaxed);
        loop {
            let is_left = now & LEFT != 0 && !planted(Fault::HoldsLeft);
            if now == 0 || is_left || now & HOLDERS == HOLDERS {
                return None;
            }
            // ORDERING: Acquire pairs with the Release of `enter`.
            match word.compare_exchange_weak(now, now + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(now & !(LEFT | HOLDERS)),
                Err(other) => now = other,
            }
        }
    }

    /// Lets go of a heap that the caller holds. The address, if the caller is to dispose of it.
    #[must_use = "nobody else disposes of it"]
    pub(crate) fn let_go(&self, index: Index) -> Option<usize> {
        let entry = self.entries.get(index);
        // ORDERING: Release and Acquire pair with each other, and with those of `leave`: whoever disposes of it does so after all that
        // others did with it.
        let order = if planted(Fault::LetGoRelaxed) { Ordering::Relaxed } else { Ordering::AcqRel };
        let word = entry.word.fetch_sub(1, order);
        let is_last = word & (LEFT | HOLDERS) == LEFT | 1;
        if is_last {
            self.empty(entry);
        }
        is_last.then_some(word & !(LEFT | HOLDERS))
    }

    /// Lets go of a heap that the caller holds, and disposes of it if nobody else does.
    pub(crate) fn release(&self, index: Index) {
        if let Some(address) = self.let_go(index) {
            // SAFETY: it was left, so the program has no more use for it, and the caller was the last to hold it.
            unsafe { Body::dispose(address) };
        }
    }

    /// Whether an address lies in one of them.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn have(&self, address: usize) -> bool {
        (1..self.made() + 1).any(|index| {
            let Some(at) = self.hold(index) else { return false };
            // SAFETY: a heap's, which is held.
            let has = unsafe { &*with_exposed_provenance::<Body>(at) }.core.has(address);
            self.release(index);
            has
        })
    }

    /// Takes back the entry of a heap that was left, and that nobody holds.
    fn empty(&self, entry: &Entry) {
        // Relaxed: publishes nothing; the entry goes to its next owner by the stack.
        entry.word.store(0, Ordering::Relaxed);
        self.entries.give(entry.index.get() as Index);
    }

    /// How many entries there have ever been: indices 1 up to this are those to [hold](Self::hold).
    pub(crate) fn made(&self) -> u32 {
        self.entries.made()
    }

    /// Whether no heap is held, and each entry is a heap's or free, while no other thread uses them: those that there are.
    #[allow(dead_code, reason = "for tests")]
    pub(crate) fn check(&self) -> Option<usize> {
        let words = || self.entries.iter().map(|entry| entry.word.load(Ordering::Relaxed));
        let heaps = words().filter(|word| *word != 0).count();
        let sound = words().all(|word| word & (LEFT | HOLDERS) == 0);
        let free = self.entries.free_nodes()?;
        (sound && heaps + free == self.made() as usize).then_some(heaps)
    }
}
