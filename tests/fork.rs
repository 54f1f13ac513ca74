//! Forks of a multithreaded program in the middle of allocating: the child can always allocate, inherits what was
//! live, adopts what vanished threads had cached, and nothing is there twice.

mod common;

use common::block::Block;
use common::child::Scenario;
use common::fork::{fork, join, join_or_fail};
use common::random::Random;
use common::thread::{Bare, together};
use common::{KIB, LARGEST_CLASS, MIB, kernel, law, scaled};
use core::ffi::c_void;
use core::ptr::null_mut;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

const THREADS: usize = 4;
const SLOTS: usize = 128;

/// A live block, told to whoever forks: `ptr` is published last and withdrawn first, so that whatever a fork sees
/// here is whole. Seeds follow from the slot and the block's size.
struct Slot {
    ptr: AtomicPtr<u8>,
    size: AtomicUsize,
    seed: AtomicUsize,
}

impl Slot {
    fn put(&self, block: Block) {
        self.size.store(block.size, Ordering::Relaxed);
        self.seed.store(block.seed as usize, Ordering::Relaxed);
        self.ptr.store(block.ptr, Ordering::Release);
    }

    fn look(&self) -> Option<Block> {
        let ptr = self.ptr.load(Ordering::Acquire);
        (!ptr.is_null()).then(|| Block {
            ptr,
            size: self.size.load(Ordering::Relaxed),
            align: 8,
            seed: self.seed.load(Ordering::Relaxed) as u64,
        })
    }

    fn take(&self) -> Option<Block> {
        let block = self.look();
        self.ptr.store(null_mut(), Ordering::Release);
        block
    }
}

/// Each allocating thread's blocks. Private memory of the process: a child has its own.
static SLOT: [[Slot; SLOTS]; THREADS] = [const {
    [const { Slot { ptr: AtomicPtr::new(null_mut()), size: AtomicUsize::new(0), seed: AtomicUsize::new(0) } }; SLOTS]
}; THREADS];

static STOP: AtomicBool = AtomicBool::new(false);
static TURNS: [AtomicUsize; THREADS] = [const { AtomicUsize::new(0) }; THREADS];

/// Allocates and frees without pause, everything live in its slots, until `STOP`: now single blocks at random, now a
/// burst of one size, which fills and empties magazines.
fn churn(id: usize, largest: usize) {
    let mut random = Random::new(id as u64 ^ 0xf02c);
    while !STOP.load(Ordering::Relaxed) {
        for _ in 0..SLOTS {
            let slot = &SLOT[id][random.below(SLOTS)];
            if let Some(block) = slot.take() {
                block.free();
            }
            let size = match random.below(300) {
                0 if largest > LARGEST_CLASS => random.size(LARGEST_CLASS + 1, largest),
                _ => random.size(8, largest.min(32 * KIB)),
            };
            slot.put(Block::new(size, 8, random.word()).expect("memory"));
        }
        let size = random.size(8, 8 * KIB);
        for slot in &SLOT[id] {
            if let Some(block) = slot.take() {
                block.free();
            }
            slot.put(Block::new(size, 8, random.word()).expect("memory"));
        }
        if random.below(20) == 0 {
            millpond::flush_thread();
        }
        TURNS[id].fetch_add(1, Ordering::Relaxed);
    }
}

fn clear(id: usize) {
    for slot in &SLOT[id] {
        if let Some(block) = slot.take() {
            block.free();
        }
    }
}

fn inherited_is_whole() {
    for block in SLOT.iter().flatten().filter_map(Slot::look) {
        assert!(block.intact(), "inherited {block:?} was overwritten");
        assert!(millpond::owns(block.ptr));
    }
}

/// Mixed classes of `bytes` in all, filled.
fn allocate(bytes: usize, random: &mut Random) -> Vec<Block> {
    let (mut blocks, mut total) = (Vec::new(), 0);
    while total < bytes {
        let block = Block::new(random.size(8, 64 * KIB), 8, random.word()).expect("memory");
        total += block.size;
        blocks.push(block);
    }
    blocks
}

extern "C" fn in_a_childs_thread(_: *mut c_void) -> *mut c_void {
    let blocks = allocate(MIB, &mut Random::new(3));
    blocks.into_iter().for_each(Block::free);
    null_mut()
}

/// What every child does.
fn child(number: usize) {
    let mut random = Random::new(number as u64);
    inherited_is_whole();
    // Twice what the caches of the vanished can have held, by the bound on an idle thread's.
    let own = allocate(2 * (THREADS + 1) * 512 * KIB, &mut random);
    inherited_is_whole();
    for (at, slot) in SLOT.iter().flatten().enumerate() {
        if (at + number) % 2 == 0 {
            if let Some(block) = slot.take() {
                block.free();
            }
        }
    }
    Bare::spawn(64 * KIB, in_a_childs_thread, null_mut()).join();
    let more = allocate(MIB, &mut random);
    inherited_is_whole();
    own.into_iter().chain(more).for_each(Block::free);
    if number % 2 == 0 {
        millpond::trim();
    }
    law::holds();
    (0..THREADS).for_each(clear);
    law::holds();
}

extern "C" fn churn_body(id: *mut c_void) -> *mut c_void {
    churn(id as usize, 2 * MIB);
    null_mut()
}

extern "C" fn small_churn_body(id: *mut c_void) -> *mut c_void {
    churn(id as usize, 8 * KIB);
    null_mut()
}

