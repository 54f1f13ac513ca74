//! Time passes, because the test says so: what is not needed goes back, tick by tick, and what is needed stays.

use super::super::upkeep::Miss;
use super::acts::SIZE;
use super::world::{Client, LOOKS, World, class_of};
use crate::arena::Fill;
use crate::config::{
    CACHE_BYTES, DEEP_BYTES, DIRTY_BYTES, EBB_LEAST, PAGE, PURGE_TICKS, QUIET_TICKS, RELIEF_BYTES, REST_TICKS, SLIM,
    SPARE_TICKS, SWEEP_SPANS, TICK_MS,
};
use crate::size_class::{CLASSES, Class, INFO};
use crate::sync::Ordering;
use crate::sync::stepped::interrupted;
use crate::tagged::NONE;
use std::vec::Vec;

/// A tick passes, and the client is on a slow path in it.
fn tick(world: &World, client: &Client<'_>) {
    let before = world.heap.clock.now();
    world.system.advance_ms(TICK_MS);
    for _ in 0..LOOKS {
        world.heap.attend(client.cache.unwrap(), 0);
    }
    assert_eq!(world.heap.clock.now(), before + 1);
}

/// A client that has done no more than be born.
fn idle(world: &World) -> Client<'_> {
    let mut client = world.join();
    assert!(client.alloc(8, 1, false));
    client
}

/// Lets all spans come to rest; says what is purged in them.
fn rest(world: &World, client: &Client<'_>) -> usize {
    (0..2 * REST_TICKS).for_each(|_| tick(world, client));
    world.check(&[client]).purged
}

fn class() -> Class {
    class_of(SIZE)
}

/// Puts so many full magazines into the pool.
fn stock(world: &World, magazines: usize) {
    let mut client = world.join();
    for _ in 0..magazines * INFO[class()].slots {
        assert!(client.alloc(SIZE, 1, false));
    }
    client.free_all();
    client.leave();
    assert_eq!(world.heap.shards.depth(class(), &world.heap.magazines) as usize, magazines);
}

fn spares(client: &Client<'_>) -> usize {
    (0..INFO.len()).map(|class| client.cache.unwrap().spare_count(class)).sum()
}

#[test]
fn what_others_take_makes_room_for_more() {
    let world = World::new();
    let mut client = world.join();
    for size in [1024, 2048, 3072, 4096] {
        (0..10 * INFO[class_of(size)].slots).for_each(|_| assert!(client.alloc(size, 1, false)));
    }
    client.free_all();
    let cache = client.cache.unwrap();
    assert!(spares(&client) > 16 && !cache.charge(CACHE_BYTES / 2), "it is full");
    world.heap.trim(None);
    assert_eq!(spares(&client), 0);
    assert!(cache.charge(CACHE_BYTES / 2), "what was taken counts no more");
    cache.discharge(CACHE_BYTES / 2);
    world.finish([client].into());
}

#[test]
fn a_small_heap_gives_back_before_it_grows() {
    let world = World::new();
    let mut client = idle(&world);
    let depth = || world.heap.shards.depth(class(), &world.heap.magazines);
    stock(&world, 20);
    assert!(client.alloc(SLIM.start, 1, false));
    assert_eq!((depth(), world.heap.spans.arenas.dirty()), (0, 0), "beyond what it ever was");
    // Not for less than an eighth.
    stock(&world, 5);
    assert!(client.alloc(SLIM.start / 4, 1, false));
    assert_eq!((depth(), world.heap.spans.arenas.dirty()), (0, 0), "by more than an eighth");
    stock(&world, 20);
    assert!(client.alloc(SLIM.end - PAGE, 1, false));
    assert!(
        depth() == 0 && world.heap.spans.arenas.dirty() > 0,
        "it is small no more: what is free stays for what comes"
    );
    world.finish([client].into());
}

#[test]
fn a_tick_takes_its_time() {
    let world = World::new();
    let client = idle(&world);
    let visit = || (0..LOOKS).for_each(|_| assert!(!world.heap.attend(client.cache.unwrap(), 1)));
    let start = world.heap.clock.now();
    world.system.advance_ms(TICK_MS - 1);
    visit();
    assert_eq!(world.heap.clock.now(), start);
    world.system.advance_ms(1);
    visit();
    visit();
    assert_eq!(world.heap.clock.now(), start + 1);
    world.system.advance_ms(100 * TICK_MS);
    visit();
    assert_eq!(world.heap.clock.now(), start + 2, "one, however late");
    world.finish([client].into());
}

