//! The tagged stack: nobody else's node is popped, and what a node carries comes with it.

use super::spawn;
use crate::stack::{Nodes, Stack};
use crate::sync::{AtomicU32, Slot};
use crate::tagged::{Index, NONE};
use std::prelude::v1::*;
use std::rc::Rc;

const NODES: usize = 3;

/// Three nodes with one word of payload each, and a stack of them.
struct Nodepile {
    stack: Stack,
    links: [AtomicU32; NODES],
    payload: [Slot; NODES],
}

impl Nodes for Nodepile {
    fn link(&self, index: Index) -> &AtomicU32 {
        &self.links[index as usize - 1]
    }
}

impl Nodepile {
    /// The first `stacked` nodes in the stack, the last of them on top.
    fn new(stacked: Index) -> Self {
        let pile = Self {
            stack: Stack::new(),
            links: core::array::from_fn(|_| AtomicU32::new(NONE)),
            payload: core::array::from_fn(|_| Slot::new(0)),
        };
        (1..=stacked).for_each(|index| pile.push(index));
        pile
    }

    /// Writes to the node, as its owner may, and pushes it.
    fn push(&self, index: Index) {
        self.payload[index as usize - 1].set(index as usize);
        self.stack.push(self, index);
    }

    /// Pops a node and reads and writes what it carries.
    fn pop(&self) -> Option<Index> {
        let index = self.stack.pop(self)?;
        let payload = &self.payload[index as usize - 1];
        assert_eq!(payload.get(), index as usize);
        payload.set(0);
        Some(index)
    }

    /// With what the threads hold, each node is in one place.
    fn check(&self, held: impl IntoIterator<Item = Index>) {
        let mut all: Vec<Index> = held.into_iter().collect();
        let ends = self.stack.walk(self, NODES, |index| all.push(index));
        all.sort_unstable();
        assert!(ends && all == [1, 2, 3], "each node is in one place: {all:?}, the list ends: {ends}");
    }
}

/// One thread pops while another pops two and pushes the first of them back: the classic ABA.
pub fn pop_against_pop_pop_push() {
    let pile = Rc::new(Nodepile::new(3));
    let other = spawn(&pile, |pile| pile.pop());
    let first = pile.pop();
    let second = pile.pop();
    if let Some(first) = first {
        pile.push(first);
    }
    pile.check(other.join().into_iter().chain(second));
}

/// Two threads push, each pops what it finds, and neither loses the other's node.
pub fn pushes_and_pops() {
    let pile = Rc::new(Nodepile::new(1));
    let other = spawn(&pile, |pile| {
        pile.push(2);
        pile.pop()
    });
    pile.push(3);
    let mine = pile.pop();
    pile.check(other.join().into_iter().chain(mine));
}

/// A third thread pops what two push at the same time.
pub fn two_push_one_pops() {
    let pile = Rc::new(Nodepile::new(1));
    let one = spawn(&pile, |pile| pile.push(2));
    let two = spawn(&pile, |pile| pile.push(3));
    let popped = [pile.pop(), pile.pop()];
    one.join();
    two.join();
    pile.check(popped.into_iter().flatten());
}
