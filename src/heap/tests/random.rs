//! Random use by one to four threads: every block keeps what was written to it, and after each batch the heap is sound
//! and knows of exactly what is live.

use super::world::{Block, Client, World};
use crate::config::HUGE_MIN;
use crate::os::fake::{self, System};
use crate::size_class::{CLASSES, INFO};
use fastrand::Rng;
use proptest::prelude::*;
use std::sync::{Arc, Mutex};
use std::vec::Vec;

/// A size of any class, or larger; and an alignment.
fn layout(random: &mut Rng) -> (usize, usize) {
    let size = match random.u32(..1000) {
        0 => HUGE_MIN + random.usize(..2 << 20),
        1..30 => random.usize((256 << 10) + 1..3 << 20),
        30..330 => 1 + random.usize(..512),
        _ => {
            let class = random.usize(..CLASSES);
            let least = if class == 0 { 1 } else { INFO[class - 1].size + 1 };
            random.usize(least..=INFO[class].size)
        }
    };
    let align = match random.u32(..100) {
        0..70 => 1 << random.u32(..5),
        70..97 => 1 << random.u32(..13),
        _ => 1 << random.u32(..21),
    };
    (size, align)
}

/// One step; what is handed to other threads goes through `exchange`. Keeps to about `target` bytes.
fn step(client: &mut Client<'_>, random: &mut Rng, exchange: &Mutex<Vec<Block>>, target: usize) {
    let live: usize = client.blocks.iter().map(Block::usable).sum();
    let grow = if live < target { 60 } else { 30 };
    match random.u32(..100) {
        at if at < grow => {
            let (size, align) = layout(random);
            assert!(client.alloc(size, align, random.bool()), "nothing is short");
        }
        _ if client.blocks.is_empty() => {}
        at if at < 90 => client.free(random.usize(..)),
        90..96 => {
            let (size, _) = layout(random);
            assert!(client.realloc(random.usize(..), size.max(1)));
        }
        96..98 => {
            let block = client.forget(random.usize(..));
            exchange.lock().unwrap().push(block);
        }
        98 => client.blocks.extend(exchange.lock().unwrap().pop()),
        _ if random.u32(..10) == 0 => {
            client.heap.trim(client.cache);
        }
        _ => fake::set_processor(random.u32(..9)),
    }
}

fn step_and_check(client: &mut Client<'_>, random: &mut Rng, exchange: &Mutex<Vec<Block>>, target: usize) {
    step(client, random, exchange, target);
    client.check_cache();
}

fn take_back(client: &mut Client<'_>, exchange: &Mutex<Vec<Block>>) {
    client.blocks.append(&mut exchange.lock().unwrap());
}

#[test]
fn one_thread_checked_at_each_step() {
    let world = World::new();
    let mut random = Rng::with_seed(1);
    let exchange = Mutex::new(Vec::new());
    let mut client = world.join();
    for at in 0..1200 {
        step_and_check(&mut client, &mut random, &exchange, 8 << 20);
        world.system.advance_ms(random.u64(..30));
        take_back(&mut client, &exchange);
        world.check(&[&client]);
        if at % 200 == 0 {
            world.trim(&[&client]);
        }
    }
    world.finish([client].into());
}

/// Caches that take turns on one thread: whose chunk it is and who frees it have nothing to do with each other.
#[test]
fn four_caches_in_turn() {
    let world = World::new();
    let mut random = Rng::with_seed(2);
    let exchange = Mutex::new(Vec::new());
    let mut clients: Vec<Client<'_>> = (0..4).map(|_| world.join()).collect();
    clients[3].leave();
    for _ in 0..60 {
        for client in &mut clients {
            (0..30).for_each(|_| step_and_check(client, &mut random, &exchange, 2 << 20));
        }
        take_back(&mut clients[0], &exchange);
        world.system.advance_ms(random.u64(..60));
        world.check(&clients.iter().collect::<Vec<_>>());
        // A thread ends, and another begins.
        let which = random.usize(..3);
        clients[which].leave();
        clients[which].dead = false;
    }
    world.trim(&clients.iter().collect::<Vec<_>>());
    world.finish(clients);
}

