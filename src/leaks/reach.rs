//! Reachability: which allocations the program can still get at.
//!
//! All allocations of all heaps are listed once, in order of address, with a number for each. Beginning with the roots, each word that is an
//! address in an allocation, its beginning or not, reaches it, and its contents are looked at next. The search is conservative, as
//! in Boehm and Weiser's collector (*Garbage collection in an uncooperative environment*, 1988) and in LeakSanitizer: a word that
//! only looks like an address may hide a leak, but cannot make one up.
//!
//! All memory is read through the system, which says if it is gone. What is still to be looked at stands in a list that may
//! overflow: then all that has been reached is looked at once more.
//!
//! Invariant: `seen ⊆ listed`, and at the end whatever a seen allocation has the address of is seen.

use super::sources::{All, Source, Sources};
use super::table::{Bits, Memory, Table, sort};
use crate::os::{self, Pages};
use crate::size_class::{Class, INFO};
use core::ops::Range;

const WORD: usize = size_of::<usize>();
/// Words that are read at once.
const BUFFER: usize = 8192;
/// OS pages of which a copy is kept, and how large an allocation may be that is looked for in one.
const COPIES: usize = 512;
const COPIED: usize = 2048;
/// Allocations that may wait to be looked at.
const WAITING: usize = 1 << 20;
/// In place of a class: one larger allocation.
const LARGE: usize = 0xff;
/// In place of a source: one beyond those that there is room to name.
const SOURCES: usize = 0xffff;

/// What one node of a heap describes.
#[derive(Clone, Copy, Debug)]
struct Region {
    start: usize,
    end: usize,
    /// The number of its first allocation.
    first: usize,
    /// Which source it is of: zero if of the heap that is asked about.
    source: usize,
    class: Class,
}

impl Region {
    fn words(self) -> [usize; 3] {
        [self.start, self.end, self.first << 24 | self.source << 8 | self.class]
    }

    fn from_words([start, end, rest]: [usize; 3]) -> Self {
        Self { start, end, first: rest >> 24, source: rest >> 8 & SOURCES, class: rest & LARGE }
    }

    /// The place in it of the allocation in which an address of its lies.
    fn place(&self, address: usize) -> usize {
        INFO.get(self.class).map_or(0, |info| info.index(address - self.start))
    }

    fn size(&self) -> usize {
        INFO.get(self.class).map_or(self.end - self.start, |info| info.size)
    }

    fn range(&self, place: usize) -> Range<usize> {
        let start = self.start + place * self.size();
        start..start + self.size()
    }
}

/// An allocation.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) number: usize,
    /// Which source it is of: zero if of the heap that is asked about.
    source: usize,
    /// Its addresses.
    pub(super) range: Range<usize>,
    /// Whether it has been reached.
    pub(super) seen: bool,
}

/// What the words that are looked at are for.
#[derive(Clone, Copy, Debug)]
enum For {
    /// What they are the addresses of is reached.
    Reaching,
    /// What they are the addresses of is held, but by itself: this is its number.
    Holding(usize),
    /// The first that is the address of itself, twice, is found.
    Finding,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Reach<'a> {
    pub(super) memory: Memory,
    sources: Sources<'a>,
    /// Start, end, and number, whose and class: see [`Region`].
    regions: Table<3>,
    /// Memory that is no root, from where to where, in order.
    hidden: Table<3>,
    listed: Bits,
    seen: Bits,
    /// What has not been reached, but another that has not has its address.
    held: Bits,
    /// Which magazines are loaded.
    loaded: Bits,
    /// Region and place in it, in one word.
    waiting: Table<1>,
    overflowed: bool,
    /// The region that was met last.
    last: usize,
    buffer: Table<1>,
    /// Copies of OS pages, each in the place of its number, and of which.
    copies: Table<1>,
    copied: Table<1>,
    pages: Pages,
    page: usize,
    found: Option<usize>,
}

