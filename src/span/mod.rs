//! Spans: runs of pages cut into chunks of one class, and the nodes that describe them.
//!
//! Which chunks are free is a bitmap outside the span, so claiming 64 of them is one atomic operation, a bit that is
//! set already is a double free, and chunks come in the order of their addresses. (hardened_malloc's slabs are of this
//! kind; the life of a span follows the anchors of Michael's superblocks, PLDI 2004.)
//!
//! # States
//!
//! All is in one word, changed by exchange only: the count of free chunks, flags, and when it was last changed.
//!
//! | state | flags | who may do what |
//! |---|---|---|
//! | idle | none | nobody owns a run through this node; it is in its slab |
//! | full | `LIVE` | no chunk is free; whoever returns one lists the span |
//! | listed | `LIVE LINKED` | it is in its pool's stack, or about to be pushed by whoever set `LINKED` |
//! | held | `LIVE HELD` | the holder alone may clear bits; it was popped from the stack |
//! | held in place | `LIVE LINKED HELD` | the same, but it is still in the stack; a pop that meets it takes `LINKED` away and leaves the listing to the holder |
//! | retiring | `HELD RETIRED`, `LINKED` or not | all chunks are free; whoever found that gives the run back |
//! | tombstone | `LINKED RETIRED` | its run is gone already; the node is still in the stack, and whoever pops it returns it to the slab |
//!
//! Anyone may set bits of chunks that they own (restore), in any state but idle, retiring and tombstone, which cannot occur while a chunk is out.
//! Whoever adds the last free chunk of a span that nobody holds retires it at once: no sweep looks for wholly free
//! spans, and none waits in the middle of a stack. Only its node does, as a tombstone.
//!
//! Invariants: `set bits >= count` always, and at rest, unless a thread vanished in the middle of a carve,
//! `set bits = count`; `count = chunks` only while held.

mod carve;
mod purge;
mod restore;
mod store;
#[cfg(all(test, not(millpond_loom)))]
mod tests;
mod visit;

pub(crate) use carve::Pop;
pub(crate) use restore::Restored;
pub(crate) use store::{SLABS, Spans};

use crate::config::PAGE_SHIFT;
use crate::size_class::{Class, ClassInfo, INFO};
use crate::slab::Node;
use crate::sync::{AtomicU32, AtomicU64, AtomicUsize, Ordering, Slot};
use crate::tagged::{Index, NONE};
use core::ptr;

/// In place of a class: a large allocation, a run of an arena.
pub(crate) const LARGE: u32 = u32::MAX - 1;
/// In place of a class: a huge allocation, a mapping of its own.
pub(crate) const HUGE: u32 = u32::MAX;

/// What every node that the page map can name begins with.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Head {
    link: AtomicU32,
    index: AtomicU32,
    /// The first page of its run.
    page: AtomicU32,
    /// A class, [`LARGE`] or [`HUGE`].
    kind: AtomicU32,
}

impl Head {
    fn new() -> Self {
        Self {
            link: AtomicU32::new(NONE),
            index: AtomicU32::new(NONE),
            page: AtomicU32::new(0),
            kind: AtomicU32::new(0),
        }
    }

    /// Relaxed, as all of these: they change only while the node has one owner, and its publication orders them.
    pub(crate) fn index(&self) -> Index {
        self.index.load(Ordering::Relaxed)
    }

    /// The address of the run.
    #[inline]
    pub(crate) fn start(&self) -> usize {
        (self.page.load(Ordering::Relaxed) as usize) << PAGE_SHIFT
    }

    /// The number of the run's first page.
    pub(crate) fn page(&self) -> usize {
        self.page.load(Ordering::Relaxed) as usize
    }

    #[inline]
    pub(crate) fn kind(&self) -> u32 {
        self.kind.load(Ordering::Relaxed)
    }

    /// The node that begins with this head. A reference to the head reaches no further than the head, but memory of nodes
    /// is known by its address.
    ///
    /// # Safety
    /// The head is that of a `T`.
    #[inline]
    pub(crate) unsafe fn node<T: Node>(&self) -> &T {
        // SAFETY: by the caller; nodes are type-stable, and the system's tables have their provenance exposed.
        unsafe { &*ptr::with_exposed_provenance(ptr::from_ref(self).addr()) }
    }

    pub(crate) fn describe(&self, page: usize, kind: u32) {
        self.page.store(page as u32, Ordering::Relaxed);
        self.kind.store(kind, Ordering::Relaxed);
    }
}

/// A span: see the module's documentation. Its bitmap follows it in memory.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Span {
    pub(crate) head: Head,
    state: AtomicU64,
    /// Which of the purge units of the span hold no memory. The holder's.
    purged: Slot,
}

/// The state word, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State(u64);

const COUNT: u64 = 0xffff;
const LINKED: u64 = 1 << 16;
const HELD: u64 = 1 << 17;
const RETIRED: u64 = 1 << 18;
const LIVE: u64 = 1 << 19;
/// A holder in place has been here, and nothing has changed since.
const CALM: u64 = 1 << 20;
const STAMP: u32 = 32;

impl State {
    fn count(self) -> usize {
        (self.0 & COUNT) as usize
    }

    fn is(self, flags: u64) -> bool {
        self.0 & flags == flags
    }

    /// The same state with another count, stamped with a tick.
    fn with(self, count: usize, now: u32) -> Self {
        Self((self.0 & !(COUNT | CALM) & ((1 << STAMP) - 1)) | count as u64 | (now as u64) << STAMP)
    }

    fn set(self, flags: u64) -> Self {
        Self(self.0 | flags)
    }

    fn clear(self, flags: u64) -> Self {
        Self(self.0 & !flags)
    }

    fn stamp(self) -> u32 {
        (self.0 >> STAMP) as u32
    }
}

