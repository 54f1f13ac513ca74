//! Calls the fast path over and over, each phase warmed up and then marked off, so that a profiler can count what one
//! call executes. `tests/fastpath` knows the order of the phases.

use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;

use millpond::Millpond;
use millpond_fastpath_probe::{boxed, free, unbox, vector};

#[global_allocator]
static GLOBAL: Millpond = Millpond;

/// Of a class that nothing else here uses, with magazines of `MAGAZINE` chunks.
const RARE: Layout = Layout::new::<[u64; 14]>();
const MAGAZINE: usize = 64;
/// NB: in step with `tests/fastpath`.
const MAGAZINES: usize = 24;
/// A size that the compiler knows.
const LAYOUT: Layout = Layout::new::<[u64; 8]>();
/// NB: in step with `tests/fastpath`.
const CALLS: usize = 1000;
/// Sizes that it does not know: of the lowest classes, between two powers of two, and of the highest class.
/// NB: in step with `tests/fastpath`.
const SIZES: [usize; 10] = [1, 8, 24, 64, 129, 200, 1000, 5000, 40_000, 256 * 1024];

fn main() {
    phase(|| {
        let chunk = probe_alloc();
        assert!(!chunk.is_null());
        // SAFETY: the chunk was just taken, with this layout, and nobody else has it.
        let chunk = unsafe { probe_realloc(chunk) };
        // SAFETY: as above: the class of the new size is the same.
        unsafe { probe_dealloc(chunk) };
    });
    for size in SIZES {
        phase(|| free(vector(black_box(size))));
    }
    for size in SIZES {
        phase(|| unbox(boxed(black_box(size))));
    }
    slow_phases();
}

/// One call of the slow path a phase: fills and empties the bin of one class again and again. A magazine of it holds
/// `MAGAZINE` chunks, so of that many calls one misses.
fn slow_phases() {
    // The first of these find that the clock has moved, and arm the bin for a while: then each call misses.
    // SAFETY: taken with this layout, and freed once.
    (0..4000).for_each(|_| unsafe { GLOBAL.dealloc(probe_alloc_rare(), RARE) });
    let mut chunks = [std::ptr::null_mut(); MAGAZINES * MAGAZINE];
    let take = |chunks: &mut [*mut u8]| {
        for some in chunks.chunks_mut(MAGAZINE) {
            between_marks(|| some.iter_mut().for_each(|chunk| *chunk = probe_alloc_rare()));
        }
    };
    take(&mut chunks);
    for some in chunks.chunks(MAGAZINE) {
        // SAFETY: taken with this layout, and freed once.
        between_marks(|| some.iter().for_each(|chunk| unsafe { GLOBAL.dealloc(*chunk, RARE) }));
    }
    take(&mut chunks);
}

/// A phase without a warm-up.
fn between_marks(calls: impl FnOnce()) {
    probe_mark();
    calls();
    probe_mark();
}

fn probe_alloc_rare() -> *mut u8 {
    // SAFETY: the layout's size is not zero.
    unsafe { GLOBAL.alloc(RARE) }
}

/// The mark before the counted calls ends the warm-up, the one behind them ends the count.
fn phase(call: impl Fn()) {
    (0..CALLS).for_each(|_| call());
    probe_mark();
    (0..CALLS).for_each(|_| call());
    probe_mark();
}

/// The C library's, replaced: here the clock stands still, so that no upkeep falls into what is counted.
///
/// # Safety
/// As the C library asks: `time` is where a `timespec` can be written.
// SAFETY: this is the function of that name, as its callers know it.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(_clock: i32, time: *mut [i64; 2]) -> i32 {
    // SAFETY: the caller's; on this target a `timespec` is two words.
    unsafe { time.write([1000, 0]) };
    0
}

/// The profiler notices each call of this.
// SAFETY: nothing else has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn probe_mark() {
    black_box(());
}

/// Nothing but an allocation of a constant size, as the compiler inlines it.
// SAFETY: nothing else has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn probe_alloc() -> *mut u8 {
    // SAFETY: the layout's size is not zero.
    unsafe { GLOBAL.alloc(LAYOUT) }
}

/// Nothing but a deallocation of a constant size, as the compiler inlines it.
///
/// # Safety
/// As `GlobalAlloc::dealloc` asks.
// SAFETY: nothing else has this name.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn probe_dealloc(chunk: *mut u8) {
    // SAFETY: the caller's.
    unsafe { GLOBAL.dealloc(chunk, LAYOUT) }
}

/// Nothing but a reallocation to another size of the same class, as the compiler inlines it.
///
/// # Safety
/// As `GlobalAlloc::realloc` asks.
// SAFETY: nothing else has this name.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn probe_realloc(chunk: *mut u8) -> *mut u8 {
    // SAFETY: the caller's; the size is not zero.
    unsafe { GLOBAL.realloc(chunk, LAYOUT, black_box(LAYOUT.size() - 1)) }
}
