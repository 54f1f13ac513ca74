//! `realloc` where there are records: in place as far as there is room, with the same record; what is noticed elsewhere is
//! noticed here; and whoever looks meanwhile sees the old size or the new one.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(millpond_forward)))]

mod common;

use common::child::Scenario;
use common::fork::{fork, join};
use common::random::Random;
use common::scaled;
use common::words::past_end;
use millpond::{Heap, Mode};
use std::alloc::Layout;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const MODES: [Mode; 3] = [Mode::Fast, Mode::Tracked, Mode::Hardened];
const RECORDED: [Mode; 2] = [Mode::Tracked, Mode::Hardened];

thread_local! {
    static HEARD: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    /// What another thread frees while this one resizes: heap, address and size. Each test has its own, since they run side by side.
    static MEANWHILE: Cell<Option<(usize, usize, usize)>> = const { Cell::new(None) };
}

fn hear(what: &str) {
    HEARD.with_borrow_mut(|heard| heard.push(what.to_owned()));
}

#[track_caller]
fn heard_one(part: &str) {
    let heard = HEARD.take();
    assert!(heard.len() == 1 && heard[0].contains(part), "{part}: {heard:?}");
}

/// A block that knows its bytes.
struct Block<'a> {
    heap: &'a Heap,
    at: NonNull<u8>,
    layout: Layout,
}

impl<'a> Block<'a> {
    fn new(heap: &'a Heap, size: usize, align: usize) -> Self {
        let layout = Layout::from_size_align(size, align).expect("valid");
        let block = Self { heap, at: heap.alloc(layout).expect("memory"), layout };
        block.mark(0);
        block
    }

    fn size(&self) -> usize {
        self.layout.size()
    }

    /// Each KiB, and the last byte, say how far they are from the beginning.
    fn places(&self, to: usize) -> impl Iterator<Item = usize> {
        let last = to.checked_sub(1);
        (0..to).step_by(KIB).chain(last)
    }

    fn mark(&self, from: usize) {
        for place in self.places(self.size()).filter(|place| *place >= from) {
            // SAFETY: within the block, which is ours.
            unsafe { self.at.add(place).write((place / KIB) as u8 ^ 0x5a) };
        }
    }

    fn check(&self, to: usize) {
        // SAFETY: as above; `mark` has written it. The last byte of a smaller size need not have been.
        let bad =
            (0..to).step_by(KIB).find(|place| unsafe { self.at.add(*place).read() } != (place / KIB) as u8 ^ 0x5a);
        assert_eq!(bad, None, "of {:?}", self.layout);
    }

    /// Whether it has moved.
    fn resize(&mut self, size: usize) -> bool {
        // SAFETY: the block's own layout.
        let at = unsafe { self.heap.realloc(self.at, self.layout, size) }.expect("memory");
        assert_eq!(at.addr().get() % self.layout.align(), 0, "{:?} to {size}", self.layout);
        let (kept, has_moved) = (size.min(self.size()), at != self.at);
        (self.at, self.layout) = (at, Layout::from_size_align(size, self.layout.align()).expect("valid"));
        self.check(kept);
        self.mark(0);
        has_moved
    }

    fn id(&self) -> Option<u64> {
        self.heap.id_of(self.at.as_ptr())
    }

    fn write(&self, place: usize) {
        // SAFETY: none: a misuse under test, of what is the heap's and nobody else's.
        unsafe { self.at.add(place).write(self.at.add(place).read() ^ 0x55) };
    }

    fn free(self) {
        self.check(self.size());
        // SAFETY: the heap's, freed once.
        unsafe { self.heap.free(self.at, self.layout) };
    }
}

fn heap(mode: Mode) -> Heap {
    Heap::builder().mode(mode).on_misuse(hear).build().expect("memory")
}

#[track_caller]
fn is_at_rest(heap: &Heap) {
    heap.trim();
    let stats = heap.check().expect("sound");
    assert_eq!((stats.live, stats.quarantine, stats.allocations), (0, 0, stats.deallocations), "{stats}");
    assert_eq!(HEARD.take(), [""; 0]);
}

