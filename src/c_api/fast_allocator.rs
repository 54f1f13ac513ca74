//! A small interface to learn with, `include/fast_allocator.h`: allocate, free, and a report of what has been done.
//!
//! The family does the work. Each call is counted here, and each allocation timed: that costs more than the allocation itself,
//! but other callers pay nothing for it. What is in the program's hands is asked of the heap: memory may come from `malloc` and be
//! given back here, or the other way.
//!
//! Invariant: for each row, `taken` is the number of calls that gave out one of its chunks.

use super::family;
use crate::c_class;
use crate::global;
use crate::os;
use crate::report::Stats;
use crate::size_class::{self, CLASSES, INFO};
use crate::sync::{AtomicU64, Ordering};
use core::fmt::{self, Write};

type Memory = *mut u8;

exported! {
    fast_allocator_init() = reset();
    fast_malloc(size: usize) -> Memory = allocate(size);
    fast_free(ptr: Memory) = release(ptr);
    fast_allocator_stats() = print();
    fast_allocator_cleanup() = { reset(); family::trim(); };
}

/// What has been done with one class, or with all that is larger. All relaxed: they count, and order nothing.
#[derive(Debug)]
struct Row {
    taken: AtomicU64,
    /// Bytes asked for.
    bytes: AtomicU64,
    nanoseconds: AtomicU64,
}

/// Calls that freed something.
static GIVEN_BACK: AtomicU64 = AtomicU64::new(0);

/// A row a class; the last is for larger allocations.
static ROWS: [Row; CLASSES + 1] =
    [const { Row { taken: AtomicU64::new(0), bytes: AtomicU64::new(0), nanoseconds: AtomicU64::new(0) } }; CLASSES + 1];

fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

fn of(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

fn reset() {
    let rows = ROWS.iter().flat_map(|row| [&row.taken, &row.bytes, &row.nanoseconds]);
    for count in rows.chain([&GIVEN_BACK]) {
        count.store(0, Ordering::Relaxed);
    }
}

fn allocate(size: usize) -> Memory {
    let start = os::nanoseconds();
    let at = family::malloc(size);
    let end = os::nanoseconds();
    if !at.is_null() {
        let row = &ROWS[c_class::place_in_c(size).map_or(CLASSES, size_class::at_place)];
        add(&row.taken, 1);
        add(&row.bytes, size as u64);
        add(&row.nanoseconds, end.saturating_sub(start));
    }
    at
}

/// # Safety
/// As `free`.
unsafe fn release(ptr: Memory) {
    // SAFETY: the caller's.
    unsafe { family::free(ptr) };
    add(&GIVEN_BACK, u64::from(!ptr.is_null()));
}

fn print() {
    // A stream that takes no more has nobody to be told.
    let _ = write!(os::Stream::stdout(), "{Report}");
}

struct Report;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = |part: fn(&Row) -> &AtomicU64| ROWS.iter().map(|row| of(part(row))).sum::<u64>();
        let (taken, bytes) = (sum(|row| &row.taken), sum(|row| &row.bytes));
        // Others go on meanwhile, or begin anew.
        let large = of(&ROWS[CLASSES].taken).min(taken);
        let percent = |part: u64, whole: u64| part as f64 * 100.0 / whole.max(1) as f64;
        let microseconds = |row: u64, calls: u64| row as f64 / 1000.0 / calls.max(1) as f64;
        writeln!(f, "Millpond: statistics\n")?;
        writeln!(f, "Allocations            {taken:>14}")?;
        writeln!(f, "Deallocations          {:>14}", of(&GIVEN_BACK))?;
        writeln!(f, "Bytes allocated        {bytes:>14}  ({:.2} MiB)", bytes as f64 / (1 << 20) as f64)?;
        writeln!(f, "Larger than all pools  {large:>14}  ({:.1} %)", percent(large, taken))?;
        writeln!(f, "Served by pools        {:>14.1} %", percent(taken - large, taken))?;
        writeln!(f, "Average time           {:>14.3} us\n", microseconds(sum(|row| &row.nanoseconds), taken))?;
        writeln!(
            f,
            "{:>4} {:>12} {:>14} {:>13} {:>12}",
            "pool", "chunk size", "allocations", "utilization", "average time"
        )?;
        let mut stats = Stats::default();
        global::fill(&mut stats);
        for (class, row) in ROWS[..CLASSES].iter().enumerate().filter(|(_, row)| of(&row.taken) > 0) {
            writeln!(
                f,
                "{class:>4} {:>10} B {:>14} {:>11.1} % {:>9.3} us",
                INFO[class].size,
                of(&row.taken),
                stats.pools[class].utilisation() * 100.0,
                microseconds(of(&row.nanoseconds), of(&row.taken)),
            )?;
        }
        Ok(())
    }
}
