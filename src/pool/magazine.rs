//! Magazines: fixed arrays of the addresses of free chunks of one class (Bonwick and Adams, *Magazines and Vmem*,
//! USENIX 2001).
//!
//! They live in metadata memory, never in the chunks, so freeing touches no user memory, and a magazine moves between
//! threads by one exchange of its index.
//!
//! | state | owner |
//! |---|---|
//! | loaded | the thread cache whose bin points into it; `count` is stale, the bin's `top` tells |
//! | spare | the thread cache in whose chain it is; anyone may take the whole chain |
//! | full | the shard in whose stack it is |
//! | empty | the slab, or a thread's few |
//! | in hand | the thread that took it from one of these and has not put it into another yet |
//!
//! Invariant: while not loaded, `slots[..count]` are distinct free chunks of one class that are in no other place.

use crate::config::{MAGAZINE_SLOTS, MAGAZINES_AT_ONCE, SHARDS};
use crate::slab::{Node, Slab};
use crate::sync::{AtomicU32, Ordering, Slot};
use crate::tagged::{Index, NONE};
use core::mem::offset_of;
use core::ptr;

/// See the module's documentation.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Magazine {
    link: AtomicU32,
    index: AtomicU32,
    /// Full: how many lie in the pool's stack from this one down.
    height: AtomicU32,
    /// Right before the slots: the fast path may read, never use, the word below the first of them.
    count: Slot,
    slots: [Slot; MAGAZINE_SLOTS],
}

/// Where magazines live. Those that are empty lie near to the processors that emptied them, as full ones do.
pub(crate) type Magazines = Slab<Magazine, SHARDS>;

// SAFETY: zeros are an empty magazine; the link is one word.
unsafe impl Node for Magazine {
    const AT_ONCE: u32 = MAGAZINES_AT_ONCE;

    fn stride(_: usize) -> usize {
        size_of::<Self>()
    }

    fn link(&self) -> &AtomicU32 {
        &self.link
    }

    unsafe fn make(at: *mut Self, _: usize) {
        let magazine = Self {
            link: AtomicU32::new(NONE),
            index: AtomicU32::new(NONE),
            height: AtomicU32::new(0),
            count: Slot::new(0),
            slots: array_of![Slot::new(0); MAGAZINE_SLOTS],
        };
        // SAFETY: the caller gives the place.
        unsafe { at.write(magazine) };
    }

    fn name(&self, index: Index) {
        self.index.store(index, Ordering::Relaxed);
    }
}

impl Magazine {
    pub(crate) fn index(&self) -> Index {
        self.index.load(Ordering::Relaxed)
    }

    /// How high it lies in a pool's stack: known to whoever has found it on top of one, and has it there still at an exchange.
    pub(crate) fn height(&self) -> u32 {
        // Relaxed, as the next: the stack's head orders it.
        self.height.load(Ordering::Relaxed)
    }

    pub(crate) fn set_height(&self, height: u32) {
        self.height.store(height, Ordering::Relaxed);
    }

    /// Chunks in it, while it is not loaded.
    pub(crate) fn count(&self) -> usize {
        self.count.get()
    }

    /// The same for anybody, at any time: a moment's picture.
    pub(crate) fn peek_count(&self) -> usize {
        self.count.peek()
    }

    pub(crate) fn set_count(&self, count: usize) {
        self.count.set(count);
    }

    /// The slots, of which the first `count` are in use.
    pub(crate) fn slots(&self) -> &[Slot; MAGAZINE_SLOTS] {
        &self.slots
    }

    /// Calls `visit` with what the first `count` slots may hold: a moment's picture.
    pub(crate) fn peek(&self, count: usize, visit: &mut dyn FnMut(usize)) {
        self.slots[..count.min(MAGAZINE_SLOTS)].iter().map(Slot::peek).for_each(visit);
    }

    /// The first slot. All of the magazine may be reached from there: the fast path reads the count below it.
    pub(crate) fn base(&self) -> *mut Slot {
        ptr::from_ref(self).wrapping_byte_add(offset_of!(Self, slots)).cast::<Slot>().cast_mut()
    }

    /// Has the processor fetch the lines that the next allocations read.
    pub(crate) fn prefetch(&self) {
        let end = (&raw const self.slots).addr() + self.count() * size_of::<Slot>();
        for line in 0..4usize {
            crate::os::prefetch_read(end.saturating_sub(line * 64 + 8));
        }
    }
}
