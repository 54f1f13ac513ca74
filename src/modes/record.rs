//! Records: what is known of one allocation, outside of it.
//!
//! | state | owner |
//! |---|---|
//! | none | the slab, or the thread that is writing it |
//! | live | the program: who frees it moves it on, by one exchange |
//! | resized | who resizes it where it is, or copies it, by one exchange: for all others it is live, with its old size or its new one |
//! | freed | whoever has the chunk: the queue of recent frees, the allocator, and then the next allocation there |
//!
//! State and ID are one word, written last and read first and last again: a reader that finds the same word twice has read
//! one allocation's record (a sequence lock, without a writer that anybody waits for). A resize keeps the ID and changes
//! words that are right each by itself, so that it leaves nothing to be read in halves, wherever it stops. A record stays
//! with the place at which its allocations begin, until there is no memory for others. It has one cache line to itself: what an
//! allocation and its free touch of it is one miss each. Behind it are the addresses of those who called for it and who freed it,
//! where that is asked for.

use crate::config::GRAIN;
use crate::slab::Node;
use crate::sync::{AtomicU32, AtomicU64, AtomicUsize, Fault, Ordering, planted};
use crate::tagged::{Index, NONE};
use core::ptr::{self, with_exposed_provenance};

/// The bit that all live states have.
const LIVE: u64 = 1;
const FREED: u64 = 2;
const RESIZED: u64 = 3;
const STATE: u64 = 3;

/// Where in a word with an address in it something else begins.
const HIGH: u32 = 48;
const LOW: u64 = (1 << HIGH) - 1;

/// See the module's documentation.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Record {
    /// ID and state.
    word: AtomicU64,
    /// The address, and above it log2 of the alignment asked for.
    place: AtomicU64,
    size: AtomicUsize,
    index: AtomicU32,
    /// The block of the ID; in a record that nobody has, what links it in the slab.
    block: AtomicU32,
    thread: AtomicU32,
    /// Who freed it; while it is resized, who does that.
    freed_by: AtomicU32,
    born_ms: AtomicU64,
    /// When it was freed; as long as it lives a number that each resize changes.
    freed_ms: AtomicU64,
    /// Where the tag is, and above it how long.
    tag: AtomicU64,
}

const _: () = assert!(size_of::<Record>() == 64 || !crate::config::ZERO_IS_NODE);

/// Words behind a record that keeps up to `most` callers of each kind: how many there are, and they; whole cache lines.
pub(crate) const fn words(most: usize) -> usize {
    if most == 0 { 0 } else { (1 + 2 * most).next_multiple_of(64 / size_of::<AtomicUsize>()) }
}

/// Whose callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    /// Who asked for the allocation.
    Birth,
    /// Who freed it.
    Free,
}

