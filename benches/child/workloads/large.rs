//! Large blocks that come and go all the time, and are used: the price is page faults, if the allocator lets it be.

use super::{Crew, Outcome};
use crate::child::measure::measure;
use fastrand::Rng;
use std::mem::MaybeUninit;

const SLOTS: u64 = 32;
const REPLACEMENTS: u64 = 16_000;
const MIN_SIZE: usize = 256 << 10;
/// From the smallest size to the largest, 8 MiB.
const DOUBLINGS: u32 = 5;
/// Words between those that are written: one in each OS page, or more where pages are larger.
const STRIDE: usize = 4096 / size_of::<u64>();

struct Large {
    words: Box<[MaybeUninit<u64>]>,
    tag: u64,
}

impl Large {
    fn new(rng: &mut Rng) -> Self {
        let base = MIN_SIZE << rng.u32(..DOUBLINGS);
        let size = base + rng.usize(..base);
        let mut words = Box::new_uninit_slice(size / size_of::<u64>());
        let tag = rng.u64(..);
        for word in words.iter_mut().step_by(STRIDE) {
            word.write(tag);
        }
        Self { words, tag }
    }

    /// Checks some of the words, from the first stretch to the last, and returns the tag.
    fn check(&self) -> u64 {
        for word in self.words.iter().step_by(STRIDE * 32) {
            // SAFETY: every place that is a multiple of STRIDE was written by `new`.
            let word = unsafe { word.assume_init() };
            assert_eq!(word, self.tag, "a large block was damaged");
        }
        self.tag
    }
}

pub fn run(crew: &Crew) -> Outcome {
    let ops = crew.scaled(REPLACEMENTS);
    let (sums, cost) = measure(|| {
        crew.each(|index| {
            let slots = Crew::part(SLOTS, crew.threads, index);
            let share = Crew::part(ops, crew.threads, index);
            replace(slots, share)
        })
    });
    Outcome { ops, checksum: sums.into_iter().fold(0, u64::wrapping_add), cost }
}

/// Allocates as many blocks as `share` is long, keeping as many as there are slots; returns the sum of their tags.
fn replace(slots: std::ops::Range<u64>, share: std::ops::Range<u64>) -> u64 {
    let mut rng = Rng::with_seed(share.start);
    let mut blocks: Vec<Option<Large>> = Vec::new();
    blocks.resize_with((slots.end - slots.start).max(1) as usize, || None);
    let mut sum = 0u64;
    for _ in share {
        let slot = rng.usize(..blocks.len());
        // Freed before its successor is allocated, as when a buffer is resized.
        if let Some(old) = blocks[slot].take() {
            sum = sum.wrapping_add(old.check());
        }
        blocks[slot] = Some(Large::new(&mut rng));
    }
    let living = blocks.iter().flatten().map(Large::check);
    living.fold(sum, u64::wrapping_add)
}
