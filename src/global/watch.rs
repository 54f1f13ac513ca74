//! What is watched on request: how long calls take, and which allocations a memory profile samples.
//!
//! Both need each call to come here. So threads then have *fronts*, caches that are always empty: each call misses. Where nothing
//! is watched, threads have their own caches, and nothing is asked. A thread changes to its front, or back, at its next miss
//! after the change: at once if it allocates for the first time, else as soon as upkeep makes it miss.

use super::{mode_word, seal, tally};
use crate::config::FRAMES;
use crate::environment::Profile;
use crate::os;
use crate::pprof;
use crate::report::Timing;
use crate::sampler::{Sampler, mix};
use crate::slab::Slab;
use crate::sync::{AtomicPtr, Counter, Ordering};
use crate::tagged::{Index, NONE};
use crate::thread_cache::ThreadCache;
use crate::times::{self, Call, Times};
use core::ffi::CStr;
use core::ptr::{null_mut, with_exposed_provenance_mut};

/// In the word of the mode: calls are timed; allocations are sampled.
pub(super) const TIMED: u32 = 1 << 9;
pub(super) const SAMPLED: u32 = 1 << 10;
/// Some thread is or was measured: see [`tally`].
pub(super) const MEASURED: u32 = 1 << 12;

pub(crate) static SAMPLER: Sampler = Sampler::new();
static TIMES: Slab<Times> = Slab::new();
/// What two looks at the clock take.
static CLOCK_NS: Counter = Counter::new();

/// Where the profile goes at the program's end: a path and its end, in memory of its own, set once; and how much of it is the folder in
/// which the program began.
static PATH: AtomicPtr<u8> = AtomicPtr::new(null_mut());
static FOLDER: Counter = Counter::new();
/// The process that the profile was begun in, and whether text is wanted.
static PROCESS: Counter = Counter::new();
static COLLAPSED: Counter = Counter::new();

#[inline(always)]
pub(super) fn is(what: u32) -> bool {
    // Relaxed: nothing is published by it.
    mode_word().load(Ordering::Relaxed) & what != 0
}

/// When a call began; zero if it is not timed.
#[inline(always)]
pub(super) fn begin(call: Call) -> u64 {
    if is(TIMED) { begin_timed(call) } else { 0 }
}

/// The index of the calling thread's cache, which is made if it is unborn: its first call may be for a large allocation, which
/// needs none. `NONE` if there can be none.
fn thread() -> Index {
    super::cache().map_or(NONE, ThreadCache::index)
}

#[inline(never)]
#[unsafe(link_section = ".millpond_cold")]
fn begin_timed(call: Call) -> u64 {
    let is_due = times::of(&TIMES, thread()).is_some_and(|times| times.is_due(call));
    if is_due { os::nanoseconds() } else { 0 }
}

/// Ends what [`begin`] began.
#[inline(always)]
pub(super) fn end(call: Call, start: u64) {
    if start != 0 {
        end_timed(call, start);
    }
}

#[cold]
#[unsafe(link_section = ".millpond_cold")]
fn end_timed(call: Call, start: u64) {
    let took = os::nanoseconds().saturating_sub(start);
    if let Some(times) = times::of(&TIMES, thread()) {
        times.count(call, took.saturating_sub(clock_ns()));
    }
}

/// An allocation was made by whoever called the function with this frame.
#[inline(always)]
pub(super) fn allocated(frame: usize, at: *mut u8, size: usize) {
    if is(SAMPLED | MEASURED) {
        count_both(frame, at, size);
    }
}

#[inline(never)]
fn count_both(frame: usize, at: *mut u8, size: usize) {
    if is(MEASURED) {
        tally::allocated(at.addr());
    }
    sampled(frame, at, size);
}

/// The same for the profile alone.
#[inline(always)]
pub(crate) fn sampled(frame: usize, at: *mut u8, size: usize) {
    if is(SAMPLED) {
        count(frame, at, size);
    }
}

#[inline(never)]
fn count(frame: usize, at: *mut u8, size: usize) {
    let thread = thread();
    if !at.is_null() && thread != NONE && SAMPLER.is_due(thread, size) {
        sample(frame, at.addr(), size);
    }
}

