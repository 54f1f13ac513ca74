//! Destructors of thread-specific data, in each of their four rounds, before the allocator's own and after it:
//! they allocate, free, or both, and nothing leaks. And the process's own edges: before `main`, after it.

mod common;

use common::block::{Block, give, take};
use common::child::{Scenario, fail, say};
use common::random::Random;
use common::thread::Bare;
use common::{KIB, MIB, ensure, kernel, law};
use core::ffi::c_void;
use core::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

const ROUNDS: usize = 4;
const THREADS: usize = 10_000;
const AT_A_TIME: usize = 8;
const WARM: usize = 800;

/// A key made before anything was allocated, hence before the allocator's; and one made after it.
static EARLY: AtomicU32 = AtomicU32::new(u32::MAX);
static LATE: AtomicU32 = AtomicU32::new(u32::MAX);

/// What was allocated before `main`.
static FROM_BEFORE_MAIN: AtomicPtr<Block> = AtomicPtr::new(null_mut());

static RAN: [AtomicUsize; ROUNDS] = [const { AtomicUsize::new(0) }; ROUNDS];

extern "C" fn before_main() {
    EARLY.store(key(early), Ordering::Relaxed);
    let blocks: Vec<Block> = (0..500).map(|seed| Block::new(1 + seed * 40, 8, seed as u64).expect("memory")).collect();
    let (kept, freed): (Vec<_>, Vec<_>) = blocks.into_iter().partition(|block| block.seed == 77);
    freed.into_iter().for_each(Block::free);
    let kept = kept.into_iter().next().expect("one of them");
    FROM_BEFORE_MAIN.store(Box::into_raw(Box::new(kept)), Ordering::Relaxed);
}

#[used]
// SAFETY: a function of the type that the loader calls before `main`.
#[unsafe(link_section = ".init_array.00101")]
static BEFORE_MAIN: extern "C" fn() = before_main;

fn key(destructor: unsafe extern "C" fn(*mut c_void)) -> u32 {
    let mut key = 0;
    // SAFETY: a fresh key with a destructor that takes what `put` stores.
    let error = unsafe { libc::pthread_key_create(&mut key, Some(destructor)) };
    assert_eq!(error, 0);
    key
}

fn put(key: &AtomicU32, value: usize) {
    // SAFETY: a key made by `key`; the value is a number, not a pointer.
    let error = unsafe { libc::pthread_setspecific(key.load(Ordering::Relaxed), value as *const _) };
    assert_eq!(error, 0);
}

/// What a thread's destructors do, as its key's value: a kind, the round, and a seed, never 0.
#[derive(Clone, Copy)]
struct Errand {
    kind: usize,
    round: usize,
    seed: usize,
}

const KINDS: usize = 4 + ROUNDS;

impl Errand {
    fn pack(self) -> usize {
        (self.seed << 16) | (self.kind << 8) | (self.round << 1) | 1
    }

    fn unpack(value: usize) -> Self {
        Self { seed: value >> 16, kind: value >> 8 & 0xff, round: value >> 1 & 0x7f }
    }
}

/// Blocks that a thread of kinds 1 and 2 leaves for its destructors to free; one shelf a thread, by seed.
static SHELVES: [[AtomicPtr<u8>; ROUNDS]; 64] = [const { [const { AtomicPtr::new(null_mut()) }; ROUNDS] }; 64];

fn shelf_size(round: usize) -> usize {
    [24, 200, 3000, 70 * KIB][round]
}

fn allocate_and_free(seed: usize) {
    let mut random = Random::new(seed as u64);
    let mut blocks: [Option<Block>; 24] = [const { None }; 24];
    for block in &mut blocks {
        *block = Block::new(random.size(1, 64 * KIB), 8, random.word());
    }
    for block in blocks {
        block.expect("memory").free();
    }
}

fn fill_shelf(seed: usize) {
    for (round, place) in SHELVES[seed % 64].iter().enumerate() {
        let ptr = take(shelf_size(round), 8);
        let left = place.swap(ptr, Ordering::Relaxed);
        if ptr.is_null() || !left.is_null() {
            fail(format_args!("shelf {} round {round}: {ptr:p}, {left:p}", seed % 64));
        }
    }
}

fn clear_shelf(seed: usize, round: usize) {
    let ptr = SHELVES[seed % 64][round].swap(null_mut(), Ordering::Relaxed);
    if ptr.is_null() {
        fail(format_args!("shelf {} is empty in round {round}", seed % 64));
    }
    // SAFETY: allocated with this size by `fill_shelf`, and taken off the shelf.
    unsafe { give(ptr, shelf_size(round), 8) };
}

/// One round of a thread's errand. It comes again in the next one as long as it puts its value back.
fn run(errand: Errand, key: &AtomicU32) {
    let Errand { kind, round, seed } = errand;
    if round >= ROUNDS {
        fail(format_args!("a fifth round"));
    }
    RAN[round].fetch_add(1, Ordering::Relaxed);
    match kind {
        // Allocates and frees in each round.
        0 => allocate_and_free(seed + round),
        // Only frees what the thread had allocated.
        1 => clear_shelf(seed, round),
        // Allocates in the first round what all of them free; the thread itself allocated nothing.
        2 => {
            if round == 0 {
                fill_shelf(seed);
            }
            clear_shelf(seed, round);
        }
        // Never allocates at all.
        3 => {}
        // The thread's first allocation comes in one of the four rounds.
        first if round == first - 4 => allocate_and_free(seed),
        _ => {}
    }
    if round + 1 < ROUNDS {
        let round = round + 1;
        put(key, Errand { kind, round, seed }.pack());
    }
}

