//! Times: how long allocations and frees take, sampled, for whoever asks for it.
//!
//! Each thread times one call of some [`EVERY`], at random distances, and counts what it took in a histogram of its own: the
//! node with the index of the thread's cache. Its buckets are one nanosecond wide at first, then eight to a doubling (a
//! log-linear histogram, as in Tene's HdrHistogram), so a percentile is read to within a sixteenth. Readers add the threads'
//! histograms up.
//!
//! Only the owner counts, by plain additions; what former owners of the index have counted stays.
//!
//! Invariant, at rest: the buckets' sum is the number of timed calls.

use crate::report::{Latency, Timing};
use crate::sampler::{STEP, mix};
use crate::slab::{Node, Slab};
use crate::sync::{AtomicU32, Counter};
use crate::tagged::{Index, NONE};

/// Calls from one that is timed to the next, on average.
pub(crate) const EVERY: u64 = 32;
/// Buckets of one nanosecond.
const LINEAR: u64 = 16;
/// log2 of the buckets to a doubling above.
const PART_BITS: u32 = 3;
/// What takes longer, over a minute, is counted with this.
const TOP: u64 = (1 << 36) - 1;
const BUCKETS: usize = bucket(TOP) + 1;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Alloc,
    Free,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Times {
    link: AtomicU32,
    /// Zero until it is somebody's.
    index: Counter,
    alloc: Histogram,
    free: Histogram,
}

#[derive(Debug)]
struct Histogram {
    /// Calls to let pass before the next is timed.
    left: Counter,
    /// What the distance is drawn from.
    state: Counter,
    sum: Counter,
    max: Counter,
    buckets: [Counter; BUCKETS],
}

const fn bucket(ns: u64) -> usize {
    if ns < LINEAR {
        return ns as usize;
    }
    let exponent = ns.ilog2();
    let part = (ns >> (exponent - PART_BITS)) & ((1 << PART_BITS) - 1);
    LINEAR as usize + (((exponent - LINEAR.ilog2()) as usize) << PART_BITS) + part as usize
}

/// The middle of a bucket, in nanoseconds.
fn middle(bucket: usize) -> u64 {
    let Some(above) = (bucket as u64).checked_sub(LINEAR) else { return bucket as u64 };
    let exponent = (above >> PART_BITS) as u32 + LINEAR.ilog2();
    let width = 1 << (exponent - PART_BITS);
    (1 << exponent) + (above & ((1 << PART_BITS) - 1)) * width + width / 2
}

impl Histogram {
    const fn new() -> Self {
        Self {
            left: Counter::new(),
            state: Counter::new(),
            sum: Counter::new(),
            max: Counter::new(),
            buckets: [const { Counter::new() }; BUCKETS],
        }
    }

    /// Whether the call that begins is to be timed.
    #[inline]
    fn is_due(&self) -> bool {
        let left = self.left.get();
        if left > 0 {
            self.left.set(left - 1);
            return false;
        }
        let is_first = self.state.get() == 0;
        self.state.add(STEP);
        // From 0 to twice the mean distance: no pattern of the program's keeps step with it.
        self.left.set(mix(self.state.get()) % (2 * EVERY - 1));
        !is_first
    }

    fn count(&self, ns: u64) {
        let ns = ns.min(TOP);
        self.sum.add(ns);
        self.max.set(self.max.get().max(ns));
        self.buckets[bucket(ns)].add(1);
    }
}

// SAFETY: zeros are histograms of nothing; the link is one word.
unsafe impl Node for Times {
    fn stride(_: usize) -> usize {
        size_of::<Self>()
    }

    fn link(&self) -> &AtomicU32 {
        &self.link
    }

    unsafe fn make(at: *mut Self, _: usize) {
        let times =
            Self { link: AtomicU32::new(NONE), index: Counter::new(), alloc: Histogram::new(), free: Histogram::new() };
        // SAFETY: the caller gives the place.
        unsafe { at.write(times) };
    }

    fn name(&self, index: Index) {
        self.index.set(index as u64);
    }
}

