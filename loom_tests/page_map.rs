//! The page map: leaves that two make at once, and nodes found by an address alone.

use super::spawn;
use crate::config::PAGE;
use crate::heap::Heap;
use crate::page_map::PageMap;
use crate::pool::Portion;
use crate::size_class::{Class, INFO};
use std::prelude::v1::*;
use std::rc::Rc;

/// Not the one that a node that is not made yet seems to have.
const CLASS: Class = 1;

/// Has the map name a node for a page, as a run's owner does, and looks it up.
fn enter(map: &PageMap<u32>, page: usize, node: &'static u32) {
    map.prepare(page, 1).expect("the fake system gives memory");
    map.publish_noted(page, 1, (&raw const *node).cast_mut(), *node);
    assert_eq!(map.get(page * PAGE), Some(node), "an entry is not where it was put");
    assert_eq!(map.noted(page * PAGE), *node, "a note is not where it was put");
}

/// Two threads make the same leaf; neither loses its entry.
pub fn two_make_a_leaf() {
    let map = Rc::new(PageMap::new());
    let other = spawn(&map, |map| enter(map, 1, &10));
    // The way of a wild address: whoever looks finds the leaf made, or none.
    let entry = map.get(PAGE).copied().unwrap_or(0);
    assert!([entry, 10].contains(&map.noted(PAGE)), "a note is not where it was put");
    enter(&map, 2, &20);
    other.join();
    assert_eq!((map.get(PAGE), map.get(2 * PAGE), map.get(3 * PAGE)), (Some(&10), Some(&20), None), "entries are lost");
}

/// Two threads clear an entry, as those do who free the same address: one of them has done it.
pub fn two_take_an_entry() {
    static NODE: u32 = 10;
    let map = Rc::new(PageMap::new());
    enter(&map, 1, &NODE);
    let take = |map: &PageMap<u32>| map.take(1, (&raw const NODE).cast_mut());
    let other = spawn(&map, take);
    let mine = take(&map);
    assert_ne!(mine, other.join(), "one has taken it");
    assert_eq!(map.get(PAGE), None, "the entry is cleared");
}

/// Whoever finds a span by an address that nobody has told him finds it made.
pub fn look_up_against_open() {
    let heap = Rc::new(Heap::new());
    let other = spawn(&heap, |heap| {
        let mut first = 0;
        heap.pool(CLASS, 0).carve(Portion::any(1), 0, |chunk, _| first = chunk);
        first
    });
    if let Some(head) = heap.spans.page_map.get(PAGE) {
        assert_eq!((head.kind(), head.start()), (CLASS as u32, PAGE), "a span that is not made yet");
    }
    let chunk = other.join();
    let head = heap.spans.page_map.get(chunk + INFO[CLASS].size).expect("the span is known");
    assert_eq!((head.kind(), head.start()), (CLASS as u32, chunk), "a span is not where it was put");
}
