//! The stock: address space set aside for metadata, for when the system gives no more.
//!
//! Arenas would take the last of what a limit allows, and their free pages could then not be used for want of a table.
//! So address space for tables is reserved beside the arenas, and used when nothing else is to be had. It also serves a
//! process that lowers its own limit below what it has. Untouched, it costs no memory.
//!
//! A stock is a list of pieces, each with its header at its start or elsewhere, to which pieces are only ever added; a piece is
//! used up from its front. What comes back while others have what was taken after it is a *hole*, of which a few are known.
//!
//! | state of a byte | owner |
//! |---|---|
//! | above a piece's `used` | nobody; reads as zero |
//! | in a hole | nobody, until somebody takes the hole, whole, by exchange; reads as zero |
//! | else | whoever was given it, or nobody for ever: where there were too many holes, or it is no hole that a word has room for |
//!
//! Invariant: `used <= len` of each piece; what has been given out and not come back, and the holes, are disjoint.

use crate::sync::{AtomicPtr, AtomicU64, AtomicUsize, Fault, Ordering, planted};
use core::ops::Range;
use core::ptr;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Stock {
    first: AtomicPtr<Piece>,
    holes: [AtomicU64; HOLES],
}

/// The header of a piece.
#[derive(Debug)]
struct Piece {
    /// Never changed once the piece is in the list.
    next: *mut Piece,
    start: usize,
    len: usize,
    used: AtomicUsize,
}

/// What is taken comes in multiples of this.
const GRAIN: usize = 64;
/// Bytes of a piece that its header takes.
pub(crate) const HEADER: usize = size_of::<Piece>().next_multiple_of(GRAIN);

/// How many holes are known, at most.
const HOLES: usize = 16;
const NO_HOLE: u64 = 0;
/// Bits that an address in a hole can have: holes above are not known. NB: no fewer than the heap's own addresses have, or holes
/// are lost; each bit more halves how long a hole can be.
pub(crate) const ADDRESS_BITS: u32 = 47;
/// Bits of a hole's word for its length, in grains; above them is where it begins, in grains.
const HOLE_BITS: u32 = u64::BITS - (ADDRESS_BITS - GRAIN.ilog2());

/// A hole in a word, if it is not too long, nor lies too high.
fn pack(hole: &Range<usize>) -> Option<u64> {
    let (start, len) = ((hole.start / GRAIN) as u64, (hole.len() / GRAIN) as u64);
    (len < 1 << HOLE_BITS && hole.start >> ADDRESS_BITS == 0).then_some(start << HOLE_BITS | len)
}

fn unpack(word: u64) -> Range<usize> {
    let start = (word >> HOLE_BITS) as usize * GRAIN;
    start..start + (word & ((1 << HOLE_BITS) - 1)) as usize * GRAIN
}

impl Stock {
    const_fn! {
        pub(crate) const fn new() -> Self {
            Self { first: AtomicPtr::new(ptr::null_mut()), holes: array_of![AtomicU64::new(NO_HOLE); HOLES] }
        }
    }

    fn pieces(&self) -> impl Iterator<Item = &Piece> {
        // ORDERING: Acquire pairs with `add`: the header is made. Each header was made after those behind it.
        let first = self.first.load(Ordering::Acquire);
        // SAFETY: a piece in the list stays for ever.
        let first = unsafe { first.as_ref() };
        // SAFETY: as above.
        core::iter::successors(first, |piece| unsafe { piece.next.as_ref() })
    }

    /// Adds a piece, whose header is to be at its start, `at`, or elsewhere.
    ///
    /// # Safety
    /// `at..at + len` is aligned to 64 bytes, zero, writable, more than a header, nobody else's, and stays for ever; so is a
    /// header's place elsewhere.
    pub(crate) unsafe fn add(&self, header: usize, at: usize, len: usize) {
        let piece = ptr::with_exposed_provenance_mut::<Piece>(header);
        let used = if header == at { HEADER } else { 0 };
        let mut first = self.first.load(Ordering::Relaxed);
        loop {
            // SAFETY: the caller's memory, which is in no list yet.
            unsafe { piece.write(Piece { next: first, start: at, len, used: AtomicUsize::new(used) }) };
            // ORDERING: Release publishes the header; pairs with `pieces`. No tag: nothing is ever taken off.
            let publish = if planted(Fault::StockAdd) { Ordering::Relaxed } else { Ordering::Release };
            match self.first.compare_exchange_weak(first, piece, publish, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => first = now,
            }
        }
    }