impl<'a> Reach<'a> {
    /// Lists what heaps have given out; `hidden` is no root. `None`: the system has no memory for the tables.
    #[inline(never)]
    pub(super) fn new(own: Source<'a>, all: All<'a>, hidden: Range<usize>) -> Option<Self> {
        let mut sources = Sources::hold(own, all)?;
        let (mut regions, mut blocks, mut hides, mut magazines) = (0, 0, 0, 0);
        sources.each(&mut |Source { heap, .. }| {
            heap.walk_blocks(&mut |found| (regions, blocks) = (regions + 1, blocks + found.count));
            heap.walk_memory(&mut |_| hides += 1);
            magazines = magazines.max(heap.magazines.made() as usize);
        });
        // Others may go on and open more: what has no room is not listed.
        let (regions, blocks, hides) = (regions + regions / 4 + 64, blocks + blocks / 4 + (1 << 16), hides + 1024);
        let (page, bits, waiting) = (os::page_size(), Bits::words(blocks), WAITING.min(blocks));
        // A magazine that is made meanwhile, and has no room, would be taken for one that is not loaded: there is ample room.
        let magazines = Bits::words(2 * magazines + 4096);
        let words = magazines + 3 * (regions + hides + bits) + waiting + BUFFER + COPIES * page / WORD + COPIES;
        let Some(mut memory) = Memory::new(words) else {
            sources.release();
            return None;
        };
        let mut reach = Self {
            sources,
            regions: memory.cut(regions),
            hidden: memory.cut(hides),
            listed: Bits(memory.zeros(bits)),
            seen: Bits(memory.zeros(bits)),
            held: Bits(memory.zeros(bits)),
            loaded: Bits(memory.zeros(magazines)),
            waiting: memory.cut(waiting),
            overflowed: false,
            last: 0,
            buffer: memory.zeros(BUFFER),
            copies: memory.zeros(COPIES * page / WORD),
            copied: memory.zeros(COPIES),
            pages: Pages::open(),
            page,
            found: None,
            memory,
        };
        reach.list(blocks);
        let Self { hidden: table, sources, .. } = &mut reach;
        let mut hide = |range: Range<usize>| {
            table.push([range.start, range.end, 0]);
        };
        hide(memory.addresses());
        hide(hidden);
        sources.each(&mut |Source { heap, tracker }| {
            tracker.walk_memory(&mut hide);
            heap.walk_memory(&mut hide);
        });
        sort(&mut reach.hidden);
        Some(reach)
    }

    #[inline(never)]
    fn list(&mut self, room: usize) {
        let Self { regions, listed, sources, .. } = self;
        let mut first = 0;
        let mut source = 0;
        sources.each(&mut |Source { heap, .. }| {
            heap.walk_blocks(&mut |found| {
                let class = found.class().unwrap_or(LARGE);
                let (start, end) = (found.start, found.start + found.size * found.count);
                if first + found.count > room || !regions.push(Region { start, end, first, source, class }.words()) {
                    return;
                }
                for word in 0..found.count.div_ceil(64) {
                    let mut taken = found.taken(word);
                    while taken != 0 {
                        listed.add(first + 64 * word + taken.trailing_zeros() as usize);
                        taken &= taken - 1;
                    }
                }
                first += found.count;
            });
            source = SOURCES.min(source + 1);
        });
        sort(&mut self.regions);
        self.unlist_freed();
    }

    /// Takes what is in magazines from the list, also in such as a thread has in hand, and what is kept back.
    #[inline(never)]
    pub(super) fn unlist_freed(&mut self) {
        for at in 0.. {
            let Some(Source { heap, tracker }) = self.sources.get(at) else { return };
            self.loaded.0.all().fill([0]);
            heap.walk_loaded(&mut |magazine, count| {
                self.loaded.add(magazine.index() as usize);
                magazine.peek(count, &mut |address| self.unlist(address));
            });
            let loaded = core::mem::replace(&mut self.loaded, Bits(Table::NONE));
            heap.walk_unloaded(&|magazine| loaded.has(magazine), &mut |address| self.unlist(address));
            self.loaded = loaded;
            tracker.walk_kept(|address| self.unlist(address));
        }
    }

