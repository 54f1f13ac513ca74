//! A memory profile: where what is allocated comes from, by samples; live and in all.
//!
//! Each allocation of the global heap is sampled with a probability that depends on its size alone, so that a point falls every
//! so many bytes on average, 512 KiB where nobody says another number; of a sampled one the stack is kept until it is freed. The
//! figures are estimates for *all* allocations, without bias: each sample counts with the inverse of its probability. With `n`
//! samples behind it, a figure is off by some `1 / sqrt(n)` of itself (one standard deviation).
//!
//! ```
//! # #[global_allocator]
//! # static GLOBAL: millpond::Millpond = millpond::Millpond;
//! use millpond::profile::{self, Value};
//!
//! profile::start(4096);
//! let words: Vec<String> = (0..10_000).map(|number| number.to_string()).collect();
//! profile::stop();
//!
//! let mut file = Vec::new();
//! profile::write_pprof(|bytes| std::io::Write::write_all(&mut file, bytes))?;
//! let mut text = String::new();
//! profile::write_collapsed(Value::LiveBytes, &mut text, profile::loader_name)?;
//! assert!(file.len() > 100 && text.lines().count() > 0);
//! # drop(words);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! For a whole program, preloaded ones too, without a change to it:
//!
//! ```sh
//! MILLPOND_PROFILE=heap.%p.pb,bytes=65536 program
//! pprof -http=: program heap.1234.pb     # or: go tool pprof
//! MILLPOND_PROFILE=heap.%p.txt,collapsed program && flamegraph.pl heap.1234.txt > heap.svg
//! ```
//!
//! The file is written when the program ends by `exit` or returns from `main`, not when it is killed or calls `_exit`. `%p`
//! is the process's number; without it, children that were forked have theirs appended, but a program that starts others should
//! have it. `collapsed` writes the bytes allocated by each stack as text instead of `pprof`'s format; `seed=N` draws the same
//! points each time.
//!
//! * **Stacks** follow frame pointers: build with `RUSTFLAGS=-Cforce-frame-pointers=yes` (C: `-fno-omit-frame-pointer`). Else
//!   only the innermost frame is sure; where code without them lies in between, callers are missing. So are the
//!   direct callers of C's functions for aligned memory. At most 128 frames, the innermost, are kept.
//! * **Cost**: none while off: the fast path has the same instructions. While on, each call takes the slow door, some 25 ns
//!   more, and a sample some 2 µs. A sample takes 48 B and an entry in an index, a stack 1.1 KiB.
//! * **Threads**: a profile begun while other threads run is joined by each at its next miss, which upkeep brings about if it
//!   allocates; what they allocate before is not in it. What a thread without a cache allocates, at its very end, is not either.
//! * **Fork**: the child goes on with the profile that it was born with.
//! * **Heaps** as values are in it where they were built so: [`HeapBuilder::profiled`](crate::HeapBuilder::profiled). What lives in
//!   one that is dropped is freed to the profile.

use crate::config::FRAMES;
use crate::global;
use crate::pprof;
use crate::sampler::{MEAN, Totals};
use core::fmt;

pub use crate::pprof::Value;

/// The mean distance of samples in bytes where nobody says another.
pub const DEFAULT_BYTES: u64 = MEAN;

/// Begins a profile with a sample each so many bytes, on average; 1 to 2^40, or the nearest of these. One that there was is
/// forgotten.
///
/// Linear in the samples and stacks of the one before. From any thread.
pub fn start(bytes: u64) {
    global::start_sampling(bytes, None);
}

/// The same, with a seed: the sampling points of each thread are the same ones each time.
pub fn start_seeded(bytes: u64, seed: u64) {
    global::start_sampling(bytes, Some(seed));
}

/// Ends it: nothing is sampled any more, nor is it noticed what is freed. What it knows stays until the next start.
pub fn stop() {
    global::stop_sampling();
}

/// Whether there is a profile that goes on.
pub fn is_on() -> bool {
    global::is_sampling()
}

/// Writes the profile in `pprof`'s format, uncompressed, piece by piece. Linear in the number of stacks; other threads may go on.
///
/// # Errors
/// The first of `sink`'s, which is not called again then.
pub fn write_pprof<E>(mut sink: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    pprof::write(&global::SAMPLER, &mut sink)
}

/// Writes the profile in the collapsed form: a line a stack, the outermost function first, with one figure. `name` writes what
/// is to stand for an address inside a call: [`loader_name`], or what a symboliser knows.
///
/// Linear in the number of stacks; other threads may go on.
///
/// # Errors
/// The first of `out`'s or `name`'s.
pub fn write_collapsed(
    value: Value,
    out: &mut dyn fmt::Write,
    mut name: impl FnMut(usize, &mut dyn fmt::Write) -> fmt::Result,
) -> fmt::Result {
    pprof::collapse(&global::SAMPLER, value, out, &mut name)
}

/// The name by which the loader knows an address: that of an exported function, else the file's with the distance from its
/// start. Takes the loader's lock.
///
/// # Errors
/// Those of `out`.
pub fn loader_name(address: usize, out: &mut dyn fmt::Write) -> fmt::Result {
    pprof::module_and_offset(address, out)
}

/// What came from one stack: estimates for all of its allocations since the start.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Stack<'a> {
    /// Addresses inside the calls, innermost first.
    pub frames: &'a [usize],
    /// Allocations that are live.
    pub live_objects: u64,
    /// Their bytes, as they were asked for.
    pub live_bytes: u64,
    /// All allocations.
    pub allocated_objects: u64,
    /// Their bytes, as they were asked for.
    pub allocated_bytes: u64,
}

/// Calls `visit` with each stack. Linear in their number; a moment's picture while other threads go on. Two entries may have the
/// same stack, if two threads were there first at the same time.
pub fn visit(mut visit: impl FnMut(Stack<'_>)) {
    global::SAMPLER.walk(|site, totals| {
        let mut frames = [0; FRAMES];
        let len = site.frames().len();
        frames.iter_mut().zip(site.frames()).for_each(|(frame, address)| *frame = pprof::call(address.get()));
        let Totals { live_objects, live_bytes, allocated_objects, allocated_bytes } = totals;
        visit(Stack { frames: &frames[..len], live_objects, live_bytes, allocated_objects, allocated_bytes });
    });
}
