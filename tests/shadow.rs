//! Every size and alignment against a shadow map: no overlap, alignment, contents kept, zeroed means zero.

mod common;

use common::block::{Block, all_zero, give, take};
use common::random::Random;
use common::{KIB, LARGEST_CLASS, MIB, scaled};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::Config;
use std::collections::BTreeMap;

/// Live bytes beyond which a sequence allocates no more.
const BUDGET: usize = 192 * MIB;

/// The live blocks by address.
#[derive(Default)]
struct Shadow {
    blocks: BTreeMap<usize, Block>,
    live: usize,
    seed: u64,
}

impl Shadow {
    fn room_for(&self, size: usize) -> bool {
        self.live + size <= BUDGET
    }

    fn seed(&mut self) -> u64 {
        self.seed += 1;
        self.seed
    }

    fn insert(&mut self, block: Block) {
        let (start, end) = (block.address(), block.address() + block.size);
        if let Some((_, below)) = self.blocks.range(..start).next_back() {
            assert!(below.address() + below.size <= start, "{block:?} overlaps {below:?}");
        }
        if let Some((_, above)) = self.blocks.range(start..).next() {
            assert!(end <= above.address(), "{block:?} overlaps {above:?}");
        }
        assert!(millpond::owns(block.ptr), "not ours: {block:?}");
        let usable = millpond::usable_size(block.ptr).expect("a live block");
        assert!(usable >= block.size, "{usable} usable of {block:?}");
        self.live += block.size;
        self.blocks.insert(start, block);
    }

    fn remove(&mut self, which: Index) -> Option<Block> {
        if self.blocks.is_empty() {
            return None;
        }
        let address = *self.blocks.keys().nth(which.index(self.blocks.len()))?;
        let block = self.blocks.remove(&address)?;
        self.live -= block.size;
        Some(block)
    }

    fn free_all(&mut self) {
        for (_, block) in std::mem::take(&mut self.blocks) {
            block.free();
        }
        self.live = 0;
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Alloc { size, align, zeroed } => {
                if self.room_for(size.max(1 << align)) {
                    let make = if zeroed { Block::zeroed } else { Block::new };
                    let seed = self.seed();
                    self.insert(make(size, 1 << align, seed).expect("memory"));
                }
            }
            Op::Resize { which, size } => {
                if self.room_for(size) {
                    if let Some(block) = self.remove(which) {
                        self.insert(block.resize(size).expect("memory"));
                    }
                }
            }
            Op::Free { which } => {
                if let Some(block) = self.remove(which) {
                    block.free();
                }
            }
            Op::FreeElsewhere { which } => {
                if let Some(block) = self.remove(which) {
                    std::thread::spawn(move || block.free()).join().expect("the block intact");
                }
            }
            Op::FreeAll => self.free_all(),
            Op::Flush => millpond::flush_thread(),
            Op::Trim => {
                millpond::trim();
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Alloc { size: usize, align: u32, zeroed: bool },
    Resize { which: Index, size: usize },
    Free { which: Index },
    FreeElsewhere { which: Index },
    FreeAll,
    Flush,
    Trim,
}

/// Each place where a class of any sensible map begins or ends: eighths of a doubling, and one to either side.
fn boundaries(low: usize, high: usize) -> Vec<usize> {
    let mut sizes: Vec<usize> = (0..usize::BITS as usize - 8)
        .flat_map(|doubling| (8..16).map(move |eighth| (eighth << doubling) / 8))
        .flat_map(|size: usize| [size.saturating_sub(1), size, size + 1])
        .filter(|size| (low..=high).contains(size))
        .collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

fn size() -> impl Strategy<Value = usize> {
    let within = |low: usize, high: usize| any::<u64>().prop_map(move |seed| Random::new(seed).size(low, high));
    prop_oneof![
        40 => prop::sample::select(boundaries(1, LARGEST_CLASS + 1)),
        20 => 1..=1024_usize,
        20 => within(1, LARGEST_CLASS),
        4 => within(LARGEST_CLASS + 1, 32 * MIB),
        2 => prop::sample::select(boundaries(LARGEST_CLASS, 33 * MIB)),
        1 => within(32 * MIB, 64 * MIB),
    ]
}

fn align() -> impl Strategy<Value = u32> {
    prop_oneof![12 => 0..=4_u32, 4 => 0..=12_u32, 1 => 0..=22_u32]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        20 => (size(), align(), prop::bool::weighted(0.3))
            .prop_map(|(size, align, zeroed)| Op::Alloc { size, align, zeroed }),
        8 => (any::<Index>(), size()).prop_map(|(which, size)| Op::Resize { which, size }),
        12 => any::<Index>().prop_map(|which| Op::Free { which }),
        1 => any::<Index>().prop_map(|which| Op::FreeElsewhere { which }),
        1 => Just(Op::Flush),
        1 => Just(Op::Trim),
        1 => Just(Op::FreeAll),
    ]
}

proptest! {
    #![proptest_config(Config {
        cases: scaled(96, 24) as u32,
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Config::default()
    })]

    #[test]
    fn random_operations(ops in prop::collection::vec(op(), 1..400)) {
        let mut shadow = Shadow::default();
        for op in &ops {
            shadow.apply(op);
        }
        shadow.free_all();
    }
}

