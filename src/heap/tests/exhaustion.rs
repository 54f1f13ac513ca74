//! Exhaustion: each call of the system that a scenario makes fails, alone or with all that come after it. Nothing is
//! lost, nothing is corrupted, and when the failing ends all works again.

use super::world::{Client, World};
use crate::config::HUGE_MIN;
use crate::os::fake::System;
use crate::size_class::{CLASSES, INFO};
use std::vec::Vec;

/// One pass through a scenario, with two clients that begin without caches.
struct Pass<'a> {
    world: &'a World,
    clients: [Client<'a>; 2],
    /// Whether every allocation must succeed.
    must: bool,
}

impl Pass<'_> {
    fn alloc(&mut self, who: usize, size: usize, align: usize, zeroed: bool) {
        let done = self.clients[who].alloc(size, align, zeroed);
        assert!(done || !self.must, "{size} bytes aligned to {align} were refused");
    }

    fn realloc(&mut self, who: usize, which: usize, size: usize) {
        if !self.clients[who].blocks.is_empty() {
            let done = self.clients[who].realloc(which, size);
            assert!(done || !self.must, "{size} bytes were refused");
        }
    }

    /// Moves half of what one has to the other.
    fn hand_over(&mut self, from: usize) {
        let half = self.clients[from].blocks.len() / 2;
        let moved = self.clients[from].blocks.split_off(half);
        self.clients[1 - from].blocks.extend(moved);
    }

    fn free_some(&mut self, who: usize) {
        for at in (0..self.clients[who].blocks.len()).rev().step_by(3) {
            self.clients[who].free(at);
        }
    }

    /// Time passes, and threads are active in it.
    fn later(&mut self) {
        for _ in 0..4 {
            self.world.system.advance_ms(100);
            for who in [0, 1] {
                for size in [16, 200, 2000] {
                    self.alloc(who, size, 1, false);
                    let last = self.clients[who].blocks.len();
                    self.clients[who].free(last.saturating_sub(1));
                }
            }
        }
    }
}

/// Birth, chunks of all classes, a hand-over, upkeep, a trim, the end of a thread.
fn small(pass: &mut Pass<'_>) {
    for who in [0, 1] {
        for info in INFO.iter().step_by(2) {
            pass.alloc(who, info.size, 1, who == 0);
        }
    }
    for at in 0..300 {
        pass.alloc(0, 1 + at % 64, 1 << (at % 4), false);
        pass.alloc(1, 1000, 8, false);
    }
    pass.hand_over(0);
    pass.free_some(1);
    pass.later();
    pass.hand_over(1);
    pass.free_some(0);
    pass.realloc(0, 5, 4000);
    pass.realloc(1, 2, 100 << 10);
    pass.world.heap.trim(pass.clients[0].cache);
    pass.clients[1].free_all();
    pass.clients[1].leave();
    pass.clients[1].dead = false;
    pass.alloc(1, 48, 16, true);
}

/// More spans and magazines of one class than the first segments of their slabs hold.
fn many(pass: &mut Pass<'_>) {
    for _ in 0..70 {
        pass.alloc(0, 256 << 10, 1, false);
    }
    for _ in 0..66 {
        pass.alloc(1, 64 << 10, 4096, false);
    }
    pass.hand_over(1);
    pass.free_some(0);
    pass.later();
    pass.clients[0].free_all();
}

/// Large and huge ones, zeroed, grown and shrunk in place and not.
fn large(pass: &mut Pass<'_>) {
    let mib = 1 << 20;
    pass.alloc(0, 300 << 10, 1, false);
    pass.alloc(0, 5 * mib, 4096, true);
    pass.alloc(1, mib, 1 << 18, true);
    pass.alloc(1, HUGE_MIN, 1, true);
    pass.alloc(1, 64, HUGE_MIN, false);
    pass.clients[0].free(1);
    pass.alloc(0, 5 * mib, 1, true);
    for (who, size) in [(0, 400 << 10), (0, 2 * mib), (1, 300 << 10), (0, 100), (1, 33 * mib), (1, 9 * mib)] {
        pass.realloc(who, 0, size);
    }
    for size in [HUGE_MIN + mib, HUGE_MIN, 3 * mib] {
        pass.realloc(1, 1, size);
    }
    pass.hand_over(0);
    pass.later();
    pass.free_some(1);
    pass.world.heap.trim(None);
    pass.alloc(0, 3 * mib, 1, true);
}

