//! IDs: unique, rising from allocation to allocation of a thread, and each found as long as it is live.
//!
//! A thread takes IDs a block at a time, so that to give one out takes no atomic read-modify-write: the block has a slot for
//! each of its IDs, in which the number of the record stands while the allocation is live. A block is found by its number,
//! in an index; one whose IDs have all been given out and have ended is used again for others.
//!
//! | state of a block | owner |
//! |---|---|
//! | free | the slab, or whoever takes a block |
//! | open | the thread whose lot it is: it alone fills slots |
//! | done | nobody: who ends an allocation clears its slot; who finds all slots clear takes the block by one exchange |
//!
//! IDs of two threads say nothing of who was first, but for [`mark`](Ids::mark): what is allocated after it has a higher ID
//! than all before.
//!
//! Invariant: the slots that are not clear, of all blocks, are as many as there are live allocations.

use super::Index;
use crate::config::ID_BLOCK;
use crate::slab::{Node, Slab};
use crate::sync::{AtomicU32, AtomicU64, Fault, Ordering, planted};
use crate::tagged::{self, NONE};
use crate::thread_cache::Lot;

const IDS: u64 = ID_BLOCK as u64;
/// Blocks that are looked at before a further one is made.
const LOOKS: u32 = 2;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Ids {
    blocks: Slab<Block>,
    by_number: Index,
    /// The last ID of the last block.
    last: AtomicU64,
    /// IDs up to this one are given out no more.
    floor: AtomicU64,
    /// Where the search for a block that can be used again goes on.
    hand: AtomicU32,
}

/// The IDs from `number * IDS - IDS + 1` to `number * IDS`.
#[derive(Debug)]
struct Block {
    /// Zero: free.
    number: AtomicU64,
    done: AtomicU32,
    index: AtomicU32,
    link: AtomicU32,
    slots: [AtomicU32; ID_BLOCK],
}

// SAFETY: zeros are a free block; the link is one word.
unsafe impl Node for Block {
    fn stride(_: usize) -> usize {
        size_of::<Self>()
    }

    fn link(&self) -> &AtomicU32 {
        &self.link
    }

    unsafe fn make(at: *mut Self, _: usize) {
        let block = Self {
            number: AtomicU64::new(0),
            done: AtomicU32::new(0),
            index: AtomicU32::new(NONE),
            link: AtomicU32::new(NONE),
            slots: array_of![AtomicU32::new(NONE); ID_BLOCK],
        };
        // SAFETY: the caller gives the place.
        unsafe { at.write(block) };
    }

    fn name(&self, index: tagged::Index) {
        self.index.store(index, Ordering::Relaxed);
    }
}

impl Block {
    fn slot(&self, id: u64) -> &AtomicU32 {
        &self.slots[((id - 1) % IDS) as usize]
    }

    fn index(&self) -> tagged::Index {
        self.index.load(Ordering::Relaxed)
    }

    /// No slot will be filled any more.
    fn close(&self) {
        // ORDERING: Release pairs with the Acquire in `used_up`: whoever sees it sees each slot as filled, or cleared later,
        // and the block's entry in the index.
        self.done.store(1, Ordering::Release);
    }

    /// The number of a block none of whose IDs is live, or will be.
    fn used_up(&self) -> Option<u64> {
        // ORDERING: Acquire pairs with the Release in `open`: what the block was before is over.
        let number = self.number.load(Ordering::Acquire);
        // ORDERING: Acquire pairs with `close`.
        (number != 0
            && self.done.load(Ordering::Acquire) != 0
            // Relaxed: who sees a slot cleared stores to it later, and so behind whoever has cleared it.
            && self.slots.iter().all(|slot| slot.load(Ordering::Relaxed) == NONE))
        .then_some(number)
    }
}

