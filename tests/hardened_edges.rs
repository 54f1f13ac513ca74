//! The mode `hardened` in a heap of one's own: writes across the edges of allocations, told apart by who is live beside them.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(millpond_forward)))]

mod common;

use common::child::{Scenario, say};
use core::alloc::Layout;
use core::ptr::NonNull;
use millpond::{Heap, Mode};
use std::os::unix::process::ExitStatusExt as _;

const SIZE: usize = 100;
/// What serves it, with what lies behind it.
const CHUNK: usize = 160;

fn layout() -> Layout {
    Layout::from_size_align(SIZE, 8).expect("valid")
}

fn heap() -> Heap {
    Heap::builder().mode(Mode::Hardened).build().expect("memory")
}

fn take(heap: &Heap) -> NonNull<u8> {
    heap.alloc(layout()).expect("memory")
}

fn give(heap: &Heap, block: NonNull<u8>) {
    // SAFETY: from `take`, given back once.
    unsafe { heap.free(block, layout()) };
}

/// Two live blocks, one right behind the other.
fn neighbours(heap: &Heap) -> [NonNull<u8>; 2] {
    let mut blocks: Vec<NonNull<u8>> = (0..40).map(|_| take(heap)).collect();
    blocks.sort();
    let at = (1..blocks.len()).find(|at| blocks[*at].addr().get() - blocks[*at - 1].addr().get() == CHUNK);
    let at = at.expect("neighbours");
    [blocks[at - 1], blocks[at]]
}

fn write(block: NonNull<u8>, at: isize) {
    // SAFETY: none: the misuse under test.
    unsafe { block.offset(at).write(block.offset(at).read() ^ 0x55) };
}

fn ends(test: &'static str, parts: &[&str], body: impl FnOnce(&Heap)) {
    let Some(ended) = Scenario::new(test).run(|| {
        body(&heap());
        say(format_args!("survived\n"));
    }) else {
        return;
    };
    assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{}", ended.stdout);
    for part in parts {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
}

#[test]
fn a_write_before_the_beginning_names_both() {
    let parts = ["write 3 bytes before the beginning of 0x", "; or past the end of 0x", "100 bytes, id "];
    ends("a_write_before_the_beginning_names_both", &parts, |heap| {
        let [_, second] = neighbours(heap);
        write(second, -3);
        give(heap, second);
    });
}

/// What lies between two is the same whoever has the first: whether it was kept back, or handed out again, meanwhile.
#[test]
fn it_is_told_when_the_one_before_was_freed_first() {
    let parts = ["write 1 byte before the beginning of 0x", "; or past the end of 0x", ", freed by thread "];
    ends("it_is_told_when_the_one_before_was_freed_first", &parts, |heap| {
        let [first, second] = neighbours(heap);
        give(heap, first);
        write(second, -1);
        give(heap, second);
    });
}

#[test]
fn it_is_told_when_the_chunk_before_is_handed_out_again() {
    let parts = ["write 32 bytes before the beginning of 0x"];
    ends("it_is_told_when_the_chunk_before_is_handed_out_again", &parts, |heap| {
        let [first, second] = neighbours(heap);
        give(heap, first);
        heap.trim();
        write(second, -32);
        for _ in 0..10_000 {
            take(heap);
        }
    });
}

/// Whatever is asked for: of what is live, and of what is kept back.
#[test]
fn all_of_it_is_looked_at_when_asked() {
    Scenario::new("all_of_it_is_looked_at_when_asked").passes(|| {
        let heap = heap();
        let [_, before] = neighbours(&heap);
        let [behind, _] = neighbours(&heap);
        let [_, freed] = neighbours(&heap);
        assert_eq!(heap.check_memory(), 0);
        write(before, -1);
        assert_eq!(heap.check_memory(), 1);
        write(behind, SIZE as isize + 7);
        give(&heap, freed);
        write(freed, 9);
        assert_eq!(heap.check_memory(), 3);
        // What has been written back is sound again.
        write(before, -1);
        write(behind, SIZE as isize + 7);
        write(freed, 9);
        assert_eq!(heap.check_memory(), 0);
        heap.trim();
        assert_eq!(heap.check_memory(), 0);
    });
    for mode in [Mode::Fast, Mode::Tracked] {
        let heap = Heap::builder().mode(mode).build().expect("memory");
        take(&heap);
        assert_eq!(heap.check_memory(), 0, "nothing is known in {mode:?}");
    }
}

/// What is kept back with pages of its own as well.
#[test]
fn large_blocks_that_are_kept_back_are_looked_at() {
    let heap = Heap::builder().mode(Mode::Hardened).quarantine(64 << 20).on_misuse(|_| {}).build().expect("memory");
    let layout = Layout::from_size_align(1 << 20, 8).expect("valid");
    let block = heap.alloc(layout).expect("memory");
    // SAFETY: allocated just now.
    unsafe { heap.free(block, layout) };
    assert_eq!((heap.check_memory(), heap.stats().live), (0, 0));
    // SAFETY: kept back, which is what is tested.
    let flip = || unsafe { block.add(777_777).write(!block.add(777_777).read()) };
    flip();
    assert_eq!(heap.check_memory(), 1);
    flip();
    assert_eq!((heap.check_memory(), heap.stats().quarantine), (0, 17 << 16));
    heap.trim();
    assert_eq!(heap.stats().quarantine, 0);
}

/// Threads that allocate and free meanwhile are not mistaken for misuse.
#[test]
fn it_may_be_asked_for_while_others_go_on() {
    let heap = heap();
    let ended = core::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..3u64 {
            let (heap, ended) = (&heap, &ended);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread);
                let mut live: Vec<(NonNull<u8>, Layout)> = Vec::new();
                for _ in 0..20_000 {
                    let size = if random.u8(..) == 0 { random.usize(..400_000) } else { random.usize(..300) };
                    let layout = Layout::from_size_align(size, 8).expect("valid");
                    let block = heap.alloc(layout).expect("memory");
                    // SAFETY: allocated just now; freed once, below.
                    unsafe { block.write_bytes(7, size.min(1000)) };
                    live.push((block, layout));
                    if live.len() > 50 {
                        let (block, layout) = live.swap_remove(random.usize(..live.len()));
                        // SAFETY: as above.
                        unsafe { heap.free(block, layout) };
                    }
                }
                for (block, layout) in live {
                    // SAFETY: as above.
                    unsafe { heap.free(block, layout) };
                }
                ended.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
            });
        }
        while ended.load(core::sync::atomic::Ordering::Relaxed) < 3 {
            assert_eq!(heap.check_memory(), 0);
            heap.trim();
        }
    });
    assert_eq!(heap.check_memory(), 0);
    // What was in hand for a look is not lost.
    heap.trim();
    let stats = heap.check().expect("sound");
    assert_eq!((stats.live, stats.quarantine, stats.allocations - stats.deallocations), (0, 0, 0));
}

