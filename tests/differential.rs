//! Millpond against malloc: one recorded stream of operations is played through both, and what the blocks hold is
//! compared at each step. So nothing here knows what the contents must be; the other allocator says it.

mod common;

use common::random::Random;
use common::{GLOBAL, KIB, LARGEST_CLASS, MIB, scaled};
use core::alloc::{GlobalAlloc, Layout};
use std::alloc::System;
use std::sync::{Barrier, Mutex};

/// Live bytes beyond which a stream allocates no more.
const BUDGET: usize = 12 * MIB;
/// From this size on, an allocation has a mapping of its own.
const HUGE: usize = 32 * MIB;
/// Threads that a stream of hand-overs is played by.
const THREADS: usize = 4;

/// An operation on the blocks that are live, which are known by their place in a table.
#[derive(Clone, Copy, Debug)]
enum Op {
    Alloc {
        size: usize,
        align: usize,
        zeroed: bool,
        fill: u8,
    },
    /// Writes in the middle of a block.
    Write {
        which: usize,
        at: usize,
        len: usize,
        fill: u8,
    },
    Resize {
        which: usize,
        size: usize,
        fill: u8,
    },
    Free {
        which: usize,
    },
}

/// A size with the places where classes begin and end in plenty.
fn size(random: &mut Random) -> usize {
    let doubling = 1 << random.below(19);
    match random.below(16) {
        0..=5 => random.size(1, KIB),
        6..=10 => (doubling + doubling / 8 * random.below(9) + random.below(3)).max(2) - 1,
        11..=13 => random.size(1, LARGEST_CLASS),
        14 => random.size(LARGEST_CLASS, 2 * MIB),
        _ => random.size(1, 40 * KIB),
    }
}

/// Records a stream: which block an operation is about follows from what is live by then.
fn record(seed: u64, len: usize) -> Vec<Op> {
    let mut random = Random::new(seed);
    let mut sizes: Vec<usize> = Vec::new();
    let mut ops = Vec::new();
    for _ in 0..len {
        let fill = random.word() as u8;
        let room = sizes.iter().sum::<usize>() < BUDGET;
        let choice = random.below(10);
        if sizes.is_empty() || room && choice < 4 {
            let shift = if random.below(12) == 0 { random.below(23) } else { random.below(5) };
            let size = size(&mut random);
            ops.push(Op::Alloc { size, align: 1 << shift, zeroed: random.below(4) == 0, fill });
            sizes.push(size);
            continue;
        }
        let which = random.below(sizes.len());
        match choice {
            4 | 5 if room => {
                // Chains go up and down: by little, by much, and to anywhere.
                let old = sizes[which];
                let size = match random.below(5) {
                    0 => old + 1 + random.below(16),
                    1 => (old - old / 8).max(1),
                    2 => (2 * old).min(3 * MIB),
                    3 => (old / 2).max(1),
                    _ => size(&mut random),
                };
                ops.push(Op::Resize { which, size, fill });
                sizes[which] = size;
            }
            6 | 7 => {
                let at = random.below(sizes[which]);
                let len = (sizes[which] - at).min(1 + random.below(300));
                ops.push(Op::Write { which, at, len, fill });
            }
            _ => {
                ops.push(Op::Free { which });
                sizes.swap_remove(which);
            }
        }
    }
    ops
}

/// Streams that leave nothing to chance.
#[derive(Default)]
struct Listed {
    ops: Vec<Op>,
    live: usize,
}

impl Listed {
    /// Allocates, and frees what has lived for some time.
    fn alloc(&mut self, size: usize, align: usize, most: usize) {
        let at = self.ops.len();
        self.ops.push(Op::Alloc { size, align, zeroed: at % 3 == 0, fill: at as u8 });
        self.live += 1;
        if self.live > most {
            self.live -= 1;
            self.ops.push(Op::Free { which: at % self.live });
        }
    }

    /// Resizes one block from each size to the next.
    fn chain(&mut self, sizes: impl IntoIterator<Item = usize>, align: usize) {
        let mut sizes = sizes.into_iter();
        let first = sizes.next().expect("a size");
        self.alloc(first, align, usize::MAX);
        for size in sizes {
            self.ops.push(Op::Resize { which: self.live - 1, size, fill: self.ops.len() as u8 });
        }
    }
}