/// A thread that takes and gives one chunk all the time never misses; it drives the clock all the same.
#[test]
fn a_thread_that_never_misses_ticks() {
    let world = World::new();
    let mut client = world.join();
    (0..10).for_each(|_| assert!(client.alloc(SIZE, 1, false)));
    client.free(0);
    let start = world.heap.clock.now();
    for _ in 0..10 {
        // Something is left to do.
        assert!(
            world
                .heap
                .alloc_large(NONE, PAGE, 1, crate::arena::Fill::Any)
                .map(|at| world.heap.free_large(NONE, at.addr().get()))
                .is_some()
        );
        world.system.advance_ms(TICK_MS);
        for _ in 0..4 {
            assert!(client.alloc(SIZE, 1, false));
            client.free(client.blocks.len() - 1);
        }
    }
    assert!(world.heap.clock.now() - start >= 9, "{}", world.heap.clock.now() - start);
    world.finish([client].into());
}

#[test]
fn magazines_that_nobody_needed_return_to_their_spans() {
    let world = World::new();
    let client = idle(&world);
    stock(&world, 10);
    let depth = || world.heap.shards.depth(class(), &world.heap.magazines);
    tick(&world, &client);
    assert_eq!(depth(), 10, "a whole period has to pass");
    // Three of them are needed in each period.
    for left in [3, 3, 3] {
        let taken: Vec<_> =
            (0..3).map(|_| world.heap.shards.refill(class(), 0, &world.heap.magazines).unwrap()).collect();
        taken.iter().for_each(|magazine| assert!(world.heap.shards.drain(class(), 0, &world.heap.magazines, magazine)));
        tick(&world, &client);
        assert_eq!(depth(), left);
        world.check(&[&client]);
    }
    tick(&world, &client);
    assert_eq!(depth(), 0);
    assert_eq!(world.check(&[&client]).pooled, 0);
    world.finish([client].into());
}

#[test]
fn many_magazines_return_by_halves() {
    let world = World::new();
    let client = idle(&world);
    stock(&world, 100);
    tick(&world, &client);
    for left in [50, 25, 12, 0] {
        tick(&world, &client);
        assert_eq!(world.heap.shards.depth(class(), &world.heap.magazines), left);
    }
    world.finish([client].into());
}

/// A thread that sleeps keeps its loaded magazines and no more; one that uses its spares keeps them.
#[test]
fn spares_are_taken_from_those_who_rest() {
    let world = World::new();
    let (driver, mut sleeps, mut works) = (idle(&world), world.join(), world.join());
    for client in [&mut sleeps, &mut works] {
        (0..40).for_each(|_| assert!(client.alloc(SIZE, 1, false)));
        client.free_all();
        assert!(spares(client) >= 4);
    }
    let loaded = INFO[class()].magazine_bytes();
    for ticks in 1..=SPARE_TICKS + 1 {
        // Uses a spare, and fills it again.
        (0..8).for_each(|_| assert!(works.alloc(SIZE, 1, false)));
        works.free_all();
        tick(&world, &driver);
        if ticks < SPARE_TICKS {
            assert!(spares(&sleeps) >= 4, "not yet");
        }
        world.check(&[&driver, &sleeps, &works]);
    }
    assert_eq!(spares(&sleeps), 0);
    assert!(sleeps.cached() <= loaded);
    assert!(spares(&works) >= 4, "{} are left", spares(&works));
    // And it goes on as if nothing had happened.
    (0..40).for_each(|_| assert!(sleeps.alloc(SIZE, 1, false)));
    world.check(&[&driver, &sleeps, &works]);
    world.finish([driver, sleeps, works].into());
}

#[test]
fn an_idle_thread_holds_little() {
    let world = World::new();
    let mut client = world.join();
    for info in &INFO {
        for _ in 0..2 * info.slots {
            assert!(client.alloc(info.size, 1, false));
        }
    }
    client.free_all();
    assert!(client.cached() > CACHE_BYTES / 4 && client.cached() <= CACHE_BYTES);
    client.check_cache();
    let driver = idle(&world);
    (0..3).for_each(|_| tick(&world, &driver));
    assert_eq!(spares(&client), 0);
    world.finish([client, driver].into());
}

#[test]
fn runs_are_kept_for_a_while_and_purged() {
    let world = World::new();
    let mut client = idle(&world);
    // As many as fill more than one word of each of the arena's parts.
    for _ in 0..12 {
        assert!(client.alloc(20 * PAGE, 1, false));
    }
    while client.blocks.len() > 1 {
        client.free(client.blocks.len() - 1);
    }
    let dirty = || world.check(&[&client]).dirty;
    let all = dirty();
    assert!(all >= 12 * 20 * PAGE);
    for _ in 0..PURGE_TICKS {
        tick(&world, &client);
    }
    assert_eq!(dirty(), all, "each page has been visited once");
    let mut before = all;
    for _ in 0..PURGE_TICKS {
        tick(&world, &client);
        assert!(dirty() <= before);
        before = dirty();
    }
    assert_eq!(before, 0);
    world.trim(&[&client]);
    world.finish([client].into());
}