#[cold]
#[inline(never)]
fn sample(frame: usize, address: usize, size: usize) {
    let mut stack = [0; FRAMES];
    let count = os::frames_from(frame, &mut stack);
    // Without any frame it is one from nowhere, but it counts.
    SAMPLER.begin(address, size, &stack[..count.max(1)]);
}

/// An allocation is about to be freed.
#[inline(always)]
pub(super) fn freeing(address: usize) {
    if is(SAMPLED | MEASURED) {
        end_both(address);
    }
}

#[inline(never)]
fn end_both(address: usize) {
    if is(MEASURED) {
        tally::freed(address);
    }
    sample_ends(address);
}

/// The same for the profile alone.
#[inline(always)]
pub(crate) fn sample_ends(address: usize) {
    if is(SAMPLED) {
        SAMPLER.end(address);
    }
}

/// The sample of an allocation that is about to be resized, if it has one.
#[derive(Debug)]
pub(crate) struct Resizing {
    address: usize,
    sample: Option<Index>,
}

/// An allocation is about to be resized, and may move: to the profile it is freed then, and another allocated.
#[inline(always)]
pub(crate) fn resizing(address: usize) -> Resizing {
    Resizing { address, sample: if is(SAMPLED) { SAMPLER.take_out(address) } else { None } }
}

impl Resizing {
    /// It has been, or else all is as it was.
    #[inline(always)]
    pub(crate) fn end(mut self, is_resized: bool) {
        match self.sample.take() {
            None => {}
            Some(sample) if is_resized => SAMPLER.end_taken(sample),
            Some(sample) => SAMPLER.put_back(self.address, sample),
        }
    }
}

impl Drop for Resizing {
    /// Whoever was told of something meanwhile has panicked: all is as it was.
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(sample) = self.sample.take() {
            SAMPLER.put_back(self.address, sample);
        }
    }
}

/// What two looks at the clock take, measured once.
pub(crate) fn clock_ns() -> u64 {
    match CLOCK_NS.get() {
        0 => {
            CLOCK_NS.set(least_clock_ns().max(1));
            CLOCK_NS.get()
        }
        known => known,
    }
}

#[cold]
#[unsafe(link_section = ".millpond_cold")]
fn least_clock_ns() -> u64 {
    let looks = (0..64).map(|_| {
        let start = os::nanoseconds();
        os::nanoseconds().saturating_sub(start)
    });
    looks.min().unwrap_or(0)
}

/// Has calls timed from now on.
#[unsafe(link_section = ".millpond_cold")]
pub(super) fn time_calls() {
    clock_ns();
    seal(TIMED);
}

/// What was timed; `None` if nothing is.
pub(super) fn timing() -> Option<Timing> {
    is(TIMED).then(|| times::read(&TIMES))
}

/// Begins a profile with a sample each `mean` bytes on average. Without a seed, one that differs from run to run.
pub(crate) fn start_sampling(mean: u64, seed: Option<u64>) {
    let seed = seed.unwrap_or_else(|| mix(os::wall_ns() ^ (os::process_id() as u64) << 40));
    SAMPLER.restart(mean, seed);
    seal(SAMPLED);
}

/// Of a heap that goes, what was sampled is freed.
pub(crate) fn forget(is_gone: impl Fn(usize) -> bool) {
    SAMPLER.end_all(is_gone);
}

/// Ends it; what it knows stays.
pub(crate) fn stop_sampling() {
    mode_word().fetch_and(!SAMPLED, Ordering::Relaxed);
}

pub(crate) fn is_sampling() -> bool {
    is(SAMPLED)
}

/// Bytes of tables: none unless something was ever watched.
pub(super) fn bytes() -> usize {
    SAMPLER.bytes() + TIMES.bytes()
}