/// A tag in a word: of one that is longer than 64 KiB, what comes first.
fn pack_tag(tag: &'static str) -> u64 {
    let mut len = tag.len().min(u16::MAX as usize);
    while !tag.is_char_boundary(len) {
        len -= 1;
    }
    tag.as_ptr().expose_provenance() as u64 | (len as u64) << HIGH
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
    /// Live, and somebody has it in hand to change its size.
    pub(crate) is_resized: bool,
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

impl Ended {
    /// Whether an allocation aligned to `align` has the size and alignment that are said: the size may be rounded up to the
    /// alignment, beyond the grain.
    #[inline]
    pub(crate) fn has(&self, align: usize, (size, said): (usize, usize)) -> bool {
        let is_rounded = || align > GRAIN && Some(size) == self.size.checked_next_multiple_of(align);
        said == align && (size == self.size || is_rounded())
    }
}

// SAFETY: zeros are a record in state none; the link is one word, which is the block's only while the record is somebody's.
unsafe impl Node for Record {
    fn stride(words: usize) -> usize {
        size_of::<Self>() + words * size_of::<AtomicUsize>()
    }

    fn link(&self) -> &AtomicU32 {
        &self.block
    }

    unsafe fn make(at: *mut Self, words: usize) {
        let record = Self {
            word: AtomicU64::new(0),
            place: AtomicU64::new(0),
            size: AtomicUsize::new(0),
            index: AtomicU32::new(NONE),
            block: AtomicU32::new(NONE),
            thread: AtomicU32::new(0),
            freed_by: AtomicU32::new(0),
            born_ms: AtomicU64::new(0),
            freed_ms: AtomicU64::new(0),
            tag: AtomicU64::new(0),
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
        (word & LIVE != 0).then(|| (word >> 2, self.block.load(Ordering::Relaxed)))
    }

    fn address(&self, order: Ordering) -> (usize, u32) {
        let place = self.place.load(order);
        ((place & LOW) as usize, (place >> HIGH) as u32)
    }

    /// What is needed for a free of a live allocation at this address: its ID, size, alignment and block, if it is one.
    #[inline]
    pub(crate) fn live_at(&self, address: usize) -> Option<(Ended, usize, Index)> {
        // ORDERING: Acquire, as in `read`; should they be of two allocations, the exchange in `end` fails. Who frees by right
        // knows all of it by the hand-over; who frees a second time may come while the next allocation begins.
        let each = if planted(Fault::LiveRelaxed) { Ordering::Relaxed } else { Ordering::Acquire };
        let word = self.word.load(each);
        let (start, align) = self.address(each);
        if word & STATE != LIVE || start != address {
            return None;
        }
        let ended = Ended { id: word >> 2, address, size: self.size.load(each) };
        Some((ended, 1 << (align & (usize::BITS - 1)), self.block.load(each)))
    }

    /// Writes what is known at an allocation, of whose callers up to `most` are kept. The caller has the record alone: its
    /// place is that of a chunk in its hand.
    pub(crate) fn begin(&self, id: u64, block: Index, address: usize, birth: Birth<'_>, most: usize) {
        let Birth { size, align, thread, now, tag, callers } = birth;
        // Relaxed: the fields' own stores order it.
        self.word.store(0, Ordering::Relaxed);
        // ORDERING: Release on each: who reads one of them sees that the word is no longer what it was.
        let each = if planted(Fault::RecordRelaxed) { Ordering::Relaxed } else { Ordering::Release };
        self.place.store(address as u64 | (align.trailing_zeros() as u64) << HIGH, each);
        self.size.store(size, each);
        self.thread.store(thread, each);
        self.born_ms.store(now, each);
        self.tag.store(pack_tag(tag), each);
        self.block.store(block, each);
        if most > 0 {
            self.keep(Of::Birth, callers, most);
        }
        // ORDERING: Release publishes all of it.
        self.word.store(id << 2 | LIVE, Ordering::Release);
    }

    /// Keeps callers. The caller has the record, or the chunk that it is of, alone.
    pub(crate) fn keep(&self, of: Of, callers: &[usize], most: usize) {
        let callers = &callers[..callers.len().min(most)];
        let (first, counts) = match of {
            Of::Birth => (1, callers.len()),
            Of::Free => (1 + most, self.behind(0).load(Ordering::Relaxed) & 0xff | callers.len() << 8),
        };
        // ORDERING: Release, as in `begin`.
        let each = if planted(Fault::RecordRelaxed) { Ordering::Relaxed } else { Ordering::Release };
        callers.iter().enumerate().for_each(|(at, caller)| self.behind(first + at).store(*caller, each));
        self.behind(0).store(counts, each);
    }

    /// Makes a record that the caller has alone nobody's.
    pub(crate) fn clear(&self) {
        self.word.store(0, Ordering::Relaxed);
    }

    /// Makes a freed record of an allocation at this address nobody's.
    pub(crate) fn forget(&self, address: usize) {
        let word = self.word.load(Ordering::Relaxed);
        if word & STATE == FREED && self.address(Ordering::Relaxed).0 == address {
            if planted(Fault::ForgetStore) {
                return self.word.store(0, Ordering::Relaxed);
            }
            // Relaxed: by exchange, should an allocation begin in the page meanwhile.
            let _ = self.word.compare_exchange(word, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// A word behind the record, of those that the slab was told of.
    fn behind(&self, word: usize) -> &AtomicUsize {
        let behind = ptr::from_ref(self).addr() + size_of::<Self>();
        // SAFETY: the slab was told of `words(most)`, where `most` is always the same, and not zero for who calls; in a table of
        // the system's, whose provenance is exposed: `self` itself reaches no further than the record.
        unsafe { &*with_exposed_provenance::<AtomicUsize>(behind).add(word) }
    }

    /// Those who called for the allocation with this ID, or freed it, innermost first: how many were stored. `most`: how many
    /// the record may have.
    pub(crate) fn callers(&self, id: u64, of: Of, most: usize, out: &mut [usize]) -> usize {
        if most == 0 {
            return 0;
        }
        // ORDERING: Acquire, as in `read`.
        let each = Ordering::Acquire;
        let word = self.word.load(each);
        let counts = self.behind(0).load(each);
        let (first, count) = match of {
            Of::Birth => (1, counts & 0xff),
            Of::Free => (1 + most, counts >> 8),
        };
        let count = count.min(most).min(out.len());
        for (at, out) in out[..count].iter_mut().enumerate() {
            *out = self.behind(first + at).load(each);
        }
        let is_one = word >> 2 == id && self.word.load(Ordering::Relaxed) >> 2 == id;
        if is_one { count } else { 0 }
    }

    /// Moves a live record with this ID on to freed. True for one caller only.
    pub(crate) fn end(&self, id: u64, thread: u32, now: u64) -> bool {
        if planted(Fault::EndStore) {
            let was = self.word.load(Ordering::Relaxed);
            self.word.store(id << 2 | FREED, Ordering::Relaxed);
            return was == id << 2 | LIVE;
        }
        // ORDERING: Acquire pairs with `end_resize`: the size is the last one. All else was read with the ID, which no other
        // allocation ever has.
        let last = if planted(Fault::ResizeRelaxed) { Ordering::Relaxed } else { Ordering::Acquire };
        if self.word.compare_exchange(id << 2 | LIVE, id << 2 | FREED, last, Ordering::Relaxed).is_err() {
            return false;
        }
        // ORDERING: Release, as in `begin`.
        let each = if planted(Fault::RecordRelaxed) { Ordering::Relaxed } else { Ordering::Release };
        self.freed_by.store(thread, each);
        self.freed_ms.store(now, each);
        true
    }

    /// Takes a live record with this ID in hand to change its size. True for one caller only, and for none that frees it.
    pub(crate) fn begin_resize(&self, id: u64, thread: u32) -> bool {
        // ORDERING: Release on each, as in `begin`. The thread comes first, so that a child of a fork that finds the record
        // in this state can tell that nobody is left to end it.
        self.freed_by.store(thread, Ordering::Release);
        let (from, to) = (id << 2 | LIVE, id << 2 | RESIZED);
        if planted(Fault::ResizeStore) {
            let was = self.word.load(Ordering::Acquire);
            self.word.store(to, Ordering::Relaxed);
            return was == from;
        }
        // ORDERING: Acquire pairs with `end_resize`: the size is what the last resize has made of it. Release: who finds it
        // resized finds the thread.
        let both = if planted(Fault::HeldRelaxed) { Ordering::Acquire } else { Ordering::AcqRel };
        if self.word.compare_exchange(from, to, both, Ordering::Relaxed).is_err() {
            return false;
        }
        // ORDERING: as above. Before the size: who has read another number has read it before this resize.
        self.freed_ms.store(self.freed_ms.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
        true
    }

    /// Changes the size and alignment of a record that the caller has in hand.
    pub(crate) fn resize(&self, size: usize, align: usize) {
        let (address, _) = self.address(Ordering::Relaxed);
        // ORDERING: Release on each, as in `begin`.
        let each = if planted(Fault::SizeRelaxed) { Ordering::Relaxed } else { Ordering::Release };
        self.size.store(size, each);
        self.place.store(address as u64 | (align.trailing_zeros() as u64) << HIGH, Ordering::Release);
    }

    /// Lets go of a record that is in hand for a resize: the caller's, or that of a thread that is no more.
    pub(crate) fn end_resize(&self, id: u64) {
        // ORDERING: Release publishes the size to who frees it next. By exchange, since two may let go of what a third has left.
        let publish = if planted(Fault::ResizeRelaxed) { Ordering::Relaxed } else { Ordering::Release };
        let _ = self.word.compare_exchange(id << 2 | RESIZED, id << 2 | LIVE, publish, Ordering::Relaxed);
    }

    /// The size of an allocation that the caller has ended, or has in hand.
    #[inline]
    pub(crate) fn size(&self) -> usize {
        // Relaxed: whoever moved it on has acquired it.
        self.size.load(Ordering::Relaxed)
    }

    /// What the record says; `None` if it is none, or becomes another allocation's meanwhile.
    pub(crate) fn read(&self) -> Option<Seen> {
        loop {
            // ORDERING: Acquire pairs with `begin`; on each field, with its own store: had it been written for another
            // allocation, the second look at the word would show it.
            let each = Ordering::Acquire;
            let word = self.word.load(each);
            let tag = self.tag.load(each);
            let (address, align) = self.address(each);
            let seen = Seen {
                index: self.index(),
                id: word >> 2,
                is_live: word & LIVE != 0,
                is_resized: word & STATE == RESIZED,
                address,
                size: self.size.load(each),
                align: 1 << (align & (usize::BITS - 1)),
                thread: self.thread.load(each),
                born_ms: self.born_ms.load(each),
                freed_by: self.freed_by.load(each),
                freed_ms: self.freed_ms.load(each),
                tag: "",
            };
            let again = self.word.load(Ordering::Relaxed);
            // A resize that began or ended meanwhile: what lives throughout is not to be missed.
            if again != word && again & word & LIVE != 0 && again >> 2 == word >> 2 && !planted(Fault::ReadOnce) {
                continue;
            }
            if word & STATE == 0 || again != word {
                return None;
            }
            let (at, len) = ((tag & LOW) as usize, (tag >> HIGH) as usize);
            // SAFETY: both are of one allocation, as the word has shown: a tag that was given as a whole, or what comes first
            // of it, and stays.
            let tag = unsafe {
                core::str::from_utf8_unchecked(core::slice::from_raw_parts(with_exposed_provenance::<u8>(at), len))
            };
            return Some(Seen { tag, ..seen });
        }
    }
}
