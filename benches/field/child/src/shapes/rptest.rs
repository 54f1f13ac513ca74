//! Random frees across threads, in the shape of rpmalloc's bench (Jansson): each thread allocates mixed sizes, keeps some,
//! sends others to a thread chosen at random, and frees what it was sent.

use super::sizes::{skewed, total};
use crate::child::measure::measure;
use crate::child::workloads::block::Block;
use crate::child::workloads::{Crew, Outcome};
use fastrand::Rng;
use std::sync::Mutex;

const BLOCKS: u64 = 3_000_000;
const ROUND: usize = 512;
/// Blocks that all threads together keep.
const KEPT: usize = 16 << 10;

type Inbox = Mutex<Vec<Vec<Block>>>;

pub fn run(crew: &Crew) -> Outcome {
    let ops = crew.scaled(BLOCKS);
    let inboxes: Vec<Inbox> = (0..crew.threads).map(|_| Inbox::default()).collect();
    let ((made, freed), cost) = measure(|| {
        let sums = crew.each(|index| {
            let share = Crew::part(ops, crew.threads, index);
            work(&inboxes, index, (share.end - share.start) as usize, KEPT / crew.threads)
        });
        let left = inboxes.iter().flat_map(|inbox| std::mem::take(&mut *inbox.lock().expect("no panic")));
        let left = total(left.flatten().map(|block| block.tag()));
        let freed = total(sums.iter().map(|sums| sums.1)).wrapping_add(left);
        (total(sums.iter().map(|sums| sums.0)), freed)
    });
    assert_eq!(made, freed, "a block was lost or damaged");
    Outcome { ops, checksum: made, cost }
}

fn work(inboxes: &[Inbox], index: usize, mut left: usize, most: usize) -> (u64, u64) {
    // What is made does not depend on what others send.
    let (mut making, mut choosing) = (Rng::with_seed(index as u64), Rng::with_seed(!(index as u64)));
    let mut kept: Vec<Block> = Vec::new();
    let (mut made, mut freed) = (0u64, 0u64);
    while left > 0 {
        let mut parcel = Vec::new();
        for nth in 0..ROUND.min(left) {
            let tag = making.u64(..);
            made = made.wrapping_add(tag);
            let block = Block::new(skewed(&mut making, 16, 8192), tag);
            if nth % 2 == 0 {
                parcel.push(block);
            } else if kept.len() < most.max(1) {
                kept.push(block);
            } else {
                let place = choosing.usize(..kept.len());
                freed = freed.wrapping_add(std::mem::replace(&mut kept[place], block).tag());
            }
        }
        left -= ROUND.min(left);
        inboxes[choosing.usize(..inboxes.len())].lock().expect("no panic").push(parcel);
        // Its own statement: the guard must be gone while they are freed.
        let sent = std::mem::take(&mut *inboxes[index].lock().expect("no panic"));
        freed = freed.wrapping_add(total(sent.into_iter().flatten().map(|block| block.tag())));
    }
    (made, freed.wrapping_add(total(kept.iter().map(Block::tag))))
}