// SAFETY: zeros are an idle span; the link is one word of the head.
unsafe impl Node for Span {
    fn stride(words: usize) -> usize {
        size_of::<Self>() + words * size_of::<AtomicU64>()
    }

    fn link(&self) -> &AtomicU32 {
        &self.head.link
    }

    unsafe fn make(at: *mut Self, words: usize) {
        let span = Self { head: Head::new(), state: AtomicU64::new(0), purged: Slot::new(0) };
        // SAFETY: the caller gives the place of the header and of the words behind it.
        unsafe {
            at.write(span);
            for word in 0..words {
                at.add(1).cast::<AtomicU64>().add(word).write(AtomicU64::new(0));
            }
        }
    }

    fn name(&self, index: Index) {
        self.head.index.store(index, Ordering::Relaxed);
    }
}

impl Span {
    /// What follows from the span's class. Only for spans, not for large nodes.
    pub(crate) fn info(&self) -> &'static ClassInfo {
        &INFO[self.head.kind() as Class]
    }

    /// The bitmap of a span of this class.
    fn bits(&self, info: &ClassInfo) -> &[AtomicU64] {
        let behind = ptr::from_ref(self).addr() + size_of::<Self>();
        // SAFETY: a class's spans come from a slab that puts at least the class's words behind each header, in a table of
        // the system's, whose provenance is exposed: `self` itself reaches no further than the header.
        unsafe { core::slice::from_raw_parts(ptr::with_exposed_provenance(behind), info.words) }
    }

    fn state(&self) -> State {
        State(self.state.load(Ordering::Relaxed))
    }

    /// Free chunks, listed or not: exact at rest.
    pub(crate) fn count(&self) -> usize {
        self.state().count()
    }

    /// Whether it owns a run.
    pub(crate) fn is_live(&self) -> bool {
        self.state().is(LIVE)
    }

    /// Whether some thread holds it; at rest, one that vanished.
    pub(crate) fn is_held(&self) -> bool {
        self.state().is(HELD)
    }

    /// Whether it is in its pool's stack, or about to be.
    pub(crate) fn is_linked(&self) -> bool {
        self.state().is(LINKED)
    }

    /// The place in a span of this class of the chunk at `address`, `None` if no chunk begins there.
    pub(crate) fn chunk_at(&self, info: &ClassInfo, address: usize) -> Option<usize> {
        let offset = address.wrapping_sub(self.head.start());
        if offset >= info.chunks * info.size {
            return None;
        }
        let chunk = info.index(offset);
        (chunk * info.size == offset).then_some(chunk)
    }

    /// Whether the bit of a chunk of a span of this class is set: it is free, and not in any magazine. Who does not have the chunk
    /// says the class that he has seen: the node may be of a span of another by now.
    pub(crate) fn is_free(&self, info: &ClassInfo, chunk: usize) -> bool {
        self.bits(info)[chunk / 64].load(Ordering::Relaxed) >> (chunk % 64) & 1 == 1
    }

    /// A word of the bits of a span of this class, set for chunks that are free and in no magazine: a moment's picture.
    pub(crate) fn free_word(&self, info: &ClassInfo, word: usize) -> u64 {
        self.bits(info)[word].load(Ordering::Relaxed)
    }

    /// How many bits are set, counted or not: a moment's picture.
    fn set_bits_count(&self) -> usize {
        self.bits(self.info()).iter().map(|word| word.load(Ordering::Relaxed).count_ones() as usize).sum()
    }

    /// Makes the state what the bitmap says, of a live span in no stack, while no other thread uses it.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn rebuild(&self) -> Restored {
        // A thread that vanished in the middle of a carve had cleared bits whose units it had not yet unpurged.
        let info = self.info();
        for chunk in (0..info.chunks).filter(|chunk| !self.is_free(info, *chunk)) {
            if self.purged.get() == 0 {
                break;
            }
            self.unpurge(chunk..chunk + 1);
        }
        let set = self.set_bits_count();
        let stamp = self.state().stamp();
        self.state.store(State(LIVE | HELD).with(set, stamp).0, Ordering::Relaxed);
        self.unhold()
    }

    /// Makes the node idle, whatever it was, while no other thread uses it.
    pub(crate) fn reset(&self) {
        self.purged.set(0);
        self.state.store(0, Ordering::Relaxed);
    }

    /// Verifies the invariants while no other thread uses the span.
    pub(crate) fn check(&self) -> bool {
        let state = self.state();
        if !state.is(LIVE) {
            return state.0 == 0 || state.is(RETIRED);
        }
        let info = self.info();
        let set = self.set_bits_count();
        let listed = state.is(HELD) || state.is(LINKED) == (state.count() > 0);
        set >= state.count() && (set == state.count() || state.is(HELD)) && listed && set <= info.chunks
    }
}

/// The node of a large or huge allocation.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Large {
    pub(crate) head: Head,
    /// Bytes of its run or mapping, whole pages; zero while it has none.
    bytes: AtomicUsize,
}

// SAFETY: zeros are a node without a run; the link is one word of the head.
unsafe impl Node for Large {
    fn stride(_: usize) -> usize {
        size_of::<Self>()
    }

    fn link(&self) -> &AtomicU32 {
        &self.head.link
    }

    unsafe fn make(at: *mut Self, _: usize) {
        // SAFETY: the caller gives the place.
        unsafe { at.write(Self { head: Head::new(), bytes: AtomicUsize::new(0) }) };
    }

    fn name(&self, index: Index) {
        self.head.index.store(index, Ordering::Relaxed);
    }
}

impl Large {
    /// Bytes of the run or mapping. Relaxed: changes only under its owner, or is being counted.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn set_bytes(&self, bytes: usize) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }
}