/// Begins the profile that the environment wishes for; [`write_at_exit`] writes it.
pub(super) fn begin_profile(wish: Profile) {
    let at = match os::keep_path(wish.path) {
        Ok(at) => at,
        Err(refused) => {
            let name = wish.path.escape_ascii();
            return os::say(format_args!("no profile: where {name} is to be cannot be noted, {refused}"));
        }
    };
    let path = with_exposed_provenance_mut::<u8>(at);
    // SAFETY: a string that ends.
    FOLDER.set((unsafe { CStr::from_ptr(path.cast()) }.count_bytes() - wish.path.len()) as u64);
    PROCESS.set(os::process_id() as u64);
    COLLAPSED.set(wish.collapsed as u64);
    // ORDERING: Release: whoever finds it, in another thread at the program's end, reads what was written.
    PATH.store(path, Ordering::Release);
    start_sampling(wish.bytes, wish.seed);
}

/// Writes it, at the program's end.
pub(super) extern "C" fn write_at_exit() {
    // ORDERING: Acquire pairs with the store in `begin_profile`.
    let path = PATH.load(Ordering::Acquire);
    if path.is_null() {
        return;
    }
    // SAFETY: a string that ends, and stays.
    let template = unsafe { CStr::from_ptr(path.cast()) }.to_bytes();
    let (folder, name) = template.split_at(FOLDER.get() as usize);
    let mut path = Path { bytes: [0; os::PATH_MAX], len: 0 };
    let filled = folder.iter().try_for_each(|byte| path.put(*byte));
    let filled = filled.and_then(|()| path.fill(name, os::process_id() as u64 != PROCESS.get()));
    let filled = filled.ok_or(os::Refused::TOO_LONG);
    let written = filled.and_then(|()| write_profile(path.text(), COLLAPSED.get() != 0));
    if let Err(refused) = written {
        os::restore_stderr();
        let whole = if filled.is_ok() { path.text().to_bytes() } else { template };
        os::say(format_args!("no profile can be written to {}: {refused}", whole.escape_ascii()));
    }
    if SAMPLER.missed() > 0 {
        os::restore_stderr();
        os::say(format_args!("{} samples are missing in the profile: there was no memory", SAMPLER.missed()));
    }
}

/// Writes what the profile knows to a file, or says why the system refuses.
pub(crate) fn write_profile(path: &CStr, collapsed: bool) -> Result<(), os::Refused> {
    let mut buffer = [0; 1024];
    let mut file = os::Output::create(path, &mut buffer)?;
    // The first refusal ends the writing, and is told by what finishes it.
    let _ = if collapsed {
        pprof::collapse(&SAMPLER, pprof::Value::AllocatedBytes, &mut file, &mut pprof::module_and_offset).is_ok()
    } else {
        pprof::write(&SAMPLER, &mut |bytes| file.write(bytes)).is_ok()
    };
    file.finish()
}

/// A path that is being made.
struct Path {
    bytes: [u8; os::PATH_MAX],
    len: usize,
}

impl Path {
    /// Fills it from a template: `%p` is the process's number. Without one, that of a child follows: it is not to write over
    /// what its parent writes. `None`: it is too long.
    fn fill(&mut self, template: &[u8], is_child: bool) -> Option<()> {
        let mut has_number = false;
        let mut rest = template;
        while let Some((byte, after)) = rest.split_first() {
            rest = after;
            if let (b'%', Some((b'p', after))) = (byte, after.split_first()) {
                self.put_number(os::process_id())?;
                has_number = true;
                rest = after;
            } else {
                self.put(*byte)?;
            }
        }
        if is_child && !has_number {
            self.put(b'.')?;
            self.put_number(os::process_id())?;
        }
        Some(())
    }

    fn put(&mut self, byte: u8) -> Option<()> {
        // The last byte is its end.
        let place = self.bytes[..os::PATH_MAX - 1].get_mut(self.len)?;
        *place = byte;
        self.len += 1;
        Some(())
    }

    fn put_number(&mut self, number: u32) -> Option<()> {
        let digits = number.checked_ilog10().unwrap_or(0);
        (0..=digits).rev().try_for_each(|digit| self.put(b'0' + (number / 10u32.pow(digit) % 10) as u8))
    }

    fn text(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}
