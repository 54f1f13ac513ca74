//! Generations of threads, after the stress test of mimalloc (Leijen, Zorn and de Moura, 2019): each thread allocates
//! mixed sizes, frees at random, and swaps blocks with all others through shared places; then all threads end and new ones
//! go on.

use super::sizes::{skewed, total};
use crate::child::measure::measure;
use crate::child::workloads::block::Block;
use crate::child::workloads::{Crew, Outcome};
use fastrand::Rng;
use std::sync::Mutex;

const STEPS: u64 = 5_000_000;
const GENERATIONS: u64 = 8;
/// Where threads leave blocks for each other.
const PLACES: usize = 1024;
/// Blocks that all threads together keep.
const KEPT: usize = 32 << 10;

type Places = Vec<Mutex<Option<Block>>>;

pub fn run(crew: &Crew) -> Outcome {
    let ops = crew.scaled(STEPS).max(GENERATIONS);
    let places: Places = (0..PLACES).map(|_| Mutex::new(None)).collect();
    let ((made, freed), cost) = measure(|| {
        let (mut made, mut freed) = (0u64, 0u64);
        for generation in 0..GENERATIONS {
            let steps = Crew::part(ops, GENERATIONS as usize, generation as usize);
            let sums = std::thread::scope(|scope| {
                let places = &places;
                let work = |index| {
                    let share = Crew::part(steps.end - steps.start, crew.threads, index);
                    let seed = generation << 32 | index as u64;
                    scope.spawn(move || stress(places, share.end - share.start, seed, KEPT / crew.threads))
                };
                let threads: Vec<_> = (0..crew.threads).map(work).collect();
                threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Vec<_>>()
            });
            made = made.wrapping_add(total(sums.iter().map(|sums| sums.0)));
            freed = freed.wrapping_add(total(sums.iter().map(|sums| sums.1)));
        }
        let left = places.iter().filter_map(|place| place.lock().expect("no panic").take());
        (made, freed.wrapping_add(total(left.map(|block| block.tag()))))
    });
    assert_eq!(made, freed, "a block was lost or damaged");
    Outcome { ops, checksum: made, cost }
}

/// Returns the sums of the tags of what was allocated and of what was freed.
fn stress(places: &Places, steps: u64, seed: u64, kept: usize) -> (u64, u64) {
    // What is made does not depend on what others leave.
    let (mut making, mut choosing) = (Rng::with_seed(seed), Rng::with_seed(!seed));
    let mut blocks: Vec<Block> = Vec::new();
    let (mut made, mut freed) = (0u64, 0u64);
    for _ in 0..steps {
        let tag = making.u64(..);
        let block = Block::new(skewed(&mut making, 16, 4096), tag);
        made = made.wrapping_add(tag);
        let mut out = None;
        if choosing.u32(..8) == 0 {
            let place = &places[choosing.usize(..PLACES)];
            out = place.lock().expect("no panic").replace(block);
        } else if blocks.len() < kept.max(1) {
            blocks.push(block);
        } else {
            let place = choosing.usize(..blocks.len());
            out = Some(std::mem::replace(&mut blocks[place], block));
        }
        freed = freed.wrapping_add(out.map_or(0, |block| block.tag()));
    }
    (made, freed.wrapping_add(total(blocks.iter().map(Block::tag))))
}
