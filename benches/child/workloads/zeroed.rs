//! Zeroed buffers, such as fresh hash tables: must be zero, and most of each is never looked at.

use super::{Crew, Outcome};
use crate::child::measure::measure;
use fastrand::Rng;
use std::collections::VecDeque;

const BUFFERS: u64 = 400_000;
/// Buffers alive at a time, over all threads.
const ALIVE: u64 = 256;
/// Sizes are spread evenly over the doublings from 64 B to 1 MiB.
const MIN_LOG_SIZE: u32 = 6;
const MAX_LOG_SIZE: u32 = 20;
/// Places of each buffer that are checked and then written.
const TOUCHED: usize = 8;

pub fn run(crew: &Crew) -> Outcome {
    let ops = crew.scaled(BUFFERS);
    let (sums, cost) = measure(|| {
        crew.each(|index| {
            let alive = Crew::part(ALIVE, crew.threads, index);
            let share = Crew::part(ops, crew.threads, index);
            use_buffers((alive.end - alive.start).max(1) as usize, share)
        })
    });
    Outcome { ops, checksum: sums.into_iter().fold(0, u64::wrapping_add), cost }
}

/// Allocates a buffer for each of `share`, the oldest making way; returns the sum of what was written.
fn use_buffers(alive: usize, share: std::ops::Range<u64>) -> u64 {
    let mut rng = Rng::with_seed(share.start);
    let mut buffers = VecDeque::with_capacity(alive);
    let mut sum = 0u64;
    for _ in share {
        if buffers.len() == alive {
            buffers.pop_front();
        }
        let base = 1usize << rng.u32(MIN_LOG_SIZE..MAX_LOG_SIZE);
        let mut buffer = vec![0u64; (base + rng.usize(..base)) / size_of::<u64>()];
        sum = sum.wrapping_add(touch(&mut buffer, &mut rng));
        buffers.push_back(buffer);
    }
    sum
}

/// Checks places, the first and the last word among them, and makes them unfit to be taken for zeroed memory.
fn touch(buffer: &mut [u64], rng: &mut Rng) -> u64 {
    let last = buffer.len() - 1;
    let mut places = [0; TOUCHED];
    places[1] = last;
    places[2..].fill_with(|| rng.usize(..=last));
    let zero = places.iter().all(|&place| buffer[place] == 0);
    assert!(zero, "zeroed memory is not zero");
    let mark = rng.u64(1..);
    for place in places {
        buffer[place] = mark;
    }
    mark
}
