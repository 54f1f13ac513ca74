//! Hand-over between threads after Larson and Krishnan ("Memory allocation for long-running server applications",
//! 1998): whoever takes a set of blocks replaces many of them and passes the set on, so most frees are of blocks that
//! another thread allocated.

use super::replace::Slots;
use super::{Crew, Outcome};
use crate::child::measure::measure;
use std::collections::VecDeque;
use std::sync::Mutex;

/// More sets than threads, so that nobody waits for one.
const SETS: u64 = 64;
const BLOCKS: usize = 512;
const MAX_SIZE: usize = 1000;
const REPLACEMENTS: u64 = 2048;
const PASSES: u64 = 80;

pub fn run(crew: &Crew) -> Outcome {
    let passes = crew.scaled(PASSES);
    let sets = (0..SETS).map(|seed| (Slots::filled(BLOCKS, MAX_SIZE, seed), passes));
    let queue = Mutex::new(sets.collect::<VecDeque<_>>());
    let (done, cost) = measure(|| {
        crew.each(|_| {
            let mut done = Vec::new();
            // Its own statement: the guard must be gone while the thread works.
            let take = || queue.lock().expect("no panic").pop_front();
            while let Some((mut slots, left)) = take() {
                slots.replace(REPLACEMENTS);
                if left == 1 {
                    done.push(slots);
                } else {
                    let mut queue = queue.lock().expect("no panic");
                    queue.push_back((slots, left - 1));
                }
            }
            done
        })
    });
    let done: Vec<Slots> = done.into_iter().flatten().collect();
    assert_eq!(done.len() as u64, SETS, "a set was lost");
    Outcome {
        ops: SETS * passes * REPLACEMENTS,
        checksum: done.iter().map(Slots::settle).fold(0, u64::wrapping_add),
        cost,
    }
}
