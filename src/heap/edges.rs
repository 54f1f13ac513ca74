//! What is written at the edges of allocations in the mode `hardened`, so that writes across them are noticed.
//!
//! | where | what | looked at |
//! |---|---|---|
//! | the first `CANARY` bytes behind what was asked for | the canary of the allocation's address | when it is freed |
//! | the last `CANARY` bytes of each chunk | the canary of the chunk's address | when the chunk behind it is freed, when the chunk itself is allocated |
//!
//! The second is the *edge* between two chunks: no allocation reaches into it, and it is the same whoever has the chunk, so that
//! it lies whole before each live allocation. Whoever allocates sees that the edges before and behind its chunk are so. The first
//! chunk of a span has no edge before it: it is kept back, as if it had been freed, when it comes up, and handed out only
//! where the next one is such a chunk too, or where what is kept back has limits of its own. What has pages of its own has no
//! edges, but guarded ones have something like it: see `guard`. (Canaries: StackGuard, 1998.)
//!
//! Edges are read and written by neighbours at the same time, all of whom write the same: volatile, so that the compiler makes
//! nothing of it.
//!
//! Invariant: the edge before each live allocation, where there is one, and the edge of each live chunk are whole, or the program
//! has written there. (Of a free chunk's edge, words may be zero once free memory inside of spans has gone back.)

use super::Tracked;
use super::told::{Known, Written};
use crate::config::{CANARY, PAGE};
use crate::modes::Ended;
use crate::size_class::{Class, INFO};
use core::fmt;
use core::ptr::with_exposed_provenance_mut;

pub(super) const WORDS: usize = CANARY / size_of::<u64>();
const _: () = assert!(WORDS > 0 && CANARY % size_of::<u64>() == 0);

/// What is written for an address: no two have the same, and no byte is a letter, a small number or all ones.
fn word(address: usize) -> u64 {
    (address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) & 0x3f3f_3f3f_3f3f_3f3f | 0x8080_8080_8080_8080
}

/// What lies behind an allocation of that size: in step with the chunk's edge, which may begin anywhere in it.
pub(super) fn canary(address: usize, size: usize) -> [u64; WORDS] {
    [word(address).rotate_right((size % size_of::<u64>() * 8) as u32); WORDS]
}

/// Writes it.
///
/// # Safety
/// So many bytes behind it are the allocation's too.
#[inline]
pub(super) unsafe fn set_canary(address: usize, size: usize) {
    let at = with_exposed_provenance_mut::<[u64; WORDS]>(address + size);
    // SAFETY: the caller's word.
    unsafe { at.write_unaligned(canary(address, size)) };
}

/// The edge of a chunk, by its address.
#[derive(Clone, Copy)]
struct Edge {
    at: *mut u64,
    word: u64,
}

impl Edge {
    #[inline]
    fn of(chunk: usize, class: Class) -> Self {
        Self { at: with_exposed_provenance_mut(chunk + INFO[class].size - CANARY), word: word(chunk) }
    }

    /// A word of the edge.
    #[inline]
    fn get(self, at: usize) -> u64 {
        // SAFETY: the last bytes of a chunk of a span with a live chunk beside it, or of such a one.
        unsafe { self.at.add(at).read_volatile() }
    }

    /// Writes before the edge of a chunk that is the caller's, whatever is there: a page that is read first gets its memory in two steps,
    /// of which the second interrupts all processors.
    #[inline]
    fn touch_before(self, chunk: usize) {
        if self.at.addr() > chunk {
            // SAFETY: between the beginning of the caller's chunk and its edge, both of which are whole words.
            unsafe { self.at.sub(1).write_volatile(0) };
        }
    }

    #[inline]
    fn is_whole(self) -> bool {
        (0..WORDS).fold(0, |bad, at| bad | (self.get(at) ^ self.word)) == 0
    }

    fn write(self) {
        // SAFETY: as in `get`: no allocation reaches into it.
        (0..WORDS).for_each(|at| unsafe { self.at.add(at).write_volatile(self.word) });
    }

    /// How many bytes before its end the first is that was written. `zeros`: words of zeros do not count.
    fn broken(self, zeros: bool) -> Option<usize> {
        self.broken_in(core::array::from_fn(|at| self.get(at)), zeros)
    }

    /// The same, of words that were read there.
    fn broken_in(self, there: [u64; WORDS], zeros: bool) -> Option<usize> {
        let first = there.iter().position(|word| *word != self.word && !(zeros && *word == 0))?;
        let byte = (there[first] ^ self.word).to_le().trailing_zeros() as usize / 8;
        Some(CANARY - first * size_of::<u64>() - byte.min(size_of::<u64>() - 1))
    }
}

