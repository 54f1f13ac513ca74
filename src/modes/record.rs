//! Records: what is known of one allocation, outside of it.
//!
//! | state | owner |
//! |---|---|
//! | none | the slab, or the thread that is writing it |
//! | live | the program: who frees it moves it on, by one exchange |
//! | freed | whoever has the chunk: the queue of recent frees, the allocator, and then the next allocation there |
//!
//! State and ID are one word, written last and read first and last again: a reader that finds the same word twice has read
//! one allocation's record (a sequence lock, without a writer that anybody waits for). A record stays with the place at
//! which its allocations begin; behind it are the addresses of those who called for it, where that is asked for.

use crate::slab::Node;
use crate::sync::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Fault, Ordering, planted};
use crate::tagged::{Index, NONE};
use core::ptr::null_mut;

const LIVE: u64 = 1;
const FREED: u64 = 2;
const STATE: u64 = 3;

/// See the module's documentation. What a free looks at comes first, in as few cache lines as may be.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Record {
    /// ID and state.
    word: AtomicU64,
    address: AtomicUsize,
    size: AtomicUsize,
    /// log2 of the alignment asked for.
    align: AtomicU32,
    index: AtomicU32,
    /// The block of the ID.
    block: AtomicU32,
    freed_by: AtomicU32,
    freed_ms: AtomicU64,
    born_ms: AtomicU64,
    tag: AtomicPtr<u8>,
    tag_len: AtomicU32,
    thread: AtomicU32,
    link: AtomicU32,
    /// How many callers there are behind the record.
    depth: AtomicU32,
}

/// What is known of an allocation when it begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Birth<'a> {
    pub(crate) size: usize,
    pub(crate) align: usize,
    pub(crate) thread: u32,
    /// What the clock says, in milliseconds.
    pub(crate) now: u64,
    pub(crate) tag: &'static str,
    /// The addresses to which those return who called for it, innermost first.
    pub(crate) callers: &'a [usize],
}

/// What was read of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) index: Index,
    pub(crate) id: u64,
    pub(crate) is_live: bool,
    pub(crate) address: usize,
    pub(crate) size: usize,
    pub(crate) align: usize,
    pub(crate) thread: u32,
    pub(crate) born_ms: u64,
    pub(crate) freed_by: u32,
    pub(crate) freed_ms: u64,
    pub(crate) tag: &'static str,
}

/// What is needed of a record by whoever has freed its allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) id: u64,
    pub(crate) address: usize,
    pub(crate) size: usize,
}

// SAFETY: zeros are a record in state none; the link is one word.
unsafe impl Node for Record {
    fn stride(words: usize) -> usize {
        size_of::<Self>() + words * size_of::<AtomicUsize>()
    }

    fn link(&self) -> &AtomicU32 {
        &self.link
    }

    unsafe fn make(at: *mut Self, words: usize) {
        let record = Self {
            word: AtomicU64::new(0),
            address: AtomicUsize::new(0),
            size: AtomicUsize::new(0),
            align: AtomicU32::new(0),
            thread: AtomicU32::new(0),
            born_ms: AtomicU64::new(0),
            freed_ms: AtomicU64::new(0),
            freed_by: AtomicU32::new(0),
            index: AtomicU32::new(NONE),
            link: AtomicU32::new(NONE),
            tag_len: AtomicU32::new(0),
            tag: AtomicPtr::new(null_mut()),
            block: AtomicU32::new(NONE),
            depth: AtomicU32::new(0),
        };
        // SAFETY: the caller gives the place, with this many words behind the record.
        unsafe {
            at.write(record);
            (0..words).for_each(|word| at.add(1).cast::<AtomicUsize>().add(word).write(AtomicUsize::new(0)));
        }
    }

    fn name(&self, index: Index) {
        self.index.store(index, Ordering::Relaxed);
    }
}

impl Record {
    pub(crate) fn index(&self) -> Index {
        self.index.load(Ordering::Relaxed)
    }

    /// The ID that the record has, and its block, if it is live: that of an allocation that has vanished, if its place is in
    /// the caller's hand.
    pub(crate) fn left_over(&self) -> Option<(u64, Index)> {
        let word = self.word.load(Ordering::Relaxed);
        (word & STATE == LIVE).then(|| (word >> 2, self.block.load(Ordering::Relaxed)))
    }

    /// What is needed for a free of a live allocation at this address: its ID, size, alignment and block, if it is one.
    #[inline]
    pub(crate) fn live_at(&self, address: usize) -> Option<(Ended, usize, Index)> {
        // ORDERING: Acquire, as in `read`; should they be of two allocations, the exchange in `end` fails.
        let each = Ordering::Acquire;
        let word = self.word.load(each);
        if word & STATE != LIVE || self.address.load(each) != address {
            return None;
        }
        let ended = Ended { id: word >> 2, address, size: self.size.load(each) };
        Some((ended, 1 << (self.align.load(each) & (usize::BITS - 1)), self.block.load(each)))
    }