/// Up and down through chunks, runs and mappings; the records say what the shadow says.
#[test]
fn chains_keep_contents_and_records() {
    for mode in MODES {
        let heap = heap(mode);
        let mut random = Random::new(mode as u64 + 3);
        let mut blocks: Vec<Block<'_>> = (0..12).map(|at| Block::new(&heap, 10 + at, 1 << (at % 8))).collect();
        let mut had = BTreeSet::new();
        for turn in 0..scaled(3000, 1200) {
            let block = &mut blocks[random.below(12)];
            let size = match random.below(40) {
                0 => random.size(30 * MIB, 40 * MIB),
                1..10 => random.size(200 * KIB, 4 * MIB),
                10..20 => block.size() + random.below(100),
                20..25 => block.size() - random.below(block.size() / 2 + 1),
                25..30 => random.below(20 * KIB),
                _ => random.below(400),
            };
            let (id, was) = (block.id(), block.size());
            let has_moved = block.resize(size);
            let now = block.id();
            assert_eq!(now.is_some(), mode != Mode::Fast);
            if let (Some(id), Some(now)) = (id, now) {
                // What stays is the same allocation, and what moves is another; a chunk of a hardened heap always moves.
                assert!(if has_moved { now > id && had.insert(id) } else { now == id }, "{was} to {size}: {id}, {now}");
                let record = heap.record(now).expect("live");
                assert_eq!((record.size, record.address), (size, block.at.addr().get()));
                assert!(has_moved || mode == Mode::Tracked || size + 32 > 256 * KIB, "{was} to {size} stays");
                assert!(had.iter().rev().take(20).all(|id| heap.record(*id).is_none()), "what has moved has ended");
            }
            if turn % 100 == 0 {
                let wanted: usize = blocks.iter().map(Block::size).sum();
                let stats = heap.check().expect("sound");
                assert_eq!(stats.requested, (mode != Mode::Fast).then_some(wanted));
                assert_eq!((heap.check_memory(), HEARD.take()), (0, vec![]));
                let mut sizes: Vec<usize> = blocks.iter().map(Block::size).collect();
                let mut told = Vec::new();
                heap.walk(|record| told.push(record.size));
                sizes.sort_unstable();
                told.sort_unstable();
                assert!(mode == Mode::Fast || sizes == told);
            }
        }
        blocks.into_iter().for_each(Block::free);
        is_at_rest(&heap);
    }
}

/// A string that grows by 32 bytes at a time stays where it is, but for some moves.
#[test]
fn what_grows_by_little_is_not_copied_each_time() {
    for mode in RECORDED {
        let heap = heap(mode);
        let mut block = Block::new(&heap, 300 * KIB, 1);
        let mut moves = 0;
        while block.size() < 2 * MIB {
            // SAFETY: the block's own layout.
            let at = unsafe { heap.realloc(block.at, block.layout, block.size() + 32) }.expect("memory");
            moves += usize::from(at != block.at);
            (block.at, block.layout) = (at, Layout::from_size_align(block.size() + 32, 1).expect("valid"));
        }
        assert!(moves < 8, "{moves} moves in {mode:?}");
        block.mark(0);
        block.free();
        is_at_rest(&heap);
    }
}

/// Nor does one that has a mapping of its own, each of whose moves keeps the addresses back that it had.
#[test]
fn what_is_huge_and_grows_by_little_is_not_copied_each_time() {
    // In a process of its own: threads of other tests would take the addresses behind it.
    Scenario::new("what_is_huge_and_grows_by_little_is_not_copied_each_time").passes(|| {
        for mode in RECORDED {
            let heap = heap(mode);
            let mut block = Block::new(&heap, 40 * MIB, 1);
            let (mut moves, mut steps) = (0, 0);
            while block.size() < 80 * MIB {
                // SAFETY: the block's own layout.
                let at = unsafe { heap.realloc(block.at, block.layout, block.size() + 64 * KIB) }.expect("memory");
                moves += usize::from(at != block.at);
                steps += 1;
                (block.at, block.layout) = (at, Layout::from_size_align(block.size() + 64 * KIB, 1).expect("valid"));
            }
            assert!(moves < steps / 10, "{moves} moves in {steps} steps in {mode:?}");
            block.mark(0);
            block.free();
            is_at_rest(&heap);
        }
    });
}

