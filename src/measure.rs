//! What a piece of code allocates: for tests of code that must not allocate, or not so much.
//!
//! The calling thread alone is measured, in every mode.

use crate::global::tally::Measuring;
use crate::thread_cache::Counted;

/// What a thread has allocated: see [`measure`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "it does nothing but tell"]
#[non_exhaustive]
pub struct Measured {
    /// How many allocations, of every size. A resize in place does not count.
    pub allocations: u64,
    /// How many allocations came to have more pages where they were. Whether a large one can grow so, or is moved, which is an
    /// allocation, depends on what lies behind it.
    pub grown: u64,
    /// Their bytes, as served: rounded up to classes or pages, with what a mode adds.
    pub bytes: u64,
    /// The most bytes, counted in the same way, that the thread had allocated and not freed, above what it was at the beginning.
    /// A free of older memory, or of another thread's, lowers the count.
    pub peak: u64,
}

/// Runs `run` and returns its result with what the calling thread allocated from the global heap meanwhile. Other threads, also
/// those that `run` starts, and [`Heap`](crate::Heap)s are not counted. Measurements may nest: the outer one includes the inner.
///
/// Meanwhile each allocation and free of the thread takes some 10 ns more; other threads are slowed by a few ns at each miss of their
/// caches, from the first measurement on. If `run` panics, the
/// measurement ends. Nothing is counted at a thread's end, once its cache has gone, or where there is no memory for the counter.
///
/// ```
/// # #[global_allocator]
/// # static GLOBAL: millpond::Millpond = millpond::Millpond;
/// let (list, measured) = millpond::measure(|| vec![1u8; 100]);
/// assert_eq!((measured.allocations, measured.bytes), (1, 112));
/// assert_eq!(millpond::measure(|| list.iter().sum::<u8>()).1.allocations, 0);
///
/// // Two of 1 MiB, one after the other.
/// let (_, measured) = millpond::measure(|| (0..2).for_each(|_| drop(vec![1u8; 1 << 20])));
/// assert_eq!((measured.bytes, measured.peak), (2 << 20, 1 << 20));
/// ```
pub fn measure<R>(run: impl FnOnce() -> R) -> (R, Measured) {
    let measuring = Measuring::begin();
    let result = run();
    let counted = measuring.end();
    let Counted { allocations, bytes, resizes: grown, peak } = counted;
    (result, Measured { allocations, grown, bytes, peak })
}

/// Runs `run`, which must not allocate, and returns its result. Measures as [`measure`].
///
/// # Panics
/// If the calling thread has allocated meanwhile; the message says how often and how much. Also if an allocation has grown where it
/// was: whether it can is luck.
///
/// ```
/// assert_eq!(millpond::assert_no_alloc(|| 1 + 1), 2);
/// ```
#[track_caller]
pub fn assert_no_alloc<R>(run: impl FnOnce() -> R) -> R {
    let (result, measured) = measure(run);
    let Measured { allocations, grown, bytes, .. } = measured;
    assert!(allocations == 0, "{allocations} allocations of {bytes} bytes where there should be none");
    assert!(grown == 0, "{grown} allocations grown in place where there should be none");
    result
}