/// A run that is taken and given back all the time is never purged: no page faults for those who need it.
#[test]
fn runs_in_use_now_and_then_stay() {
    let world = World::new();
    let mut client = idle(&world);
    let _ = rest(&world, &client);
    assert!(client.alloc(20 * PAGE, 1, false));
    client.free(1);
    for _ in 0..4 * PURGE_TICKS {
        assert!(client.alloc(20 * PAGE, 1, false));
        let calls = world.system.failing(u64::MAX, u64::MAX);
        client.free(1);
        tick(&world, &client);
        assert_eq!(calls.seen(), 0, "nothing is purged");
    }
    world.finish([client].into());
}

/// However still the clock stands, and whatever it says, free pages are bounded.
#[test]
fn too_many_free_pages_go_at_once() {
    for ticks in [0, 3 << 30] {
        let world = World::new();
        let client = idle(&world);
        world.heap.clock.tick.store(ticks, Ordering::Relaxed);
        let bytes = 24 << 20;
        let alloc = |_| world.heap.alloc_large(NONE, bytes, 1, crate::arena::Fill::Any).unwrap();
        let runs: Vec<usize> =
            (0..2 * DIRTY_BYTES / bytes).map(|run| alloc(run).as_ptr().expose_provenance()).collect();
        for run in runs {
            world.heap.free_large(NONE, run);
            let stats = world.heap.stats();
            assert!(stats.dirty <= DIRTY_BYTES.max(stats.committed / 4) + bytes, "after {ticks} ticks: {stats:?}");
        }
        let stats = world.check(&[&client]);
        assert!(
            stats.dirty <= DIRTY_BYTES && stats.dirty + 2 * RELIEF_BYTES >= DIRTY_BYTES,
            "no more than need be: {stats:?}"
        );
        world.finish([client].into());
    }
}

/// Whatever others free meanwhile, the system has not refused.
#[test]
fn too_many_free_pages_go_at_once_though_others_free_as_many() {
    let freed = |step| {
        let world = World::new();
        let client = idle(&world);
        let alloc = |_| world.heap.alloc_large(NONE, 24 << 20, 1, Fill::Any).unwrap().as_ptr().expose_provenance();
        let runs: Vec<usize> = (0..7).map(alloc).collect();
        let arenas = &world.heap.spans.arenas;
        let other = arenas.take_run((40 << 20) / PAGE, 1, Fill::Any).unwrap();
        runs[..5].iter().for_each(|run| world.heap.free_large(NONE, *run));
        // In the middle of a free: a run that is given back, and the bound not looked at yet.
        let mut give = || arenas.give_run(other.page, other.pages);
        let steps = interrupted(step, &mut give, || world.heap.free_large(NONE, runs[5]));
        world.heap.free_large(NONE, runs[6]);
        let dirty = arenas.dirty();
        assert!(dirty <= DIRTY_BYTES, "{dirty} after an interruption at {step}");
        if step > steps {
            give();
        }
        world.finish([client].into());
        steps
    };
    let steps = freed(u64::MAX);
    (0..8).for_each(|part| _ = freed(steps * part / 8));
}

/// The same where a pool spills, and what is freed in disorder makes whole spans free.
#[test]
fn too_many_pages_freed_in_disorder_go_at_once() {
    let world = World::new();
    let mut client = idle(&world);
    let chunks = 2 * DEEP_BYTES / 256;
    (0..chunks).for_each(|_| assert!(client.alloc(256, 1, false)));
    let bytes = 24 << 20;
    let alloc = |_| world.heap.alloc_large(NONE, bytes, 1, crate::arena::Fill::Any).unwrap();
    let runs: Vec<usize> = (0..2 * DIRTY_BYTES / bytes).map(|run| alloc(run).as_ptr().expose_provenance()).collect();
    runs.into_iter().for_each(|run| world.heap.free_large(NONE, run));
    // The last but one, the last, and the one before both.
    while let Some(last) = client.blocks.len().checked_sub(3) {
        [last + 1, last + 1, last].into_iter().for_each(|at| client.free(at));
    }
    let stats = world.check(&[&client]);
    assert!(stats.dirty <= DIRTY_BYTES, "{stats:?}");
    assert!(stats.pooled <= DEEP_BYTES);
    world.finish([client].into());
}