/// Nor is memory touched that is a chunk's no more, where spans come and go and become pages without access.
#[test]
fn it_may_be_asked_for_where_memory_comes_to_have_no_access() {
    Scenario::new("it_may_be_asked_for_where_memory_comes_to_have_no_access").passes(|| {
        let heap = Heap::builder().mode(Mode::Hardened).guard(3).quarantine(50_000).build().expect("memory");
        let ended = core::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let (heap, ended) = (&heap, &ended);
                scope.spawn(move || {
                    for size in [2000, 6000, 14_000, 300_000].into_iter().cycle().skip(thread).take(1000) {
                        let layout = Layout::from_size_align(size, 8).expect("valid");
                        let blocks: Vec<_> = (0..30).map(|_| heap.alloc(layout).expect("memory")).collect();
                        // SAFETY: allocated just now, freed once.
                        blocks.into_iter().for_each(|block| unsafe { heap.free(block, layout) });
                        heap.flush_thread();
                    }
                    ended.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
                });
            }
            while ended.load(core::sync::atomic::Ordering::Relaxed) < 3 {
                assert_eq!(heap.check_memory(), 0);
            }
        });
        heap.trim();
        heap.check().expect("sound");
    });
}

/// Blocks come and go in every order, beside memory that goes back, and nothing is told.
#[test]
fn what_is_right_hears_nothing() {
    let heap = heap();
    let mut random = fastrand::Rng::with_seed(7);
    let mut live: Vec<(NonNull<u8>, Layout)> = Vec::new();
    for round in 0..60_000 {
        if live.len() > 3000 || (round % 3 == 0 && !live.is_empty()) {
            let (block, layout) = live.swap_remove(random.usize(..live.len()));
            // SAFETY: allocated below, freed once.
            unsafe { heap.free(block, layout) };
        } else {
            let size = if random.u8(..) == 0 { random.usize(..70_000) } else { random.usize(..600) };
            let layout = Layout::from_size_align(size, 1 << random.u32(..7)).expect("valid");
            let block = heap.alloc(layout).expect("memory");
            // SAFETY: allocated just now.
            unsafe { block.write_bytes(round as u8, size) };
            live.push((block, layout));
        }
        if round % 5000 == 0 {
            heap.trim();
            heap.check().expect("sound");
        }
    }
    let stats = heap.check().expect("sound");
    assert_eq!(stats.allocations - stats.deallocations, live.len() as u64);
    for (block, layout) in live {
        // SAFETY: as above.
        unsafe { heap.free(block, layout) };
    }
    heap.trim();
    let stats = heap.check().expect("sound");
    assert_eq!((stats.live, stats.quarantine, stats.allocations), (0, 0, stats.deallocations));
}