/// What lies behind an allocation is looked at when it is freed, and when it is resized, wherever its end is by now.
#[test]
fn writes_past_the_end_are_named_after_a_resize() {
    let heap = heap(Mode::Hardened);
    for (from, to) in
        [(600 * KIB, 900 * KIB), (900 * KIB, 600 * KIB), (600 * KIB, 600 * KIB + 8), (600 * KIB, 600 * KIB - 9)]
    {
        for past in [0, 1, 31] {
            let mut block = Block::new(&heap, from, 1);
            assert!(!block.resize(to), "{from} to {to}");
            block.write(to + past);
            assert_eq!(heap.check_memory(), 1);
            heard_one(&past_end(past));
            block.free();
            heard_one(&past_end(past));

            let mut block = Block::new(&heap, from, 1);
            block.write(from + past);
            assert!(!block.resize(to), "{from} to {to}");
            heard_one(&past_end(past));
            assert_eq!(heap.check_memory(), 0);
            block.free();
        }
    }
    // Where it has to move, too, and then once: before another, and to a chunk.
    for to in [8 * MIB, 20 * KIB] {
        let mut block = Block::new(&heap, 600 * KIB, 1);
        let barrier = Block::new(&heap, 600 * KIB, 1);
        block.write(600 * KIB + 5);
        assert!(block.resize(to), "there is no room");
        heard_one("write 5 bytes past the end");
        [block, barrier].into_iter().for_each(Block::free);
    }
    is_at_rest(&heap);
}

/// Called in the middle of a resize.
fn hear_and_free(what: &str) {
    hear(what);
    free_meanwhile();
}

fn free_meanwhile() {
    let Some((heap, address, size)) = MEANWHILE.take() else { return };
    let others = std::thread::spawn(move || {
        // SAFETY: the test's heap, which outlives this; and the misuse under test.
        unsafe {
            let heap = &*std::ptr::with_exposed_provenance::<Heap>(heap);
            let at = NonNull::new(std::ptr::with_exposed_provenance_mut(address)).expect("not null");
            let layout = Layout::from_size_align(size, 1).expect("valid");
            heap.free(at, layout);
            assert!(heap.realloc(at, layout, 2 * size).is_err());
            assert_eq!(heap.record(heap.id_of(at.as_ptr()).expect("live")).expect("live").size, size);
            assert_eq!(heap.check_memory(), 0, "it is looked at when the resize is over");
        }
        HEARD.take()
    });
    HEARD.with_borrow_mut(|heard| heard.extend(others.join().expect("no panic")));
}

/// A free, or a second resize, in the middle of a resize is named, and has no effect.
#[test]
fn a_free_in_the_middle_of_a_resize_is_named() {
    let heap = Heap::builder().mode(Mode::Hardened).on_misuse(hear_and_free).build().expect("memory");
    let mut block = Block::new(&heap, 600 * KIB, 1);
    // So that the resize tells of it: then it is in the middle.
    block.write(block.size());
    MEANWHILE.set(Some(((&raw const heap).expose_provenance(), block.at.as_ptr().expose_provenance(), block.size())));
    assert!(!block.resize(700 * KIB));
    let heard = HEARD.take();
    assert_eq!(heard.len(), 3, "{heard:?}");
    assert!(heard[0].contains("write right past the end of 0x"), "{heard:?}");
    for (line, verb) in heard[1..].iter().zip(["free", "realloc"]) {
        let told = line.starts_with(&format!("{verb} of 0x")) && line.contains(" is resizing: 614400 bytes, id 1,");
        assert!(told && line.contains(", which thread "), "{line}");
    }
    block.free();
    is_at_rest(&heap);
}

