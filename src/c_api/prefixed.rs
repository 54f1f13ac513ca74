//! The family under the prefix `mp_`, and what Millpond has beyond it: `include/millpond.h` declares and documents them.

use super::{family, info};
use crate::global::{self, watch};
use crate::os;
use crate::report::{Stats, Thp};
use core::ffi::{CStr, c_char, c_int};
use core::fmt::Write as _;

type Memory = *mut u8;

exported! {
    mp_malloc(size: usize) -> Memory = family::malloc(size);
    mp_calloc(count: usize, size: usize) -> Memory = family::calloc(count, size);
    mp_realloc(ptr: Memory, size: usize) -> Memory = family::realloc(ptr, size);
    mp_reallocarray(ptr: Memory, count: usize, size: usize) -> Memory = family::reallocarray(ptr, count, size);
    mp_free(ptr: Memory) = family::free(ptr);
    mp_free_sized(ptr: Memory, size: usize) = family::free_sized(ptr, size);
    mp_free_aligned_sized(ptr: Memory, align: usize, size: usize) = family::free_aligned_sized(ptr, align, size);
    mp_aligned_alloc(align: usize, size: usize) -> Memory = family::aligned_alloc(align, size);
    mp_memalign(align: usize, size: usize) -> Memory = family::memalign(align, size);
    mp_posix_memalign(place: *mut Memory, align: usize, size: usize) -> c_int =
        family::posix_memalign(place, align, size);
    mp_valloc(size: usize) -> Memory = family::aligned_alloc(family::page_size(), size);
    mp_pvalloc(size: usize) -> Memory = family::pvalloc(size);
    mp_malloc_usable_size(ptr: Memory) -> usize = family::usable_size(ptr);
    mp_malloc_trim(_pad: usize) -> c_int = family::trim() as c_int;
    mp_mallinfo() -> info::Mallinfo = info::mallinfo();
    mp_mallinfo2() -> info::Mallinfo2 = info::mallinfo2();
    mp_malloc_stats() = info::print();
    mp_malloc_info(options: c_int, file: *mut os::File) -> c_int = info::malloc_info(options, file);
    mp_mallopt(parameter: c_int, value: c_int) -> c_int = info::mallopt(parameter, value);

    mp_version() -> *const c_char = VERSION.as_ptr();
    mp_stats(stats: *mut u8, size: usize) -> usize = write_stats(stats, size);
    mp_check() -> c_int = check();
    mp_check_memory() -> usize = global::check_memory();
    mp_trim() -> usize = global::trim().returned;
    mp_flush_thread() = global::flush_thread();
    mp_owns(ptr: *const u8) -> c_int = global::owns(ptr) as c_int;
    mp_set_thp(thp: c_int) -> c_int = set_thp(thp);
    mp_profile_start(bytes: usize) = global::start_sampling(bytes as u64, None);
    mp_profile_stop() = global::stop_sampling();
    mp_profile_write(path: *const c_char, collapsed: c_int) -> c_int = write_profile(path, collapsed != 0);
    mp_map_write(path: *const c_char, svg: c_int) -> c_int = write_map(path, svg != 0);
}

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => panic!(),
};

/// `struct mp_stats`. NB: in step with `include/millpond.h`; what is new comes last.
#[derive(Debug)]
#[repr(C)]
struct CStats {
    live: usize,
    quarantine: usize,
    thread_cached: usize,
    pooled: usize,
    span_free: usize,
    tails: usize,
    dirty: usize,
    stranded: usize,
    metadata: usize,
    committed: usize,
    reserved: usize,
    purged: usize,
    threads: usize,
    spans: usize,
}

fn statistics() -> CStats {
    let mut stats = Stats::default();
    global::fill(&mut stats);
    CStats::from(&stats)
}

/// Writes them to as many bytes as the caller has: fewer than there are, of a program that was compiled with an older header, or more,
/// which are zeros then. How many there are.
///
/// # Safety
/// `size` bytes at `place` are the caller's.
unsafe fn write_stats(place: *mut u8, size: usize) -> usize {
    let stats = statistics();
    let known = size.min(size_of::<CStats>());
    // SAFETY: the caller's; and no more than there is in the structure, which is words alone.
    unsafe {
        place.copy_from_nonoverlapping((&raw const stats).cast(), known);
        place.add(known).write_bytes(0, size - known);
    }
    size_of::<CStats>()
}

impl From<&Stats> for CStats {
    fn from(stats: &Stats) -> Self {
        Self {
            live: stats.live,
            quarantine: stats.quarantine,
            thread_cached: stats.thread_cached,
            pooled: stats.pooled,
            span_free: stats.span_free,
            tails: stats.tails,
            dirty: stats.dirty,
            stranded: stats.stranded,
            metadata: stats.metadata,
            committed: stats.committed,
            reserved: stats.reserved,
            purged: stats.purged,
            threads: stats.threads,
            spans: stats.spans,
        }
    }
}

/// 0, or -1 with a line on stderr.
fn check() -> c_int {
    match global::asked::verify(&mut Stats::default()) {
        Ok(()) => 0,
        Err(error) => {
            os::say(format_args!("check: {error}"));
            -1
        }
    }
}

/// 0, or -1 with the system's reason in `errno`.
///
/// # Safety
/// `path` is a string.
unsafe fn write_profile(path: *const c_char, collapsed: bool) -> c_int {
    // SAFETY: the caller's.
    let path = unsafe { CStr::from_ptr(path) };
    told(watch::write_profile(path, collapsed))
}

/// The same of the map.
///
/// # Safety
/// `path` is a string.
unsafe fn write_map(path: *const c_char, svg: bool) -> c_int {
    // SAFETY: the caller's.
    let path = unsafe { CStr::from_ptr(path) };
    let mut buffer = [0; 1024];
    let written = os::Output::create(path, &mut buffer).and_then(|mut file| {
        let map = global::map();
        // The first refusal ends the writing, and is told by what finishes it.
        let _ = if svg { write!(file, "{}", map.svg()) } else { writeln!(file, "{map}") };
        file.finish()
    });
    told(written)
}

/// As a C function returns it.
fn told(written: Result<(), os::Refused>) -> c_int {
    match written {
        Ok(()) => 0,
        Err(refused) => {
            os::fail_as(refused);
            -1
        }
    }
}

/// NB: the numbers are those of `include/millpond.h`.
fn set_thp(thp: c_int) -> c_int {
    global::set_thp(match thp {
        0 => Thp::Default,
        1 => Thp::Always,
        2 => Thp::Never,
        3 => Thp::System,
        _ => {
            os::fail(os::Errno::Invalid);
            return -1;
        }
    });
    0
}
