//! Leaks across heaps: a search goes through all heaps, and what one has given out holds what another has, or does not.

mod common;

use common::block::take;
use common::child::Scenario;
use common::eights::layout;
use common::fork::{fork, join_or_fail};
use common::kernel::address_space;
use common::thread::elsewhere;
use common::{KIB, MIB, scaled};
use millpond::{Heap, Leaks, Mode};
use std::hint::black_box;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::thread;

const MODES: [Mode; 3] = [Mode::Fast, Mode::Tracked, Mode::Hardened];
/// Blocks whose addresses one holder has.
const COUNT: usize = 512;
const HOLDER: usize = COUNT * size_of::<usize>();

static HELD: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());

/// Where a block may be from.
#[derive(Clone, Copy)]
enum From<'a> {
    Program,
    Heap(&'a Heap),
}

impl From<'_> {
    fn take(self, size: usize) -> *mut u8 {
        match self {
            Self::Program => take(size, 8),
            Self::Heap(heap) => heap.alloc(layout(size)).expect("memory").as_ptr(),
        }
    }

    fn free(self, block: *mut u8, size: usize) {
        match self {
            // SAFETY: taken above, with this layout.
            Self::Program => unsafe { std::alloc::dealloc(block, layout(size)) },
            // SAFETY: the same.
            Self::Heap(heap) => unsafe { heap.free(NonNull::new(block).expect("not null"), layout(size)) },
        }
    }

    fn leaks(self) -> Leaks {
        match self {
            Self::Program => millpond::leaks(),
            Self::Heap(heap) => heap.leaks(),
        }
        .expect("the system tells")
    }

    /// How many of a size are lost, and how many of these no other holds that is lost.
    fn lost(self, size: usize) -> (u64, u64) {
        let leaks = self.leaks();
        let of_size = leaks.groups().iter().filter(|group| group.size == size);
        of_size.fold((0, 0), |(count, direct), group| (count + group.count, direct + group.direct))
    }
}

/// A block with the addresses of `COUNT` others.
fn holder_of(holds: From<'_>, held: From<'_>, size: usize) -> *mut u8 {
    let holder = holds.take(HOLDER);
    for at in 0..COUNT {
        // SAFETY: ours, with room for so many.
        unsafe { holder.cast::<*mut u8>().add(at).write(held.take(size)) };
    }
    holder
}

/// Whether all were found but a few, whose addresses some word may look like.
fn all(found: u64) -> bool {
    (COUNT as u64 - 4..=COUNT as u64).contains(&found)
}

/// Each mode in a process of its own: what some word held in one round, and no longer holds, is not counted with the next one's.
fn each_pair(name: &'static str, test: impl Fn(From<'_>, From<'_>, &str)) {
    const NTH: &str = "TEST_MODE";
    for (nth, mode) in ["0", "1", "2"].into_iter().zip(MODES) {
        Scenario::new(name).variable(NTH, nth).passes(|| {
            if std::env::var(NTH).as_deref() != Ok(nth) {
                return;
            }
            let [one, two, three, four] = [(); 4].map(|()| Heap::builder().mode(mode).build().expect("memory"));
            test(From::Program, From::Heap(&one), &format!("{mode:?}: the program's of a heap's"));
            test(From::Heap(&two), From::Program, &format!("{mode:?}: a heap's of the program's"));
            test(From::Heap(&three), From::Heap(&four), &format!("{mode:?}: a heap's of another's"));
        });
    }
}

#[test]
fn what_only_freed_memory_names_is_lost() {
    each_pair("what_only_freed_memory_names_is_lost", |holds, held, what| {
        let before = held.lost(256).0;
        elsewhere(|| holds.free(holder_of(holds, held, 256), HOLDER));
        let (count, direct) = held.lost(256);
        assert!(all(count - before) && direct == count, "{what}: {count} less {before}, {direct}");
    });
}

#[test]
fn what_only_lost_memory_names_is_lost_with_it() {
    each_pair("what_only_lost_memory_names_is_lost_with_it", |holds, held, what| {
        let (before, was_direct) = held.lost(256);
        elsewhere(|| _ = black_box(holder_of(holds, held, 256)));
        let (count, direct) = held.lost(256);
        assert!(all(count - before) && direct <= was_direct + 4, "{what}: {count} less {before}, {direct}");
        assert!(holds.lost(HOLDER).0 > 0, "{what}: the holder is lost");
    });
}

