//! 10 000 short threads: what a thread leaves behind is reused by later ones.

mod common;

use common::block::Block;
use common::child::Scenario;
use common::random::Random;
use common::thread::together;
use common::{KIB, LARGEST_CLASS, MIB, kernel, law};
use std::thread;

const AT_A_TIME: usize = 8;
const WARM: usize = 800;
const THREADS: usize = 10_000;

/// A thread that fills its cache in many classes and hands a few blocks back to its parent.
fn short(id: usize) -> Vec<Block> {
    let mut random = Random::new(id as u64);
    let blocks: Vec<Block> = (0..100)
        .map(|_| {
            let size = random.size(1, if id % 10 == 0 { LARGEST_CLASS } else { 8 * KIB });
            Block::new(size, 1, random.word()).expect("memory")
        })
        .collect();
    let (kept, own): (Vec<_>, Vec<_>) = blocks.into_iter().partition(|block| block.seed % 16 == 0);
    own.into_iter().for_each(Block::free);
    kept
}

fn generation(first: usize) {
    let threads: Vec<_> = (first..first + AT_A_TIME).map(|id| thread::spawn(move || short(id))).collect();
    for thread in threads {
        let kept = thread.join().expect("a thread's blocks");
        kept.into_iter().for_each(Block::free);
    }
}

#[test]
fn ten_thousand_short_threads() {
    Scenario::new("ten_thousand_short_threads").passes(|| {
        (0..WARM).step_by(AT_A_TIME).for_each(generation);
        let (before, resident) = (law::holds(), kernel::resident());
        (0..THREADS).step_by(AT_A_TIME).for_each(generation);
        let (after, grown) = (law::holds(), kernel::resident().saturating_sub(resident));
        // 64 bytes a thread would be 625 KiB.
        let metadata = after.metadata.saturating_sub(before.metadata);
        assert!(metadata <= 512 * KIB, "{before:?}, then {after:?}");
        // A loaded magazine left behind by each would be far more than this, even of the smallest chunks.
        assert!(grown <= 8 * MIB, "{} KiB more resident", grown / KIB);
        let committed = after.committed.saturating_sub(before.committed);
        assert!(committed <= 8 * MIB, "{before:?}, then {after:?}");
        assert_eq!(after.live, before.live, "{before:?}, then {after:?}");
        assert_eq!(after.stranded, 0);
    });
}

#[test]
fn waves_of_many_threads_at_once() {
    Scenario::new("waves_of_many_threads_at_once").passes(|| {
        let wave = || {
            together((0..200).map(|id| move || short(id).into_iter().for_each(Block::free)));
        };
        (0..3).for_each(|_| wave());
        let before = law::holds();
        (0..10).for_each(|_| wave());
        let after = law::holds();
        // How many live at once is chance; that blocks are reused is not: 2 000 threads came and went.
        let metadata = after.metadata.saturating_sub(before.metadata);
        assert!(metadata <= 8 * MIB, "{before:?}, then {after:?}");
        assert_eq!(after.live, before.live, "{before:?}, then {after:?}");
    });
}