/// Guarded allocations that come and go while others look at all there are: none is accused.
#[test]
fn what_is_guarded_is_not_accused_beside_other_threads() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    // Each anew: it is where a heap is opened that threads come upon each other.
    for _ in 0..10 {
        let heap = Heap::builder().mode(Mode::Hardened).guard(1).build().expect("memory");
        let busy = AtomicUsize::new(4);
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let (heap, busy) = (&heap, &busy);
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed);
                    let mut held: Vec<Option<(NonNull<u8>, Layout)>> = vec![None; 64];
                    for turn in 0..400 {
                        let layout = Layout::from_size_align(random.usize(1..1000), 8).expect("valid");
                        let new = (turn < 300).then(|| (heap.alloc(layout).expect("memory"), layout));
                        let place = if turn < 300 { random.usize(..64) } else { turn % 64 };
                        if let Some((old, layout)) = std::mem::replace(&mut held[place], new) {
                            // SAFETY: the heap's, of that layout, freed once.
                            unsafe { heap.free(old, layout) };
                        }
                    }
                    busy.fetch_sub(1, Ordering::Relaxed);
                });
            }
            while busy.load(Ordering::Relaxed) > 0 {
                assert_eq!(heap.check_memory(), 0);
            }
        });
        assert_eq!(heap.check_memory(), 0);
    }
}

/// As where there is no mode: see `tests/sizes.rs`.
#[test]
fn what_carries_a_panic_is_aligned_though_it_is_guarded() {
    let layout = Layout::from_size_align(56, 8).unwrap();
    for guard in [0, 1] {
        let heap = Heap::builder().mode(Mode::Hardened).guard(guard).build().expect("memory");
        for _ in 0..20 {
            let block = heap.alloc(layout).expect("memory");
            assert_eq!(block.as_ptr().addr() % 16, 0, "{block:p}, guard {guard}");
            // SAFETY: allocated above.
            unsafe { heap.free(block, layout) };
        }
    }
}

/// Of what a witness hears as it is freed nobody hears again, and there is room for others as before.
#[test]
fn a_witness_that_panics_takes_no_guards() {
    /// As many as are guarded at a time.
    const GUARDED: usize = 4096;
    let heap = Heap::builder().mode(Mode::Hardened).guard(1);
    let heap = heap.on_misuse(|what: &str| std::panic::resume_unwind(Box::new(what.len()))).build().expect("memory");
    let layout = Layout::from_size_align(5, 8).expect("valid");
    for _ in 0..GUARDED + 10 {
        let block = heap.alloc(layout).expect("memory");
        // What is guarded ends where an OS page does, but for its alignment.
        assert_eq!((block.addr().get() + 8) % 4096, 0, "it is not guarded");
        write(block, 5);
        // SAFETY: allocated above.
        let freed = std::panic::catch_unwind(|| unsafe { heap.free(block, layout) });
        assert!(freed.is_err(), "what is behind it has been written to");
    }
}

/// What is guarded faults where its OS pages end; on these, what lies around it is looked at as around all others, to the byte.
#[test]
fn around_what_is_guarded_each_byte_counts() {
    const LAYOUTS: [(usize, usize); 10] =
        [(0, 1), (0, 64), (1, 1), (8, 8), (13, 2), (100, 8), (100, 64), (4080, 8), (5000, 8), (5000, 4096)];
    let (tell, said) = std::sync::mpsc::channel();
    let heap = Heap::builder().mode(Mode::Hardened).guard(1).quarantine(0);
    let heap = heap.on_misuse(move |what: &str| tell.send(what.to_owned()).expect("heard")).build().expect("memory");
    for (size, align) in LAYOUTS {
        let layout = Layout::from_size_align(size, align).expect("valid");
        let end = size as isize;
        for at in (-33..0).chain(end..end + 33) {
            let block = heap.alloc(layout).expect("memory");
            let page = |byte: isize| block.addr().get().wrapping_add_signed(byte) / 4096;
            let is_there = (page(0)..=page((end - 1).max(0))).contains(&page(at));
            if is_there {
                write(block, at);
            }
            let what = match at - end {
                _ if at == -33 || at == end + 32 || !is_there => None,
                _ if at == -1 => Some("write 1 byte before the beginning".to_owned()),
                _ if at < 0 => Some(format!("write {} bytes before the beginning", -at)),
                0 => Some("write right past the end".to_owned()),
                1 => Some("write 1 byte past the end".to_owned()),
                past => Some(format!("write {past} bytes past the end")),
            };
            let is_heard = || {
                let heard: Vec<String> = said.try_iter().collect();
                assert_eq!(heard.len(), usize::from(what.is_some()), "{layout:?}, {at}: {heard:?}");
                assert!(heard.iter().zip(&what).all(|(heard, what)| heard.starts_with(what)), "{at}: {heard:?}");
            };
            assert_eq!(heap.check_memory(), usize::from(what.is_some()), "{layout:?}, {at}");
            is_heard();
            // SAFETY: allocated above.
            unsafe { heap.free(block, layout) };
            is_heard();
        }
    }
}
