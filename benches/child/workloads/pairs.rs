//! Allocate, free, allocate, free: the fast path and nothing else.

use super::block::Block;
use super::{Crew, Outcome};
use crate::child::measure::measure;
use std::hint::black_box;

const PAIRS: u64 = 60_000_000;
const SIZES: [usize; 16] = [8, 16, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256, 384, 512, 1024, 4096];

pub fn run(crew: &Crew) -> Outcome {
    let ops = crew.scaled(PAIRS);
    let (sums, cost) = measure(|| {
        crew.each(|index| {
            Crew::part(ops, crew.threads, index)
                .map(|i| black_box(&Block::new(SIZES[i as usize % SIZES.len()], i)).tag())
                .fold(0, u64::wrapping_add)
        })
    });
    let checksum = sums.into_iter().fold(0, u64::wrapping_add);
    let expected = (u128::from(ops) * u128::from(ops - 1) / 2) as u64;
    assert_eq!(checksum, expected, "a block lost its tag");
    Outcome { ops, checksum, cost }
}