#[test]
fn four_threads_at_once() {
    let world = World::new();
    let exchange = Mutex::new(Vec::new());
    let mut clients: Vec<Client<'_>> = (0..4).map(|_| world.client()).collect();
    clients[3].leave();
    for round in 0..12u64 {
        let system: &Arc<System> = &world.system;
        let exchange = &exchange;
        std::thread::scope(|scope| {
            for (at, client) in clients.iter_mut().enumerate() {
                scope.spawn(move || {
                    system.enter();
                    let mut random = Rng::with_seed(round * 10 + at as u64);
                    for _ in 0..300 {
                        step(client, &mut random, exchange, 3 << 20);
                        if random.u32(..50) == 0 {
                            system.advance_ms(random.u64(..80));
                        }
                    }
                    // Threads end, now and then.
                    if (round + at as u64) % 4 == 0 {
                        let dead = client.dead;
                        client.leave();
                        client.dead = dead;
                    }
                });
            }
        });
        take_back(&mut clients[round as usize % 4], exchange);
        world.check(&clients.iter().collect::<Vec<_>>());
        if round % 3 == 0 {
            world.trim(&clients.iter().collect::<Vec<_>>());
        }
    }
    world.finish(clients);
}

/// All of one class at a time through the same few magazines, from one thread to another, so that both the pool and
/// the spans are passed through.
#[test]
fn one_allocates_and_another_frees() {
    let world = World::new();
    for size in [8, 64, 80, 1000, 4096, 40 << 10, 256 << 10] {
        let (sender, receiver) = std::sync::mpsc::sync_channel::<Vec<Block>>(4);
        let system = &world.system;
        std::thread::scope(|scope| {
            let (mut one, mut other) = (world.client(), world.client());
            scope.spawn(move || {
                system.enter();
                for _ in 0..40 {
                    while one.blocks.len() < 100 && one.blocks.len() * size < 2 << 20 {
                        assert!(one.alloc(size, 1, false));
                    }
                    sender.send(core::mem::take(&mut one.blocks)).unwrap();
                }
                one.leave();
            });
            scope.spawn(move || {
                system.enter();
                while let Ok(blocks) = receiver.recv() {
                    other.blocks = blocks;
                    other.free_all();
                }
                other.leave();
            });
        });
        world.check(&[]);
    }
    world.finish(Vec::new());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// What is left after a trim is exactly what must stay, whatever lives.
    #[test]
    fn trim_leaves_what_lives(
        seed in any::<u64>(),
        sizes in prop::collection::vec(prop::sample::select(std::vec![16usize, 48, 160, 1024, 3000, 4096, 20 << 10, 256 << 10, 300 << 10]), 1..4),
        keep in 0u32..100,
        os_page in prop::sample::select(std::vec![4096usize, 16 << 10, 64 << 10]),
    ) {
        let world = World::new();
        world.system.set_page_size(os_page);
        let mut random = Rng::with_seed(seed);
        let mut clients: Vec<Client<'_>> = (0..2).map(|_| world.join()).collect();
        for round in 0..3 {
            for client in &mut clients {
                for size in &sizes {
                    for _ in 0..(1 << 20) / size {
                        prop_assert!(client.alloc(*size, 1, false));
                    }
                }
                let mut at = client.blocks.len();
                while at > 0 {
                    at -= 1;
                    if random.u32(..100) >= keep {
                        client.free(at);
                    }
                }
            }
            world.check(&clients.iter().collect::<Vec<_>>());
            world.trim(&clients.iter().collect::<Vec<_>>());
            if round == 1 {
                clients.iter_mut().for_each(Client::free_all);
            }
        }
        world.finish(clients);
    }
}
