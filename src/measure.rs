//! What a piece of code allocates: for tests that must not, or not so much.
//!
//! A thread's bins count what they serve, for good; so a measurement is two readings of the calling thread's own counts, right
//! whatever other threads do meanwhile, and without any mode.

use crate::global;
use crate::size_class::{CLASSES, INFO};

/// What a thread has allocated: see [`measure`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Measured {
    /// How many allocations, of every size. A resize in place is none.
    pub allocations: u64,
    /// Their bytes, as they were served.
    pub bytes: u64,
}

fn so_far() -> Measured {
    let Some(cache) = global::cache() else { return Measured::default() };
    let mut sum = Measured { allocations: cache.larges.get(), bytes: cache.large_bytes.get() };
    for (class, info) in INFO.iter().enumerate().take(CLASSES) {
        let served = cache.bin(class).served.get();
        sum.allocations += served;
        sum.bytes += served * info.size as u64;
    }
    sum
}

/// Runs `run` and says what the calling thread has allocated meanwhile from the global heap. Threads that it starts are not
/// counted.
///
/// ```
/// # #[global_allocator]
/// # static GLOBAL: millpond::Millpond = millpond::Millpond;
/// let (list, measured) = millpond::measure(|| vec![1u8; 100]);
/// assert_eq!((measured.allocations, measured.bytes), (1, 112));
/// assert_eq!(millpond::measure(|| list.iter().sum::<u8>()).1.allocations, 0);
/// ```
pub fn measure<R>(run: impl FnOnce() -> R) -> (R, Measured) {
    let before = so_far();
    let result = run();
    let after = so_far();
    let measured = Measured { allocations: after.allocations - before.allocations, bytes: after.bytes - before.bytes };
    (result, measured)
}

/// Runs `run` and returns what it returns.
///
/// # Panics
/// If the calling thread has allocated meanwhile: says how much.
///
/// ```
/// assert_eq!(millpond::assert_no_alloc(|| 1 + 1), 2);
/// ```
#[track_caller]
pub fn assert_no_alloc<R>(run: impl FnOnce() -> R) -> R {
    let (result, measured) = measure(run);
    let Measured { allocations, bytes } = measured;
    assert!(allocations == 0, "{allocations} allocations of {bytes} bytes where there should be none");
    result
}
