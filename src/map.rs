//! A map: what each page of a heap is used for, to be visited, read in a terminal, or looked at as a picture.
//!
//! It is drawn from the arenas' bitmaps, the page map and the spans' bitmaps, by whoever asks, while other threads go on: then
//! each part is of another moment, but no address of an arena is told twice. What lies in magazines is listed first, in memory of its
//! own, so that the heap's memory is the same before and after.
//!
//! A *mark* of a picture stands for some bytes, of several uses perhaps, all of which it is drawn from; nothing is left out but rows
//! of which no byte is used and, of mappings of their own, those beyond some number, which are counted.
//!
//! Invariant, at rest: what is told of spans, large allocations and free pages adds up to what [`Stats`](crate::Stats) says; each
//! arena is told from its first byte to its last.

mod picture;
mod svg;

use crate::heap::{Heap, Stretch};
use crate::listed::{self, List};
use crate::size_class::INFO;
use core::fmt;
use core::ops::Range;
use svg::Svg;

/// A map of a heap, from [`map`](crate::map()) or [`Heap::map`](crate::Heap::map). It is drawn each time it is asked, and holds nothing itself.
///
/// As text by `Display`: a sign for each piece of some KiB, in rows, so many that even large heaps take some fifty of them. As
/// an SVG by [`svg`](Self::svg).
#[derive(Clone, Copy)]
#[must_use = "it does nothing but tell"]
pub struct HeapMap<'a> {
    heap: &'a Heap,
}

impl fmt::Debug for HeapMap<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeapMap").finish_non_exhaustive()
    }
}

/// Contiguous pages of one use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Region {
    /// Where it begins: a multiple of 4096.
    pub address: usize,
    /// Its bytes: a multiple of 4096.
    pub bytes: usize,
    /// What they are used for.
    pub used_for: Use,
}

/// What pages are used for. What [`Mode::Hardened`](crate::Mode::Hardened) keeps back after its free counts as in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Use {
    /// A span: chunks of one size, in one of three places each.
    Span {
        /// Bytes of a chunk.
        chunk_size: usize,
        /// Chunks that are in use; where there was no memory to tell, cached ones are among them.
        live: usize,
        /// Chunks that were freed and lie in a magazine: a thread's, or a pool's.
        cached: usize,
        /// Chunks that were freed and are the span's again.
        free: usize,
        /// Bytes of OS pages in free chunks, and behind the last chunk, that have gone back to the system.
        purged: usize,
    },
    /// One allocation above the largest class, aligned to more than 64 KiB, or between guards.
    Large,
    /// One allocation that has a mapping of its own.
    Huge,
    /// Pages that belong to no allocation and are not free: freed whole, and kept for the next as long; or just in a thread's hands.
    Kept,
    /// Free pages that may hold memory.
    Dirty,
    /// Free pages that hold none.
    Clean,
}

impl<'a> HeapMap<'a> {
    pub(crate) fn of(heap: &'a Heap) -> Self {
        Self { heap }
    }

    /// Calls `visit` with each region of each arena, in the order of addresses within an arena, and then with each allocation that
    /// has a mapping of its own. O(pages) and, for what lies in magazines, O(n log n). `visit` may allocate and free.
    ///
    /// Other threads go on meanwhile, and each region is of another moment; of one that changes, what is told may be half of both, and
    /// where a mapping of one allocation goes and another comes, both may be told. Addresses of arenas are told once.
    /// Mappings that were freed and are kept for others as long are in no region.
    pub fn visit(&self, mut visit: impl FnMut(Region)) {
        self.walk(&mut visit);
    }

    /// The map as a picture: a document of SVG, with a row for each mebibyte or more, and what each piece is when it is pointed
    /// at; where a heap has more than 2 GiB, small spans share one. Some KiB for a small heap, and up to some ten MiB. Of allocations
    /// that have mappings of their own, 64 are drawn. Drawn anew each time it is displayed; to keep it, write it to a file:
    /// `write!(file, "{}", millpond::map().svg())`.
    ///
    /// Where other threads go on meanwhile, what is told in figures and what is drawn are of different moments, and rows that have come
    /// since its height was taken are cut off.
    pub fn svg(&self) -> impl fmt::Display + use<'a> {
        Svg(*self)
    }

    fn walk(&self, visit: &mut dyn FnMut(Region)) {
        let mut list = listed::cached(self.heap);
        self.heap.walk_stretches(&mut |range, stretch| {
            let used_for = match stretch {
                Stretch::Span(class, span) => {
                    let info = &INFO[class];
                    let free = span.count().min(info.chunks);
                    let cached = list.as_mut().map_or(0, |list| within(list, &range)).min(info.chunks - free);
                    let (purged, purged_tail) = span.purged_bytes();
                    let live = info.chunks - free - cached;
                    Use::Span { chunk_size: info.size, live, cached, free, purged: purged + purged_tail }
                }
                Stretch::Large => Use::Large,
                Stretch::Huge => Use::Huge,
                Stretch::Kept => Use::Kept,
                Stretch::Dirty => Use::Dirty,
                Stretch::Clean => Use::Clean,
            };
            visit(Region { address: range.start, bytes: range.len(), used_for });
        });
    }
}

/// How many of the addresses in a list lie in a range.
fn within(list: &mut List<1>, range: &Range<usize>) -> usize {
    let all = list.table.all();
    let before = |end: usize| all.partition_point(|[address]| *address < end);
    before(range.end) - before(range.start)
}

/// Bytes by what they are used for.
#[derive(Clone, Copy, Default)]
struct Parts {
    live: usize,
    cached: usize,
    free: usize,
    /// Of spans, too, but gone back to the system.
    purged: usize,
    large: usize,
    kept: usize,
    dirty: usize,
    clean: usize,
}

