//! Many threads that live shortly, as in a server with one for each request: each allocates a little, frees half of it, and
//! leaves the rest to whoever waits for it. What a thread costs an allocator at its beginning and at its end.

use super::sizes::{skewed, sum_below, total};
use crate::child::measure::measure;
use crate::child::workloads::block::Block;
use crate::child::workloads::{Crew, Outcome};
use fastrand::Rng;

const THREADS: u64 = 6_000;
const BLOCKS: u64 = 256;

pub fn run(crew: &Crew) -> Outcome {
    // In waves of as many as run at a time.
    let waves = crew.scaled(THREADS).div_ceil(crew.threads as u64);
    let threads = waves * crew.threads as u64;
    let (checksum, cost) = measure(|| {
        let mut sum = 0u64;
        for wave in 0..waves {
            let parts: Vec<(u64, Vec<Block>)> = std::thread::scope(|scope| {
                let first = wave * crew.threads as u64;
                let live = (first..first + crew.threads as u64).map(|nth| scope.spawn(move || live(nth)));
                let live: Vec<_> = live.collect();
                live.into_iter().map(|thread| thread.join().expect("no panic")).collect()
            });
            for (freed, left) in parts {
                sum = sum.wrapping_add(freed).wrapping_add(total(left.iter().map(Block::tag)));
            }
        }
        sum
    });
    assert_eq!(checksum, sum_below(threads * BLOCKS), "a block was lost or damaged");
    Outcome { ops: threads * BLOCKS, checksum, cost }
}

fn live(nth: u64) -> (u64, Vec<Block>) {
    let mut rng = Rng::with_seed(nth);
    let tags = nth * BLOCKS..(nth + 1) * BLOCKS;
    let mut blocks: Vec<Block> = tags.map(|tag| Block::new(skewed(&mut rng, 16, 2048), tag)).collect();
    let left = blocks.split_off(BLOCKS as usize / 2);
    (total(blocks.iter().map(Block::tag)), left)
}
