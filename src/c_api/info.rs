//! What the family tells about itself, and what can be set: `mallinfo`, `malloc_stats`, `malloc_info`, `mallopt`.
//!
//! glibc's words for it, with the equation that holds for them: `arena = uordblks + fordblks`; what has a mapping of its own
//! is in `hblks` and `hblkhd` instead. What has no counterpart here is zero. All of it must do with a small stack, of which
//! [`Stats`] is a quarter: it is filled in place.

use crate::global::{self, HEAP};
use crate::os;
use crate::report::Stats;
use core::ffi::c_int;
use core::fmt::{self, Write};

/// glibc's `struct mallinfo2`.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Mallinfo2 {
    /// Bytes that may hold memory, but for mappings of the program's.
    arena: usize,
    ordblks: usize,
    smblks: usize,
    /// Allocations that have a mapping of their own.
    hblks: usize,
    /// Their bytes.
    hblkhd: usize,
    usmblks: usize,
    fsmblks: usize,
    /// Bytes in the program's hands.
    uordblks: usize,
    /// All others: free, and the allocator's own.
    fordblks: usize,
    /// Bytes that a trim gives back for certain.
    keepcost: usize,
}

/// glibc's `struct mallinfo`; what does not fit in an `int` is the largest.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Mallinfo([c_int; 10]);

pub(super) fn mallinfo2() -> Mallinfo2 {
    let mut stats = Stats::default();
    global::fill(&mut stats);
    let (hblks, hblkhd) = mappings();
    let (arena, uordblks) = (stats.committed.saturating_sub(hblkhd), stats.live.saturating_sub(hblkhd));
    Mallinfo2 {
        arena,
        hblks,
        hblkhd,
        uordblks,
        fordblks: arena.saturating_sub(uordblks),
        keepcost: stats.dirty,
        ..Mallinfo2::default()
    }
}

/// How many allocations of the program's have a mapping of their own, and their bytes.
fn mappings() -> (usize, usize) {
    let tracked = global::tracked();
    // What is freed and kept back has its mapping still.
    let is_kept = |start| {
        let seen = tracked.and_then(|tracked| tracked.tracker.find(tracked.heap.place(start)));
        seen.is_some_and(|seen| !seen.is_live)
    };
    let live = HEAP.huges().filter(|(node, _)| !is_kept(node.head.start()));
    live.fold((0, 0), |(count, sum), (_, bytes)| (count + 1, sum + bytes))
}

pub(super) fn mallinfo() -> Mallinfo {
    let all = mallinfo2();
    let words = [
        all.arena,
        all.ordblks,
        all.smblks,
        all.hblks,
        all.hblkhd,
        all.usmblks,
        all.fsmblks,
        all.uordblks,
        all.fordblks,
        all.keepcost,
    ];
    Mallinfo(words.map(|bytes| c_int::try_from(bytes).unwrap_or(c_int::MAX)))
}

/// Prints where the bytes are to stderr.
pub(super) fn print() {
    let mut stats = Stats::default();
    global::fill(&mut stats);
    // What stands above its columns begins a line.
    os::say(format_args!("statistics of process {}\n{stats}", os::process_id()));
}

/// Writes the statistics to a stream as XML, of a form of our own as the standard allows. -1 with `errno` if there are
/// options, which there are none of, or the stream takes no more.
///
/// # Safety
/// `file` is an open stream.
pub(super) unsafe fn malloc_info(options: c_int, file: *mut os::File) -> c_int {
    if options != 0 {
        os::fail(os::Errno::Invalid);
        return -1;
    }
    // SAFETY: the caller's.
    let mut stream = unsafe { os::Stream::new(file) };
    // A stream that fails has set `errno`.
    let mut stats = Stats::default();
    global::fill(&mut stats);
    if write!(stream, "{}", Xml(&stats)).is_ok() { 0 } else { -1 }
}

struct Xml<'a>(&'a Stats);

impl fmt::Display for Xml<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(stats) = self;
        writeln!(f, "<malloc version=\"millpond {}\">", env!("CARGO_PKG_VERSION"))?;
        for (name, bytes) in [
            ("live", stats.live),
            ("quarantine", stats.quarantine),
            ("thread_cached", stats.thread_cached),
            ("pooled", stats.pooled),
            ("span_free", stats.span_free),
            ("tails", stats.tails),
            ("dirty", stats.dirty),
            ("stranded", stats.stranded),
            ("metadata", stats.metadata),
            ("committed", stats.committed),
            ("reserved", stats.reserved),
            ("purged", stats.purged),
        ] {
            writeln!(f, "  <bytes type=\"{name}\" size=\"{bytes}\"/>")?;
        }
        writeln!(f, "  <threads count=\"{}\"/>\n  <spans count=\"{}\"/>\n</malloc>", stats.threads, stats.spans)
    }
}

/// 1 for what is advice on how glibc's malloc works inside, of which nothing here depends; 0 for what would change what a
/// program sees (`M_PERTURB`, `M_CHECK_ACTION`), and for what is unknown: nothing has been set.
pub(super) fn mallopt(parameter: c_int, _value: c_int) -> c_int {
    const ARENA_MAX: c_int = -8;
    const ARENA_TEST: c_int = -7;
    const MMAP_MAX: c_int = -4;
    const TRIM_THRESHOLD: c_int = -1;
    const MXFAST: c_int = 1;
    matches!(parameter, ARENA_MAX..=ARENA_TEST | MMAP_MAX..=TRIM_THRESHOLD | MXFAST) as c_int
}
