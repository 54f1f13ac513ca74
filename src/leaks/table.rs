//! Tables of a search or a walk: arrays of words in memory of their own, which costs nothing until it is written and goes back at
//! the end. It lies apart from the program's: tables have addresses, and copies of what was read, which another search at the same
//! time would take for the program's.
//!
//! Nothing here can panic, and no code is there twice: it is in every program, and few ever ask for it.
//!
//! Invariant: `used <= room`; the first `used` items are written; no two tables of a [`Memory`] overlap.

use crate::os;
use core::ops::Range;
use core::ptr::with_exposed_provenance_mut;

const WORD: usize = size_of::<usize>();

/// What tables are cut from: zeros at first. Given back by [`release`](Self::release) alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    at: usize,
    words: usize,
    cut: usize,
}

impl Memory {
    /// `None`: the system has none.
    #[inline(never)]
    pub(crate) fn new(words: usize) -> Option<Self> {
        Some(Self { at: os::apart(words.max(1).checked_mul(WORD)?)?, words: words.max(1), cut: 0 })
    }

    /// A table of so many items of `N` words, if there are as many left.
    #[inline(never)]
    pub(crate) fn cut<const N: usize>(&mut self, items: usize) -> Table<N> {
        let room = items.min((self.words - self.cut) / N);
        let at = self.at + self.cut * WORD;
        self.cut += room * N;
        Table { at, room, used: 0 }
    }

    /// The same, all of them zeros.
    #[inline(never)]
    pub(super) fn zeros<const N: usize>(&mut self, items: usize) -> Table<N> {
        let table = self.cut(items);
        Table { used: table.room, ..table }
    }

    pub(super) fn addresses(&self) -> Range<usize> {
        self.at..self.at + self.words * WORD
    }

    /// Gives it back. Tables that were cut from it are used no more.
    #[inline(never)]
    pub(crate) fn release(self) {
        os::release_metadata(self.at, self.words * WORD);
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    at: usize,
    room: usize,
    used: usize,
}

impl<const N: usize> Table<N> {
    /// Without room.
    pub(super) const NONE: Self = Self { at: WORD, room: 0, used: 0 };

    fn items(&self) -> *mut [usize; N] {
        with_exposed_provenance_mut(self.at)
    }

    /// Whether there was room.
    pub(crate) fn push(&mut self, item: [usize; N]) -> bool {
        let fits = self.used < self.room;
        if fits {
            // SAFETY: inside the memory, which is aligned to an OS page, and this table's alone.
            unsafe { self.items().add(self.used).write(item) };
            self.used += 1;
        }
        fits
    }

    pub(super) fn pop(&mut self) -> Option<[usize; N]> {
        let last = self.get(self.used.wrapping_sub(1))?;
        self.used -= 1;
        Some(last)
    }

    pub(super) fn get(&self, at: usize) -> Option<[usize; N]> {
        // SAFETY: written, and this table's alone.
        (at < self.used).then(|| unsafe { self.items().add(at).read() })
    }

    /// An item where it is.
    pub(super) fn look_at(&self, at: usize) -> Option<&[usize; N]> {
        // SAFETY: written, and this table's alone, which is borrowed.
        (at < self.used).then(|| unsafe { &*self.items().add(at) })
    }

    /// The items, to be written to.
    pub(crate) fn all(&mut self) -> &mut [[usize; N]] {
        // SAFETY: the first `used` are written, and this table's alone.
        unsafe { core::slice::from_raw_parts_mut(self.items(), self.used) }
    }

    pub(super) fn len(&self) -> usize {
        self.used
    }

    /// Forgets all but the first so many.
    pub(super) fn truncate(&mut self, len: usize) {
        self.used = self.used.min(len);
    }

    /// Where, in a table in order, items begin of which this does not hold.
    pub(super) fn first_not(&self, holds: impl Fn([usize; N]) -> bool) -> usize {
        let (mut low, mut high) = (0, self.used);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.get(middle) {
                Some(item) if holds(item) => low = middle + 1,
                _ => high = middle,
            }
        }
        low
    }
}

/// Sorts by the first word (Williams' heapsort, 1964: short, and nowhere slow).
pub(super) fn sort(table: &mut Table<3>) {
    let items = table.items();
    let swap = |one: usize, other: usize| {
        // SAFETY: below `used`, as all that is asked for below.
        unsafe { items.add(one).swap(items.add(other)) };
    };
    let (mut len, mut root) = (table.used, table.used / 2);
    while len > 1 {
        if root > 0 {
            root -= 1;
        } else {
            len -= 1;
            swap(0, len);
        }
        let mut at = root;
        loop {
            // SAFETY: below `len`, where it is asked.
            let key = |at: usize| unsafe { (*items.add(at))[0] };
            let mut child = 2 * at + 1;
            if child + 1 < len && key(child) < key(child + 1) {
                child += 1;
            }
            if child >= len || key(child) <= key(at) {
                break;
            }
            swap(at, child);
            at = child;
        }
    }
}

/// A set of numbers.
#[derive(Debug)]
pub(super) struct Bits(pub(super) Table<1>);

impl Bits {
    /// Words for a set of numbers below `count`.
    pub(super) const fn words(count: usize) -> usize {
        count / 64 + 1
    }

    pub(super) fn has(&self, number: usize) -> bool {
        self.0.get(number / 64).is_some_and(|[word]| word >> (number % 64) & 1 == 1)
    }

    /// Whether it was not there before.
    pub(super) fn add(&mut self, number: usize) -> bool {
        let Some([word]) = self.0.all().get_mut(number / 64) else { return false };
        let was = *word;
        *word |= 1 << (number % 64);
        *word != was
    }

    pub(super) fn remove(&mut self, number: usize) {
        if let Some([word]) = self.0.all().get_mut(number / 64) {
            *word &= !(1 << (number % 64));
        }
    }
}