/// `THREADS` of them, each some turns on its way.
fn start(body: common::thread::Body) -> [Bare; THREADS] {
    STOP.store(false, Ordering::Relaxed);
    for turns in &TURNS {
        turns.store(0, Ordering::Relaxed);
    }
    let threads = core::array::from_fn(|id| Bare::spawn(256 * KIB, body, id as *mut c_void));
    while TURNS.iter().any(|turns| turns.load(Ordering::Relaxed) < 3) {
        std::thread::yield_now();
    }
    threads
}

fn stop(threads: [Bare; THREADS]) {
    STOP.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join();
    }
}

#[test]
fn torture() {
    Scenario::new("torture").watchdog(300).passes(|| {
        let threads = start(churn_body);
        for number in 0..200 {
            join(fork(30, || child(number)));
        }
        stop(threads);
        (0..THREADS).for_each(clear);
        // In the parent nobody vanished.
        assert_eq!(law::holds().stranded, 0);
    });
}

/// Several children at once, and none of them waited for at once.
#[test]
fn overlapping_children() {
    Scenario::new("overlapping_children").watchdog(300).passes(|| {
        let threads = start(churn_body);
        for batch in 0..8 {
            let children: Vec<_> = (0..4).map(|at| fork(30, || child(batch * 4 + at))).collect();
            children.into_iter().for_each(join);
        }
        stop(threads);
        (0..THREADS).for_each(clear);
        law::holds();
    });
}

/// At each level: threads fill their caches, the process forks, the child frees what it inherited and measures.
fn level(depth: usize, first: Option<(usize, usize)>) {
    let threads = start(small_churn_body);
    let child = fork(90, || {
        (0..THREADS).for_each(clear);
        millpond::trim();
        let (committed, resident) = (law::holds().committed, kernel::resident());
        let (least, least_resident) = first.unwrap_or((committed, resident));
        // In hand at each fork: a block of at most 8 KiB a thread, 640 KiB over all levels. Caches that were not
        // adopted would add 4 × some 100 KiB at each of them.
        assert!(
            committed <= least + 3 * MIB,
            "depth {depth}: {committed} committed, {least} at the first: {:?}",
            millpond::stats()
        );
        assert!(
            resident <= least_resident + 6 * MIB,
            "depth {depth}: {resident} resident, {least_resident} at the first"
        );
        if depth < 20 {
            level(depth + 1, Some((least, least_resident)));
        }
    });
    stop(threads);
    join_or_fail(child);
    (0..THREADS).for_each(clear);
    law::holds();
}

#[test]
fn nested_twenty_deep() {
    Scenario::new("nested_twenty_deep").watchdog(300).passes(|| level(1, None));
}

extern "C" fn fork_first(number: *mut c_void) -> *mut c_void {
    // This thread has not allocated, and does not before its fork; its child allocates as its first act.
    let child = fork(30, || {
        let block = Block::new(64, 8, 1).expect("memory");
        inherited_is_whole();
        let blocks = allocate(MIB, &mut Random::new(number as u64));
        Bare::spawn(64 * KIB, in_a_childs_thread, null_mut()).join();
        blocks.into_iter().for_each(Block::free);
        block.free();
        (0..THREADS).for_each(clear);
        law::holds();
    });
    join_or_fail(child);
    null_mut()
}

#[test]
fn a_thread_that_never_allocated_forks() {
    Scenario::new("a_thread_that_never_allocated_forks").watchdog(300).passes(|| {
        let threads = start(churn_body);
        for number in 0..60_usize {
            Bare::spawn(256 * KIB, fork_first, number as *mut c_void).join();
        }
        stop(threads);
        (0..THREADS).for_each(clear);
        law::holds();
    });
}

static BORN: AtomicUsize = AtomicUsize::new(0);

extern "C" fn short_life(seed: *mut c_void) -> *mut c_void {
    let mut random = Random::new(seed as u64);
    for _ in 0..30 {
        let block = Block::new(random.size(8, 4 * KIB), 8, random.word()).expect("memory");
        block.free();
    }
    BORN.fetch_add(1, Ordering::Relaxed);
    null_mut()
}

extern "C" fn parent_of_short_lives(id: *mut c_void) -> *mut c_void {
    let mut seed = id as usize;
    while !STOP.load(Ordering::Relaxed) {
        Bare::spawn(64 * KIB, short_life, seed as *mut c_void).join();
        seed += THREADS;
    }
    null_mut()
}

/// Forks that fall into the birth and the death of threads' caches.
#[test]
fn while_threads_are_born_and_die() {
    Scenario::new("while_threads_are_born_and_die").watchdog(300).passes(|| {
        STOP.store(false, Ordering::Relaxed);
        let threads: [Bare; THREADS] =
            core::array::from_fn(|id| Bare::spawn(128 * KIB, parent_of_short_lives, id as *mut c_void));
        for number in 0..scaled(150, 80) {
            // Not before each of them is under way again.
            let seen = BORN.load(Ordering::Relaxed);
            while BORN.load(Ordering::Relaxed) < seen + 2 {
                std::thread::yield_now();
            }
            join(fork(30, || child(number)));
        }
        stop(threads);
        assert_eq!(law::holds().stranded, 0);
    });
}

/// A child made by `vfork` shares its parent's memory until it execs: nobody vanished, nothing is to be adopted.
#[test]
fn spawning_programs() {
    Scenario::new("spawning_programs").passes(|| {
        let threads = start(churn_body);
        together((0..2).map(|_| {
            || {
                for _ in 0..30 {
                    let status = Command::new("/bin/true").status().expect("a program");
                    assert!(status.success());
                }
            }
        }));
        inherited_by_nobody(threads);
    });
}

fn inherited_by_nobody(threads: [Bare; THREADS]) {
    stop(threads);
    inherited_is_whole();
    (0..THREADS).for_each(clear);
    assert_eq!(law::holds().stranded, 0);
}