/// Of 16 chunks of a span one lives: after some rest the pages of the others go, though nobody calls for it.
#[test]
fn rested_spans_are_purged() {
    let world = World::new();
    let mut client = idle(&world);
    for _ in 0..320 {
        assert!(client.alloc(SIZE, 1, false));
    }
    for at in (1..client.blocks.len()).rev().filter(|at| at % 16 != 0) {
        client.free(at);
    }
    world.heap.flush(client.cache.unwrap());
    world.heap.return_magazines(class(), u32::MAX);
    let free = || world.check(&[&client]).span_free;
    let before = free();
    assert!(before >= 250 * SIZE);
    for _ in 1..REST_TICKS {
        tick(&world, &client);
        assert_eq!(free(), before, "they have not rested");
    }
    for _ in 0..4 {
        tick(&world, &client);
    }
    assert!(free() <= PAGE, "{} bytes are left", free());
    world.trim(&[&client]);
    world.finish([client].into());
}

#[test]
fn a_span_that_changes_does_not_rest() {
    let world = World::new();
    let mut client = idle(&world);
    let at_first = rest(&world, &client);
    (0..16).for_each(|_| assert!(client.alloc(SIZE, 1, false)));
    (0..12).for_each(|_| client.free(client.blocks.len() - 1));
    world.heap.flush(client.cache.unwrap());
    for _ in 0..10 {
        assert!(client.alloc(SIZE, 1, false));
        client.free(client.blocks.len() - 1);
        world.heap.flush(client.cache.unwrap());
        tick(&world, &client);
    }
    assert_eq!(world.check(&[&client]).purged, at_first);
    (0..2 * REST_TICKS).for_each(|_| tick(&world, &client));
    assert_eq!(world.check(&[&client]).purged, at_first + 12 * SIZE);
    world.finish([client].into());
}

/// Frees without allocations: the class is in a burst, in which threads keep no spares and the pool one magazine; so
/// the spans are free as soon as their chunks are.
#[test]
fn in_a_burst_of_frees_little_is_cached() {
    let world = World::new();
    let mut client = idle(&world);
    let slots = INFO[class()].slots;
    for _ in 0..200 * slots {
        assert!(client.alloc(SIZE, 1, false));
    }
    tick(&world, &client);
    let free = |client: &mut Client<'_>, magazines: usize| {
        for _ in 0..magazines * slots {
            client.free(client.blocks.len() - 1);
        }
    };
    free(&mut client, 60);
    tick(&world, &client);
    let shards = &world.heap.shards;
    let depth = || shards.depth(class(), &world.heap.magazines);
    assert!(shards.in_burst(class(), 0));
    let (cached, pooled) = (client.cached(), depth());
    free(&mut client, 100);
    assert!(client.cached() <= cached && depth() <= pooled, "nothing is added");
    (0..10).for_each(|_| tick(&world, &client));
    assert!(!shards.in_burst(class(), 0) && depth() == 0);
    world.check(&[&client]);
    // And in the quiet after it, spares are kept again.
    client.free_all();
    (0..10 * slots).for_each(|_| assert!(client.alloc(SIZE, 1, false)));
    client.free_all();
    assert!(client.cache.unwrap().spare_count(class()) > 1);
    world.finish([client].into());
}

/// After a burst at one instant, a thread allocates and frees one chunk, of the burst's class or another, and never
/// misses: what the burst has freed goes back all the same.
#[test]
fn a_loop_that_never_misses_gives_back_what_a_burst_has_freed() {
    // Also where nothing has been freed for so long that there was nothing left to do.
    for (size, pause, lull) in [(1024, 1, 0), (1024, 20, 0), (304, 1, 0), (304, 20, 0), (1024, 20, 3 * QUIET_TICKS)] {
        let world = World::new();
        let mut client = world.join();
        for _ in 0..40_000 {
            assert!(client.alloc(1024, 1, false));
        }
        (0..lull).for_each(|_| tick(&world, &client));
        let peak = world.heap.committed();
        let keep = client.blocks.split_off(39_000);
        client.free_all();
        client.blocks = keep;
        let mut passed = 0;
        while passed < 2_000 {
            world.system.advance_ms(pause);
            passed += pause;
            for _ in 0..8 {
                assert!(client.alloc(size, 1, false));
                client.free(client.blocks.len() - 1);
            }
        }
        let left = world.heap.committed() - world.heap.metadata();
        assert!(left < peak / 10, "{left} of {peak}: {size} B each {pause} ms");
        world.finish([client].into());
    }
}