impl Tracked<'_> {
    /// Sees to the edges of a chunk that is to be an allocation of `size` bytes, before it has its record.
    #[inline]
    pub(super) fn set_edges(&self, address: usize, size: usize, class: Option<Class>) {
        if let Some(class) = class.filter(|_| self.tracker.knows_all()) {
            let edge = Edge::of(address, class);
            edge.touch_before(address);
            if !edge.is_whole() {
                self.mend(address, class);
            }
            if let Some(before) = self.before(address, class) {
                let edge = Edge::of(before, class);
                // One that is live has written it.
                if !edge.is_whole() && !self.is_live(before) {
                    edge.write();
                }
            }
        }
        // SAFETY: bytes of the allocation, behind those that the program asked for.
        unsafe { set_canary(address, size) };
    }

    /// Writes the edge of a chunk that is about to be live.
    #[cold]
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    fn mend(&self, chunk: usize, class: Class) {
        let edge = Edge::of(chunk, class);
        let next = chunk + INFO[class].size;
        // Whoever allocates the next one writes the edge before it is live: then the second look finds it.
        if self.has_before(next, class) && self.is_live(next) {
            if let Some(bytes) = edge.broken(self.heap.has_thinned()) {
                self.accuse_before(next, bytes, None);
            }
        }
        edge.write();
    }

    /// Tells, and ends the process but for a witness, if anything was written past the end of an allocation that has ended, or before its beginning.
    #[inline]
    pub(super) fn check_edges(&self, ended: &Ended, class: Option<Class>) {
        let at = with_exposed_provenance_mut::<[u64; WORDS]>(ended.address + ended.size);
        // SAFETY: bytes of the allocation, behind those that the program asked for.
        if unsafe { at.read_unaligned() } != canary(ended.address, ended.size) {
            self.accuse_of_canary(ended, CANARY);
            // So that it is told once: the chunk behind has the same edge before it.
            class.into_iter().for_each(|class| Edge::of(ended.address, class).write());
        }
        if let Some(class) = class.filter(|_| self.tracker.knows_all()) {
            if let Some(before) = self.before(ended.address, class) {
                if !Edge::of(before, class).is_whole() {
                    self.check_before(ended.address, before, class);
                }
            }
        }
    }

    #[cold]
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    fn check_before(&self, address: usize, before: usize, class: Class) {
        if let Some(bytes) = self.broken_before(before, class) {
            self.accuse_before(address, bytes, Some(before));
        }
    }

    /// How far before the end of a chunk's edge something was written, of which the next has just ended.
    fn broken_before(&self, chunk: usize, class: Class) -> Option<usize> {
        Edge::of(chunk, class).broken(self.heap.has_thinned() && !self.is_live(chunk))
    }

    /// The same for a chunk that may be gone, by what `read` reads there, if it can.
    #[unsafe(link_section = ".millpond_cold")]
    pub(super) fn broken_before_by(
        &self,
        chunk: usize,
        class: Class,
        read: impl FnOnce(usize) -> Option<[u64; WORDS]>,
    ) -> Option<usize> {
        let edge = Edge::of(chunk, class);
        edge.broken_in(read(edge.at.addr())?, self.heap.has_thinned() && !self.is_live(chunk))
    }

    /// Whether the byte `past` an allocation's end is one that is not to change, and has.
    pub(super) fn is_broken(&self, address: usize, size: usize, past: usize) -> bool {
        let at = with_exposed_provenance_mut::<u8>(address + size + past);
        let expected = canary(address, size)[past / size_of::<u64>()].to_le() >> (past % size_of::<u64>() * 8);
        // SAFETY: as in `check_edges`.
        unsafe { at.read_volatile() != expected as u8 }
    }

    #[cold]
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    pub(super) fn accuse_of_canary(&self, ended: &Ended, len: usize) {
        let Ended { address, size, .. } = *ended;
        let byte = (0..len).find(|past| self.is_broken(address, size, *past)).unwrap_or(0);
        self.accuse_of(address, format_args!("{}", Written::Past { address, byte }))
    }

    /// `from`: the chunk from whose end it may have come.
    #[cold]
    pub(super) fn accuse_before(&self, address: usize, bytes: usize, from: Option<usize>) {
        self.tracker.witness.accuse(format_args!("{}", self.told_before(address, bytes, from)));
    }

    /// What was written before an allocation's beginning, in words.
    pub(super) fn told_before(&self, address: usize, bytes: usize, from: Option<usize>) -> impl fmt::Display {
        Before { tracked: self, address, bytes, from }
    }

    /// The chunk before one of a class, if there is one in the span.
    #[inline]
    pub(super) fn before(&self, chunk: usize, class: Class) -> Option<usize> {
        let has = chunk % PAGE != 0 || self.has_before(chunk, class);
        has.then(|| chunk - INFO[class].size)
    }

    /// Whether there is one before such a chunk, or what would be such a chunk behind the last.
    #[cold]
    fn has_before(&self, chunk: usize, class: Class) -> bool {
        let head = self.heap.spans.page_map.get(chunk);
        head.is_some_and(|head| {
            let into = chunk.wrapping_sub(head.start());
            into > 0 && into < INFO[class].chunks * INFO[class].size
        })
    }

    fn is_live(&self, chunk: usize) -> bool {
        self.tracker.find(self.heap.place(chunk)).is_some_and(|seen| seen.is_live)
    }

    /// Keeps a chunk back that is the first of its span. False: it is another, or is to be handed out all the same.
    #[cold]
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    pub(super) fn keep_first(&self, chunk: usize, class: Class) -> bool {
        let is_kept = self.tracker.knows_all()
            && self.tracker.quarantine.is_default()
            && INFO[class].chunks > 1
            && !self.has_before(chunk, class);
        if is_kept {
            if let Some(old) = self.tracker.remember_first(chunk, INFO[class].size) {
                self.give(old);
            }
        }
        is_kept
    }
}

/// See [`told_before`](Tracked::told_before).
struct Before<'a> {
    tracked: &'a Tracked<'a>,
    address: usize,
    bytes: usize,
    from: Option<usize>,
}

impl fmt::Display for Before<'_> {
    #[unsafe(link_section = ".millpond_cold")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tracked, address, bytes, from } = *self;
        let find = |address| tracked.tracker.find(tracked.heap.place(address));
        write!(f, "{}", Written::Before { address, bytes })?;
        if let Some(seen) = find(address) {
            write!(f, ": {}", Known(&seen, tracked.tracker))?;
        }
        match from.and_then(find) {
            Some(seen) => {
                write!(f, "; or past the end of {:#x}: {}", seen.address, Known(&seen, tracked.tracker))
            }
            None => Ok(()),
        }
    }
}