#[test]
fn every_size_to_the_largest_class() {
    let mut shadow = Shadow::default();
    let sizes = (1..=4 * KIB).chain(boundaries(4 * KIB, LARGEST_CLASS + 1));
    for size in sizes {
        for _ in 0..3 {
            let seed = shadow.seed();
            shadow.insert(Block::new(size, 1, seed).expect("memory"));
        }
        if shadow.live > 64 * MIB {
            shadow.free_all();
        }
    }
    shadow.free_all();
}

#[test]
fn every_alignment() {
    let mut random = Random::new(3);
    for shift in 0..=22 {
        let align = 1_usize << shift;
        let mut shadow = Shadow::default();
        let mut sizes = boundaries(1, 2 * KIB);
        sizes.extend([align - 1, align, align + 1, 3 * align / 2].map(|size| size.max(1)));
        sizes.extend((0..24).map(|_| random.size(1, 2 * MIB)));
        for size in sizes {
            for zeroed in [false, true] {
                if shadow.live + size > 32 * MIB || shadow.blocks.len() * align > 256 * MIB {
                    shadow.free_all();
                }
                let make = if zeroed { Block::zeroed } else { Block::new };
                let seed = shadow.seed();
                shadow.insert(make(size, align, seed).expect("memory"));
            }
        }
        shadow.free_all();
    }
}

#[test]
fn realloc_chains() {
    let mut random = Random::new(5);
    for chain in 0..scaled(60, 12) {
        let align = 1 << random.below(if chain % 4 == 0 { 23 } else { 7 });
        let mut block = Block::new(random.size(1, 64), align, chain as u64).expect("memory");
        // A neighbour of each size, so that nothing can be extended blindly.
        let mut neighbours = Vec::new();
        for step in 0..40 {
            let size = match random.below(8) {
                0 => random.size(1, 64 * MIB),
                1 | 2 => random.size(1, 2 * MIB),
                3 => block.size + 1,
                4 => (block.size - 1).max(1),
                5 => (block.size / 2).max(1),
                _ => random.size(1, LARGEST_CLASS),
            };
            block = block.resize(size).expect("memory");
            assert_eq!(block.address() % align, 0);
            if size <= MIB {
                let seed = (chain * 64 + step) as u64;
                neighbours.push(Block::new(size, 1, seed).expect("memory"));
            }
        }
        block.free();
        for neighbour in neighbours {
            neighbour.free();
        }
    }
}

#[test]
fn a_growing_vector_keeps_its_items() {
    let mut growing = Vec::new();
    for item in 0..scaled(16 << 20, 2 << 20) as u64 {
        growing.push(item ^ 0x55);
    }
    assert!((0_u64..).zip(&growing).all(|(item, held)| item ^ 0x55 == *held));
    growing.truncate(1000);
    growing.shrink_to_fit();
    assert!((0_u64..).zip(&growing).all(|(item, held)| item ^ 0x55 == *held));
}

/// Dirties memory of `size`, frees it in between `settle`, and wants it back as zeros.
fn recycled(size: usize, count: usize, settle: impl Fn()) {
    for _ in 0..2 {
        let dirty: Vec<*mut u8> = (0..count).map(|_| take(size, 1)).collect();
        for ptr in dirty {
            assert!(!ptr.is_null());
            // SAFETY: a live allocation of that size, freed once.
            unsafe {
                ptr.write_bytes(0xff, size);
                give(ptr, size, 1);
            }
        }
        settle();
        let zeroed: Vec<Block> = (0..count).map(|seed| Block::zeroed(size, 1, seed as u64).expect("memory")).collect();
        zeroed.into_iter().for_each(Block::free);
    }
}

#[test]
fn zeroed_is_zero_on_recycled_memory() {
    let mut sizes = boundaries(1, LARGEST_CLASS + 1);
    sizes.extend([300 * KIB, MIB, 5 * MIB - 1, 32 * MIB, 40 * MIB + 1]);
    for size in sizes {
        let count = (MIB / size).clamp(2, 200);
        recycled(size, count, || ());
        recycled(size, count, millpond::flush_thread);
        if size % 2 == 0 {
            recycled(size, count, || {
                millpond::trim();
            });
        }
    }
}

#[test]
fn zeroed_by_another_class_is_zero() {
    // Memory dirtied as small chunks comes back as large blocks, and the other way round.
    for round in 0..scaled(12, 4) {
        for (small, large) in [(48, 3 * MIB), (5 * KIB, 700 * KIB), (200 * KIB, 9 * MIB)] {
            let (dirty, clean) = if round % 2 == 0 { (small, large) } else { (large, small) };
            let count = (16 * MIB / dirty).max(1);
            let dirtied: Vec<Block> =
                (0..count).map(|seed| Block::new(dirty, 1, seed as u64).expect("memory")).collect();
            dirtied.into_iter().for_each(Block::free);
            if round % 3 == 0 {
                millpond::trim();
            }
            let count = (16 * MIB / clean).max(1);
            let zeroed: Vec<Block> =
                (0..count).map(|seed| Block::zeroed(clean, 1, seed as u64).expect("memory")).collect();
            zeroed.into_iter().for_each(Block::free);
        }
    }
    assert!(all_zero(&vec![0_u8; 3 * MIB]));
}
