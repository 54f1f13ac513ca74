//! The sampler as a value: estimates, runs, what is freed twice or by another run.

use super::*;

fn total(sampler: &Sampler) -> Totals {
    let mut sum = Totals::default();
    sampler.walk(|_, totals| {
        sum.live_objects += totals.live_objects;
        sum.live_bytes += totals.live_bytes;
        sum.allocated_objects += totals.allocated_objects;
        sum.allocated_bytes += totals.allocated_bytes;
    });
    sum
}

/// Allocates `count` times `size` bytes at addresses from `start` on.
fn allocate(sampler: &Sampler, start: usize, size: usize, count: usize, stack: &[usize]) {
    for at in 0..count {
        if sampler.is_due(1, size) {
            sampler.begin(start + at * 16, size, stack);
        }
    }
}

/// The standard deviation of the estimate of objects is `sqrt(count (1 - p) / p)`: 10 of them either way, for a seed that is
/// always the same.
fn bound(size: f64, count: f64, mean: f64) -> f64 {
    let share = -(-size / mean).exp_m1();
    10.0 * (count * (1.0 - share) / share).sqrt()
}

#[test]
fn estimates_are_near_the_truth_for_each_size() {
    for (size, count, mean) in [(1, 400_000, 64), (100, 200_000, 512), (4096, 50_000, 512), (512, 100_000, 2048)] {
        let sampler = Sampler::new();
        sampler.restart(mean, 7);
        allocate(&sampler, 1 << 40, size, count, &[1, 2, 3]);
        let bound = bound(size as f64, count as f64, mean as f64);
        let total = total(&sampler);
        assert_eq!(total.live_objects, total.allocated_objects);
        let error = (total.allocated_objects as f64 - count as f64).abs();
        assert!(error <= bound + 1.0, "{count} of {size}: {total:?}, at most {bound} off");
        let error = total.allocated_bytes as f64 - (count * size) as f64;
        assert!(error.abs() <= (bound + 1.0) * size as f64 + count as f64, "{count} of {size}: {total:?}");
        assert!(sampler.check());
        // Each is freed, and what is not sampled is not found.
        let freed = (0..count).filter(|at| sampler.end((1 << 40) + at * 16)).count();
        assert!(freed > 0 && sampler.check());
        let total = self::total(&sampler);
        assert_eq!((total.live_objects, total.live_bytes), (0, 0));
    }
}

#[test]
fn parts_of_a_byte_are_not_lost() {
    // Ten standard deviations of what whole bytes add: half a byte a sample, at most.
    let rounding = |count: usize| 5.0 * (count as f64).sqrt();
    const FEW: usize = 2000;
    for (size, mean) in [(1, 1), (1, 2), (2, 1), (3, 4), (8, 8), (16, 16)] {
        let (sampler, count) = (Sampler::new(), 400_000);
        sampler.restart(mean, 7);
        // From one stack; and from as many stacks as allocations, where each is the first of its own.
        allocate(&sampler, 1 << 40, size, count, &[1, 2, 3]);
        (0..FEW).for_each(|at| allocate(&sampler, (1 << 41) + at * 16, size, 1, &[1, at]));
        let (mut one, mut each) = (0, 0);
        sampler.walk(|site, totals| {
            *(if site.frames().len() == 3 { &mut one } else { &mut each }) += totals.allocated_bytes
        });
        for (bytes, count) in [(one, count), (each, FEW)] {
            let off = bytes as f64 - (count * size) as f64;
            let bound = bound(size as f64, count as f64, mean as f64) * size as f64 + rounding(count);
            assert!(off.abs() <= bound, "{count} of {size}, one in {mean} bytes: {off} off, at most {bound}");
        }
        assert!(sampler.check());
    }
}

#[test]
fn stacks_are_told_apart_and_found_again() {
    let sampler = Sampler::new();
    sampler.restart(1, 1);
    let stacks: [&[usize]; 4] = [&[10, 20], &[10, 20, 30], &[20, 10], &[10]];
    for round in 0..3 {
        for (at, stack) in stacks.iter().enumerate() {
            sampler.begin((1 << 40) + (round * 4 + at) * 64, 1 << 20, stack);
        }
    }
    let mut seen = std::vec::Vec::new();
    sampler.walk(|site, totals| {
        let frames: std::vec::Vec<usize> = site.frames().iter().map(Slot::get).collect();
        seen.push((frames, totals.live_objects, totals.allocated_bytes));
    });
    assert_eq!(seen, stacks.map(|stack| (stack.to_vec(), 3, 3 << 20)));
}

#[test]
fn a_run_knows_nothing_of_the_one_before() {
    let sampler = Sampler::new();
    sampler.restart(1, 1);
    allocate(&sampler, 1 << 40, 1 << 20, 100, &[5]);
    assert_eq!(total(&sampler).live_objects, 100);
    sampler.restart(1, 1);
    assert_eq!(total(&sampler), Totals::default());
    assert!(!sampler.end(1 << 40) && sampler.check());
    allocate(&sampler, 1 << 40, 1 << 20, 10, &[5]);
    // An address that is sampled again was freed unseen.
    sampler.begin(1 << 40, 1 << 20, &[6]);
    let total = total(&sampler);
    assert_eq!((total.live_objects, total.allocated_objects), (10, 11));
    assert!(sampler.end(1 << 40) && !sampler.end(1 << 40) && sampler.check());
    assert_eq!(sampler.missed(), 0);
}
