//! What a thread can be in the middle of: short acts, each of which passes through one part of the slow paths.

use super::world::{Client, World, class_of};
use crate::config::{HUGE_MIN, PAGE};
use crate::size_class::INFO;

/// An act of a client, and how things stand before it. The second client is the other's.
pub(super) struct Act {
    pub(super) name: &'static str,
    pub(super) before: fn(&World, &mut Client<'_>, &mut Client<'_>),
    pub(super) act: fn(&World, &mut Client<'_>),
    /// Bytes of chunks that it has in hand at a time, at most.
    pub(super) in_hand: usize,
}

/// The size with which most acts play: four to a magazine, sixteen to a span of one page.
pub(super) const SIZE: usize = 4096;

fn magazine() -> usize {
    INFO[class_of(SIZE)].slots
}

fn take(client: &mut Client<'_>, count: usize) {
    (0..count).for_each(|_| assert!(client.alloc(SIZE, 1, false)));
}

fn release(client: &mut Client<'_>, count: usize) {
    (0..count).for_each(|_| client.free(client.blocks.len() - 1));
}

/// Puts so many full magazines into the pool and leaves some chunks in spans.
fn stock(other: &mut Client<'_>, magazines: usize) {
    take(other, magazines * magazine() + 5);
    let keep = other.blocks.split_off(magazines * magazine());
    other.free_all();
    other.heap.hand_over_all(other.cache.unwrap());
    other.blocks = keep;
    assert!(other.heap.shards.depth(class_of(SIZE), &other.heap.magazines) > 0);
}

/// Spans in every state: full, with a few free chunks, and purged in part.
fn scatter(world: &World, client: &mut Client<'_>) {
    take(client, 70);
    for at in (0..64).rev().filter(|at| at % 3 != 0) {
        client.free(at);
    }
    world.heap.flush(client.cache.unwrap());
    world.heap.trim(None);
}

fn nothing(_: &World, _: &mut Client<'_>, _: &mut Client<'_>) {}

pub(super) const ACTS: &[Act] = &[
    Act { name: "open a span", before: nothing, act: |_, client| take(client, 1), in_hand: 4 * SIZE },
    Act {
        name: "carve from listed spans",
        before: |world, _, other| scatter(world, other),
        act: |_, client| take(client, 6),
        in_hand: 4 * SIZE,
    },
    Act {
        name: "refill from the pool",
        before: |_, _, other| stock(other, 3),
        act: |_, client| take(client, 6),
        in_hand: 4 * SIZE,
    },
    Act {
        name: "free into spares, and take them",
        before: |_, client, _| take(client, 20),
        act: |_, client| {
            release(client, 18);
            take(client, 14);
        },
        in_hand: 4 * SIZE,
    },
    Act {
        name: "fill the cache and evict others",
        before: |_, client, _| {
            for info in INFO.iter().filter(|info| info.magazine_bytes() > 14 << 10 && info.size != SIZE) {
                assert!(client.alloc(info.size, 1, false));
            }
            take(client, 10);
        },
        act: |_, client| client.free_all(),
        in_hand: 256 << 10,
    },
    Act {
        name: "flush",
        before: |world, client, _| {
            scatter(world, client);
            take(client, 20);
            release(client, 16);
        },
        act: |world, client| world.heap.flush(client.cache.unwrap()),
        in_hand: 4 * SIZE,
    },
    Act {
        name: "retire",
        before: |_, client, _| take(client, 33),
        act: |world, client| {
            client.free_all();
            world.heap.flush(client.cache.unwrap());
        },
        in_hand: 4 * SIZE,
    },
    Act {
        name: "go the shared path",
        before: |world, client, other| {
            scatter(world, other);
            take(client, 3);
            client.leave();
        },
        act: |_, client| {
            take(client, 2);
            release(client, 4);
        },
        in_hand: SIZE,
    },
    Act {
        name: "take and give large ones",
        before: |_, client, _| assert!(client.alloc(5 * PAGE, 1, false)),
        act: |_, client| {
            assert!(client.alloc(70 * PAGE, 1, true));
            assert!(client.alloc(6 * PAGE, 4 * PAGE, false));
            client.free(1);
            client.free(0);
        },
        in_hand: 70 * PAGE,
    },
    Act {
        name: "take, resize and give large ones without a cache",
        before: |_, client, _| {
            assert!(client.alloc(5 * PAGE, 1, false));
            client.leave();
        },
        act: |_, client| {
            assert!(client.realloc(0, 70 * PAGE));
            assert!(client.alloc(6 * PAGE, 4 * PAGE, true));
            assert!(client.realloc(0, 20 * PAGE));
            client.free_all();
        },
        in_hand: 90 * PAGE,
    },
    Act {
        name: "take from the shelf, put there, and clear it",
        before: |_, client, _| {
            assert!(client.alloc(5 * PAGE, 1, false));
            client.free(0);
        },
        act: |world, client| {
            assert!(client.alloc(5 * PAGE, 1, true));
            client.free(client.blocks.len() - 1);
            world.heap.clear_shelf(|_| true);
        },
        in_hand: 5 * PAGE,
    },
    Act {
        name: "resize a large one",
        before: |_, client, _| assert!(client.alloc(5 * PAGE, 1, false)),
        act: |_, client| {
            for pages in [7, 100, 6, 20] {
                assert!(client.realloc(0, pages * PAGE));
            }
        },
        in_hand: 100 * PAGE,
    },
    Act {
        name: "take and give a huge one",
        before: nothing,
        act: |_, client| {
            assert!(client.alloc(HUGE_MIN, 1, false));
            client.free(0);
        },
        in_hand: HUGE_MIN,
    },
    Act {
        name: "take a huge one that is kept, keep it and give it",
        before: |_, client, _| {
            for _ in 0..2 {
                assert!(client.alloc(HUGE_MIN + PAGE, 1, false));
                client.free(0);
            }
            assert_eq!(client.heap.kept.shelf.runs().count(), 1);
        },
        act: |world, client| {
            assert!(client.alloc(HUGE_MIN, 1, false));
            client.free(client.blocks.len() - 1);
            world.heap.clear_shelf(|_| true);
        },
        in_hand: HUGE_MIN + PAGE,
    },
    Act {
        name: "resize a huge one",
        before: |_, client, _| assert!(client.alloc(HUGE_MIN, 1, false)),
        act: |_, client| {
            assert!(client.realloc(0, HUGE_MIN + PAGE));
            assert!(client.realloc(0, HUGE_MIN));
        },
        in_hand: 2 * HUGE_MIN,
    },
    Act {
        name: "trim",
        before: |world, client, other| {
            scatter(world, other);
            stock(other, 3);
            take(client, 12);
            release(client, 11);
        },
        act: |world, client| {
            world.heap.trim(client.cache);
        },
        in_hand: 4 * SIZE,
    },
    Act {
        name: "trim without a cache",
        before: |world, client, other| {
            scatter(world, other);
            stock(other, 3);
            client.leave();
        },
        act: |world, _| _ = world.heap.trim(None),
        in_hand: 4 * SIZE,
    },
    Act {
        name: "tick",
        before: |world, client, other| {
            scatter(world, other);
            stock(other, 6);
            take(other, 12);
            release(other, 11);
            for _ in 0..5 {
                later(world, client);
            }
        },
        act: |world, client| {
            for _ in 0..3 {
                later(world, client);
            }
        },
        in_hand: 4 * SIZE,
    },
    Act {
        name: "join and leave",
        before: |_, client, _| {
            client.leave();
            client.dead = false;
        },
        act: |_, client| {
            take(client, 9);
            release(client, 6);
            client.leave();
            client.dead = false;
        },
        in_hand: 4 * SIZE,
    },
];

/// A tick passes, in which the client is active.
fn later(world: &World, client: &mut Client<'_>) {
    world.system.advance_ms(100);
    let cache = client.cache.unwrap();
    for _ in 0..10 {
        world.heap.attend(cache, class_of(SIZE));
    }
}