/// As long as not all spans have been looked at there is work left, or those at the end never would be.
#[test]
fn a_sweep_is_work_until_it_is_over() {
    let world = World::new();
    let mut client = idle(&world);
    while world.heap.nodes() <= 2 * SWEEP_SPANS as u64 {
        assert!(client.alloc(4096, 1, false));
    }
    let quiet = &world.heap.clock.quiet;
    // Nothing is left of growth, and a round of the sweep is over.
    while quiet.load(Ordering::Relaxed) == 0 {
        tick(&world, &client);
    }
    (0..QUIET_TICKS).for_each(|_| tick(&world, &client));
    assert!(quiet.load(Ordering::Relaxed) < QUIET_TICKS);
    world.finish([client].into());
}

/// A gigabyte's worth of small chunks in miniature: freed in random order, and a little activity after it.
#[test]
fn what_a_burst_frees_goes_back() {
    let world = World::new();
    let mut client = idle(&world);
    let mut random = fastrand::Rng::with_seed(5);
    for _ in 0..80_000 {
        assert!(client.alloc(48, 1, false));
    }
    let peak = world.heap.committed();
    random.shuffle(&mut client.blocks[1..]);
    client.blocks.swap(0, 79_999);
    while client.blocks.len() > 1 {
        if client.blocks.len() % 800 == 0 {
            world.system.advance_ms(10);
        }
        client.free(client.blocks.len() - 1);
    }
    for _ in 0..20 {
        for size in [48, 200, 3000, 20_000] {
            let from = client.blocks.len();
            (0..2 * INFO[class_of(size)].slots).for_each(|_| assert!(client.alloc(size, 1, false)));
            (from..client.blocks.len()).rev().for_each(|at| client.free(at));
        }
        world.system.advance_ms(TICK_MS);
    }
    let stats = world.check(&[&client]);
    assert!(stats.committed - stats.metadata < peak / 10 + CACHE_BYTES, "{peak} at the peak, {stats:?}");
    world.finish([client].into());
}

/// What goes to spans and comes from there again is no ebb; what went, and is not missed for long, is forgotten.
#[test]
fn memory_ebbs_while_more_goes_back_than_is_taken() {
    let world = World::new();
    let mut client = idle(&world);
    for _ in 0..3 {
        (0..20_000).for_each(|_| assert!(client.alloc(1024, 1, false)));
        assert!(!world.heap.is_ebbing());
        client.free_all();
        assert!(world.heap.is_ebbing());
    }
    (0..100).for_each(|_| tick(&world, &client));
    assert!(!world.heap.is_ebbing());
    world.finish([client].into());
}

/// A clock that somebody fakes may go back, as far as to its beginning: all goes on.
#[test]
fn a_clock_that_goes_back_does_no_harm() {
    let world = World::new();
    let mut client = idle(&world);
    tick(&world, &client);
    world.heap.ebb(2 * EBB_LEAST.max(world.heap.committed()));
    let cache = client.cache.unwrap();
    for ms in [1, 0u64.wrapping_sub(crate::os::coarse_ms() + 1), 1] {
        world.system.advance_ms(ms);
        cache.rearm.store(0, Ordering::Relaxed);
        world.heap.rearm(cache, 0, Miss::ArmedPop);
    }
    tick(&world, &client);
    client.free_all();
    client.leave();
    world.check(&[]);
}

/// Classes of which one chunk fills a magazine, more of them than there is room for, mostly leave each other's where they are.
#[test]
fn single_chunks_do_not_put_each_other_out() {
    let world = World::new();
    let mut client = idle(&world);
    let sizes: Vec<usize> = INFO.iter().filter(|info| info.slots == 1).map(|info| info.size).collect();
    assert!(sizes.iter().sum::<usize>() > 2 * CACHE_BYTES);
    let mut loaded = Vec::new();
    let mut lost = 0;
    for round in 0..8 {
        let from = client.blocks.len();
        sizes.iter().for_each(|size| (0..2).for_each(|_| assert!(client.alloc(*size, 1, false))));
        (from..client.blocks.len()).rev().for_each(|at| client.free(at));
        let is_loaded = |class: &Class| client.cache.unwrap().loaded(*class, &world.heap.magazines).is_some();
        assert!(client.cached() <= CACHE_BYTES);
        // At first each asks for one.
        lost += if round < 2 { 0 } else { loaded.iter().filter(|class| !is_loaded(class)).count() };
        loaded = (0..CLASSES).filter(is_loaded).collect();
    }
    // Without that it is most of them.
    assert!(lost <= sizes.len() / 4, "{lost} in 6 rounds of {}", sizes.len());
    world.finish([client].into());
}
