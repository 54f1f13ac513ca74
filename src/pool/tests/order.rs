//! What is freed in disorder, and which misuse is noticed on its way.

use super::World;
use std::vec::Vec;

impl World {
    /// Frees chunks in this order, all in one magazine. False: it holds them still.
    fn put_in_order(&mut self, chunks: &[usize]) -> bool {
        let magazine = self.magazines.take().unwrap();
        magazine.slots().iter().zip(chunks).for_each(|(slot, chunk)| slot.set(*chunk));
        magazine.set_count(chunks.len());
        let restored = self.pool().is_in_disorder(magazine);
        if restored {
            self.pool().restore_all(magazine, 0);
        }
        assert_eq!(magazine.count(), if restored { 0 } else { chunks.len() });
        assert!(magazine.slots().iter().zip(chunks).all(|(slot, chunk)| slot.get() == *chunk));
        self.out.retain(|chunk| !restored || !chunks.contains(chunk));
        restored
    }
}

/// In the order in which a tree of them is freed, children first.
fn shuffled(chunks: &[usize]) -> Vec<usize> {
    let Some((root, below)) = chunks.split_first() else { return Vec::new() };
    let (left, right) = below.split_at(below.len() / 2);
    [shuffled(left), shuffled(right), [*root].into()].concat()
}

#[test]
fn what_is_freed_in_disorder_is_carved_in_order() {
    for size in [8, 32, 48, 256] {
        let mut world = World::new(size);
        let all: Vec<usize> = (0..3).flat_map(|_| world.carve(world.info().chunks)).collect();
        let begin = 2 * world.info().chunks;
        for first in [begin, begin - 64, begin - 17, begin + 40] {
            let mut chunks = shuffled(&all[first..first + 62]);
            chunks.extend([all[5], all[200]]);
            assert!(world.put_in_order(&chunks), "{size} B, from {first} on");
            chunks.sort_unstable();
            let mut again: Vec<usize> = (0..4).flat_map(|_| world.carve(64)).take(64).collect();
            assert!(again.chunk_by(|one, next| one < next).count() <= 3, "{again:?}");
            again.sort_unstable();
            assert_eq!(again, chunks);
            world.check();
        }
    }
}

#[test]
fn what_lies_in_order_or_far_apart_stays_in_its_magazine() {
    let mut world = World::new(64);
    let mut all: Vec<usize> = (0..64).flat_map(|_| world.carve(world.info().chunks)).collect();
    assert!(!world.put_in_order(&shuffled(&all[..63])), "not full");
    assert!(!world.put_in_order(&all[..64]));
    all.reverse();
    assert!(!world.put_in_order(&all[..64]));
    let far: Vec<usize> = all.iter().copied().step_by(world.info().chunks + 1).take(64).collect();
    assert!(!world.put_in_order(&shuffled(&far)));
    world.check();
}

#[test]
#[should_panic(expected = "millpond: double free of 0x")]
fn twice_in_a_magazine_in_disorder() {
    let mut world = World::new(96);
    let mut chunks = shuffled(&world.carve(64));
    chunks[7] = chunks[3];
    world.put_in_order(&chunks);
}

#[test]
#[should_panic(expected = "where no allocation begins")]
fn inside_a_chunk_in_disorder() {
    let mut world = World::new(96);
    let mut chunks = shuffled(&world.carve(64));
    chunks[40] += 8;
    world.put_in_order(&chunks);
}

/// What lies in the middle of its magazine, in a span of which nothing else is there.
#[test]
#[should_panic(expected = "where no allocation begins")]
fn behind_the_last_chunk_of_the_span_beside() {
    let mut world = World::new(96);
    let [first, second] = [(); 2].map(|()| world.carve(world.info().chunks));
    let mut chunks = shuffled(&second[..64]);
    chunks[32] = first[first.len() - 1] + 96;
    world.put_in_order(&chunks);
}