unsafe extern "C" fn early(value: *mut c_void) {
    run(Errand::unpack(value as usize), &EARLY);
}

unsafe extern "C" fn late(value: *mut c_void) {
    run(Errand::unpack(value as usize), &LATE);
}

/// Even threads use the early key, odd ones the late one.
extern "C" fn body(argument: *mut c_void) -> *mut c_void {
    let id = argument as usize;
    let errand = Errand { kind: id / 2 % KINDS, round: 0, seed: id };
    if errand.kind == 1 {
        fill_shelf(id);
    }
    if errand.kind == 0 {
        allocate_and_free(id);
    }
    put(if id % 2 == 0 { &EARLY } else { &LATE }, errand.pack());
    null_mut()
}

fn generation(first: usize) {
    let threads: [Bare; AT_A_TIME] =
        core::array::from_fn(|at| Bare::spawn(64 * KIB, body, (first + at) as *mut c_void));
    for thread in threads {
        thread.join();
    }
}

#[test]
fn ten_thousand_threads_leak_nothing() {
    Scenario::new("ten_thousand_threads_leak_nothing").passes(|| {
        LATE.store(key(late), Ordering::Relaxed);
        (0..WARM).step_by(AT_A_TIME).for_each(generation);
        let (before, resident) = (law::holds(), kernel::resident());
        (0..THREADS).step_by(AT_A_TIME).for_each(generation);
        let (after, grown) = (law::holds(), kernel::resident().saturating_sub(resident));
        for ran in &RAN {
            assert_eq!(ran.load(Ordering::Relaxed), WARM + THREADS);
        }
        assert_eq!(after.live, before.live, "{before:?}, then {after:?}");
        assert_eq!(after.stranded, before.stranded);
        // 64 bytes a thread would be 625 KiB.
        let metadata = after.metadata.saturating_sub(before.metadata);
        assert!(metadata <= 512 * KIB, "{before:?}, then {after:?}");
        let committed = after.committed.saturating_sub(before.committed);
        assert!(committed <= 4 * MIB, "{before:?}, then {after:?}");
        assert!(grown <= 4 * MIB, "{} KiB more resident", grown / KIB);
    });
}

/// Made after the allocator's key, so that its destructor finds the thread's cache gone.
static LAST: AtomicU32 = AtomicU32::new(u32::MAX);

unsafe extern "C" fn caches_nothing(value: *mut c_void) {
    let round = value as usize;
    let before = millpond::stats();
    allocate_and_free(round);
    let after = millpond::stats();
    ensure!(
        after.thread_cached == before.thread_cached && after.live == before.live,
        "round {round}: {before:?}, then {after:?}"
    );
    RAN[round - 1].fetch_add(1, Ordering::Relaxed);
    if round < ROUNDS {
        put(&LAST, round + 1);
    }
}

extern "C" fn body_of_the_last(_: *mut c_void) -> *mut c_void {
    allocate_and_free(7);
    put(&LAST, 1);
    null_mut()
}

/// Nobody would empty a cache that a thread made itself after the end of its own.
#[test]
fn a_thread_whose_cache_is_gone_makes_no_other() {
    Scenario::new("a_thread_whose_cache_is_gone_makes_no_other").passes(|| {
        LAST.store(key(caches_nothing), Ordering::Relaxed);
        for _ in 0..20 {
            Bare::spawn(64 * KIB, body_of_the_last, null_mut()).join();
        }
        for ran in &RAN {
            assert_eq!(ran.load(Ordering::Relaxed), 20);
        }
        law::holds();
    });
}

#[test]
fn memory_from_before_main_is_whole() {
    let kept = FROM_BEFORE_MAIN.swap(null_mut(), Ordering::Relaxed);
    assert!(!kept.is_null());
    // SAFETY: came from `into_raw`, taken once.
    let kept = unsafe { Box::from_raw(kept) };
    assert!(millpond::owns(kept.ptr));
    kept.free();
}

/// Left for after `main`.
static FOR_THE_END: AtomicPtr<Block> = AtomicPtr::new(null_mut());

extern "C" fn at_exit() {
    // SAFETY: came from `into_raw`, taken once.
    unsafe { Box::from_raw(FOR_THE_END.swap(null_mut(), Ordering::Relaxed)) }.free();
    for seed in 0..200 {
        allocate_and_free(seed);
    }
    say(format_args!("freed at the end\n"));
}

#[test]
fn memory_is_freed_after_main() {
    let ended = Scenario::new("memory_is_freed_after_main").run(|| {
        let block = Block::new(100 * KIB, 8, 1).expect("memory");
        FOR_THE_END.store(Box::into_raw(Box::new(block)), Ordering::Relaxed);
        // SAFETY: registers a plain function.
        assert_eq!(unsafe { libc::atexit(at_exit) }, 0);
    });
    if let Some(ended) = ended {
        assert!(ended.status.success(), "{}: {}", ended.how(), ended.stderr);
        assert!(ended.stdout.contains("freed at the end"));
    }
}