    /// Writes what is known at an allocation. The caller has the record alone: its place is that of a chunk in its hand.
    pub(crate) fn begin(&self, id: u64, block: Index, address: usize, birth: Birth<'_>) {
        let Birth { size, align, thread, now, tag, callers } = birth;
        // Relaxed: the fields' own stores order it.
        self.word.store(0, Ordering::Relaxed);
        // ORDERING: Release on each: who reads one of them sees that the word is no longer what it was.
        let each = if planted(Fault::RecordRelaxed) { Ordering::Relaxed } else { Ordering::Release };
        self.address.store(address, each);
        self.size.store(size, each);
        self.align.store(align.trailing_zeros(), each);
        self.thread.store(thread, each);
        self.born_ms.store(now, each);
        self.tag.store(tag.as_ptr().cast_mut(), each);
        self.tag_len.store(tag.len() as u32, each);
        self.block.store(block, each);
        self.depth.store(callers.len() as u32, each);
        for (word, caller) in callers.iter().enumerate() {
            self.caller(word).store(*caller, each);
        }
        // ORDERING: Release publishes all of it.
        self.word.store(id << 2 | LIVE, Ordering::Release);
    }

    /// Makes a freed record of an allocation at this address nobody's.
    pub(crate) fn forget(&self, address: usize) {
        let word = self.word.load(Ordering::Relaxed);
        if word & STATE == FREED && self.address.load(Ordering::Relaxed) == address {
            // Relaxed: by exchange, should an allocation begin in the page meanwhile.
            let _ = self.word.compare_exchange(word, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// A word behind the record, of those that the slab was told of.
    fn caller(&self, word: usize) -> &AtomicUsize {
        // SAFETY: `depth` is at most the number of words behind each record of the slab.
        unsafe { &*(&raw const *self).add(1).cast::<AtomicUsize>().add(word) }
    }

    /// Those who called for the allocation with this ID, innermost first: how many were stored.
    pub(crate) fn callers(&self, id: u64, out: &mut [usize]) -> usize {
        // ORDERING: Acquire, as in `read`.
        let each = Ordering::Acquire;
        let word = self.word.load(each);
        let depth = (self.depth.load(each) as usize).min(out.len());
        for (at, out) in out[..depth].iter_mut().enumerate() {
            *out = self.caller(at).load(each);
        }
        let is_one = word >> 2 == id && self.word.load(Ordering::Relaxed) >> 2 == id;
        if is_one { depth } else { 0 }
    }

    /// Moves a live record with this ID on to freed. True for one caller only.
    pub(crate) fn end(&self, id: u64, thread: u32, now: u64) -> bool {
        if planted(Fault::EndStore) {
            let was = self.word.load(Ordering::Relaxed);
            self.word.store(id << 2 | FREED, Ordering::Relaxed);
            return was == id << 2 | LIVE;
        }
        // ORDERING: Acquire: the caller goes on with what the record says.
        if self.word.compare_exchange(id << 2 | LIVE, id << 2 | FREED, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return false;
        }
        // ORDERING: Release, as in `begin`.
        self.freed_by.store(thread, Ordering::Release);
        self.freed_ms.store(now, Ordering::Release);
        true
    }

    /// What the record says; `None` if it is none, or changes meanwhile.
    pub(crate) fn read(&self) -> Option<Seen> {
        // ORDERING: Acquire pairs with `begin`; on each field, with its own store: had it been written for another
        // allocation, the second look at the word would show it.
        let each = Ordering::Acquire;
        let word = self.word.load(each);
        let (tag, len) = (self.tag.load(each), self.tag_len.load(each));
        let seen = Seen {
            index: self.index(),
            id: word >> 2,
            is_live: word & STATE == LIVE,
            address: self.address.load(each),
            size: self.size.load(each),
            align: 1 << (self.align.load(each) & (usize::BITS - 1)),
            thread: self.thread.load(each),
            born_ms: self.born_ms.load(each),
            freed_by: self.freed_by.load(each),
            freed_ms: self.freed_ms.load(each),
            tag: "",
        };
        if word & STATE == 0 || self.word.load(Ordering::Relaxed) != word {
            return None;
        }
        let tag = if tag.is_null() {
            ""
        } else {
            // SAFETY: both are of one allocation, as the word has shown: a tag that was given as a whole, and stays.
            unsafe { core::str::from_utf8_unchecked(core::slice::from_raw_parts(tag, len as usize)) }
        };
        Some(Seen { tag, ..seen })
    }
}
