//! What a piece of code allocates: for tests that must not, or not so much.
//!
//! The calling thread alone is measured, whatever others do meanwhile; and in every mode.

use crate::global::tally::Measuring;

/// What a thread has allocated: see [`measure`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Measured {
    /// How many allocations, of every size. A resize in place is none.
    pub allocations: u64,
    /// Their bytes, as they were served: rounded up to classes or pages, and with what a mode adds.
    pub bytes: u64,
    /// By how many bytes, so counted, what the thread had allocated and not freed rose at most above what it was at the
    /// beginning. What it frees that was there before, or that another thread has allocated, lowers it.
    pub peak: u64,
}

/// Runs `run` and says what the calling thread has allocated meanwhile from the global heap. Threads that it starts are not
/// counted, nor are heaps of one's own. Measurements may nest: the outer one counts what the inner one does.
///
/// Meanwhile each allocation and free of the thread takes some 10 ns more; others go on as ever. If `run` panics, the
/// measurement ends with it. At a thread's end, once its own cache has gone, and without memory for what counts, nothing is
/// counted.
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
    (result, Measured { allocations: counted.allocations, bytes: counted.bytes, peak: counted.peak })
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
    let Measured { allocations, bytes, .. } = measured;
    assert!(allocations == 0, "{allocations} allocations of {bytes} bytes where there should be none");
    result
}
