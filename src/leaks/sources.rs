//! Sources: the heaps that a search goes through. What one has given out may hold what another has.
//!
//! Invariant: each heap once, the one that is asked about first; others than that and the program's are held until the
//! [release](Sources::release), so that none of them is disposed of while it is looked at.

use super::table::{Memory, Table};
use crate::heap::Heap;
use crate::heaps::{Body, Heaps};
use crate::modes::Tracker;
use core::ptr::{self, with_exposed_provenance};

/// Entries that may have come since they were counted.
const MORE: usize = 64;

/// A heap, and what is known of its allocations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    pub(crate) heap: &'a Heap,
    pub(crate) tracker: &'a Tracker,
}

/// All heaps that there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct All<'a> {
    pub(crate) program: Source<'a>,
    pub(crate) others: &'a Heaps,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Sources<'a> {
    own: Source<'a>,
    all: All<'a>,
    memory: Memory,
    /// Address and entry of each of the others.
    held: Table<2>,
}

impl<'a> Sources<'a> {
    /// `None`: there is no memory.
    #[inline(never)]
    pub(super) fn hold(own: Source<'a>, all: All<'a>) -> Option<Self> {
        let room = all.others.made() as usize + MORE;
        let mut memory = Memory::new(2 * room)?;
        let held = memory.cut(room);
        let mut sources = Self { own, all, memory, held };
        for index in 1..all.others.made() + 1 {
            let Some(address) = all.others.hold(index) else { continue };
            // What has no room is not looked through: its memory is a root.
            if address == sources.body_of(own.heap) || !sources.held.push([address, index as usize]) {
                all.others.release(index);
            }
        }
        Some(sources)
    }

    /// Where a heap's body would begin.
    fn body_of(&self, heap: &Heap) -> usize {
        ptr::from_ref(heap).addr() - core::mem::offset_of!(Body, core)
    }

    /// The source number `at`, the one that is asked about first.
    pub(super) fn get(&self, at: usize) -> Option<Source<'a>> {
        if at == 0 {
            return Some(self.own);
        }
        let beside = usize::from(!ptr::eq(self.own.heap, self.all.program.heap));
        if at == beside {
            return Some(self.all.program);
        }
        let [address, _] = self.held.get(at - 1 - beside)?;
        // SAFETY: a heap's, which is held.
        let body = unsafe { &*with_exposed_provenance::<Body>(address) };
        Some(Source { heap: &body.core, tracker: &body.tracker })
    }

    /// Calls `visit` with each source, the one that is asked about first.
    pub(super) fn each(&self, visit: &mut dyn FnMut(Source<'a>)) {
        for at in 0.. {
            let Some(source) = self.get(at) else { return };
            visit(source);
        }
    }

    /// Lets go of all. What was got from here is used no more.
    pub(super) fn release(&mut self) {
        while let Some([_, index]) = self.held.pop() {
            self.all.others.release(index as u32);
        }
        self.memory.release();
    }
}
