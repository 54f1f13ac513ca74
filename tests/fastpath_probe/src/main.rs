//! Calls the fast path over and over, each phase warmed up and then marked off, so that a profiler can count what one
//! call executes. `tests/fastpath.rs` knows the order of the phases.

use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;

use millpond::Millpond;
use millpond_fastpath_probe::{boxed, free, resize, unbox, vector};

#[global_allocator]
static GLOBAL: Millpond = Millpond;

/// A size that the compiler knows.
const LAYOUT: Layout = Layout::new::<[u64; 8]>();
/// NB: in step with `tests/fastpath.rs`.
const CALLS: usize = 1000;
/// Sizes that it does not know: of the lowest classes, between two powers of two, and of the highest class.
/// NB: in step with `tests/fastpath.rs`.
const SIZES: [usize; 10] = [1, 8, 24, 64, 129, 200, 1000, 5000, 40_000, 256 * 1024];

/// Within a class, and to another.
/// NB: in step with `tests/fastpath.rs`.
const RESIZES: [(usize, usize); 2] = [(57, 64), (64, 128)];

fn main() {
    // A thread that was measured is as fast afterwards as if it had not been.
    assert_eq!(millpond::measure(|| black_box(vec![1u8; 100])).1.peak, 112);
    phase(|| {
        let chunk = probe_alloc();
        assert!(!chunk.is_null());
        // SAFETY: the chunk was just taken, with this layout, and nobody else has it.
        unsafe { probe_dealloc(chunk) };
    });
    for size in SIZES {
        phase(|| free(vector(black_box(size))));
    }
    for size in SIZES {
        phase(|| unbox(boxed(black_box(size))));
    }
    phase(|| {
        let chunk = probe_alloc();
        // SAFETY: the chunk was just taken, with this layout; in its class it stays where it is.
        unsafe { probe_dealloc(probe_realloc(chunk)) };
    });
    for (from, to) in RESIZES {
        phase(|| free(resize(vector(black_box(from)), black_box(to))));
    }
}

/// The mark before the counted calls ends the warm-up, the one behind them ends the count.
fn phase(call: impl Fn()) {
    (0..CALLS).for_each(|_| call());
    probe_mark();
    (0..CALLS).for_each(|_| call());
    probe_mark();
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

/// Nothing but a reallocation of a constant size within its class, as the compiler inlines it.
///
/// # Safety
/// As `GlobalAlloc::realloc` asks.
// SAFETY: nothing else has this name.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn probe_realloc(chunk: *mut u8) -> *mut u8 {
    // SAFETY: the caller's.
    unsafe { GLOBAL.realloc(chunk, LAYOUT, 60) }
}
