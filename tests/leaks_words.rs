//! Leaks and words that only look like what the program has. A number stored over the lower half of an address looks like one, so heaps
//! take no memory at addresses that end like numbers which programs have all the time. And of what a heap has had in hand, nothing
//! stays on a stack.

mod common;

use common::child::Scenario;
use common::eights::layout;
use common::thread::elsewhere;
use common::{GIB, KIB, MIB};
use millpond::Heap;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::ptr::{NonNull, null_mut, with_exposed_provenance_mut};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const ARENA: usize = 64 * MIB;
const HUGE: usize = 40 * MIB;
const COUNT: usize = 4096;

/// What a program has: numbers, the upper halves of whose places are of addresses that were there before.
static NUMBERS: [AtomicUsize; COUNT] = [const { AtomicUsize::new(0) }; COUNT];

/// Maps so much, wherever the system likes, without access.
fn map(len: usize) -> usize {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a fresh mapping touches nothing that exists.
    let at = unsafe { libc::mmap(null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
    assert_ne!(at, libc::MAP_FAILED);
    at.expose_provenance()
}

fn unmap(at: usize, len: usize) {
    // SAFETY: mapped by the caller.
    assert_eq!(unsafe { libc::munmap(with_exposed_provenance_mut(at), len) }, 0);
}

/// Where the system would map so much next.
fn next(len: usize) -> usize {
    let at = map(len);
    unmap(at, len);
    at
}

/// Has the system map so much next where the lower half of addresses begins, and returns that.
fn lead_to_zeros(len: usize) -> usize {
    for _ in 0..200 {
        let at = next(len);
        let zeros = at / (4 * GIB) * (4 * GIB);
        if at == zeros {
            return zeros;
        }
        let between = at - zeros;
        let filler = map(between);
        if filler != zeros + len {
            unmap(filler, between);
            map(len);
        }
    }
    panic!("the system maps elsewhere");
}

#[test]
fn numbers_over_half_an_address_hold_nothing() {
    Scenario::new("numbers_over_half_an_address_hold_nothing").passes(|| {
        // What is mapped for all heaps is there.
        let first = Heap::new().expect("memory");
        black_box(first.alloc(layout(256)).expect("memory"));
        let heap = Heap::new().expect("memory");
        let zeros = AtomicUsize::new(0);
        // In the same thread, since each thread has mappings of its own.
        let lose = |count: usize, size: usize, mapped: usize| {
            elsewhere(|| {
                zeros.store(lead_to_zeros(mapped), Ordering::Relaxed);
                (0..count).for_each(|_| _ = black_box(heap.alloc(layout(size)).expect("memory")));
            });
            zeros.load(Ordering::Relaxed)
        };
        let small = lose(COUNT, 256, ARENA);
        let huge = lose(1, HUGE, HUGE);
        // Small ones, and one below zero.
        let numbers = (0..COUNT - 2).map(|number| small + number * 256).chain([huge + 1, small - 1]);
        NUMBERS.iter().zip(numbers).for_each(|(place, number)| place.store(number, Ordering::Relaxed));
        let leaks = heap.leaks().expect("the system tells");
        let found = [HUGE, 256].map(|least| {
            let group = leaks.groups().iter().rfind(|group| group.size >= least);
            group.map_or(0, |group| group.count)
        });
        assert!(found[0] == 1 && (COUNT as u64 - 4..=COUNT as u64).contains(&found[1]), "{found:?} of 1 and {COUNT}");
    });
}

/// What is freed from far apart is sorted before it is free for others: when it serves again, the thread that did so has it nowhere.
#[test]
fn nothing_of_what_was_freed_stays_on_a_stack() {
    const FAR: usize = 1024;
    const FREED: usize = 64;
    /// Inverted: a search does not see these.
    static PLACES: Mutex<Vec<usize>> = Mutex::new(Vec::new());

    /// Deeper than what comes between this and the search.
    #[inline(never)]
    fn free_some(heap: &Heap) {
        let deep = [const { MaybeUninit::<u8>::uninit() }; 32 * KIB];
        black_box(&deep);
        for place in PLACES.lock().expect("not poisoned").iter().step_by(FAR) {
            let block = NonNull::new(with_exposed_provenance_mut::<u8>(!place)).expect("not null");
            // SAFETY: taken below, with this layout, and freed once.
            unsafe { heap.free(block, layout(256)) };
        }
        heap.trim();
        black_box(&deep);
    }

    /// Has room on its stack for all that was there before.
    #[inline(never)]
    fn lost(heap: &Heap) -> u64 {
        let room = [const { MaybeUninit::<u8>::uninit() }; 64 * KIB];
        black_box(&room);
        let lost = heap.leaks().expect("the system tells").count();
        black_box(&room);
        lost
    }

    Scenario::new("nothing_of_what_was_freed_stays_on_a_stack").passes(|| {
        let heap = Heap::new().expect("memory");
        let take = || heap.alloc(layout(256)).expect("memory").as_ptr().expose_provenance();
        elsewhere(|| PLACES.lock().expect("not poisoned").extend((0..FREED * FAR).map(|_| !take())));
        free_some(&heap);
        elsewhere(|| (0..FREED).for_each(|_| _ = black_box(take())));
        let (lost, all) = (lost(&heap), (FREED * FAR) as u64);
        assert!((all - 8..=all).contains(&lost), "{lost} of {all}");
    });
}
