//! Mixed lifetimes, in the shape of the SmartHeap benches "sh6" and "sh8": batches of mixed sizes, of which most is freed
//! soon, in order, in reverse or at random, some after a few batches and some after many. In the second form, what has
//! lived long goes to whichever thread comes next, and that one frees it.

use super::sizes::total;
use crate::child::measure::measure;
use crate::child::workloads::block::Block;
use crate::child::workloads::{Crew, Outcome};
use fastrand::Rng;
use std::collections::VecDeque;
use std::sync::Mutex;

const BLOCKS: u64 = 6_000_000;
const BATCH: usize = 2000;
/// Batches that those with a medium and with a long life outlive, of all threads together.
const MEDIUM: usize = 16;
const LONG: usize = 256;

type Exchange = Mutex<VecDeque<Vec<Block>>>;

pub fn alone(crew: &Crew) -> Outcome {
    run(crew, None)
}

pub fn exchanged(crew: &Crew) -> Outcome {
    run(crew, Some(&Exchange::default()))
}

fn run(crew: &Crew, exchange: Option<&Exchange>) -> Outcome {
    let ops = crew.scaled(BLOCKS);
    let (sums, cost) = measure(|| {
        let sums = crew.each(|index| {
            let share = Crew::part(ops, crew.threads, index);
            live((share.end - share.start) as usize, index as u64, crew.threads, exchange)
        });
        let left = exchange.map(|exchange| std::mem::take(&mut *exchange.lock().expect("no panic")));
        let left = left.into_iter().flatten().flatten().map(|block| block.tag());
        (total(sums.iter().map(|sums| sums.0)), total(sums.iter().map(|sums| sums.1)).wrapping_add(total(left)))
    });
    let (made, freed) = sums;
    assert_eq!(made, freed, "a block was lost or damaged");
    Outcome { ops, checksum: made, cost }
}

fn live(mut left: usize, seed: u64, threads: usize, exchange: Option<&Exchange>) -> (u64, u64) {
    let mut rng = Rng::with_seed(seed);
    let (mut made, mut freed) = (0u64, 0u64);
    let mut end = |batch: Vec<Block>| freed = freed.wrapping_add(total(batch.into_iter().map(|block| block.tag())));
    let mut queues: [(VecDeque<Vec<Block>>, usize); 2] =
        [MEDIUM, LONG].map(|lives| (VecDeque::new(), (lives / threads).max(1)));
    let mut round = 0;
    while left > 0 {
        let mut batch: Vec<Block> = Vec::with_capacity(BATCH.min(left));
        let [mut medium, mut long] = [Vec::new(), Vec::new()];
        for _ in 0..BATCH.min(left) {
            let tag = rng.u64(..);
            made = made.wrapping_add(tag);
            let block = Block::new(size(&mut rng), tag);
            match rng.u32(..16) {
                0 => long.push(block),
                1..4 => medium.push(block),
                _ => batch.push(block),
            }
        }
        left -= BATCH.min(left);
        match round % 3 {
            0 => {}
            1 => batch.reverse(),
            _ => rng.shuffle(&mut batch),
        }
        round += 1;
        end(batch);
        for ((queue, most), fresh) in queues.iter_mut().zip([medium, long]) {
            queue.push_back(fresh);
            if queue.len() <= *most {
                continue;
            }
            let old = queue.pop_front().expect("one was just put there");
            match exchange {
                Some(exchange) if *most > 1 => {
                    let mut exchange = exchange.lock().expect("no panic");
                    exchange.push_back(old);
                    // One in, one out: some stay, so that it is mostly another's.
                    let others = if exchange.len() > threads { exchange.pop_front() } else { None };
                    drop(exchange);
                    others.into_iter().for_each(&mut end);
                }
                _ => end(old),
            }
        }
    }
    queues.into_iter().flat_map(|(queue, _)| queue).for_each(&mut end);
    (made, freed)
}

/// Eight in ten below 128 B, the others up to 2 KiB.
fn size(rng: &mut Rng) -> usize {
    if rng.u32(..10) < 8 { rng.usize(8..128) } else { rng.usize(128..2048) }
}
