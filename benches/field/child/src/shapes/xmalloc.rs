//! Asymmetric producers and consumers, after the `xmalloc` test of Lever and Boreham ("malloc() performance in a
//! multithreaded Linux environment", 2000): half of the threads only allocate, the others only free, and any consumer may
//! get what any producer has made. A single thread does both in turn.

use super::sizes::{sum_below, total};
use crate::child::measure::measure;
use crate::child::workloads::block::Block;
use crate::child::workloads::{Crew, Outcome};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::mpsc::sync_channel;

const BLOCKS: u64 = 24_000_000;
const BATCH: usize = 120;
/// Batches in the queue, at most.
const QUEUE: usize = 256;
const SIZES: [usize; 8] = [16, 24, 48, 64, 96, 160, 320, 640];

pub fn run(crew: &Crew) -> Outcome {
    let ops = crew.scaled(BLOCKS);
    let producers = (crew.threads / 2).max(1);
    let (sender, receiver) = sync_channel::<Vec<Block>>(QUEUE);
    let receiver = Mutex::new(receiver);
    let senders = (0..crew.threads).map(|index| (index < producers).then(|| sender.clone())).collect();
    drop(sender);
    let alone = crew.threads == 1;
    let (sums, cost) = measure(|| {
        crew.each_with(senders, |index, sender| {
            let mut sum = 0u64;
            match sender {
                Some(_) if alone => {
                    let mut tags = 0..ops;
                    while let Some(batch) = make(&mut tags) {
                        sum = sum.wrapping_add(total(batch.iter().map(Block::tag)));
                    }
                }
                Some(sender) => {
                    let mut tags = Crew::part(ops, producers, index);
                    while let Some(batch) = make(&mut tags) {
                        sender.send(batch).expect("a consumer is left");
                    }
                }
                None => loop {
                    // Its own statement: the guard must be gone while the batch is freed.
                    let batch = receiver.lock().expect("no panic").recv();
                    let Ok(batch) = batch else { break };
                    sum = sum.wrapping_add(total(batch.iter().map(Block::tag)));
                },
            }
            sum
        })
    });
    let checksum = total(sums);
    assert_eq!(checksum, sum_below(ops), "a block was lost or damaged");
    Outcome { ops, checksum, cost }
}

/// A batch of the next blocks, in memory of its own; nothing when there are none left.
fn make(tags: &mut Range<u64>) -> Option<Vec<Block>> {
    let blocks = tags.take(BATCH).map(|tag| Block::new(SIZES[tag as usize % SIZES.len()], tag));
    let batch: Vec<Block> = blocks.collect();
    (!batch.is_empty()).then_some(batch)
}
