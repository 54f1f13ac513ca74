//! What a program may ask of the global heap, or set: as a whole, or of one address.
//!
//! There is no state here: the answers are the heap's, and those of what only the global one has beside it: records, fronts, and
//! what is watched.

use super::{FRONTS, HEAP, TAGS, TRACKER, is_late, living_cache, mode, tracked, tracked_by, watch};
use crate::log::{self, Log};
use crate::map::HeapMap;
use crate::report::{CheckError, Mode, Stats, Thp, Trimmed};

/// Gives all that is free back to the system: the caller's cache, the spare magazines of all other threads, the pools, the free
/// OS pages of spans in use, and free runs. What is kept back after its free goes as well.
///
/// From any thread, while others go on. Linear in the memory that there is. What stays in the loaded magazines of other living
/// threads is reported as [`Trimmed::loaded`].
///
/// ```
/// drop(vec![0u8; 1 << 20]);
/// let trimmed = millpond::trim();
/// println!("{} bytes went back", trimmed.returned);
/// ```
pub fn trim() -> Trimmed {
    match tracked() {
        Some(tracked) => tracked.trim(),
        None => HEAP.trim(living_cache()),
    }
}

/// Gives the calling thread's cached chunks back to their spans: for a thread that will be idle for long.
///
/// O(chunks cached). The thread's next allocation fills its cache again.
///
/// ```
/// millpond::flush_thread();
/// ```
pub fn flush_thread() {
    if let Some(cache) = living_cache() {
        HEAP.flush(cache);
    }
}

/// The bytes that may be used at `ptr`: `None` if no allocation of Millpond's begins there.
///
/// O(1), any thread. In the mode [`Mode::Hardened`] those that were asked for. A freed chunk that has not yet returned to its span
/// counts as live.
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

/// Whether `ptr` points into memory that Millpond manages for the program: anywhere in a span or in a larger allocation, in use or
/// not.
///
/// O(1), any thread; for foreign addresses and for those inside huge allocations (32 MiB and more) linear in the number of large
/// allocations.
///
/// ```
/// # #[global_allocator]
/// # static GLOBAL: millpond::Millpond = millpond::Millpond;
/// let number = Box::new(1);
/// assert!(millpond::owns((&raw const *number).cast()));
/// assert!(!millpond::owns((&raw const number).cast()));
/// ```
pub fn owns(ptr: *const u8) -> bool {
    HEAP.owns(ptr.addr())
}

/// Where the bytes are. Linear in the number of spans and threads, and of records where they are kept; allocates nothing. From any
/// thread; while others go on, the parts may not add up exactly.
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
    stats.add_tables(FRONTS.bytes() + TAGS.bytes() + watch::bytes());
    // By nobody's cache: to ask changes nothing.
    if let Some(tracked) = tracked_by(None) {
        tracked.add_to(stats);
    }
}

/// Verifies every structure of the allocator and that its statistics add up. Linear in what there is; any thread.
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

/// In the mode [`Mode::Hardened`], looks for overwritten memory in all that is live and all that is kept back, and returns how many
/// allocations were written to past their end, before their beginning or after their free. Each of the first 16 gets a line on
/// stderr. In other modes zero: nothing is known.
///
/// Each free looks at its allocation anyway; this sees those that are not freed yet, or never will be. The program's end by `exit`
/// looks as well, and ends the process by `SIGABRT` if it finds any.
///
/// Linear in the most allocations that there ever were at one time, with a call of the system for each OS page that has some. Other
/// threads may go on. Where the system lets no process read its own memory (`process_vm_readv`), allocations of more than 256 KiB
/// are not looked at, and no other thread may free meanwhile.
///
/// ```
/// assert_eq!(millpond::check_memory(), 0);
/// ```
pub fn check_memory() -> usize {
    tracked().map_or(0, |tracked| tracked.check_memory(false))
}

/// Sets whether transparent huge pages back the program's heap, for the memory that there is and for what comes. `MILLPOND_THP`
/// (`default`, `always`, `never`, `system`) sets it at the first allocation. A [`Heap`](crate::Heap) always has [`Thp::Default`].
/// Linear in the number of arenas and large allocations; any thread.
///
/// With [`Thp::Always`] less time goes into page faults, and more memory stays resident where use is sparse; purges
/// still return pages of 64 KiB and single OS pages. [`Thp::Default`] and [`Thp::System`] change nothing for the memory that there
/// is, used or only reserved: the system does not take advice back.
///
/// ```
/// millpond::set_thp(millpond::Thp::Never);
/// ```
pub fn set_thp(thp: Thp) {
    HEAP.set_thp(thp);
}

/// Sets how much the slow paths log, for all heaps that have no level of their own: a line a step, on stderr. `MILLPOND_LOG` (`os`,
/// `arena`, `span`, `pool`, `cache`) sets it at the first allocation; with `,file=PATH` behind the level, lines are appended to a
/// file. O(1); any thread.
///
/// The fast path logs nothing. Where records are kept ([`Mode::Tracked`]) there is none: then each allocation and free is logged.
///
/// ```
/// millpond::set_log(millpond::Log::Os);
/// ```
pub fn set_log(level: Log) {
    log::set(level);
}

/// A map of the global heap: what each of its pages is used for, as text, as a picture, or one after the other.
///
/// ```
/// # #[global_allocator]
/// # static GLOBAL: millpond::Millpond = millpond::Millpond;
/// let text = vec![0u8; 1 << 20];
/// let map = millpond::map();
/// println!("{map}");
///
/// let mut large = 0;
/// map.visit(|region| large += usize::from(region.address == text.as_ptr() as usize && region.bytes == 1 << 20));
/// assert_eq!(large, 1);
///
/// let picture = map.svg().to_string();
/// assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"));
/// ```
pub fn map() -> HeapMap<'static> {
    HeapMap::of(&HEAP)
}
