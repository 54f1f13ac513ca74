//! The heaps that there are: one that is left goes once, after all who hold it have looked, and what it was made of is seen.

use super::spawn;
use crate::heaps::Heaps;
use crate::sync::Slot;
use crate::tagged::Index;
use std::prelude::v1::*;
use std::rc::Rc;

/// Where the first heap lies, and the second.
const PLACES: [usize; 2] = [1 << 16, 1 << 17];

/// What a heap was made of, what the program does with it, and how often it was disposed of.
struct Body {
    made_of: Slot,
    used: Slot,
    gone: Slot,
}

struct World {
    heaps: Heaps,
    bodies: [Body; 2],
}

impl World {
    /// With a heap, whose entry is the first.
    fn new() -> (Rc<Self>, Index) {
        let body = || Body { made_of: Slot::new(0), used: Slot::new(0), gone: Slot::new(0) };
        let world = Rc::new(Self { heaps: Heaps::new(), bodies: [body(), body()] });
        let index = world.enter(0);
        (world, index)
    }

    fn enter(&self, place: usize) -> Index {
        let index = self.heaps.place().expect("the fake system gives memory");
        self.bodies[place].made_of.set(index as usize);
        self.heaps.enter(index, PLACES[place]);
        index
    }

    /// The program drops the first heap, with which it was busy up to then. Whether it is gone.
    fn leave(&self, index: Index) -> bool {
        self.bodies[0].used.set(1);
        let is_last = self.heaps.leave(index, || false);
        if is_last {
            self.dispose(0);
        }
        is_last
    }

    /// A search looks at whichever it finds.
    fn look(&self, index: Index) {
        let Some(address) = self.heaps.hold(index) else { return };
        let place = PLACES.iter().position(|place| *place == address).expect("the address of a heap");
        assert_eq!(self.bodies[place].made_of.get(), index as usize, "the heap is there, and knows its entry");
        if let Some(left) = self.heaps.let_go(index) {
            assert_eq!(left, address, "what is held stays");
            self.dispose(place);
        }
    }

    fn dispose(&self, place: usize) {
        let Body { made_of, used, gone } = &self.bodies[place];
        assert_ne!(made_of.get(), 0, "it is disposed of once");
        made_of.set(0);
        used.set(0);
        gone.set(gone.get() + 1);
    }

    /// While no other thread has anything to do with it: the first is gone, and there are so many.
    fn check(&self, heaps: usize) {
        assert_eq!(self.heaps.check(), Some(heaps), "heaps that there are");
        assert_eq!(self.bodies[0].gone.get(), 1, "it is disposed of once");
    }
}

/// One searches while another drops the heap.
pub fn leave_against_look() {
    let (world, index) = World::new();
    let other = spawn(&world, move |world| world.look(index));
    world.leave(index);
    other.join();
    world.check(0);
}

/// One searches while another drops the heap and makes one, which has its entry if that is free by then.
pub fn leave_and_enter_against_look() {
    let (world, index) = World::new();
    let other = spawn(&world, move |world| world.look(index));
    let is_free = world.leave(index);
    let next = world.enter(1);
    assert!(next == index || !is_free, "the entry was given back");
    other.join();
    world.check(1);
}

/// Two search while a third drops the heap.
pub fn leave_against_two_looks() {
    let (world, index) = World::new();
    let [one, two] = [(); 2].map(|_| spawn(&world, move |world| world.look(index)));
    world.leave(index);
    one.join();
    two.join();
    world.check(0);
}
