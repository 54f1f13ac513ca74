//! Slabs: segments that two make at once, nodes taken and given back, and walks over those there are.

use super::spawn;
use crate::pool::{Magazine, Magazines};
use crate::slab::{Node, Slab};
use crate::sync::{AtomicU32, Ordering};
use std::prelude::v1::*;
use std::rc::Rc;

/// Takes a node and writes to it, as its owner may.
fn take(slab: &Magazines) -> u32 {
    take_near(slab, 0)
}

fn take_near(slab: &Magazines, home: usize) -> u32 {
    let node = slab.take_near(home).expect("the fake system gives memory");
    node.set_count(node.index() as usize);
    node.index()
}

/// All that were ever handed out are free again, once each.
fn check(slab: &Magazines, taken: &[u32]) {
    let made = slab.made();
    assert!(taken.iter().all(|index| slab.get(*index).count() == *index as usize), "a node is not where it was");
    assert!(taken.iter().all(|index| (1..=made).contains(index)), "{taken:?} of {made}");
    assert!(taken.iter().enumerate().all(|(at, index)| !taken[..at].contains(index)), "a node taken twice: {taken:?}");
    assert_eq!(slab.free_nodes(), Some(made as usize - taken.len()), "each node is in one place");
}

/// Two threads need the first segment at the same time, and then the second.
pub fn two_make_a_segment() {
    let slab = Rc::new(Slab::new());
    let other = spawn(&slab, |slab| [take(slab), take(slab)]);
    let mine = take(&slab);
    let [one, two] = other.join();
    check(&slab, &[mine, one, two]);
}

/// A node of which two are taken at once.
struct Twin {
    link: AtomicU32,
    owner: AtomicU32,
}

// SAFETY: `make` makes it, and only stacks use the link.
unsafe impl Node for Twin {
    const AT_ONCE: u32 = 2;

    fn stride(_: usize) -> usize {
        size_of::<Self>()
    }

    fn link(&self) -> &AtomicU32 {
        &self.link
    }

    unsafe fn make(at: *mut Self, _: usize) {
        // SAFETY: the caller gives the place.
        unsafe { at.write(Self { link: AtomicU32::new(0), owner: AtomicU32::new(0) }) };
    }

    fn name(&self, _: u32) {}
}

/// Each takes one from a home of its own, and with it another, which is free there, and anybody's.
pub fn two_take_several() {
    let slab = Rc::new(Slab::<Twin, 2>::new());
    let take = |slab: &Slab<Twin, 2>, home: usize, who: u32| {
        let node = slab.take_near(home).expect("the fake system gives memory");
        assert_eq!(node.owner.swap(who, Ordering::Relaxed), 0, "a node is not where it was");
    };
    let other = spawn(&slab, move |slab| take(slab, 1, 7));
    take(&slab, 0, 8);
    take(&slab, 0, 9);
    other.join();
    assert_eq!(slab.free_nodes(), Some(slab.made() as usize - 3), "each node is in one place");
}

/// Nodes go back and forth: whoever takes one that another gave has it alone.
pub fn take_against_give() {
    let slab = Rc::new(Slab::new());
    let first = [take(&slab), take(&slab)];
    let other = spawn(&slab, move |slab| {
        slab.give(first[0]);
        take(slab)
    });
    slab.give(first[1]);
    let mine = take(&slab);
    check(&slab, &[other.join(), mine]);
}

/// The same from two homes: each may find nothing at its own, and the other's.
pub fn take_against_give_elsewhere() {
    let slab = Rc::new(Magazines::new());
    let first = [take(&slab), take(&slab)];
    let pass = |slab: &Magazines, home: usize, index| {
        slab.get(index).set_count(0);
        slab.give_near(home, index);
        take_near(slab, 3 - home)
    };
    let other = spawn(&slab, move |slab| pass(slab, 1, first[0]));
    let mine = pass(&slab, 2, first[1]);
    check(&slab, &[other.join(), mine]);
}

/// A walk over all nodes there are finds them made, while another thread adds to them.
pub fn walk_against_take() {
    let slab = Rc::new(Magazines::new());
    let other = spawn(&slab, take);
    for index in 1..=slab.made() {
        // The walkers' way: an atomic of a node that somebody else may own.
        assert!(slab.get(index).index() <= index, "a node that is not made");
    }
    check(&slab, &[other.join()]);
}

/// Two make nodes whose indices they have elsewhere, in different segments, while a walk goes over those there are.
pub fn reach_against_reach_and_walk() {
    let slab = Rc::new(Magazines::new());
    let other = spawn(&slab, |slab| slab.reach(3).expect("the fake system gives memory").index());
    let mine = slab.reach(2).expect("the fake system gives memory").index();
    for index in 1..=slab.made() {
        assert!(slab.get(index).index() <= index, "a node that is not made");
    }
    assert_eq!((mine, other.join(), slab.made()), (2, 3, 3), "each has its own");
    assert!(slab.reached(3).is_some() && slab.reached(2).is_some(), "both are there");
}
