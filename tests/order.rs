//! What is built and dropped again and again stays in order: its neighbours lie beside each other, generation after generation.

mod common;

use common::child::Scenario;
use std::hint::black_box;

/// Deep enough for far more than processors' own caches hold: a million nodes.
const DEPTH: u32 = 20;
const GENERATIONS: usize = 16;

/// Made parent first, and dropped children first, as Rust drops.
struct Node {
    children: Option<[Box<Node>; 2]>,
    _value: u64,
}

fn build(depth: u32) -> Box<Node> {
    let mut node = Box::new(Node { children: None, _value: depth.into() });
    node.children = (depth > 1).then(|| [build(depth - 1), build(depth - 1)]);
    node
}

/// Visits each node's distance from the one before, on a walk from the root down.
fn walk(node: &Node, last: &mut usize, visit: &mut impl FnMut(usize)) {
    let address = (&raw const *node).addr();
    visit(last.abs_diff(address));
    *last = address;
    for child in node.children.iter().flatten() {
        walk(child, last, visit);
    }
}

#[test]
fn trees_stay_in_order() {
    Scenario::new("trees_stay_in_order").passes(|| {
        for _ in 0..GENERATIONS {
            drop(black_box(build(DEPTH)));
        }
        let (mut nodes, mut near) = (0, 0);
        walk(&build(DEPTH), &mut 0, &mut |distance| {
            nodes += 1;
            near += usize::from(distance <= 128);
        });
        assert!(near >= nodes * 9 / 10, "{near} of {nodes} lie within 128 B of the one before");
    });
}
