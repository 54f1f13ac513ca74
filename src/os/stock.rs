//! The stock: address space set aside for metadata, for when the system gives no more.
//!
//! Arenas would take the last of what a limit allows, and their free pages could then not be used for want of a table.
//! So address space for tables is reserved beside the arenas, and used when nothing else is to be had. It also serves a
//! process that lowers its own limit below what it has. Untouched, it costs no memory.
//!
//! A stock is a list of pieces, each with its header at its start or elsewhere, to which pieces are only ever added; a piece is
//! used up from its front.
//!
//! | state of a byte | owner |
//! |---|---|
//! | above a piece's `used` | nobody; reads as zero |
//! | below it | whoever was given it |
//!
//! Invariant: `used <= len` of each piece; what has been given out and not come back is disjoint.

use crate::sync::{AtomicPtr, AtomicUsize, Fault, Ordering, planted};
use core::ptr;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Stock {
    first: AtomicPtr<Piece>,
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

impl Stock {
    const_fn! {
        pub(crate) const fn new() -> Self {
            Self { first: AtomicPtr::new(ptr::null_mut()) }
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
        self.pieces().map(|piece| piece.len - piece.used.load(Ordering::Relaxed)).sum()
    }

    /// Takes bytes that read as zero, aligned to `align`, a power of two from 64 up to an OS page. O(pieces).
    pub(crate) fn take(&self, len: usize, align: usize) -> Option<usize> {
        self.pieces().find_map(|piece| piece.take(len, align))
    }

    /// The piece in which an address lies.
    fn piece(&self, at: usize) -> Option<&Piece> {
        self.pieces().find(|piece| (piece.start()..piece.start() + piece.len).contains(&at))
    }

    /// Whether an address is from the stock.
    pub(crate) fn has(&self, at: usize) -> bool {
        self.piece(at).is_some()
    }

    /// Gives back bytes that were taken and read as zero again. They can be taken anew if nothing was taken after them.
    pub(crate) fn give(&self, at: usize, len: usize) {
        let Some(piece) = self.piece(at) else { return };
        let from = at - piece.start();
        let end = (from + len).next_multiple_of(GRAIN);
        // ORDERING: Release pairs with the next taker's Acquire: the bytes were made zero before.
        let publish = if planted(Fault::StockGive) { Ordering::Relaxed } else { Ordering::Release };
        let _ = piece.used.compare_exchange(end, from, publish, Ordering::Relaxed);
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
    fn the_last_table_can_be_taken_again() {
        let stock = Stock::new();
        // SAFETY: fresh memory of that length.
        unsafe { stock.add(piece(HEADER), piece(4096), 4096) };
        let (first, second) = (stock.take(100, 64).unwrap(), stock.take(100, 64).unwrap());
        stock.give(first, 100);
        assert_eq!(stock.take(100, 64), Some(second + 128), "not the last: lost");
        stock.give(second + 128, 100);
        assert_eq!(stock.take(100, 64), Some(second + 128));
    }
}