fn run(world: &World, scenario: fn(&mut Pass<'_>), must: bool) {
    let mut pass = Pass { world, clients: [world.client(), world.client()], must };
    scenario(&mut pass);
    world.finish(pass.clients.into());
}

/// Fails call 0, call 1, and so on, each in a world of its own. Returns how many there were.
fn every_call_fails(scenario: fn(&mut Pass<'_>), for_ever: bool, grows: bool) -> u64 {
    for call in 0.. {
        let world = World::new();
        world.system.set_grows(grows);
        let mut pass = Pass { world: &world, clients: [world.client(), world.client()], must: !for_ever };
        let failing = world.system.failing(call, if for_ever { u64::MAX } else { call + 1 });
        scenario(&mut pass);
        let over = failing.seen() <= call;
        drop(failing);
        let [one, other] = &pass.clients;
        world.check(&[one, other]);
        pass.clients.iter().flat_map(|client| &client.blocks).for_each(|block| block.verify_all());
        // All works, beside what lives, and after it.
        pass.must = true;
        scenario(&mut pass);
        let [one, other] = &pass.clients;
        world.check(&[one, other]);
        world.finish(pass.clients.into());
        run(&world, small, true);
        if over {
            return call;
        }
    }
    unreachable!()
}

#[test]
fn one_call_fails_among_small_ones() {
    assert!(every_call_fails(small, false, false) > 60);
}

#[test]
fn all_calls_fail_from_one_on_among_small_ones() {
    assert!(every_call_fails(small, true, false) > 60);
}

#[test]
fn one_call_fails_among_many_spans() {
    assert!(every_call_fails(many, false, false) > 40);
}

#[test]
fn all_calls_fail_from_one_on_among_many_spans() {
    assert!(every_call_fails(many, true, false) > 40);
}

#[test]
fn one_call_fails_among_large_ones() {
    assert!(every_call_fails(large, false, false) > 30);
}

#[test]
fn all_calls_fail_from_one_on_among_large_ones() {
    assert!(every_call_fails(large, true, true) > 30);
}

const SCENARIOS: [fn(&mut Pass<'_>); 3] = [small, many, large];

/// A system that is short of something, and then is not: nothing is lost, and all works again.
fn short_of(limit: impl Fn(&System), lift: impl Fn(&System), must: bool) {
    for scenario in SCENARIOS {
        let world = World::new();
        limit(&world.system);
        let mut pass = Pass { world: &world, clients: [world.client(), world.client()], must };
        scenario(&mut pass);
        let [one, other] = &pass.clients;
        world.check(&[one, other]);
        pass.clients.iter().flat_map(|client| &client.blocks).for_each(|block| block.verify_all());
        lift(&world.system);
        pass.must = true;
        scenario(&mut pass);
        world.finish(pass.clients.into());
        run(&world, small, true);
    }
}

/// As after `mlockall`: nothing that was used can be purged, and all is served none the less.
#[test]
fn locked_memory_serves_all() {
    short_of(|system| system.set_locks(true), |system| system.set_locks(false), true);
}

/// Strict overcommit: what is reserved counts, used or not.
#[test]
fn little_may_be_mapped() {
    for mib in [0, 1, 2, 7, 20, 65, 70, 100] {
        short_of(|system| system.set_room(mib << 20), |system| system.set_room(usize::MAX), false);
    }
}

#[test]
fn few_mappings_may_be_made() {
    for count in [0, 1, 2, 3, 4, 5, 7, 10, 15, 23] {
        short_of(|system| system.set_mappings(count), |system| system.set_mappings(usize::MAX), false);
    }
}

/// OS pages of 16 and 64 KiB, where each call fails too.
#[test]
fn large_os_pages_fail_as_well() {
    for os_page in [16 << 10, 64 << 10] {
        for scenario in SCENARIOS {
            for call in (0..60).step_by(7) {
                let world = World::new();
                world.system.set_page_size(os_page);
                let mut pass = Pass { world: &world, clients: [world.client(), world.client()], must: false };
                let failing = world.system.failing(call, if call % 2 == 0 { u64::MAX } else { call + 1 });
                scenario(&mut pass);
                drop(failing);
                let [one, other] = &pass.clients;
                world.check(&[one, other]);
                pass.must = true;
                scenario(&mut pass);
                world.finish(pass.clients.into());
            }
        }
    }
}
