//! Binary trees that rayon builds, walks and fells: tasks are stolen, so nodes are freed wherever it falls out.

use super::{Crew, Outcome};
use crate::child::measure::measure;

const TREES: u64 = 32;
const DEPTH: u32 = 18;
/// Smaller subtrees are not worth a task.
const SEQUENTIAL_DEPTH: u32 = 11;
const NODES: u64 = (1 << DEPTH) - 1;

struct Node {
    value: u64,
    children: Option<(Box<Node>, Box<Node>)>,
}

pub fn run(crew: &Crew) -> Outcome {
    let trees = crew.scaled(TREES);
    let (checksum, cost) = measure(|| {
        crew.pool.install(|| {
            let mut checksum = 0u64;
            for _ in 0..trees {
                let tree = build(1, DEPTH);
                checksum = checksum.wrapping_add(sum(&tree, DEPTH));
                fell(*tree, DEPTH);
            }
            checksum
        })
    });
    assert_eq!(checksum, trees * (NODES * (NODES + 1) / 2), "a node was lost");
    Outcome { ops: trees * NODES, checksum, cost }
}

/// Nodes are numbered as in a binary heap, so the whole tree holds each number up to `NODES` once.
fn build(value: u64, depth: u32) -> Box<Node> {
    let children = (depth > 1).then(|| fork(depth, || build(2 * value, depth - 1), || build(2 * value + 1, depth - 1)));
    Box::new(Node { value, children })
}

fn sum(node: &Node, depth: u32) -> u64 {
    let below = node.children.as_ref().map_or(0, |(left, right)| {
        let (left, right) = fork(depth, || sum(left, depth - 1), || sum(right, depth - 1));
        left + right
    });
    node.value + below
}

fn fell(node: Node, depth: u32) {
    if let Some((left, right)) = node.children {
        fork(depth, || fell(*left, depth - 1), || fell(*right, depth - 1));
    }
}

fn fork<A: Send, B: Send>(depth: u32, left: impl FnOnce() -> A + Send, right: impl FnOnce() -> B + Send) -> (A, B) {
    if depth > SEQUENTIAL_DEPTH { rayon::join(left, right) } else { (left(), right()) }
}
