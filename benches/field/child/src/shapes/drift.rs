//! A server that runs for long while what it keeps changes in size: what was freed in one size is wanted in another. How
//! much is resident beyond what is live is the fragmentation that the literature warns of (Robson, 1977; Wilson and
//! others, "Dynamic storage allocation: a survey and critical review", 1995).

use super::sizes::total;
use crate::child::measure::measure;
use crate::child::workloads::block::Block;
use crate::child::workloads::{Crew, Outcome};
use fastrand::Rng;

/// Bytes live at a time, over all threads.
const LIVE: u64 = 64 << 20;
/// Bytes allocated in all.
const FLOW: u64 = 1 << 30;
const PHASES: u32 = 24;
const MIN: f64 = 24.0;
const MAX: f64 = 16_384.0;

pub fn run(crew: &Crew) -> Outcome {
    let flow = crew.scaled(FLOW);
    let live = LIVE.min(flow / 8);
    let (results, cost) = measure(|| {
        crew.each(|index| {
            let share = |bytes| {
                let part = Crew::part(bytes, crew.threads, index);
                part.end - part.start
            };
            serve(share(flow), share(live), index as u64)
        })
    });
    let (ops, made, freed) = results
        .into_iter()
        .fold((0u64, 0u64, 0u64), |sum, one| (sum.0 + one.0, sum.1.wrapping_add(one.1), sum.2.wrapping_add(one.2)));
    assert_eq!(made, freed, "a block was lost or damaged");
    Outcome { ops, checksum: made, cost }
}

/// Returns how many blocks were allocated, and the sums of the tags of those allocated and freed.
fn serve(flow: u64, most: u64, seed: u64) -> (u64, u64, u64) {
    let mut rng = Rng::with_seed(seed);
    let mut blocks: Vec<(Block, u64)> = Vec::new();
    let (mut count, mut made, mut freed, mut flown, mut live) = (0, 0u64, 0u64, 0u64, 0u64);
    while flown < flow {
        // From the smallest size to the largest and back, in steps.
        let phase = (flown * u64::from(PHASES) / flow) as f64 / f64::from(PHASES - 1);
        let up = 1.0 - (2.0 * phase - 1.0).abs();
        let typical = MIN * (MAX / MIN).powf(up);
        let size = (typical * (0.5 + rng.f64())) as u64;
        let tag = rng.u64(..);
        made = made.wrapping_add(tag);
        blocks.push((Block::new(size as usize, tag), size));
        (count, flown, live) = (count + 1, flown + size, live + size);
        while live > most && blocks.len() > 1 {
            let (old, size) = blocks.swap_remove(rng.usize(..blocks.len()));
            freed = freed.wrapping_add(old.tag());
            live -= size;
        }
    }
    (count, made, freed.wrapping_add(total(blocks.iter().map(|(block, _)| block.tag()))))
}