    /// Bytes that nobody has: a moment's picture.
    pub(crate) fn left(&self) -> usize {
        let holes = self.holes.iter().map(|hole| unpack(hole.load(Ordering::Relaxed)).len());
        self.pieces().map(|piece| piece.len - piece.used.load(Ordering::Relaxed)).chain(holes).sum()
    }

    /// Takes bytes that read as zero, aligned to `align`, a power of two from 64 up to an OS page. O(pieces).
    pub(crate) fn take(&self, len: usize, align: usize) -> Option<usize> {
        self.take_in_hole(len, align).or_else(|| self.pieces().find_map(|piece| piece.take(len, align)))
    }

    /// The same, of the first hole that is long enough.
    fn take_in_hole(&self, len: usize, align: usize) -> Option<usize> {
        let len = len.checked_next_multiple_of(GRAIN)?;
        let hole = self.take_hole(|hole| hole.len() >= len && hole.start % align == 0)?;
        if hole.len() > len {
            self.give(hole.start + len, hole.len() - len);
        }
        Some(hole.start)
    }

    /// Takes a hole out that is wanted.
    fn take_hole(&self, wanted: impl Fn(&Range<usize>) -> bool) -> Option<Range<usize>> {
        self.holes.iter().find_map(|place| {
            let word = place.load(Ordering::Relaxed);
            if word == NO_HOLE || !wanted(&unpack(word)) {
                return None;
            }
            if planted(Fault::HoleTake) {
                // ORDERING: as below.
                place.load(Ordering::Acquire);
                place.store(NO_HOLE, Ordering::Relaxed);
                return Some(unpack(word));
            }
            // ORDERING: Acquire pairs with `give`. No tag: if the word is the same, so is the hole, and it is there.
            let taken = place.compare_exchange(word, NO_HOLE, Ordering::Acquire, Ordering::Relaxed);
            taken.is_ok().then(|| unpack(word))
        })
    }

    /// The piece in which an address lies.
    fn piece(&self, at: usize) -> Option<&Piece> {
        self.pieces().find(|piece| (piece.start()..piece.start() + piece.len).contains(&at))
    }

    /// Whether an address is from the stock.
    pub(crate) fn has(&self, at: usize) -> bool {
        self.piece(at).is_some()
    }

    /// Gives back bytes that were taken and read as zero again. They can be taken anew, unless there are holes enough.
    pub(crate) fn give(&self, at: usize, len: usize) {
        let Some(piece) = self.piece(at) else { return };
        let mut hole = at..(at + len).next_multiple_of(GRAIN);
        // With those beside it, which are one with it from here on: one before it and one behind.
        for _ in 0..2 {
            let all = piece.start()..piece.start() + piece.len;
            let beside = |other: &Range<usize>| {
                all.contains(&other.start) && (other.end == hole.start || other.start == hole.end)
            };
            let Some(other) = self.take_hole(beside) else { break };
            hole = hole.start.min(other.start)..hole.end.max(other.end);
        }
        let (from, end) = (hole.start - piece.start(), hole.end - piece.start());
        // ORDERING: Release pairs with the next taker's Acquire: the bytes were made zero before.
        let publish = if planted(Fault::StockGive) { Ordering::Relaxed } else { Ordering::Release };
        if piece.used.compare_exchange(end, from, publish, Ordering::Relaxed).is_ok() {
            return;
        }
        let Some(word) = pack(&hole) else { return };
        // ORDERING: as above.
        let publish = if planted(Fault::HoleGive) { Ordering::Relaxed } else { Ordering::Release };
        let _ = self.holes.iter().filter(|place| place.load(Ordering::Relaxed) == NO_HOLE).any(|place| {
            if planted(Fault::HoleStore) {
                place.store(word, publish);
                return true;
            }
            place.compare_exchange(NO_HOLE, word, publish, Ordering::Relaxed).is_ok()
        });
    }
}

impl Piece {
    fn start(&self) -> usize {
        self.start
    }

    fn take(&self, len: usize, align: usize) -> Option<usize> {
        let mut used = self.used.load(Ordering::Relaxed);
        loop {
            let from = (self.start() + used).next_multiple_of(align) - self.start();
            let end = from.checked_add(len)?.next_multiple_of(GRAIN);
            if end > self.len {
                return None;
            }
            if planted(Fault::StockTake) {
                self.used.store(end, Ordering::Relaxed);
                return Some(self.start() + from);
            }
            // ORDERING: Acquire pairs with `give`.
            match self.used.compare_exchange_weak(used, end, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(self.start() + from),
                Err(now) => used = now,
            }
        }
    }
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;
    use std::alloc::{Layout, alloc_zeroed};

    fn piece(len: usize) -> usize {
        // SAFETY: the length is not zero. It stays, as pieces must.
        unsafe { alloc_zeroed(Layout::from_size_align(len, 4096).unwrap()) }.expose_provenance()
    }

