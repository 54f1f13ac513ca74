//! The shapes of glibc's own malloc benches: a number of blocks of one size allocated, then freed in order and in reverse
//! (`simple`); and random replacement of mostly small sizes by each thread for itself (`thread`).

use super::sizes::{sum_below, total};
use crate::child::measure::measure;
use crate::child::workloads::block::Block;
use crate::child::workloads::{Crew, Outcome};
use fastrand::Rng;

const SIMPLE: u64 = 6_000_000;
const COUNTS: [u64; 4] = [25, 100, 400, 1600];
const SIZES: [usize; 6] = [8, 32, 100, 512, 1024, 4096];

const THREAD: u64 = 8_000_000;
const SLOTS: u64 = 4096;
const MIN: f64 = 4.0;
const MAX: f64 = 32_768.0;

pub fn simple(crew: &Crew) -> Outcome {
    let ops = crew.scaled(SIMPLE);
    let (sums, cost) = measure(|| {
        crew.each(|index| {
            let mut tags = Crew::part(ops, crew.threads, index);
            let mut blocks: Vec<Block> = Vec::with_capacity(1600);
            let (mut sum, mut round) = (0u64, 0);
            loop {
                let count = COUNTS[round % COUNTS.len()];
                let size = SIZES[round / COUNTS.len() % SIZES.len()];
                blocks.extend((&mut tags).take(count as usize).map(|tag| Block::new(size, tag)));
                if blocks.is_empty() {
                    return sum;
                }
                if round % 2 == 0 {
                    blocks.drain(..).for_each(|block| sum = sum.wrapping_add(block.tag()));
                } else {
                    blocks.drain(..).rev().for_each(|block| sum = sum.wrapping_add(block.tag()));
                }
                round += 1;
            }
        })
    });
    let checksum = total(sums);
    assert_eq!(checksum, sum_below(ops), "a block was lost or damaged");
    Outcome { ops, checksum, cost }
}

pub fn thread(crew: &Crew) -> Outcome {
    let ops = crew.scaled(THREAD);
    let (sums, cost) = measure(|| {
        crew.each(|index| {
            let mut rng = Rng::with_seed(index as u64);
            let slots = Crew::part(SLOTS, crew.threads, index);
            let mut slots: Vec<Option<Block>> = slots.map(|_| None).collect();
            let mut sum = 0u64;
            for tag in Crew::part(ops, crew.threads, index) {
                let slot = rng.usize(..slots.len());
                let old = slots[slot].take();
                sum = sum.wrapping_add(old.map_or(0, |block| block.tag()));
                slots[slot] = Some(Block::new(size(&mut rng), tag));
            }
            sum.wrapping_add(total(slots.iter().flatten().map(Block::tag)))
        })
    });
    let checksum = total(sums);
    assert_eq!(checksum, sum_below(ops), "a block was lost or damaged");
    Outcome { ops, checksum, cost }
}

/// The chance of a size falls with the root of its cube, so that most are small and most bytes are in large ones.
fn size(rng: &mut Rng) -> usize {
    // Inverse transform of a density of s^(-3/2).
    let (low, high) = (MIN.powf(-0.5), MAX.powf(-0.5));
    let root = low - rng.f64() * (low - high);
    (1.0 / (root * root)) as usize
}
