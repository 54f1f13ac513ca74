//! Records: what is known of one allocation, outside of it.
//!
//! | state | owner |
//! |---|---|
//! | none | the slab, or the thread that is writing it |
//! | live | the program: who frees it moves it on, by one exchange |
//! | freed | the tracker's queue of recent frees, until it is reused |
//!
//! State and ID are one word, written last and read first and last again: a reader that finds the same word twice has read
//! one allocation's record (a sequence lock, without a writer that anybody waits for).

use crate::slab::Node;
use crate::sync::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Fault, Ordering, planted};
use crate::tagged::{Index, NONE};
use core::ptr::null_mut;

const LIVE: u64 = 1;
const FREED: u64 = 2;
const STATE: u64 = 3;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Record {
    /// ID and state.
    word: AtomicU64,
    address: AtomicUsize,
    size: AtomicUsize,
    /// log2 of the alignment asked for.
    align: AtomicU32,
    thread: AtomicU32,
    born_ms: AtomicU64,
    freed_ms: AtomicU64,
    freed_by: AtomicU32,
    index: AtomicU32,
    link: AtomicU32,
    tag_len: AtomicU32,
    tag: AtomicPtr<u8>,
}

/// What is known of an allocation when it begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Birth {
    pub(crate) size: usize,
    pub(crate) align: usize,
    pub(crate) thread: u32,
    /// What the clock says, in milliseconds.
    pub(crate) now: u64,
    pub(crate) tag: &'static str,
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

// SAFETY: zeros are a record in state none; the link is one word.
unsafe impl Node for Record {
    fn stride(_: usize) -> usize {
        size_of::<Self>()
    }

    fn link(&self) -> &AtomicU32 {
        &self.link
    }

    unsafe fn make(at: *mut Self, _: usize) {
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
        };
        // SAFETY: the caller gives the place.
        unsafe { at.write(record) };
    }

    fn name(&self, index: Index) {
        self.index.store(index, Ordering::Relaxed);
    }
}

impl Record {
    pub(crate) fn index(&self) -> Index {
        self.index.load(Ordering::Relaxed)
    }

    /// Where the allocation is, or was; zero if that is forgotten.
    pub(crate) fn address(&self) -> usize {
        // ORDERING: Acquire, as in `read`.
        self.address.load(Ordering::Acquire)
    }

    /// Writes what is known at an allocation. The caller has the record alone.
    pub(crate) fn begin(&self, id: u64, address: usize, birth: Birth) {
        let Birth { size, align, thread, now, tag } = birth;
        // ORDERING: Release on each: who reads one of them sees that the word is no longer what it was.
        let each = if planted(Fault::RecordRelaxed) { Ordering::Relaxed } else { Ordering::Release };
        self.address.store(address, each);
        self.size.store(size, each);
        self.align.store(align.trailing_zeros(), each);
        self.thread.store(thread, each);
        self.born_ms.store(now, each);
        self.tag.store(tag.as_ptr().cast_mut(), each);
        self.tag_len.store(tag.len() as u32, each);
        // ORDERING: Release publishes all of it.
        self.word.store(id << 2 | LIVE, Ordering::Release);
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

    /// Forgets the address of a freed allocation, since another one begins there; if the record is not another's by now.
    pub(crate) fn forget(&self, address: usize) {
        // ORDERING: Release, as in `begin`.
        if planted(Fault::ForgetBlindly) {
            return self.address.store(0, Ordering::Release);
        }
        let _ = self.address.compare_exchange(address, 0, Ordering::Release, Ordering::Relaxed);
    }

    /// Makes the record nobody's. The caller has it alone.
    pub(crate) fn clear(&self) {
        // Relaxed: the fields' own stores order it.
        self.word.store(0, Ordering::Relaxed);
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