    #[test]
    fn tables_are_aligned_disjoint_and_come_to_an_end() {
        let stock = Stock::new();
        assert_eq!((stock.take(1, 64), stock.left(), stock.has(4096)), (None, 0, false));
        let pieces = [piece(3 * 4096), piece(8 * 4096)];
        // SAFETY: fresh memory of these lengths.
        unsafe {
            stock.add(pieces[0], pieces[0], 3 * 4096);
            stock.add(pieces[1], pieces[1], 8 * 4096);
        }
        let tables: std::vec::Vec<usize> = (0..9).map(|_| stock.take(4096, 4096).unwrap()).collect();
        assert!(tables.iter().all(|at| at % 4096 == 0 && stock.has(*at) && !pieces.contains(at)));
        assert!((1..9).all(|at| !tables[..at].contains(&tables[at])));
        assert_eq!((stock.take(4096, 64), stock.take(usize::MAX, 64), stock.left()), (None, None, 0));
    }

    #[test]
    fn what_comes_back_can_be_taken_again() {
        let stock = Stock::new();
        let start = piece(4096);
        // SAFETY: fresh memory of that length.
        unsafe { stock.add(piece(HEADER), start, 4096) };
        let tables: std::vec::Vec<usize> = (0..5).map(|_| stock.take(100, 64).unwrap()).collect();
        stock.give(tables[0], 100);
        assert_eq!(stock.left(), 4096 - 4 * 128);
        assert_eq!(stock.take(200, 64), Some(start + 5 * 128), "longer than the hole");
        assert_eq!(stock.take(64, 64), Some(start), "what is left of a hole is one");
        assert_eq!(stock.take(64, 128), Some(start + 7 * 128), "it is not aligned so");
        assert_eq!(stock.take(64, 64), Some(start + 64));
        [tables[3], tables[1], tables[2]].iter().for_each(|at| stock.give(*at, 100));
        assert_eq!(stock.take(3 * 128, 64), Some(tables[1]), "holes that meet are one");
        [tables[1], tables[4], start + 5 * 128].iter().for_each(|at| stock.give(*at, 64));
        stock.give(start + 7 * 128, 64);
        assert_eq!(stock.take(4096 - 7 * 128 + 1, 64), None);
    }

    /// What comes back at addresses that no hole's word has room for is not taken for other addresses.
    #[test]
    fn addresses_beyond_a_holes_word_are_given_to_nobody_again() {
        for (start, is_known) in [((1 << ADDRESS_BITS) - 4096, true), (1 << ADDRESS_BITS, false), (1 << 52, false)] {
            let stock = Stock::new();
            // SAFETY: fresh memory for the header; the rest is not touched.
            unsafe { stock.add(piece(HEADER), start, 4096) };
            let tables: std::vec::Vec<usize> = (0..3).map(|_| stock.take(64, 64).unwrap()).collect();
            stock.give(tables[0], 64);
            assert_eq!(stock.left(), 4096 - if is_known { 2 } else { 3 } * 64, "{start:#x}");
            assert_eq!(stock.take(64, 64), Some(if is_known { start } else { start + 3 * 64 }), "{start:#x}");
        }
    }

    /// Whatever comes and goes in whatever order, pieces beside each other or not.
    #[test]
    fn nothing_is_lost_while_holes_are_few() {
        const LEN: usize = 16 << 10;
        let (stock, mut random) = (Stock::new(), fastrand::Rng::with_seed(3));
        let both = piece(2 * LEN);
        // SAFETY: fresh memory of these lengths, with the headers elsewhere.
        [both, both + LEN].iter().for_each(|at| unsafe { stock.add(piece(HEADER), *at, LEN) });
        let mut held: std::vec::Vec<(usize, usize)> = std::vec::Vec::new();
        for _ in 0..20_000 {
            if held.len() < HOLES && random.bool() {
                let len = random.usize(1..2000);
                let Some(at) = stock.take(len, 64) else { continue };
                assert!(held.iter().all(|(other, long)| at + len <= *other || other + long <= at));
                held.push((at, len));
            } else if !held.is_empty() {
                let (at, len) = held.swap_remove(random.usize(..held.len()));
                stock.give(at, len);
            }
            let out: usize = held.iter().map(|(_, len)| len.next_multiple_of(GRAIN)).sum();
            assert_eq!(stock.left(), 2 * LEN - out);
        }
        held.into_iter().for_each(|(at, len)| stock.give(at, len));
        assert!(stock.take(LEN, 64).is_some() && stock.take(LEN, 64).is_some());
    }
}
