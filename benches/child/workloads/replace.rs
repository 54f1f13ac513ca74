//! Random replacement: a block chosen at random is freed and one of a random size takes its slot.

use super::block::Block;
use super::{Crew, Outcome};
use crate::child::measure::measure;
use fastrand::Rng;

/// A working set that the caches of the processor hold.
pub fn small(crew: &Crew) -> Outcome {
    run(crew, 4 << 10, 1000, 20_000_000)
}

/// A working set that they do not hold.
pub fn big(crew: &Crew) -> Outcome {
    run(crew, 256 << 10, 256, 6_000_000)
}

/// Blocks that a thread keeps replacing; also what larson's threads hand to each other.
pub struct Slots {
    blocks: Vec<Block>,
    rng: Rng,
    max_size: usize,
    /// Sum of the tags of all blocks ever stored, less those of the blocks taken out: what the living ones must hold.
    balance: u64,
}

impl Slots {
    pub fn filled(count: usize, max_size: usize, seed: u64) -> Self {
        let mut slots = Self { blocks: Vec::with_capacity(count), rng: Rng::with_seed(seed), max_size, balance: 0 };
        for _ in 0..count {
            let block = slots.fresh();
            slots.blocks.push(block);
        }
        slots
    }

    pub fn replace(&mut self, times: u64) {
        for _ in 0..times {
            let index = self.rng.usize(..self.blocks.len());
            let block = self.fresh();
            let old = std::mem::replace(&mut self.blocks[index], block);
            self.balance = self.balance.wrapping_sub(old.tag());
        }
    }

    /// Checks the living blocks against the balance, which is a checksum of every block there ever was.
    pub fn settle(&self) -> u64 {
        let living = self.blocks.iter().map(Block::tag);
        let living = living.fold(0, u64::wrapping_add);
        assert_eq!(living, self.balance, "a block lost its tag");
        living
    }

    fn fresh(&mut self) -> Block {
        let random = self.rng.u64(..);
        self.balance = self.balance.wrapping_add(random);
        // The upper half's bits choose the size; the whole is the tag.
        let span = (self.max_size - Block::MIN + 1) as u64;
        let above_min = ((random >> 32) * span) >> 32;
        Block::new(Block::MIN + above_min as usize, random)
    }
}

fn run(crew: &Crew, slots: usize, max_size: usize, full: u64) -> Outcome {
    let ops = crew.scaled(full);
    let sets = crew.each(|index| {
        let share = Crew::part(slots as u64, crew.threads, index);
        Slots::filled((share.end - share.start) as usize, max_size, index as u64)
    });
    let (sets, cost) = measure(|| {
        crew.each_with(sets, |index, mut slots| {
            let share = Crew::part(ops, crew.threads, index);
            slots.replace(share.end - share.start);
            slots
        })
    });
    Outcome { ops, checksum: sets.iter().map(Slots::settle).fold(0, u64::wrapping_add), cost }
}
