//! Bins: what of a thread cache the fast path touches.
//!
//! See [`thread_cache`](super) for the states of a bin.

use crate::os;
use crate::sync::{AtomicPtr, AtomicU32, AtomicU64, Counter, Fault, Ordering, Slot, planted};
use crate::tagged::{Index, NONE};
use core::ptr::{NonNull, null_mut, with_exposed_provenance_mut};

/// One class's part of a cache: a cache line.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Bin {
    pub(super) top: AtomicPtr<Slot>,
    pub(super) bottom: AtomicPtr<Slot>,
    pub(super) limit: AtomicPtr<Slot>,
    pub(super) spares: AtomicU64,
    /// The magazine that `top` points into.
    pub(super) loaded: AtomicU32,
    /// How many chunks the next carve takes; zero until the owner has allocated some, or freed a magazine.
    pub(super) portion: AtomicU32,
    /// Chunks that this bin has handed out, for all of its owners so far; how often it had none, and how often no room.
    pub(crate) served: Counter,
    pub(crate) refills: Counter,
    pub(crate) drains: Counter,
}

/// The chain of spare magazines: its first, how many, and the tick when the owner last used it, in one word.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    pub(super) first: Index,
    pub(super) len: u32,
    pub(super) stamp: u16,
}

impl Chain {
    pub(super) const NONE: u64 = 0;

    pub(super) fn from_bits(bits: u64) -> Self {
        Self { first: bits as u32, len: (bits >> 32) as u16 as u32, stamp: (bits >> 48) as u16 }
    }

    pub(super) fn bits(self) -> u64 {
        self.first as u64 | (self.len as u64) << 32 | (self.stamp as u64) << 48
    }
}

impl Bin {
    const_fn! {
        pub(super) const fn new() -> Self {
            Self {
                top: AtomicPtr::new(null_mut()),
                bottom: AtomicPtr::new(null_mut()),
                limit: AtomicPtr::new(null_mut()),
                spares: AtomicU64::new(Chain::NONE),
                loaded: AtomicU32::new(NONE),
                portion: AtomicU32::new(0),
                served: Counter::new(),
                refills: Counter::new(),
                drains: Counter::new(),
            }
        }
    }

    /// Whether the magazine is named, if there are bounds in one: by that name whoever adopts the bin finds it. Asked by another
    /// thread, as a child of a fork would, while the owner loads or unloads.
    pub(crate) fn is_named(&self) -> bool {
        // ORDERING: Acquire pairs with `unload`, in which who sees the magazine let go sees no bounds, and with `bound`, in which
        // who sees bounds sees the name.
        let each = if planted(Fault::NameRelaxed) { Ordering::Relaxed } else { Ordering::Acquire };
        let named = self.loaded.load(each) != NONE;
        let is_empty = self.top.load(each).is_null();
        named || is_empty || self.loaded.load(Ordering::Relaxed) != NONE
    }

    /// Takes a chunk. O(1); `None` if the bin misses. Only the owner may.
    #[inline(always)]
    pub(crate) fn pop(&self) -> Option<NonNull<u8>> {
        let top = self.top.load(Ordering::Relaxed);
        if top <= self.bottom.load(Ordering::Relaxed) {
            return None;
        }
        let slot = top.wrapping_sub(1);
        // SAFETY: `bottom < top`, so the slot lies in the loaded magazine, which is this thread's.
        let chunk = unsafe { (*slot).get() };
        self.top.store(slot, Ordering::Relaxed);
        self.served.add(1);
        // SAFETY: the word below any slot is a slot or the magazine's count: ours to read, and only fetched ahead.
        os::prefetch_write(unsafe { (*slot.wrapping_sub(1)).get() });
        // SAFETY: no chunk is at address zero.
        Some(unsafe { NonNull::new_unchecked(with_exposed_provenance_mut(chunk)) })
    }

    /// The address that [`pop`](Self::pop) takes after `others` more, if the magazine has so many. Only the owner may ask.
    #[inline]
    pub(crate) fn peek(&self, others: usize) -> Option<usize> {
        let (top, bottom) = (self.top.load(Ordering::Relaxed), self.bottom.load(Ordering::Relaxed));
        let left = top.addr().wrapping_sub(bottom.addr()) / size_of::<Slot>();
        // An armed bin has its bottom above its top.
        // SAFETY: so the slot lies in the loaded magazine, which is this thread's.
        (top > bottom && left > others).then(|| unsafe { (*top.wrapping_sub(1 + others)).get() })
    }

    /// Puts a chunk. O(1); false if the bin misses. Only the owner may.
    #[inline(always)]
    pub(crate) fn push(&self, chunk: NonNull<u8>) -> bool {
        let top = self.top.load(Ordering::Relaxed);
        if top == self.limit.load(Ordering::Relaxed) {
            return false;
        }
        // SAFETY: `top < limit`, so the slot lies in the loaded magazine, which is this thread's.
        unsafe { (*top).set(chunk.as_ptr().expose_provenance()) };
        // ORDERING: Release: the slot is written before `top` covers it, for whoever reads the bin of another thread.
        self.top.store(top.wrapping_add(1), Ordering::Release);
        true
    }
}