/// The sizes at which classes end, each with its neighbours, and those between the large kinds.
fn boundaries() -> Vec<usize> {
    let mut ends = Vec::new();
    let mut size = 1;
    while size <= LARGEST_CLASS {
        let layout = Layout::from_size_align(size, 1).unwrap();
        // SAFETY: the size is not zero, and the block is freed as it was allocated.
        let usable = unsafe {
            let block = GLOBAL.alloc(layout);
            let usable = millpond::usable_size(block).expect("it is live");
            GLOBAL.dealloc(block, layout);
            usable
        };
        ends.push(usable);
        size = usable + 1;
    }
    ends.extend([512 * KIB, MIB, 2 * MIB, 4 * MIB]);
    ends.into_iter().flat_map(|end| [end - 1, end, end + 1]).collect()
}

/// A live block of the allocator that a player plays with.
#[derive(Clone, Copy)]
struct Block {
    ptr: *mut u8,
    layout: Layout,
}

// SAFETY: nothing in a block belongs to a thread.
unsafe impl Send for Block {}

/// Plays streams through two allocators.
struct Player<'a> {
    allocators: [&'a (dyn GlobalAlloc + Sync); 2],
    blocks: Vec<[Block; 2]>,
}

impl Block {
    fn new(allocator: &dyn GlobalAlloc, layout: Layout, zeroed: bool, fill: u8) -> Self {
        // SAFETY: the size is not zero.
        let ptr = unsafe { if zeroed { allocator.alloc_zeroed(layout) } else { allocator.alloc(layout) } };
        assert!(!ptr.is_null() && ptr.addr() % layout.align() == 0, "{layout:?}: {ptr:p}");
        if !zeroed {
            // SAFETY: a live block of that size.
            unsafe { ptr.write_bytes(fill, layout.size()) };
        }
        Self { ptr, layout }
    }

    fn resize(&mut self, allocator: &dyn GlobalAlloc, size: usize, fill: u8) {
        // SAFETY: a live block of this layout; the new size is neither zero nor too large.
        let ptr = unsafe { allocator.realloc(self.ptr, self.layout, size) };
        assert!(!ptr.is_null() && ptr.addr() % self.layout.align() == 0, "{:?}, {size}: {ptr:p}", self.layout);
        let kept = size.min(self.layout.size());
        // SAFETY: what is new at the end is within the block.
        unsafe { ptr.add(kept).write_bytes(fill, size - kept) };
        *self = Self { ptr, layout: Layout::from_size_align(size, self.layout.align()).unwrap() };
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: a live block, all of it written to, and only its player looks at it.
        unsafe { core::slice::from_raw_parts_mut(self.ptr, self.layout.size()) }
    }
}

impl Player<'_> {
    fn play(&mut self, op: Op) {
        match op {
            Op::Alloc { size, align, zeroed, fill } => {
                let layout = Layout::from_size_align(size, align).unwrap();
                self.blocks.push(self.allocators.map(|allocator| Block::new(allocator, layout, zeroed, fill)));
                self.compare(self.blocks.len() - 1, op);
                // What is zero is written to as well.
                self.blocks.last_mut().unwrap().iter_mut().for_each(|block| block.bytes().fill(fill));
            }
            Op::Write { which, at, len, fill } => {
                self.blocks[which].iter_mut().for_each(|block| block.bytes()[at..at + len].fill(fill));
            }
            Op::Resize { which, size, fill } => {
                let blocks = self.blocks[which].iter_mut().zip(self.allocators);
                blocks.for_each(|(block, allocator)| block.resize(allocator, size, fill));
                self.compare(which, op);
            }
            Op::Free { which } => self.free(which, op),
        }
    }

    fn compare(&mut self, which: usize, op: Op) {
        let [ours, theirs] = &mut self.blocks[which];
        assert!(ours.bytes() == theirs.bytes(), "contents differ from malloc's: {op:?}");
    }

    fn free(&mut self, which: usize, op: Op) {
        self.compare(which, op);
        for (block, allocator) in self.blocks.swap_remove(which).iter().zip(self.allocators) {
            // SAFETY: live until here, and of this layout.
            unsafe { allocator.dealloc(block.ptr, block.layout) };
        }
    }

    /// Frees all that is left.
    fn finish(&mut self) {
        while !self.blocks.is_empty() {
            self.free(0, Op::Free { which: 0 });
        }
    }
}