    fn unlist(&mut self, address: usize) {
        if let Some((_, number)) = self.find(address) {
            self.listed.remove(number);
        }
    }

    fn region(&self, at: usize) -> Option<Region> {
        self.regions.get(at).map(Region::from_words)
    }

    /// The allocation in which an address lies: its region and place in that, in one word, and its number.
    #[inline(never)]
    fn find(&mut self, address: usize) -> Option<(usize, usize)> {
        let has = |region: &Region| (region.start..region.end).contains(&address);
        let region = match self.region(self.last).filter(has) {
            Some(region) => region,
            None => {
                let at = self.regions.first_not(|[start, ..]| start <= address).wrapping_sub(1);
                let region = self.region(at).filter(has)?;
                self.last = at;
                region
            }
        };
        let place = region.place(address);
        Some((self.last << 32 | place, region.first + place))
    }

    /// Takes a word that stands at `at`.
    #[inline]
    fn take(&mut self, word: usize, at: usize, what: For) {
        match what {
            For::Reaching => self.reach(word),
            For::Holding(holder) => {
                if let Some((_, other)) = self.find(word).filter(|(_, other)| *other != holder) {
                    self.held.add(other);
                }
            }
            For::Finding => {
                if word == at && self.found.is_none() && is_twice_itself(at) {
                    self.found = Some(at);
                }
            }
        }
    }

    /// Takes a word for an address.
    #[inline(never)]
    pub(super) fn reach(&mut self, word: usize) {
        if let Some((place, number)) = self.find(word) {
            if self.listed.has(number) && self.seen.add(number) {
                self.overflowed |= !self.waiting.push([place]);
            }
        }
    }

    /// Takes each word of a root for an address, but for what is the heap's own.
    pub(super) fn root(&mut self, range: Range<usize>) {
        let mut from = range.start;
        // Hidden memory may overlap, so all that begins before is looked at.
        for at in 0.. {
            let [start, end, _] = self.hidden.get(at).unwrap_or([usize::MAX; 3]);
            if from < start.min(range.end) {
                self.look(from..start.min(range.end), For::Reaching);
            }
            from = from.max(end);
            if start >= range.end {
                return;
            }
        }
    }

    /// Takes the words in a range of addresses, as far as they are there.
    #[inline(never)]
    fn look(&mut self, range: Range<usize>, what: For) {
        let page = self.page;
        let (mut from, end) = (range.start.next_multiple_of(WORD), range.end);
        while from + WORD <= end {
            let mut until = end.min(from + BUFFER * WORD);
            // In what is long, pages that nobody has written have nothing.
            if end - range.start >= 16 * page {
                let first = from & !(page - 1);
                let written = self.pages.written(first, page);
                if written & 1 == 0 {
                    from = first + page * (written.trailing_zeros() as usize).min(64);
                    if written == 0 && from < end {
                        from = self.pages.next(from, end.next_multiple_of(page));
                    }
                    continue;
                }
                until = until.min(first + page * written.trailing_ones() as usize);
            }
            let words = (until - from) / WORD;
            let read = os::read_memory(from, self.buffer.all().as_flattened_mut().get_mut(..words).unwrap_or_default());
            for at in 0..read {
                if let Some([word]) = self.buffer.get(at) {
                    self.take(word, from + at * WORD, what);
                }
            }
            from += read * WORD;
            if read < words {
                // The rest of this OS page is not there.
                from = (from | (page - 1)) + 1;
            }
        }
    }

