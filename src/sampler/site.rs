//! Sites: the stacks from which sampled allocations came, and what came from each.
//!
//! | state | owner |
//! |---|---|
//! | without frames | the slab, or the thread that is writing it |
//! | with frames | everybody, for good: frames never change, totals only rise |
//!
//! Invariant, at rest: of each pair of totals, what was freed is at most what was allocated.

use super::exponential::{STEP, WEIGHT_BITS, mix};
use crate::config::FRAMES;
use crate::slab::Node;
use crate::sync::{AtomicU32, Counter, Fault, Ordering, Slot, planted};
use crate::tagged::{Index, NONE};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Site {
    link: AtomicU32,
    index: AtomicU32,
    /// How many frames; zero until they are written.
    len: AtomicU32,
    frames: [Slot; FRAMES],
    allocated: Count,
    freed: Count,
    /// What both were when the run began.
    allocated_before: Count,
    freed_before: Count,
}

/// Objects, with `WEIGHT_BITS` behind the point, and bytes.
#[derive(Debug)]
struct Count {
    objects: Counter,
    bytes: Counter,
}

/// Estimates for all allocations from one site since the run began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) live_objects: u64,
    pub(crate) live_bytes: u64,
    pub(crate) allocated_objects: u64,
    pub(crate) allocated_bytes: u64,
}

/// What one sampled allocation stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Weight {
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
}

impl Count {
    const fn new() -> Self {
        Self { objects: Counter::new(), bytes: Counter::new() }
    }

    fn add(&self, weight: Weight) {
        self.objects.add_shared(weight.objects);
        self.bytes.add_shared(weight.bytes);
    }

    fn get(&self) -> Weight {
        Weight { objects: self.objects.get(), bytes: self.bytes.get() }
    }

    fn set(&self, weight: Weight) {
        self.objects.set(weight.objects);
        self.bytes.set(weight.bytes);
    }
}

impl Weight {
    fn less(self, other: Self) -> Self {
        Self { objects: self.objects.saturating_sub(other.objects), bytes: self.bytes.saturating_sub(other.bytes) }
    }

    /// To the nearest whole.
    fn objects(self) -> u64 {
        (self.objects + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS
    }
}

// SAFETY: zeros are a site without frames; the link is one word.
unsafe impl Node for Site {
    fn stride(_: usize) -> usize {
        size_of::<Self>()
    }

    fn link(&self) -> &AtomicU32 {
        &self.link
    }

    unsafe fn make(at: *mut Self, _: usize) {
        let site = Self {
            link: AtomicU32::new(NONE),
            index: AtomicU32::new(NONE),
            len: AtomicU32::new(0),
            frames: core::array::from_fn(|_| Slot::new(0)),
            allocated: Count::new(),
            freed: Count::new(),
            allocated_before: Count::new(),
            freed_before: Count::new(),
        };
        // SAFETY: the caller gives the place.
        unsafe { at.write(site) };
    }

    fn name(&self, index: Index) {
        self.index.store(index, Ordering::Relaxed);
    }
}

impl Site {
    pub(crate) fn index(&self) -> Index {
        self.index.load(Ordering::Relaxed)
    }

    /// Writes the frames, at least one. The caller has the site alone.
    pub(super) fn write(&self, stack: &[usize]) {
        self.frames.iter().zip(stack).for_each(|(frame, address)| frame.set(*address));
        // ORDERING: Release publishes the frames; pairs with `frames`.
        let publish = if planted(Fault::SiteRelaxed) { Ordering::Relaxed } else { Ordering::Release };
        self.len.store(stack.len() as u32, publish);
    }

    /// Makes it nobody's again. The caller has it alone, but for walks, to which it is one that nothing came from.
    pub(super) fn clear(&self) {
        self.len.store(0, Ordering::Relaxed);
    }

    /// The frames, innermost first: none if there are none yet.
    pub(crate) fn frames(&self) -> &[Slot] {
        // ORDERING: Acquire pairs with `write`.
        let len = self.len.load(Ordering::Acquire);
        &self.frames[..(len as usize).min(FRAMES)]
    }

    /// Whether it is that of this stack.
    pub(super) fn is(&self, stack: &[usize]) -> bool {
        let frames = self.frames();
        frames.len() == stack.len() && frames.iter().zip(stack).all(|(frame, address)| frame.get() == *address)
    }

    /// What a sample of `size` bytes stands for, that of so many objects. Bytes are whole: what is behind the point is drawn for, since a
    /// small size at a small distance would lose up to a third if all were rounded down. What the site has counted is the draw, so that
    /// a seed has the same each time.
    pub(super) fn weigh(&self, size: u64, objects: u64) -> Weight {
        let counted = self.allocated.get().less(self.allocated_before.get()).objects;
        let random = mix(counted.wrapping_add((u64::from(self.index()) + 1).wrapping_mul(STEP)));
        let draw = random >> (u64::BITS - WEIGHT_BITS);
        let bytes = (size as u128 * objects as u128 + draw as u128) >> WEIGHT_BITS;
        Weight { objects, bytes: bytes as u64 }
    }

    pub(super) fn allocate(&self, weight: Weight) {
        self.allocated.add(weight);
    }

    pub(super) fn free(&self, weight: Weight) {
        self.freed.add(weight);
    }

    /// Has the totals begin anew.
    pub(super) fn restart(&self) {
        // In this order: what is freed meanwhile is then not more than was allocated.
        self.allocated_before.set(self.allocated.get());
        self.freed_before.set(self.freed.get());
    }

    /// What is live of the run.
    pub(super) fn live(&self) -> Weight {
        // Freed first: what is allocated and freed in between is live then, and not less than nothing.
        let freed = self.freed.get().less(self.freed_before.get());
        self.allocated.get().less(self.allocated_before.get()).less(freed)
    }

    pub(crate) fn totals(&self) -> Totals {
        let live = self.live();
        let allocated = self.allocated.get().less(self.allocated_before.get());
        Totals {
            live_objects: live.objects(),
            live_bytes: live.bytes,
            allocated_objects: allocated.objects(),
            allocated_bytes: allocated.bytes,
        }
    }
}
