//! The heaps that there are: one that is left goes once, after all who hold it have looked, and what it was made of is seen.

use super::spawn;
use crate::heaps::Heaps;
use crate::sync::Slot;
use crate::tagged::Index;
use std::prelude::v1::*;
use std::rc::Rc;

/// Where all heaps lie: where one was, the next one is.
const ADDRESS: usize = 1 << 16;

/// What is at the address: what a heap was made of, what the program does with it, and how many were disposed of.
struct World {
    heaps: Heaps,
    made_of: Slot,
    used: Slot,
    gone: Slot,
}

impl World {
    /// With a heap, whose entry is the first.
    fn new() -> (Rc<Self>, Index) {
        let heaps = Heaps::new();
        let world = Rc::new(Self { heaps, made_of: Slot::new(0), used: Slot::new(0), gone: Slot::new(0) });
        let index = world.enter();
        (world, index)
    }

    fn enter(&self) -> Index {
        self.made_of.set(7);
        self.heaps.enter(ADDRESS).expect("the fake system gives memory")
    }

    /// The program drops its heap, with which it was busy up to then. Whether it is gone.
    fn leave(&self, index: Index) -> bool {
        self.used.set(self.used.get() + 1);
        let is_last = self.heaps.leave(index, || false);
        if is_last {
            self.dispose();
        }
        is_last
    }

    /// A search looks at it.
    fn look(&self, index: Index) {
        if let Some(address) = self.heaps.hold(index) {
            assert!(address == ADDRESS && self.made_of.get() == 7, "the heap is there");
            if self.heaps.let_go(index).is_some() {
                self.dispose();
            }
        }
    }

    fn dispose(&self) {
        assert!(self.made_of.get() == 7, "it is disposed of once");
        self.made_of.set(0);
        self.used.set(0);
        self.gone.set(self.gone.get() + 1);
    }

    /// While no other thread has anything to do with it.
    fn check(&self, heaps: usize, gone: usize) {
        assert_eq!(self.heaps.check(), Some(heaps), "heaps that there are");
        assert_eq!(self.gone.get(), gone, "it is disposed of once");
    }
}

/// One searches while another drops the heap.
pub fn leave_against_look() {
    let (world, index) = World::new();
    let other = spawn(&world, move |world| world.look(index));
    world.leave(index);
    other.join();
    world.check(0, 1);
}

/// One searches while another drops the heap and makes one that has its entry, and lies where it was, if it is gone.
pub fn leave_and_enter_against_look() {
    let (world, index) = World::new();
    let other = spawn(&world, move |world| world.look(index));
    let was_last = world.leave(index);
    if was_last {
        assert_eq!(world.enter(), index, "the entry was given back");
    }
    other.join();
    world.check(usize::from(was_last), 1);
}

/// Two search while a third drops the heap.
pub fn leave_against_two_looks() {
    let (world, index) = World::new();
    let [one, two] = [(); 2].map(|_| spawn(&world, move |world| world.look(index)));
    world.leave(index);
    one.join();
    two.join();
    world.check(0, 1);
}
