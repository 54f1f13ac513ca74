//! Addresses of a heap in lists of their own, for those who look at it from outside: walks and maps.
//!
//! A list lies in memory of its own, so that the heap is the same before and after, and is one thread's.
//!
//! Invariant: what `cached` returns rises.

use crate::heap::Heap;
use crate::leaks::{Memory, Table};

/// Room beyond what was counted, since others go on.
const MORE: usize = 4096;

/// A table in memory of its own, which goes back with it.
pub(crate) struct List<const N: usize> {
    memory: Memory,
    pub(crate) table: Table<N>,
}

impl<const N: usize> List<N> {
    /// `None`: there is no memory.
    pub(crate) fn new(counted: usize) -> Option<Self> {
        let room = counted + counted / 4 + MORE;
        let mut memory = Memory::new(room.checked_mul(N)?)?;
        let table = memory.cut(room);
        Some(Self { memory, table })
    }
}

impl<const N: usize> Drop for List<N> {
    fn drop(&mut self) {
        self.memory.release();
    }
}

/// What magazines hold at some moment of the call, in order. `None`: no memory, or there were many more than a moment before.
pub(crate) fn cached(heap: &Heap) -> Option<List<1>> {
    let mut count = 0;
    heap.walk_cached(&mut |_| count += 1);
    let (mut list, mut fits) = (List::new(count)?, true);
    heap.walk_cached(&mut |address| fits &= list.table.push([address]));
    // As numbers: there is one copy of that sort already, and it is long.
    list.table.all().as_flattened_mut().sort_unstable();
    fits.then_some(list)
}
