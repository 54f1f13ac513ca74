//! 16 threads hand memory to each other and verify what it holds.

mod common;

use common::block::Block;
use common::child::Scenario;
use common::random::Random;
use common::thread::together;
use common::{GIB, KIB, LARGEST_CLASS, MIB, law, scaled};
use std::alloc::{Layout, alloc, dealloc};
use std::collections::HashMap;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::mpsc::{TrySendError, sync_channel};
use std::sync::{Barrier, Mutex};
use std::thread::{self, ThreadId};

const THREADS: usize = 16;

fn size(random: &mut Random) -> usize {
    match random.below(400) {
        0 => random.size(LARGEST_CLASS + 1, 2 * MIB),
        1..20 => random.size(8 * KIB, LARGEST_CLASS),
        _ => random.size(1, 4 * KIB),
    }
}

fn block(random: &mut Random) -> Block {
    let (size, seed) = (size(random), random.word());
    let align = 1 << random.below(7);
    let make = if seed % 4 == 0 { Block::zeroed } else { Block::new };
    make(size, align, seed).expect("memory")
}

/// What each scenario here comes back to: nothing is live that was not, and the law holds.
fn conserving(scenario: impl Fn()) {
    // Once for what the standard library keeps for good.
    scenario();
    let before = law::holds();
    scenario();
    let after = law::holds();
    assert_eq!(after.live, before.live, "{before:?}, then {after:?}");
    assert_eq!(after.stranded, 0);
}

/// Each thread passes blocks on to the next one; a block goes a few hops, changing its size on the way.
fn ring() {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| sync_channel::<(Block, u32)>(64)).unzip();
    let mut senders = senders;
    senders.rotate_left(1);
    let ring = senders.into_iter().zip(receivers).enumerate();
    together(ring.map(|(id, (next, inbox))| {
        move || {
            let mut random = Random::new(id as u64);
            // Whatever does not fit the next one's inbox is freed here.
            let pass_on = |block, hops| match next.try_send((block, hops)) {
                Ok(()) => {}
                Err(TrySendError::Full((block, _)) | TrySendError::Disconnected((block, _))) => {
                    block.free();
                }
            };
            let hop = |(block, hops): (Block, u32), random: &mut Random| {
                if hops == 0 {
                    block.free();
                } else if hops == 2 {
                    pass_on(block.resize(size(random)).expect("memory"), hops - 1);
                } else {
                    assert!(block.intact());
                    pass_on(block, hops - 1);
                }
            };
            for _ in 0..scaled(20_000, 2_000) {
                pass_on(block(&mut random), 5);
                for _ in 0..6 {
                    match inbox.try_recv() {
                        Ok(arrived) => hop(arrived, &mut random),
                        Err(_) => break,
                    }
                }
            }
            drop(next);
            for (block, _) in inbox {
                block.free();
            }
        }
    }));
}

#[test]
fn round_a_ring_of_channels() {
    Scenario::new("round_a_ring_of_channels").passes(|| conserving(ring));
}

/// All threads swap blocks through one board, so that each block is freed by whoever happens to draw it.
fn board() {
    let board: Vec<AtomicPtr<Block>> = (0..2048).map(|_| AtomicPtr::default()).collect();
    let shared = &board;
    together((0..THREADS).map(|id| {
        move || {
            let mut random = Random::new(100 + id as u64);
            for _ in 0..scaled(40_000, 4_000) {
                let fresh = Box::into_raw(Box::new(block(&mut random)));
                let slot = &shared[random.below(shared.len())];
                let drawn = slot.swap(fresh, Ordering::AcqRel);
                if !drawn.is_null() {
                    // SAFETY: came from `into_raw`, and the swap made it ours alone.
                    unsafe { Box::from_raw(drawn) }.free();
                }
            }
        }
    }));
    for slot in board {
        let left = slot.into_inner();
        if !left.is_null() {
            // SAFETY: came from `into_raw`; all threads are gone.
            unsafe { Box::from_raw(left) }.free();
        }
    }
}