impl Times {
    fn of(&self, call: Call) -> &Histogram {
        match call {
            Call::Alloc => &self.alloc,
            Call::Free => &self.free,
        }
    }

    /// Whether the call that begins is to be timed. Only the owner may ask.
    #[inline]
    pub(crate) fn is_due(&self, call: Call) -> bool {
        self.of(call).is_due()
    }

    /// Counts a call that was timed. Only the owner may.
    #[cold]
    pub(crate) fn count(&self, call: Call, ns: u64) {
        self.of(call).count(ns);
    }
}

/// The times of the thread whose cache has this index. `None`: it has none, or there is no memory for them.
#[inline]
pub(crate) fn of(times: &Slab<Times>, thread: Index) -> Option<&Times> {
    match times.reached(if thread == NONE { return None } else { thread }) {
        Some(own) if own.index.get() == thread as u64 => Some(own),
        _ => times.reach(thread),
    }
}

/// What all threads have counted. Linear in their number.
pub(crate) fn read(times: &Slab<Times>) -> Timing {
    Timing { alloc: latency(times, Call::Alloc), free: latency(times, Call::Free) }
}

#[unsafe(link_section = ".millpond_cold")]
fn latency(times: &Slab<Times>, call: Call) -> Latency {
    let mut buckets = [0; BUCKETS];
    let (mut sum, mut max) = (0, 0);
    for histogram in times.iter().map(|times| times.of(call)) {
        sum += histogram.sum.get();
        max = histogram.max.get().max(max);
        buckets.iter_mut().zip(&histogram.buckets).for_each(|(all, one)| *all += one.get());
    }
    let timed: u64 = buckets.iter().sum();
    // The bucket in which the call is that is slower than so many per cent of all.
    let percentile = |percent: u64| {
        let rank = (timed * percent).div_ceil(100).max(1);
        let mut below = 0;
        let found = buckets.iter().position(|count| {
            below += count;
            below >= rank
        });
        found.map_or(0, middle).min(max)
    };
    Latency {
        timed,
        mean_ns: sum.checked_div(timed).unwrap_or(0),
        p50_ns: percentile(50),
        p99_ns: percentile(99),
        max_ns: max,
    }
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_and_are_narrow() {
        let mut last = 0;
        for ns in (0..100_000).chain((17..36).flat_map(|bit| (0..64).map(move |part| (1 << bit) + (part << (bit - 6)))))
        {
            let bucket = bucket(ns);
            assert!(bucket == last || bucket == last + 1 || ns % 64 == 0, "{ns}");
            last = bucket;
            assert!(middle(bucket).abs_diff(ns) * 16 <= ns, "{ns}: {}", middle(bucket));
        }
        assert_eq!(bucket(TOP), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_those_of_what_was_counted() {
        let times = Slab::<Times>::new();
        assert_eq!(read(&times), Timing::default());
        for thread in 1..4 {
            let own = of(&times, thread).expect("memory");
            (1..=1000).for_each(|ns| own.count(Call::Free, ns * thread as u64));
            own.count(Call::Alloc, u64::MAX);
        }
        let mut exact: std::vec::Vec<u64> = (1..4).flat_map(|thread| (1..=1000).map(move |ns| ns * thread)).collect();
        exact.sort_unstable();
        let Timing { alloc, free } = read(&times);
        assert_eq!((free.timed, free.max_ns, free.mean_ns), (3000, 3000, exact.iter().sum::<u64>() / 3000));
        for (found, exact) in [(free.p50_ns, exact[1499]), (free.p99_ns, exact[2969])] {
            assert!(found.abs_diff(exact) * 16 <= exact, "{found} for {exact}");
        }
        assert_eq!((alloc.timed, alloc.max_ns), (3, TOP));
        assert!(alloc.p50_ns <= TOP && alloc.p50_ns >= TOP / 16 * 15);
    }

    #[test]
    fn one_call_of_many_is_timed() {
        let times = Slab::<Times>::new();
        let own = of(&times, 1).expect("memory");
        let due = (0..320_000).filter(|_| own.is_due(Call::Alloc)).count();
        assert!(due.abs_diff(10_000) < 300, "{due}");
    }
}
