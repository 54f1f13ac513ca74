//! Pools give way: what they hold of other classes is returned where pages are taken, as much as is taken allows.

use super::world::World;
use crate::arena::Fill;
use crate::config::{PAGE, POOLED_BYTES, THIN_STEP, THIN_TIMES};
use crate::sync::Ordering;
use crate::sync::stepped::interrupted;

/// A world whose pools hold so many bytes of each of eight classes, and what says how much they hold.
fn pooled(bytes: usize) -> (World, impl Fn(&World) -> usize) {
    let world = World::new();
    // A heap of C's would return them all.
    world.heap.clock.high.store(usize::MAX, Ordering::Relaxed);
    fill(&world, bytes);
    (world, |world| world.heap.stats().pooled)
}

fn fill(world: &World, bytes: usize) {
    let mut client = world.join();
    for size in [1024, 1280, 1536, 1792, 2048, 2560, 3072, 3584] {
        (0..bytes / size).for_each(|_| assert!(client.alloc(size, 1, false)));
    }
    client.free_all();
    client.leave();
}

#[test]
fn pools_give_way_to_what_is_taken_if_they_hold_much() {
    let (world, pooled) = pooled(1 << 20);
    let before = pooled(&world);
    assert!(before > 3 * POOLED_BYTES, "{before}");
    let mut client = world.join();
    let mut taken = 0;
    while taken < before {
        assert!(client.alloc(5 * PAGE, 1, false));
        taken += 5 * PAGE;
        // The first look comes after looks in vain.
        let most = before.saturating_sub(THIN_TIMES * taken.saturating_sub(POOLED_BYTES + 5 * PAGE)).max(POOLED_BYTES);
        let magazines = 8 * (16 << 10);
        assert!(pooled(&world) <= most + magazines, "{} bytes after {taken} of {before}", pooled(&world));
    }
    let (least, dirty) = (pooled(&world), world.heap.stats().dirty);
    assert!(least + 8 * (16 << 10) >= POOLED_BYTES, "some stay: {least}");
    assert!(dirty < before / 4, "what was returned has been taken: {dirty}");
    world.finish([client].into());
}

#[test]
fn pools_give_way_once_to_what_is_taken_whoever_looks_meanwhile() {
    let raced = |step| {
        let (world, pooled) = pooled(3 << 20);
        let take = |bytes| world.heap.spans.arenas.take_run(bytes / PAGE, 1, Fill::Any).expect("memory");
        let look = || world.heap.watch_growth();
        let mut runs = [take(POOLED_BYTES), take(THIN_STEP), take(THIN_STEP)];
        look();
        let before = pooled(&world);
        runs[0] = take(THIN_STEP);
        let mut other = || {
            runs[1] = take(THIN_STEP);
            look();
        };
        let steps = interrupted(step, &mut other, look);
        (0..3).for_each(|_| look());
        let gone = before - pooled(&world);
        assert!(gone <= THIN_TIMES * 2 * THIN_STEP + (32 << 10), "{gone} bytes, overtaken before step {step}");
        steps
    };
    let steps = raced(u64::MAX);
    (0..steps.min(40)).for_each(|step| _ = raced(step));
}

/// Large allocations that take each other's places leave pools as they are; more of them do not, and what was freed before a tick
/// makes up for nothing after it.
#[test]
fn pools_stay_as_they_are_beside_what_comes_and_goes() {
    let (world, pooled) = pooled(0);
    let mut large = world.join();
    (0..32).for_each(|_| assert!(large.alloc(20 * PAGE, 1, false)));
    fill(&world, 1 << 20);
    let before = pooled(&world);
    assert!(before > 2 * POOLED_BYTES, "{before}");
    for _ in 0..before / PAGE {
        large.free(0);
        assert!(large.alloc(20 * PAGE, 1, false));
    }
    assert_eq!(pooled(&world), before);
    (0..16).for_each(|_| large.free(0));
    let thinned_at = || world.heap.clock.thinned_at.load(Ordering::Relaxed);
    let taken = || world.heap.spans.arenas.taken();
    assert!(large.alloc(20 * PAGE, 1, false));
    assert!((taken().wrapping_sub(thinned_at()) as isize) < 0);
    assert_eq!(pooled(&world), before, "less is taken than was");
    world.heap.tick();
    assert_eq!(taken(), thinned_at());
    let before = pooled(&world);
    (0..32).for_each(|_| assert!(large.alloc(20 * PAGE, 1, false)));
    assert!(pooled(&world) < before, "{before}");
    world.finish([large].into());
}

/// However large allocations grow and shrink where they are.
#[test]
fn what_a_large_one_took_is_what_it_leaves() {
    let world = World::new();
    let mut client = world.join();
    let before = world.heap.spans.arenas.taken();
    assert!(client.alloc(10 * PAGE, 1, false));
    let at = client.blocks[0].at;
    for pages in [50, 20, 200, 5] {
        assert!(client.realloc(0, pages * PAGE) && client.blocks[0].at == at);
        assert_eq!(world.heap.spans.arenas.taken() - before, pages * PAGE);
    }
    client.free(0);
    world.heap.trim(client.cache);
    assert_eq!(world.heap.spans.arenas.taken(), before);
    world.finish([client].into());
}
