//! Vectors that grow by pushing, several at a time, so that a block's neighbour is in use when it is to grow.

use super::{Crew, Outcome};
use crate::child::measure::measure;
use fastrand::Rng;

const VECTORS: u64 = 64;
const PUSHES: u64 = 150_000_000;
/// Elements pushed to one vector before it is another's turn.
const BURST: u64 = 256;
/// The lengths at which vectors are done follow a power law, from 64 bytes to 512 KiB: many short ones, few long ones,
/// and about as many bytes in each doubling.
const MIN_LEN: u64 = 8;
const MAX_LOG_LEN: u32 = 16;

struct Growing {
    elements: Vec<u64>,
    goal: u64,
}

impl Growing {
    fn new(rng: &mut Rng) -> Self {
        let goal = MIN_LEN as f64 / (1.0 - rng.f64());
        Self { elements: Vec::new(), goal: (goal as u64).min(1 << MAX_LOG_LEN) }
    }

    /// Pushes a burst of numbers, as far as there are any left to push; says how many.
    fn grow(&mut self, left: u64) -> u64 {
        let len = self.elements.len() as u64;
        let end = self.goal.min(len + BURST.min(left));
        for element in len..end {
            self.elements.push(element);
        }
        end - len
    }

    fn is_done(&self) -> bool {
        self.elements.len() as u64 == self.goal
    }

    /// Checks the elements on both sides of each place where the vector may have moved.
    fn check(&self) {
        let last = self.elements.len().saturating_sub(1);
        let edges = (0..=MAX_LOG_LEN).flat_map(|log| [(1 << log) - 1, 1 << log]);
        for place in edges.filter(|&place| place <= last).chain([last]) {
            let element = self.elements.get(place);
            assert!(element.is_none_or(|&element| element == place as u64), "an element was damaged");
        }
    }
}

pub fn run(crew: &Crew) -> Outcome {
    let ops = crew.scaled(PUSHES);
    let (pushed, cost) = measure(|| {
        crew.each(|index| {
            let vectors = Crew::part(VECTORS, crew.threads, index);
            let share = Crew::part(ops, crew.threads, index);
            grow_all(vectors, share.end - share.start)
        })
    });
    let checksum = pushed.into_iter().sum();
    assert_eq!(checksum, ops, "a push was lost");
    Outcome { ops, checksum, cost }
}

/// Grows the vectors in turn until `pushes` are done, replacing those that have reached their goal.
fn grow_all(vectors: std::ops::Range<u64>, pushes: u64) -> u64 {
    let mut rng = Rng::with_seed(vectors.start);
    let count = (vectors.end - vectors.start).max(1);
    let mut vectors: Vec<_> = (0..count).map(|_| Growing::new(&mut rng)).collect();
    let mut pushed = 0;
    while pushed < pushes {
        for vector in &mut vectors {
            pushed += vector.grow(pushes - pushed);
            if vector.is_done() {
                vector.check();
                *vector = Growing::new(&mut rng);
            }
        }
    }
    vectors.iter().for_each(Growing::check);
    pushed
}