    /// The same for an allocation, of which a copy may do that was made not long ago: most lie beside others.
    #[inline(never)]
    fn look_into(&mut self, source: usize, range: Range<usize>, what: For) {
        let range = self.asked_for(source, range);
        if range.len() > COPIED {
            return self.look(range, what);
        }
        let page = self.page;
        let mut from = range.start;
        while from < range.end {
            let start = from & !(page - 1);
            let copy = start / page % COPIES;
            let words = copy * page / WORD;
            if self.copied.get(copy) != Some([start]) {
                let all = self.copies.all().as_flattened_mut().get_mut(words..words + page / WORD).unwrap_or_default();
                let read = os::read_memory(start, all);
                all.get_mut(read..).unwrap_or_default().fill(0);
                if let Some(copied) = self.copied.all().get_mut(copy) {
                    *copied = [start];
                }
            }
            let until = range.end.min(start + page);
            for at in (from..until).step_by(WORD) {
                if let Some([word]) = self.copies.get(words + (at - start) / WORD) {
                    self.take(word, at, what);
                }
            }
            from = until;
        }
    }

    /// The first word in a range that is the address of itself, as the next but one is.
    pub(super) fn find_itself(&mut self, range: Range<usize>) -> Option<usize> {
        self.found = None;
        self.look(range, For::Finding);
        self.found
    }

    /// Whether it can be said which pages have been written to.
    pub(super) fn knows_pages(&self) -> bool {
        self.pages.is_known()
    }

    /// The bytes of an allocation that were asked for, where records tell: what is behind them, and in front of a guarded one, is from
    /// before it.
    fn asked_for(&self, source: usize, range: Range<usize>) -> Range<usize> {
        let source = if source < SOURCES { self.sources.get(source) } else { None };
        let seen = source.and_then(|Source { heap, tracker }| tracker.find_beside(heap.place(range.start)));
        match seen.filter(|seen| seen.is_live && range.contains(&seen.address)) {
            Some(seen) => seen.address..range.end.min(seen.address.saturating_add(seen.size)),
            None => range,
        }
    }

    /// Looks at all that has been reached, and at what is reached from there.
    pub(super) fn follow(&mut self) {
        loop {
            while let Some([place]) = self.waiting.pop() {
                if let Some(region) = self.region(place >> 32) {
                    let range = region.range(place & u32::MAX as usize);
                    self.look_into(region.source, range, For::Reaching);
                }
            }
            if !core::mem::take(&mut self.overflowed) {
                return;
            }
            self.each(&mut |reach, listed| {
                if listed.seen {
                    reach.look_into(listed.source, listed.range, For::Reaching);
                }
            });
        }
    }

    /// Has each allocation that has not been reached hold what it has the addresses of.
    pub(super) fn hold(&mut self) {
        self.each(&mut |reach, Listed { number, source, range, seen }| {
            if !seen {
                reach.look_into(source, range, For::Holding(number));
            }
        });
    }

    /// Calls `each` with each listed allocation of the heap that is asked about.
    pub(super) fn each_own(&mut self, each: &mut dyn FnMut(&mut Self, Listed)) {
        self.each(&mut |reach, listed| {
            if listed.source == 0 {
                each(reach, listed);
            }
        });
    }

    /// Calls `each` with each listed allocation.
    #[inline(never)]
    pub(super) fn each(&mut self, each: &mut dyn FnMut(&mut Self, Listed)) {
        for at in 0..self.regions.len() {
            let Some(region) = self.region(at) else { return };
            let mut range = region.range(0);
            let mut number = region.first;
            while range.end <= region.end {
                if self.listed.has(number) {
                    let seen = self.seen.has(number);
                    each(self, Listed { number, source: region.source, range: range.clone(), seen });
                }
                number += 1;
                range = range.end..range.end + region.size();
            }
        }
    }

    /// Whether an allocation that has not been reached has the address of this one.
    pub(super) fn is_held(&self, number: usize) -> bool {
        self.held.has(number)
    }

    /// Takes an allocation for reached, without a look at what is in it.
    pub(super) fn excuse(&mut self, number: usize) {
        self.seen.add(number);
    }

    /// Gives the memory back, and lets go of the heaps.
    pub(super) fn release(mut self) {
        self.pages.close();
        self.sources.release();
        self.memory.release();
    }
}

/// Whether what is at an address says twice that it is there.
pub(super) fn is_twice_itself(at: usize) -> bool {
    let mut words = [0; 3];
    os::read_memory(at, &mut words) == words.len() && words[0] == at && words[2] == at
}
