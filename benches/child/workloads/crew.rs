//! The threads that do a workload, and how they share it.

use rayon::{ThreadPool, ThreadPoolBuilder};
use std::ops::Range;
use std::sync::Mutex;

/// A rayon pool of a given size, and the share of the full work that it is to do.
pub struct Crew {
    pub threads: usize,
    pub pool: ThreadPool,
    scale: f64,
}

impl Crew {
    pub fn new(threads: usize, scale: f64) -> Self {
        assert!(threads > 0 && scale > 0.0, "nobody or nothing to do");
        let pool = ThreadPoolBuilder::new().num_threads(threads).build();
        Self { threads, pool: pool.expect("threads to run on"), scale }
    }

    /// How much of a full amount of work is asked for.
    pub fn scaled(&self, full: u64) -> u64 {
        ((full as f64 * self.scale) as u64).max(1)
    }

    /// The part of `0..total` that is the `index`th of `parts`.
    pub fn part(total: u64, parts: usize, index: usize) -> Range<u64> {
        let bound = |index: usize| total * index as u64 / parts as u64;
        bound(index)..bound(index + 1)
    }

    /// Runs `work` once on each thread, all at the same time.
    pub fn each<R: Send>(&self, work: impl Fn(usize) -> R + Sync) -> Vec<R> {
        self.pool.broadcast(|context| work(context.index()))
    }

    /// The same, giving each thread its own of `states`.
    pub fn each_with<S: Send, R: Send>(&self, states: Vec<S>, work: impl Fn(usize, S) -> R + Sync) -> Vec<R> {
        assert_eq!(states.len(), self.threads, "one state a thread");
        let states: Vec<_> = states.into_iter().map(|s| Mutex::new(Some(s))).collect();
        self.each(|index| {
            let state = states[index].lock().expect("no panic").take();
            work(index, state.expect("each thread takes its own once"))
        })
    }
}