impl Ids {
    const_fn! {
        pub(crate) const fn new() -> Self {
            Self {
                blocks: Slab::new(),
                by_number: Index::new(),
                last: AtomicU64::new(0),
                floor: AtomicU64::new(0),
                hand: AtomicU32::new(0),
            }
        }
    }

    /// The next ID for the owner of a lot, to be found under a record's number; and its block, for [`end`](Self::end).
    /// `None`: there is no memory for it. O(1).
    #[inline]
    pub(crate) fn issue(&self, lot: &Lot, record: tagged::Index) -> Option<(u64, tagged::Index)> {
        let (mut id, mut block) = lot.peek();
        // Relaxed: what is allocated after a mark has heard of it, on whatever way, and so sees it.
        if block == NONE || id <= self.floor.load(Ordering::Relaxed) {
            (id, block) = self.open(lot)?;
        }
        let node = self.blocks.get(block);
        let is_last = id % IDS == 0;
        // ORDERING: Release pairs with the Acquire in `find`, of a reader who has guessed the ID: the record's node is there.
        let publish = if planted(Fault::IssueRelaxed) { Ordering::Relaxed } else { Ordering::Release };
        let early = is_last && planted(Fault::BlockEarly);
        let _closed = early.then(|| node.close());
        node.slot(id).store(record, publish);
        lot.pass(id);
        if is_last {
            lot.close();
            node.close();
        }
        Some((id, block))
    }

    /// Begins a further block.
    #[cold]
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    fn open(&self, lot: &Lot) -> Option<(u64, tagged::Index)> {
        let block = self.use_again(LOOKS).or_else(|| self.blocks.take()).or_else(|| self.use_again(u32::MAX))?;
        let first = self.last.fetch_add(IDS, Ordering::Relaxed) + 1;
        let number = first / IDS + 1;
        // ORDERING: Release pairs with the Acquire in `used_up`.
        block.number.store(number, Ordering::Release);
        if !self.by_number.insert(number, block.index()) {
            if !planted(Fault::OpenLate) {
                block.number.store(0, Ordering::Relaxed);
            }
            self.blocks.give(block.index());
            if planted(Fault::OpenLate) {
                block.number.store(0, Ordering::Relaxed);
            }
            return None;
        }
        self.leave(lot);
        lot.open(first, block.index());
        Some((first, block.index()))
    }

    /// Leaves a lot's block: no more IDs of it will be given out.
    pub(crate) fn leave(&self, lot: &Lot) {
        let (_, old) = lot.peek();
        if old != NONE {
            lot.close();
            self.blocks.get(old).close();
        }
    }

    /// A block that was used up, if one is found among `looks`, as if it were fresh.
    #[unsafe(link_section = ".millpond_cold")]
    fn use_again(&self, looks: u32) -> Option<&Block> {
        let made = self.blocks.made();
        for _ in 0..looks.min(made) {
            let mut at = self.hand.fetch_add(1, Ordering::Relaxed);
            if at >= made {
                // From the first again, rather than by a remainder: `made` may rise in step with the hand.
                self.hand.store(1, Ordering::Relaxed);
                at = 0;
            }
            let block = self.blocks.get(at + 1);
            let Some(number) = block.used_up() else { continue };
            if planted(Fault::BlockStore) {
                block.number.store(0, Ordering::Relaxed);
            // Relaxed: `used_up` has acquired what there is, and the block is published again by `open`.
            } else if block.number.compare_exchange(number, 0, Ordering::Relaxed, Ordering::Relaxed).is_err() {
                continue;
            }
            self.by_number.remove(number, block.index());
            block.done.store(0, Ordering::Relaxed);
            return Some(block);
        }
        None
    }

    /// Forgets the ID of an allocation that the caller has ended.
    #[inline]
    pub(crate) fn end(&self, id: u64, block: tagged::Index) {
        // Relaxed: see `used_up`.
        self.blocks.get(block).slot(id).store(NONE, Ordering::Relaxed);
    }