impl Parts {
    /// Of a part of a region.
    fn of(region: &Region, bytes: usize) -> Self {
        let none = Self::default();
        match region.used_for {
            Use::Span { chunk_size, live, cached, purged, .. } => {
                // Of a span that changes meanwhile, more may be told than it has, or than is left of the region: no part
                // takes what the parts before it have.
                let mut free = bytes;
                let mut share = |all: usize| {
                    let part = ((all as u128 * bytes as u128 / region.bytes as u128) as usize).min(free);
                    free -= part;
                    part
                };
                let (live, cached, purged) = (share(live * chunk_size), share(cached * chunk_size), share(purged));
                // The tail is no chunk's; it counts as free.
                Self { live, cached, free, purged, ..none }
            }
            Use::Large | Use::Huge => Self { large: bytes, ..none },
            Use::Kept => Self { kept: bytes, ..none },
            Use::Dirty => Self { dirty: bytes, ..none },
            Use::Clean => Self { clean: bytes, ..none },
        }
    }

    fn add(&mut self, other: Self) {
        self.live += other.live;
        self.cached += other.cached;
        self.free += other.free;
        self.purged += other.purged;
        self.large += other.large;
        self.kept += other.kept;
        self.dirty += other.dirty;
        self.clean += other.clean;
    }

    fn spans(&self) -> usize {
        self.live + self.cached + self.free + self.purged
    }

    fn is_clean(&self) -> bool {
        self.spans() + self.large + self.kept + self.dirty == 0
    }

    /// Each with its name, in the order in which pictures have them.
    fn named(&self) -> [(&'static str, usize); 7] {
        [
            ("in use", self.live),
            ("in magazines", self.cached),
            ("free in spans", self.free),
            ("large", self.large),
            ("kept", self.kept),
            ("free, holds memory", self.dirty),
            ("free, holds none", self.purged + self.clean),
        ]
    }
}

/// What pictures are laid out by: how many bytes each arena has from its beginning to the end of what is used, and all. Arenas that
/// follow each other without a gap are as one.
#[derive(Default)]
struct Extent {
    /// Of all arenas.
    bytes: usize,
    arenas: usize,
    all: Parts,
    /// Allocations that have mappings of their own, and their bytes.
    huge: (usize, usize),
}

impl Extent {
    fn of(map: &HeapMap<'_>) -> Self {
        let mut extent = Self { arenas: map.heap.arenas(), ..Self::default() };
        // Of the arena that is told, or of several without a gap: the beginning, the end of what is used, and where the next
        // region is.
        let (mut start, mut used, mut next) = (0, 0, 0);
        map.walk(&mut |region| {
            if region.used_for == Use::Huge {
                extent.huge = (extent.huge.0 + 1, extent.huge.1 + region.bytes);
                return extent.all.add(Parts::of(&region, region.bytes));
            }
            if region.address != next {
                extent.bytes += used - start;
                (start, used) = (region.address, region.address);
            }
            next = region.address + region.bytes;
            if region.used_for != Use::Clean {
                used = next;
            }
            extent.all.add(Parts::of(&region, region.bytes));
        });
        extent.bytes += used - start;
        extent
    }

    /// Bytes a row, of at least so many: a power of two, so that there are not many more rows than asked for.
    fn row(&self, least: usize, rows: usize) -> usize {
        (self.bytes / rows).max(least).next_power_of_two()
    }
}

/// A part of a row: so many bytes at an address, and what they are used for.
struct Mark {
    address: usize,
    bytes: usize,
    parts: Parts,
    /// What it is, if it is of one region.
    only: Option<Region>,
}

/// Cuts regions of arenas into marks. Where they are to be *whole*, a mark is a region, or, of those that are short, several;
/// else it is a piece of an arena, whatever lies there.
struct Marks {
    /// Bytes of a mark, or, if it is to be whole, the least of them.
    bytes: usize,
    /// Bytes of a row, at whose end each mark ends.
    row: usize,
    whole: bool,
    /// Where the arena begins, and where what was told of it ends.
    start: usize,
    next: usize,
    mark: Option<Mark>,
}

/// Is called with each mark, and how far within its arena it begins.
type Draw<'a> = &'a mut dyn FnMut(&Mark, usize);

impl Marks {
    fn new(bytes: usize, row: usize, whole: bool) -> Self {
        Self { bytes, row, whole, start: 0, next: 0, mark: None }
    }

    fn add(&mut self, region: &Region, draw: Draw<'_>) {
        if region.address != self.next {
            self.end(draw);
            self.start = region.address;
        }
        self.next = region.address + region.bytes;
        let mut at = region.address;
        while at < self.next {
            let within = at - self.start;
            let row_left = self.row - within % self.row;
            let left = if self.whole { row_left } else { self.bytes - within % self.bytes };
            let bytes = left.min(self.next - at);
            // What is long enough to stand by itself does.
            if self.whole && bytes >= self.bytes {
                self.end(draw);
            }
            let mark =
                self.mark.get_or_insert(Mark { address: at, bytes: 0, parts: Parts::default(), only: Some(*region) });
            if mark.only.is_some_and(|only| only != *region) {
                mark.only = None;
            }
            mark.bytes += bytes;
            mark.parts.add(Parts::of(region, bytes));
            let is_full = mark.bytes >= self.bytes;
            at += bytes;
            if is_full || bytes == row_left {
                self.end(draw);
            }
        }
    }

    /// Draws what has been begun.
    fn end(&mut self, draw: Draw<'_>) {
        if let Some(mark) = self.mark.take() {
            draw(&mark, mark.address - self.start);
        }
    }
}
