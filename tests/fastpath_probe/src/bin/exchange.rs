//! Misses, one at a time between two marks, so that a profiler can count what a refill and a drain execute.
//! `tests/fastpath.rs` knows the order of the marks.

use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;
use std::ptr::null_mut;

use millpond::Millpond;

#[global_allocator]
static GLOBAL: Millpond = Millpond;

/// NB: in step with `tests/fastpath.rs`.
const ROUNDS: usize = 24;
/// Chunks of a magazine of 64 B, and how many magazines come and go in a round: more than a thread keeps.
const SLOTS: usize = 64;
const MAGAZINES: usize = 20;
/// In the middle of what comes from spare magazines, or goes to them; and of what comes from the pool, or goes there.
const COUNTED: [usize; 2] = [4, 14];

fn main() {
    let layout = Layout::new::<[u64; 8]>();
    // So that no magazine begins or ends where a count does.
    for _ in 0..SLOTS / 2 {
        black_box(allocated(layout));
    }
    let mut chunks = [null_mut(); SLOTS * MAGAZINES];
    for _ in 0..ROUNDS {
        each_magazine(&mut chunks, layout, |chunk| *chunk = allocated(layout));
        // SAFETY: allocated above, with this layout.
        each_magazine(&mut chunks, layout, |chunk| unsafe { GLOBAL.dealloc(*chunk, layout) });
    }
}

/// Has no bin armed: upkeep arms them for some hundred misses.
fn calm(layout: Layout) {
    for _ in 0..500 {
        // SAFETY: allocated just now, with this layout.
        unsafe { GLOBAL.dealloc(allocated(layout), layout) };
    }
}

fn allocated(layout: Layout) -> *mut u8 {
    // SAFETY: no layout here is of size zero.
    let chunk = unsafe { GLOBAL.alloc(layout) };
    assert!(!chunk.is_null());
    chunk
}

fn each_magazine(chunks: &mut [*mut u8], layout: Layout, act: impl Fn(&mut *mut u8)) {
    for (at, magazine) in chunks.chunks_mut(SLOTS).enumerate() {
        let counted = COUNTED.contains(&at);
        if counted {
            calm(layout);
            probe_mark();
        }
        magazine.iter_mut().for_each(&act);
        if counted {
            probe_mark();
        }
    }
}

/// The profiler notices each call of this.
// SAFETY: nothing else has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn probe_mark() {
    black_box(());
}