#[test]
fn over_a_board_of_slots() {
    Scenario::new("over_a_board_of_slots").passes(|| conserving(board));
}

/// One half allocates, the other frees: memory flows one way, and must not pile up.
fn one_way() {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..THREADS / 2).map(|_| sync_channel::<Vec<Block>>(16)).unzip();
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (id, outbox) in senders.into_iter().enumerate() {
            threads.push(scope.spawn(move || {
                let mut random = Random::new(200 + id as u64);
                for _ in 0..scaled(1_500, 400) {
                    let batch = (0..100)
                        .map(|_| {
                            let size = random.size(16, 4 * KIB);
                            Block::new(size, 8, random.word()).expect("memory")
                        })
                        .collect();
                    outbox.send(batch).expect("a consumer");
                }
            }));
        }
        for inbox in receivers {
            threads.push(scope.spawn(move || inbox.into_iter().flatten().for_each(Block::free)));
        }
        for thread in threads {
            thread.join().expect("blocks intact");
        }
    });
}

#[test]
fn one_way_from_producers_to_consumers() {
    Scenario::new("one_way_from_producers_to_consumers").passes(|| {
        conserving(one_way);
        // In flight at most: 8 inboxes of 18 batches of 100 blocks of 4 KiB, 56 MiB. Through it went gigabytes.
        let peak = common::kernel::peak_resident();
        assert!(peak < 128 * MIB, "{} MiB at the peak", peak / MIB);
    });
}

/// Threads with loops of ordinary collections; also `trim` and `flush_thread` at any moment, from anywhere.
fn collections() {
    together((0..THREADS).map(|id| {
        move || {
            let mut random = Random::new(300 + id as u64);
            let mut index: HashMap<String, Vec<usize>> = HashMap::new();
            for step in 0..scaled(30_000, 3_000) {
                let word = format!("word {} of {id}", random.below(700));
                index.entry(word).or_default().push(step);
                match random.below(2_000) {
                    0 => {
                        millpond::trim();
                    }
                    1 => millpond::flush_thread(),
                    2 => {
                        let sum = millpond::stats();
                        assert!(sum.live < 4 * GIB, "{sum:?}");
                    }
                    3 => index.clear(),
                    _ => {}
                }
            }
            for (word, steps) in index {
                assert!(word.ends_with(&format!("of {id}")));
                assert!(steps.is_sorted());
            }
        }
    }));
}

#[test]
fn collections_while_others_trim() {
    Scenario::new("collections_while_others_trim").passes(|| conserving(collections));
}

/// Words that one thread has allocated side by side: each thread that frees one of them, and then goes on with words of its
/// own, has lines of the processor's caches to itself.
fn words() {
    const WORD: Layout = Layout::new::<u64>();
    let words: Vec<_> = (0..THREADS).map(|_| Box::new(0u64)).collect();
    let lines: Mutex<HashMap<usize, ThreadId>> = Mutex::new(HashMap::with_capacity(1 << 10));
    let all = Barrier::new(THREADS);
    together(words.into_iter().map(|word| {
        let (lines, all) = (&lines, &all);
        move || {
            drop(word);
            let mine: [*mut u8; 24] = std::array::from_fn(|_| {
                // SAFETY: the layout is not of size zero.
                unsafe { alloc(WORD) }
            });
            let others = {
                let (mut lines, me) = (lines.lock().unwrap(), thread::current().id());
                mine.iter().filter(|word| *lines.entry(word.addr() / 64).or_insert(me) != me).count()
            };
            // No word is free again before all were looked at.
            all.wait();
            // SAFETY: allocated above, with this layout.
            mine.iter().for_each(|word| unsafe { dealloc(*word, WORD) });
            assert_eq!(others, 0, "words are on lines of another's");
        }
    }));
}

/// Apart from other tests: words that their threads have left when they ended lie on lines that others live on, and serve again.
#[test]
fn threads_that_were_handed_words_do_not_share_lines() {
    Scenario::new("threads_that_were_handed_words_do_not_share_lines").passes(words);
}
