//! What a program asks of the global heap, and tells it: as a whole, or of one address.
//!
//! Nothing here is kept: the answers are the heap's, with what only the global one has beside it, which are records, fronts and
//! what is watched.

use super::{FRONTS, HEAP, TRACKER, is_late, living_cache, mode, tracked, tracked_by, watch};
use crate::log::{self, Log};
use crate::report::{CheckError, Mode, Stats, Thp, Trimmed};

/// Gives all that is free back to the system, from any thread: the caller's cache, the spare magazines of all other
/// threads, the pools, the free OS pages of spans in use, and free runs.
///
/// Linear in the memory that there is; other threads go on meanwhile. What stays in the loaded magazines of other living
/// threads is reported as [`Trimmed::loaded`].
///
/// ```
/// drop(vec![0u8; 1 << 20]);
/// let trimmed = millpond::trim();
/// println!("{} bytes went back", trimmed.returned);
/// ```
pub fn trim() -> Trimmed {
    if let Some(tracked) = tracked() {
        tracked.release_kept();
    }
    HEAP.trim(living_cache())
}

/// Gives the calling thread's cached chunks back to their spans: for a thread that will be idle for long.
///
/// O(chunks cached). The thread's next allocation fills its cache again.
pub fn flush_thread() {
    if let Some(cache) = living_cache() {
        HEAP.flush(cache);
    }
}

/// The bytes that may be used at `ptr`: `None` if no allocation of Millpond's begins there.
///
/// O(1), any thread. For a chunk that has been freed but not yet returned to its span the answer is as if it were live.
///
/// ```
/// # #[global_allocator]
/// # static GLOBAL: millpond::Millpond = millpond::Millpond;
/// let bytes = vec![1u8; 100];
/// assert_eq!(millpond::usable_size(bytes.as_ptr()), Some(112));
/// assert_eq!(millpond::usable_size(&raw const bytes as *const u8), None);
/// ```
pub fn usable_size(ptr: *const u8) -> Option<usize> {
    if mode() == Mode::Hardened {
        // What lies behind it is looked at. What has no record is from before the mode was known, if anything can be.
        let place = HEAP.place(ptr.addr());
        if !is_late() || TRACKER.find(place).is_some() {
            return TRACKER.usable_size(place);
        }
    }
    HEAP.usable_size(ptr.addr())
}

/// Whether `ptr` points into memory that Millpond manages for the program: anywhere in a span, a large or a huge
/// allocation. Says nothing about whether it is in use.
///
/// O(1), but for addresses that are none of ours or inside a huge allocation: linear in the number of those.
pub fn owns(ptr: *const u8) -> bool {
    HEAP.owns(ptr.addr())
}

/// Where the bytes are. Linear in the number of spans and threads; allocates nothing.
///
/// ```
/// let stats = millpond::stats();
/// println!("{stats}");
/// ```
pub fn stats() -> Stats {
    let mut stats = HEAP.stats();
    add_records(&mut stats);
    stats
}

/// Fills statistics that are all zeros yet.
#[unsafe(link_section = ".millpond_cold")]
pub(crate) fn fill(stats: &mut Stats) {
    HEAP.fill(stats);
    add_records(stats);
}

/// Adds what the heap does not know.
#[unsafe(link_section = ".millpond_cold")]
fn add_records(stats: &mut Stats) {
    stats.timing = watch::timing();
    stats.add_tables(FRONTS.bytes() + watch::bytes());
    // By nobody's cache: to ask changes nothing.
    if let Some(tracked) = tracked_by(None) {
        tracked.add_to(stats);
    }
}

/// Verifies every structure of the allocator and that its statistics add up.
///
/// Exact only while no other thread is inside the allocator; with others running, an error may be a false alarm.
///
/// # Errors
/// Names the first equation that does not hold: a defect, or memory that the program has overwritten.
pub fn check() -> Result<Stats, CheckError> {
    let mut stats = Stats::default();
    verify(&mut stats).map(|()| stats)
}

/// The same; fills statistics that are all zeros yet.
pub(crate) fn verify(stats: &mut Stats) -> Result<(), CheckError> {
    HEAP.verify(stats)?;
    add_records(stats);
    Ok(())
}

/// Looks at all that is live, and all that is kept back, in the mode [`Mode::Hardened`]: says a line on stderr of each
/// allocation that was written to past its end, before its beginning or after it was freed, 16 at most, and returns how many
/// there are. In other modes zero: nothing is known.
///
/// What is freed is looked at anyway; this sees what is not, or not yet. The program's end by `exit` looks as well, and ends the
/// process by `SIGABRT` if there is any. Linear in the most allocations that there ever were at one time, with a call of the
/// system for each OS page that has some; other threads may go on. Where the system does not let a process read its own memory
/// (`process_vm_readv`), what has more than 256 KiB is not looked at, and no other thread may free meanwhile.
///
/// ```
/// assert_eq!(millpond::check_memory(), 0);
/// ```
pub fn check_memory() -> usize {
    tracked().map_or(0, |tracked| tracked.check_memory())
}

/// Sets whether transparent huge pages back the heap, for what there is and for what comes. The environment variable
/// `MILLPOND_THP` (`default`, `always`, `never`) sets it at the first allocation.
///
/// With [`Thp::Always`] less time goes into page faults, and more memory stays resident where use is sparse; purging
/// still returns 64 KiB and OS pages. [`Thp::Default`] changes nothing for what there is: the system does not take advice back.
pub fn set_thp(thp: Thp) {
    HEAP.set_thp(thp);
}

/// Sets how much slow paths tell of what they do, on stderr, a line a step, for all heaps. The environment variable
/// `MILLPOND_LOG` (`os`, `arena`, `span`, `pool`, `cache`) sets it at the first allocation; with `,file=PATH` behind it lines go
/// to the end of a file.
///
/// The fast path tells nothing, unless records are kept ([`Mode::Tracked`]): then each allocation and free is told as well.
pub fn set_log(level: Log) {
    log::set(level);
}