    /// The record's number under an ID that may be live. O(1).
    pub(crate) fn find(&self, id: u64) -> Option<tagged::Index> {
        let number = id.checked_sub(1)? / IDS + 1;
        let is = |block| self.blocks.get(block).number.load(Ordering::Relaxed) == number;
        let block = self.by_number.find(number, is)?;
        // ORDERING: Acquire pairs with the Release in `issue`.
        Some(self.blocks.get(block).slot(id).load(Ordering::Acquire)).filter(|record| *record != NONE)
    }

    /// The last ID that may have been given out; all that are given out later, and after, are higher.
    pub(crate) fn mark(&self) -> u64 {
        let last = self.last.load(Ordering::Relaxed);
        let mut floor = self.floor.load(Ordering::Relaxed);
        while floor < last {
            if planted(Fault::MarkStore) {
                self.floor.store(last, Ordering::Relaxed);
                break;
            }
            // Relaxed: see `issue`.
            match self.floor.compare_exchange_weak(floor, last, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => floor = now,
            }
        }
        last
    }

    pub(crate) fn bytes(&self) -> usize {
        self.blocks.bytes() + self.by_number.bytes()
    }

    /// # Safety
    /// Not used any more.
    pub(crate) unsafe fn dispose(&self) {
        // SAFETY: the caller's word.
        unsafe {
            self.blocks.dispose();
            self.by_number.dispose();
        }
    }
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_within_a_thread_and_above_a_mark_and_are_found_while_they_live() {
        let ids = Ids::new();
        let lots = [Lot::new(), Lot::new()];
        let mut last = [0; 2];
        let mut seen = std::collections::BTreeSet::new();
        for turn in 0..1000u32 {
            let mark = if turn % 10 == 0 { ids.mark() } else { 0 };
            for (lot, last) in lots.iter().zip(&mut last) {
                let (id, block) = ids.issue(lot, turn + 1).expect("memory");
                assert!(id > *last && id > mark && seen.insert(id), "{id} after {last}, {mark}");
                *last = id;
                assert_eq!(ids.find(id), Some(turn + 1));
                ids.end(id, block);
                assert_eq!(ids.find(id), None);
            }
        }
        assert!([0, 1, ids.mark() + 1, u64::MAX].iter().all(|id| ids.find(*id).is_none()));
        // SAFETY: used no more.
        unsafe { ids.dispose() };
    }

    #[test]
    fn blocks_are_used_again() {
        let ids = Ids::new();
        let lot = Lot::new();
        // One in a thousand stays.
        let turn = |at: u64| {
            let (id, block) = ids.issue(&lot, 1).expect("memory");
            // And the first few hundred.
            if at % 1000 != 0 && at > 300 {
                ids.end(id, block);
            }
        };
        (0..100_000).for_each(turn);
        assert!(ids.blocks.made() < 400, "{}", ids.blocks.made());
        // SAFETY: used no more.
        unsafe { ids.dispose() };
    }

    #[test]
    fn without_memory_the_last_block_that_is_used_up_is_found() {
        let system = crate::os::fake::System::fresh();
        let ids = Ids::new();
        let lot = Lot::new();
        let issue = || ids.issue(&lot, 1);
        let all: std::vec::Vec<_> = (0..40 * IDS).map(|_| issue().expect("memory")).collect();
        let failing = system.failing(0, u64::MAX);
        // What is made already, and each of their IDs live.
        while issue().is_some() {}
        // One that the next few looks do not come to.
        let hand = ids.hand.load(Ordering::Relaxed) as usize % 40;
        let far = (hand + 20) % 40;
        let block = &all[far * ID_BLOCK..][..ID_BLOCK];
        block.iter().for_each(|(id, block)| ids.end(*id, *block));
        assert!(issue().is_some(), "at once: further tries would come to it");
        drop(failing);
        // SAFETY: used no more.
        unsafe { ids.dispose() };
    }
}