fn play(allocator: &(dyn GlobalAlloc + Sync), ops: &[Op]) {
    let mut player = Player { allocators: [allocator, &System], blocks: Vec::new() };
    ops.iter().for_each(|op| player.play(*op));
    player.finish();
}

#[test]
fn streams_leave_the_same_contents() {
    for seed in 0..scaled(40, 12) as u64 {
        play(&GLOBAL, &record(seed, 3000));
    }
}

#[test]
fn every_size_and_class_boundary() {
    let mut listed = Listed::default();
    (1..=4 * KIB).for_each(|size| listed.alloc(size, 1, 100));
    let boundaries = boundaries();
    assert!(boundaries.len() > 150, "{boundaries:?}");
    boundaries.iter().for_each(|size| listed.alloc(*size, 1, 20));
    [HUGE - 1, HUGE, HUGE + 1].iter().for_each(|size| listed.alloc(*size, 1, 1));
    play(&GLOBAL, &listed.ops);
}

#[test]
fn every_alignment_to_4_mib() {
    let mut listed = Listed::default();
    for align in (0..=22).map(|shift| 1 << shift) {
        let sizes = [1, 24, align / 2 + 1, align - 1, align, align + 1, KIB, 100 * KIB, 300 * KIB];
        sizes.iter().for_each(|size| listed.alloc((*size).max(1), align, 6));
    }
    play(&GLOBAL, &listed.ops);
}

#[test]
fn chains_of_realloc_up_and_down() {
    let boundaries = boundaries();
    for align in [1, 64, 4 * KIB] {
        let mut listed = Listed::default();
        listed.chain(boundaries.iter().copied().chain(boundaries.iter().rev().copied()), align);
        // Bytes, each of them, and halves.
        listed.chain((1..300).chain((1..300).rev()), align);
        listed.chain([4 * MIB, 16, 3 * MIB, 300 * KIB, 200 * KIB, 2 * MIB, 1, HUGE, MIB, HUGE + 1, 40 * KIB], align);
        play(&GLOBAL, &listed.ops);
    }
}

/// Each thread plays a part of a stream and hands all of its blocks on to the next.
#[test]
fn streams_handed_from_thread_to_thread_leave_the_same_contents() {
    const PARTS: usize = 20;
    for round in 0..scaled(10, 3) {
        let streams: [Vec<Op>; THREADS] = core::array::from_fn(|at| record((1000 + 16 * round + at) as u64, 2000));
        let tables: [Mutex<Vec<[Block; 2]>>; THREADS] = Default::default();
        let barrier = Barrier::new(THREADS);
        let run = |thread: usize| {
            for part in 0..PARTS {
                let stream = (thread + part) % THREADS;
                let mut table = tables[stream].lock().unwrap();
                let mut player = Player { allocators: [&GLOBAL, &System], blocks: core::mem::take(&mut *table) };
                let len = streams[stream].len() / PARTS;
                streams[stream].iter().skip(part * len).take(len).for_each(|op| player.play(*op));
                if part == PARTS - 1 {
                    player.finish();
                }
                *table = player.blocks;
                drop(table);
                barrier.wait();
            }
        };
        std::thread::scope(|scope| {
            (0..THREADS).for_each(|thread| {
                drop(scope.spawn({
                    let run = &run;
                    move || run(thread)
                }))
            });
        });
    }
}

/// An allocator that forgets one byte of what it moves.
struct Forgetful;

// SAFETY: malloc's, but for one byte of a moved block's contents.
unsafe impl GlobalAlloc for Forgetful {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above; the first byte is there in every block.
        unsafe {
            let moved = System.realloc(ptr, layout, size);
            if size == 2 * layout.size() {
                *moved ^= 1;
            }
            moved
        }
    }
}

#[test]
#[should_panic(expected = "contents differ from malloc's: Resize")]
fn a_lost_byte_is_noticed() {
    play(&Forgetful, &record(7, 3000));
}
