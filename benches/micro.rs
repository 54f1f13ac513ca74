//! Alloc/free pairs by size, one thread, Millpond beside the system's malloc.
//!
//! ```text
//! cargo bench --bench micro                      all, about 45 s
//! cargo bench --bench micro -- --quick           rougher, about 10 s
//! cargo bench --bench micro -- '^tight/.*/64$'  one size (a regular expression, as always with criterion)
//! ```
//!
//! `tight` frees each chunk before the next is allocated; `burst` allocates 256 and frees them in the same order,
//! which takes the slow path too. All allocators are called through the same shims, which are not inlined and see
//! only a `dyn GlobalAlloc`: a call and an indirect jump that all pay, so true ratios are further from 1.
//!
//! Every sample times every allocator, one after the other in turns, and hands criterion the time of the one that
//! the benchmark is named after; so what disturbs the machine disturbs all of them. The table at the end is made of
//! the medians of all samples.

mod figures;

use criterion::{BenchmarkId, Criterion};
use figures::median;
use figures::pairs::{PairRow, PairTable};
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::time::{Duration, Instant};

type Allocator = (&'static str, &'static (dyn GlobalAlloc + Sync));

/// A rival is a line. The first is the one that the others are compared with.
const ALLOCATORS: [Allocator; 2] = [("millpond", &millpond::Millpond), ("system", &System)];

/// What is done, how many chunks are allocated before the first is freed, and for which sizes.
const PATTERNS: [(&str, usize, &[usize]); 2] = [
    ("tight", 1, &[8, 16, 32, 64, 128, 256, 512, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20]),
    ("burst", 256, &[8, 64, 256, 1 << 10, 4 << 10]),
];

/// Samples shorter than this say more about the clock.
const SHORTEST_SAMPLE: Duration = Duration::from_micros(50);

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .sample_size(40)
        .configure_from_args();
    let mut rows = Vec::new();
    for (pattern, burst, sizes) in PATTERNS {
        for &size in sizes {
            let samples = bench(&mut criterion, pattern, burst, size);
            // None where the command line has filtered this one out.
            if samples.iter().all(|of_one| !of_one.is_empty()) {
                rows.push(PairRow {
                    pattern: pattern.into(),
                    size,
                    nanoseconds: samples.into_iter().map(median).collect(),
                });
            }
        }
    }
    criterion.final_summary();
    if !rows.is_empty() {
        let table = PairTable {
            cargo: std::os::unix::process::parent_id(),
            allocators: ALLOCATORS.iter().map(|(name, _)| (*name).into()).collect(),
            rows,
        };
        table.print();
        let json = serde_json::to_string_pretty(&table).expect("plain data");
        std::fs::write(PairTable::path(), json).expect("the target directory can be written");
    }
}

/// One benchmark for each allocator; returns each allocator's nanoseconds a pair, from the samples of all of them.
fn bench(criterion: &mut Criterion, pattern: &str, burst: usize, size: usize) -> [Vec<f64>; ALLOCATORS.len()] {
    let layout = Layout::from_size_align(size, 8).expect("a small power of two");
    let mut samples = ALLOCATORS.map(|_| Vec::new());
    let mut chunks = vec![std::ptr::null_mut(); burst];
    let mut first = 0;
    let mut group = criterion.benchmark_group(pattern);
    group.throughput(criterion::Throughput::Elements(burst as u64));
    for (named, (name, _)) in ALLOCATORS.iter().enumerate() {
        group.bench_function(BenchmarkId::new(*name, size), |bencher| {
            bencher.iter_custom(|times| {
                let mut wanted = Duration::ZERO;
                first += 1;
                for turn in 0..ALLOCATORS.len() {
                    let which = (first + turn) % ALLOCATORS.len();
                    let (_, allocator) = ALLOCATORS[which];
                    let start = Instant::now();
                    for _ in 0..times {
                        burst_of_pairs(allocator, layout, &mut chunks);
                    }
                    let taken = start.elapsed();
                    if taken >= SHORTEST_SAMPLE {
                        let pairs = times as f64 * burst as f64;
                        samples[which].push(taken.as_nanos() as f64 / pairs);
                    }
                    if which == named {
                        wanted = taken;
                    }
                }
                wanted
            });
        });
    }
    group.finish();
    samples
}

/// Allocates as many chunks as there is room for, writes to each, and frees them in the same order.
fn burst_of_pairs(allocator: &dyn GlobalAlloc, layout: Layout, chunks: &mut [*mut u8]) {
    for (nth, place) in chunks.iter_mut().enumerate() {
        // SAFETY: the layout's size is not zero.
        let chunk = unsafe { allocate(allocator, layout) };
        assert!(!chunk.is_null(), "out of memory");
        // SAFETY: the chunk is at least a byte long, and ours.
        unsafe { chunk.write(nth as u8) };
        *place = chunk;
    }
    for (nth, &mut chunk) in black_box(chunks).iter_mut().enumerate() {
        // SAFETY: the loop above has written this byte.
        let byte = unsafe { chunk.read() };
        assert_eq!(byte, nth as u8, "a chunk was damaged");
        // SAFETY: allocated above by the same allocator with the same layout, and freed once.
        unsafe { free(allocator, chunk, layout) };
    }
}

/// # Safety
/// As for `GlobalAlloc::alloc`.
#[inline(never)]
unsafe fn allocate(allocator: &dyn GlobalAlloc, layout: Layout) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe { allocator.alloc(layout) }
}

/// # Safety
/// As for `GlobalAlloc::dealloc`.
#[inline(never)]
unsafe fn free(allocator: &dyn GlobalAlloc, chunk: *mut u8, layout: Layout) {
    // SAFETY: the caller's promise.
    unsafe { allocator.dealloc(chunk, layout) }
}
