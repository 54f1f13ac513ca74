//! A global allocator whose calls are timed, in batches of successive calls of one thread.
//!
//! What is kept is the sum of 16 calls' times, the program's own work between them left out. Each call's time has two
//! readings of the clock in it, some 20 ns, the same whatever the allocator: the median says little, the tail is what
//! this is for. Histograms are as many as the threads that run at a time, filled outside what is timed, and made
//! beforehand: what is timed never sees a call of ours.
//!
//! States: off until [`begin`], on until [`end`]; off again for good. Invariant: a batch is counted once, in its thread's
//! histogram, or lost with its thread when that ends within it.

use crate::child::record::Latency;
use hdrhistogram::Histogram;
use quanta::Clock;
use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};

/// Calls that are a batch.
const CALLS: u32 = 16;
/// Threads beyond these share.
const HISTOGRAMS: usize = 64;
/// The longest time that is told apart: an hour.
const LONGEST: u64 = 3_600_000_000_000;

static CLOCK: OnceLock<Clock> = OnceLock::new();
static ON: AtomicBool = AtomicBool::new(false);
static THREADS: AtomicUsize = AtomicUsize::new(0);
static KEPT: [Mutex<Option<Histogram<u64>>>; HISTOGRAMS] = [const { Mutex::new(None) }; HISTOGRAMS];

/// A thread's batch so far. Without a destructor, so it can be used until the very end of the thread.
#[derive(Clone, Copy)]
struct Batch {
    calls: u32,
    /// Ticks of the clock.
    time: u64,
    /// Of the thread's histogram, from 1; 0 before its first call.
    histogram: usize,
}

thread_local! {
    static BATCH: Cell<Batch> = const { Cell::new(Batch { calls: 0, time: 0, histogram: 0 }) };
}

/// The allocator within, timed between the measured part's beginning and end.
pub struct Timed<A>(
    /// The allocator that does the work.
    pub A,
);

// SAFETY: hands each call on as it is; what is done besides neither allocates nor unwinds.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Timed<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        time(|| unsafe { self.0.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        time(|| unsafe { self.0.alloc_zeroed(layout) })
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        time(|| unsafe { self.0.dealloc(ptr, layout) });
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        time(|| unsafe { self.0.realloc(ptr, layout, size) })
    }
}

/// Starts the timing, before the threads that are to be timed make their first call.
pub fn begin() {
    for kept in &KEPT {
        let histogram = Histogram::new_with_bounds(1, LONGEST, 2).expect("sane bounds");
        *kept.lock().expect("no panic") = Some(histogram);
    }
    CLOCK.get_or_init(Clock::new);
    ON.store(true, Relaxed);
}

/// Ends it, and says what the batches took.
pub fn end() -> Option<Latency> {
    ON.store(false, Relaxed);
    let mut all = Histogram::<u64>::new_with_bounds(1, LONGEST, 2).expect("sane bounds");
    for kept in &KEPT {
        if let Some(histogram) = kept.lock().expect("no panic").take() {
            all.add(histogram).expect("the same bounds");
        }
    }
    let at = |quantile| all.value_at_quantile(quantile);
    Some(Latency { calls: CALLS, batches: all.len(), p50: at(0.5), p99: at(0.99), p999: at(0.999), max: all.max() })
}

#[inline]
fn time<R>(call: impl FnOnce() -> R) -> R {
    let clock = CLOCK.get().filter(|_| ON.load(Relaxed));
    let Some(clock) = clock else { return call() };
    let start = clock.raw();
    let result = call();
    let end = clock.raw();
    note(clock, end.saturating_sub(start));
    result
}

/// Adds a call to its thread's batch, and a full batch to the thread's histogram.
fn note(clock: &Clock, ticks: u64) {
    // A thread that is past even this is not timed.
    let _ = BATCH.try_with(|cell| {
        let mut batch = cell.get();
        batch.calls += 1;
        batch.time += ticks;
        if batch.calls == CALLS {
            if batch.histogram == 0 {
                batch.histogram = 1 + THREADS.fetch_add(1, Relaxed) % HISTOGRAMS;
            }
            if let Ok(mut kept) = KEPT[batch.histogram - 1].lock() {
                if let Some(histogram) = kept.as_mut() {
                    histogram.saturating_record(clock.delta_as_nanos(0, batch.time).max(1));
                }
            }
            batch = Batch { calls: 0, time: 0, ..batch };
        }
        cell.set(batch);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::alloc::System;

    /// The one test here that begins and ends.
    #[test]
    fn batches_are_counted_once_and_only_while_on() {
        let timed = Timed(System);
        let pair = || {
            let layout = Layout::new::<u64>();
            // SAFETY: not of size zero.
            let chunk = unsafe { timed.alloc(layout) };
            // SAFETY: allocated just now, freed once.
            unsafe { timed.dealloc(chunk, layout) };
        };
        (0..1000).for_each(|_| pair());
        begin();
        // 800 calls, and half a batch that is lost.
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..204).for_each(|_| pair()));
            }
        });
        let latency = end().unwrap();
        (0..1000).for_each(|_| pair());
        assert_eq!((latency.calls, latency.batches), (16, 50));
        assert!(0 < latency.p50 && latency.p50 <= latency.p99 && latency.p99 <= latency.p999);
        assert!(latency.p999 <= latency.max, "{latency:?}");
    }
}