/// The same where it has to move: what is copied is still there. Freed, it would have no access by then, or be no more.
#[test]
fn a_free_in_the_middle_of_a_move_is_named() {
    for (mode, from, to) in
        RECORDED.into_iter().flat_map(|mode| [(mode, 600 * KIB, 700 * KIB), (mode, 40 * MIB, 200 * KIB)])
    {
        // The limit is passed in the middle, by what it moves to.
        let limit = from + 800 * KIB;
        let heap = Heap::builder().mode(mode).on_misuse(hear).soft_limit(limit, |_, _| free_meanwhile());
        let heap = heap.build().expect("memory");
        let mut block = Block::new(&heap, from, 1);
        let barrier = Block::new(&heap, 600 * KIB, 1);
        let old = block.at;
        MEANWHILE.set(Some(((&raw const heap).expose_provenance(), old.as_ptr().expose_provenance(), from)));
        assert!(block.resize(to), "{mode:?} {from}");
        assert_ne!(block.at, old, "it has moved");
        let heard = HEARD.take();
        assert_eq!(heard.len(), 2, "{mode:?} {from}: {heard:?}");
        for (line, verb) in heard.iter().zip(["free", "realloc"]) {
            let told = format!(" is resizing: {from} bytes, id 1,");
            assert!(line.starts_with(&format!("{verb} of 0x")) && line.contains(&told), "{line}");
        }
        [block, barrier].into_iter().for_each(Block::free);
        is_at_rest(&heap);
    }
}

/// Threads resize while others walk, look for what was overwritten, and fork: each block is there throughout, with a size that
/// it had; and a child can free what its parent's threads were resizing.
#[test]
fn whoever_looks_sees_the_old_size_or_the_new_one() {
    const SIZES: [usize; 3] = [MIB - 1000, MIB - 500, MIB - 40];
    for mode in RECORDED {
        let heap = heap(mode);
        let stop = AtomicBool::new(false);
        // They stay where they are, so that each keeps its ID.
        let blocks: Vec<usize> =
            (0..3).map(|_| Block::new(&heap, SIZES[0], 1).at.as_ptr().expose_provenance()).collect();
        std::thread::scope(|scope| {
            for address in &blocks {
                scope.spawn(|| {
                    let at = NonNull::new(std::ptr::with_exposed_provenance_mut::<u8>(*address)).expect("not null");
                    let mut size = SIZES[0];
                    while !stop.load(Ordering::Relaxed) {
                        for new in SIZES.into_iter().chain([SIZES[0]]) {
                            let layout = Layout::from_size_align(size, 1).expect("valid");
                            // SAFETY: this thread's block, of that size.
                            let to = unsafe { heap.realloc(at, layout, new) }.expect("memory");
                            assert_eq!(to, at, "there is room");
                            // SAFETY: as above.
                            unsafe { at.add(new - 100).write_bytes(1, 100) };
                            size = new;
                        }
                    }
                });
            }
            let sees = || {
                let mut told = BTreeSet::new();
                heap.walk(|record| {
                    assert!(SIZES.contains(&record.size) && told.insert(record.address), "{record:?}");
                });
                assert!(blocks.iter().all(|block| told.contains(block)), "what lives throughout is told");
            };
            for round in 0..scaled(400, 150) {
                sees();
                assert_eq!((heap.check_memory(), HEARD.take()), (0, vec![]));
                if round % 10 == 0 {
                    join(fork(60, || {
                        sees();
                        assert_eq!((heap.check_memory(), HEARD.take()), (0, vec![]));
                        for address in &blocks {
                            let at = std::ptr::with_exposed_provenance_mut::<u8>(*address);
                            let record = heap.record(heap.id_of(at).expect("live")).expect("live");
                            let layout = Layout::from_size_align(record.size, 1).expect("valid");
                            // SAFETY: live, and in this process nobody's but ours.
                            unsafe { heap.free(NonNull::new(at).expect("not null"), layout) };
                        }
                        assert_eq!(HEARD.take(), [""; 0]);
                        assert_eq!(heap.check().expect("sound").requested, Some(0));
                    }));
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        for address in blocks {
            let at = std::ptr::with_exposed_provenance_mut::<u8>(address);
            let size = heap.record(heap.id_of(at).expect("live")).expect("live").size;
            // SAFETY: live, and its threads have ended.
            unsafe { heap.free(NonNull::new(at).expect("not null"), Layout::from_size_align(size, 1).expect("valid")) };
        }
        is_at_rest(&heap);
    }
}
