//! False sharing, after the benches of Hoard (Berger and others, 2000): words that threads keep writing, and whether the
//! allocator puts those of different threads on one line of the cache. Passive: the words were allocated by one thread,
//! side by side, and each thread frees one before it allocates its own. Active: each thread allocates its own from the
//! beginning.

use super::sizes::total;
use crate::child::measure::measure;
use crate::child::workloads::{Crew, Outcome};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const WORDS: u64 = 8_000_000;
/// Additions to each word before it is freed.
const WRITES: u64 = 100;

pub fn scratch(crew: &Crew) -> Outcome {
    let words: Vec<_> = (0..crew.threads).map(|_| Some(Box::new(AtomicU64::new(0)))).collect();
    run(crew, words)
}

pub fn thrash(crew: &Crew) -> Outcome {
    run(crew, (0..crew.threads).map(|_| None).collect())
}

fn run(crew: &Crew, firsts: Vec<Option<Box<AtomicU64>>>) -> Outcome {
    let ops = crew.scaled(WORDS);
    let (sums, cost) = measure(|| {
        crew.each_with(firsts, |index, first| {
            if let Some(first) = first {
                write(&first);
                drop(first);
            }
            let share = Crew::part(ops, crew.threads, index);
            total(share.map(|_| write(black_box(&Box::new(AtomicU64::new(0))))))
        })
    });
    let checksum = total(sums);
    assert_eq!(checksum, ops * WRITES, "a word was damaged");
    Outcome { ops, checksum, cost }
}

/// Writes memory each time, without an exclusive access of the line. Never inlined: among the code of one allocator the
/// loop was unrolled, among another's not, and took twice the time.
#[inline(never)]
fn write(word: &AtomicU64) -> u64 {
    for _ in 0..WRITES {
        word.store(word.load(Relaxed) + 1, Relaxed);
    }
    word.load(Relaxed)
}