/// From the program's data through both, and back; and nothing of it once the beginning is gone.
#[test]
fn what_live_memory_names_is_held() {
    each_pair("what_live_memory_names_is_held", |holds, held, what| {
        let counts =
            || [(held, 5 * KIB), (held, 256), (holds, HOLDER), (holds, 6 * KIB)].map(|(at, size)| at.lost(size).0);
        let before = counts();
        elsewhere(|| {
            let first = held.take(5 * KIB);
            let second = holder_of(holds, held, 256);
            let third = holds.take(6 * KIB);
            // SAFETY: ours, and larger than a word.
            unsafe {
                first.cast::<*mut u8>().write(second);
                second.cast::<*mut *mut u8>().read().write(third);
            }
            HELD.store(first, Ordering::Relaxed);
        });
        assert_eq!(counts(), before, "{what}");
        HELD.store(core::ptr::null_mut(), Ordering::Relaxed);
        let lost: u64 = counts().iter().zip(before).map(|(now, before)| now - before).sum();
        assert!(all(lost - 3), "{what}: {lost}");
    });
}

/// Where records tell how much was asked for: what stands behind it in the chunk is from an allocation before.
#[test]
fn what_stands_behind_what_was_asked_for_holds_nothing() {
    Scenario::new("what_stands_behind_what_was_asked_for_holds_nothing").passes(|| {
        let holds = Heap::builder().mode(Mode::Tracked).build().expect("memory");
        let held = Heap::new().expect("memory");
        elsewhere(|| {
            // Both sizes are of one class, which serves the chunk that was freed last.
            let was = From::Heap(&holds).take(248);
            // SAFETY: ours: 31 words.
            unsafe { was.cast::<*mut u8>().add(30).write(From::Heap(&held).take(256)) };
            From::Heap(&holds).free(was, 248);
            let is = From::Heap(&holds).take(225);
            assert_eq!(is, was);
            // SAFETY: ours: 28 words and a byte.
            unsafe { is.write_bytes(0, 225) };
            HELD.store(is, Ordering::Relaxed);
        });
        assert_eq!(From::Heap(&held).lost(256), (1, 1));
        assert_eq!(holds.leaks().expect("the system tells").count(), 0);
    });
}

/// A heap that another thread's search looks at is dropped all the same: nobody waits, its closures end with the drop, and its
/// memory goes back.
#[test]
fn heaps_come_and_go_while_others_search() {
    static DROPPED: AtomicUsize = AtomicUsize::new(0);
    #[derive(Clone)]
    struct Counts;
    impl Drop for Counts {
        fn drop(&mut self) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }

    // The C library may set aside 64 MiB for the few words that it allocates for a thread.
    let scenario = Scenario::new("heaps_come_and_go_while_others_search").variable("MALLOC_ARENA_MAX", "1");
    scenario.passes(|| {
        let stop = AtomicBool::new(false);
        let busy = |rounds: usize| {
            for round in 0..rounds {
                let counts = Counts;
                let builder = Heap::builder().mode(MODES[round % MODES.len()]);
                let builder = builder.on_misuse(move |what| panic!("{what} {}", size_of_val(&counts)));
                let heap = builder.build().expect("memory");
                let block = heap.alloc(layout(MIB)).expect("memory");
                let held = holder_of(From::Heap(&heap), From::Heap(&heap), 256);
                // SAFETY: ours, and that large.
                unsafe { block.write_bytes(1, MIB) };
                black_box(held);
                let before = DROPPED.load(Ordering::Relaxed);
                drop(heap);
                assert!(DROPPED.load(Ordering::Relaxed) > before, "its closure ends with it");
            }
        };
        let both = |rounds: usize| {
            let own = Heap::new().expect("memory");
            thread::scope(|scope| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        _ = own.leaks().expect("the system tells").count();
                        _ = millpond::leaks().expect("the system tells").count();
                    }
                });
                thread::scope(|scope| (0..3).for_each(|_| _ = scope.spawn(|| busy(rounds))));
                stop.store(true, Ordering::Relaxed);
            });
            stop.store(false, Ordering::Relaxed);
        };
        both(10);
        let before = address_space();
        let rounds = scaled(100, 20);
        both(rounds);
        let more = address_space().saturating_sub(before);
        assert!(more < rounds * MIB, "{more} B more after {rounds} heaps a thread");
    });
}

/// In a child, who was searching holds a heap for ever, and is no more.
#[test]
fn a_child_has_back_what_a_search_held() {
    Scenario::new("a_child_has_back_what_a_search_held").passes(|| {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    _ = millpond::leaks().expect("the system tells").count();
                }
            });
            for _ in 0..scaled(100, 20) {
                let heap = Heap::new().expect("memory");
                let block = heap.alloc(layout(64 * MIB)).expect("memory");
                black_box(block);
                join_or_fail(fork(20, || {
                    let before = address_space();
                    drop(heap);
                    let less = before - address_space();
                    assert!(less >= 64 * MIB, "{less} B went back");
                }));
            }
            stop.store(true, Ordering::Relaxed);
        });
    });
}
