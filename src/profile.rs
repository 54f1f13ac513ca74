//! A memory profile by samples: which stacks allocate how much, live and in total.
//!
//! Sampling points fall on the line of all bytes that are allocated, one every 512 KiB on average, or as [`start`] is told. So each
//! allocation of the global heap is sampled with a probability that depends on its size alone; its stack is kept until it is freed.
//! The figures are unbiased estimates for *all* allocations: each sample counts with the inverse of its probability. A figure
//! with `n` samples behind it is off by some `1 / sqrt(n)` of itself (one standard deviation).
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
//! pprof -http=: program heap.1234.pb     # or: go tool pprof; at first what was live at the end
//! pprof -top -sample_index=alloc_space heap.1234.pb     # all that was allocated
//! MILLPOND_PROFILE=heap.%p.txt,collapsed program && flamegraph.pl heap.1234.txt > heap.svg
//! ```
//!
//! The file is written when the program ends by `exit` or returns from `main`, not when it is killed or calls `_exit`. `%p`
//! is the process's number. Without it, forked children write to `FILE.` and their number; a program that executes others should use
//! it, or these write to the same file. `collapsed` writes the bytes allocated by each stack as text instead of `pprof`'s format; with
//! `seed=N` the same points are drawn each time.
//!
//! * **Stacks** follow frame pointers: build with `RUSTFLAGS=-Cforce-frame-pointers=yes` (C: `-fno-omit-frame-pointer`). Otherwise
//!   only the innermost frame is certain, and callers above code without frame pointers are missing. So are the direct callers of
//!   C's functions for aligned memory. The innermost 128 frames are kept.
//! * **Cost**: none while off: the fast path has the same instructions. While on, each call takes the slow door, some 8 to 25 ns
//!   more, and each sample some 2 µs. A sample takes 48 B and an entry in an index, a stack 1.1 KiB.
//! * **Threads**: other threads join a profile at their next miss, which upkeep brings about if they allocate; what they allocate
//!   before that is not in it, and what they free before that, of what others have allocated, stays in its live figures: a magazine
//!   of each size and thread at most, once. Nor is what a thread allocates at its very end, when it has no cache any more.
//! * **Fork**: the child goes on with its copy of the profile.
//! * **Heaps** as values are in it if they were built so: [`HeapBuilder::profiled`](crate::HeapBuilder::profiled). What lives in
//!   one that is dropped counts as freed.

use crate::config::FRAMES;
use crate::global;
use crate::pprof;
use crate::sampler::{MEAN, Totals};
use core::fmt;

pub use crate::pprof::Value;

/// The default mean distance between samples, in bytes: 512 KiB.
pub const DEFAULT_BYTES: u64 = MEAN;

/// Begins a profile with a sample every `bytes` bytes on average, clamped to 1 to 2^40. A profile before it is forgotten.
///
/// Linear in the samples and stacks of the profile before. From any thread.
pub fn start(bytes: u64) {
    global::start_sampling(bytes, None);
}

/// As [`start`], with a seed: the sampling points of each thread are the same each time.
pub fn start_seeded(bytes: u64, seed: u64) {
    global::start_sampling(bytes, Some(seed));
}

/// Ends the profile: neither allocations nor frees are noticed any more. What it knows stays until the next start. O(1).
pub fn stop() {
    global::stop_sampling();
}

/// Whether a profile is being taken.
pub fn is_on() -> bool {
    global::is_sampling()
}

/// Writes the profile in `pprof`'s format, uncompressed, piece by piece to `sink`. Linear in the number of stacks; other threads may
/// go on.
///
/// # Errors
/// The first error of `sink`, which is then not called again.
pub fn write_pprof<E>(mut sink: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    pprof::write(&global::SAMPLER, &mut sink)
}

/// Writes the profile in the collapsed form: a line a stack, the outermost function first, with one figure. `name` writes the name
/// of an address inside a call: pass [`loader_name`], or a symboliser of your own.
///
/// Linear in the number of stacks; other threads may go on.
///
/// # Errors
/// The first error of `out` or `name`.
pub fn write_collapsed(
    value: Value,
    out: &mut dyn fmt::Write,
    mut name: impl FnMut(usize, &mut dyn fmt::Write) -> fmt::Result,
) -> fmt::Result {
    pprof::collapse(&global::SAMPLER, value, out, &mut name)
}

/// Writes the name by which the loader knows an address: that of an exported function, else the file's with the offset in it.
/// Takes the loader's lock.
///
/// # Errors
/// Those of `out`.
pub fn loader_name(address: usize, out: &mut dyn fmt::Write) -> fmt::Result {
    pprof::module_and_offset(address, out)
}

/// What came from one stack: estimates for all of its allocations since the profile began.
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

/// Calls `visit` with each stack, while other threads go on. Linear in their number. Two entries may have the same stack, if two
/// threads were first there at the same time.
pub fn visit(mut visit: impl FnMut(Stack<'_>)) {
    global::SAMPLER.walk(|site, totals| {
        let mut frames = [0; FRAMES];
        let len = site.frames().len();
        frames.iter_mut().zip(site.frames()).for_each(|(frame, address)| *frame = pprof::call(address.get()));
        let Totals { live_objects, live_bytes, allocated_objects, allocated_bytes } = totals;
        visit(Stack { frames: &frames[..len], live_objects, live_bytes, allocated_objects, allocated_bytes });
    });
}
