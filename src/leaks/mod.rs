//! Leaks: what is live but no longer reachable.
//!
//! Asked for at the program's end (`MILLPOND_LEAKS`) or by a call. An allocation is *lost* if no root (data, stacks,
//! registers) has an address in it, nor has an allocation, of whichever heap, that is not lost. So what the runtime keeps for itself is not lost,
//! nor is what a program holds to its end. Where there are records, they say which allocations these are.
//!
//! Other threads go on meanwhile, and may move an address to where the search has been already, or free one allocation and
//! make another of its chunk. So with other threads an allocation is lost if two more searches find it so as well, during which
//! they stand still: two, since what one of them had of the heap's own in hand, as chunks on their way to a magazine, looks like
//! what is lost. Where they cannot be stopped, it is searched again and again, and an allocation is lost if each search has
//! found it so: until three in a row tell no less, each after those that run have gone on. What was allocated after the first
//! began is none of it, where records tell. (The search is the mark phase of a conservative collector: Boehm and Weiser, 1988.)
//!
//! | file | what |
//! |---|---|
//! | `table` | memory for a search |
//! | `sources` | which heaps are looked through |
//! | `reach` | what is given out, and what is reached of it |
//! | `roots` | where to begin |
//! | `still` | a moment at which other threads stand still |
//! | `exit` | what is wished at the program's end |
//!
//! It takes no memory before it is asked for, and none afterwards.

mod exit;
mod reach;
mod roots;
mod sources;
mod still;
mod table;

pub(crate) use exit::{at_exit, wish};

use crate::heap::Called;
use crate::modes::Of;
use crate::os::{self, Registers};
use crate::tags::Shown;
use core::fmt::{self, Write as _};
use core::ops::Range;
use reach::{Listed, Reach};
pub(crate) use sources::{All, Source};
use still::Still;
pub(crate) use table::{Memory, Table};

/// Why leaks could not be searched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaksUnknown {
    /// The system does not say what is mapped, or which threads there are, or lets no memory be read (`process_vm_readv`), perhaps
    /// because of a sandbox, or for want of a descriptor.
    System,
    /// The system has no memory for the search, or the calling thread has less than 48 KiB of stack left.
    Memory,
    /// The [`Snapshot`](crate::Snapshot) is of another heap.
    Snapshot,
}

impl fmt::Display for LeaksUnknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "the system does not let this process's memory be looked at",
            Self::Memory => "there is no memory for the search, or too little stack",
            Self::Snapshot => "the snapshot is of another heap",
        })
    }
}

impl core::error::Error for LeaksUnknown {}

/// Lost allocations of the same size and tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeakGroup {
    /// Bytes of each: those asked for, where there are records; else those of its chunk or whole pages.
    pub size: usize,
    /// Their tag; empty if they have none, or there are no records.
    pub tag: &'static str,
    /// How many there are.
    pub count: u64,
    /// How many of them no other lost allocation points to: those to look for first.
    pub direct: u64,
    /// The sum of their bytes.
    pub bytes: u64,
    /// The ID of the first; zero where there are no records.
    pub id: u64,
    /// The system's number of the thread that allocated the first; zero where there are no records.
    pub thread: u32,
    /// Milliseconds from the heap's first allocation to the first of these; zero where there are no records.
    pub time_ms: u64,
    /// Milliseconds from that one to now; zero where there are no records.
    pub age_ms: u64,
    /// The address of the first, each bit the other way round: a report does not make what it reports reachable.
    inverted: usize,
    /// Who called for the first, up to a zero.
    callers: [usize; SITE],
}

/// Callers that a report keeps of each group.
const SITE: usize = 6;

impl LeakGroup {
    const NONE: Self = Self {
        size: 0,
        tag: "",
        count: 0,
        direct: 0,
        bytes: 0,
        id: 0,
        thread: 0,
        time_ms: 0,
        age_ms: 0,
        inverted: 0,
        callers: [0; SITE],
    };

    /// The address of the first: the one with the least ID, or the least address where there are no records.
    pub fn address(&self) -> usize {
        !self.inverted
    }

    /// The return addresses of those who called for the first, innermost first, six at most: none where records keep no callers
    /// (`MILLPOND_BACKTRACE`). [`Location`](crate::Location) prints one.
    pub fn callers(&self) -> &[usize] {
        self.callers.split(|caller| *caller == 0).next().unwrap_or_default()
    }
}

const GROUPS: usize = 64;
/// Searches, at most, and how many in a row have to tell the same, where others go on meanwhile.
const SEARCHES: usize = 16;
const SAME: u32 = 3;
/// How many do where the others stand still, whether or not they tell the same; and how often that is tried in vain.
const STOOD: u32 = 2;
const REFUSED: u32 = 2;
/// Bytes of stack that a search and its report may need.
const STACK: usize = 48 << 10;

/// What has leaked, by size and tag, most bytes first; plain data. As text by `Display`, as JSON by [`json`](Self::json).
/// See [`leaks`](crate::leaks()).
#[derive(Clone, Copy, Debug)]
#[must_use = "it does nothing but tell"]
pub struct Leaks {
    groups: [LeakGroup; GROUPS],
    len: usize,
    count: u64,
    bytes: u64,
    live: (u64, u64),
    process: u32,
    certain: bool,
}

impl Leaks {
    /// Made, not copied: a constant of this size would be in every program.
    fn new() -> Self {
        let groups = core::array::from_fn(|_| LeakGroup::NONE);
        Self { groups, len: 0, count: 0, bytes: 0, live: (0, 0), process: os::process_id(), certain: true }
    }

    /// The system's number of the process that has lost them (`getpid`).
    pub fn process(&self) -> u32 {
        self.process
    }

    /// How many allocations are lost.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether other threads stood still for the search that found these, or there were none. If not, since a debugger has the threads,
    /// a sandbox refuses, or one cannot be interrupted, they may have some of these in registers, or have moved them meanwhile.
    pub fn is_certain(&self) -> bool {
        self.certain || self.count == 0
    }

    /// How many allocations can be reached, and the bytes of their chunks.
    pub fn reachable(&self) -> (u64, u64) {
        self.live
    }

    /// The groups, most bytes first: the first 64 that were met.
    pub fn groups(&self) -> &[LeakGroup] {
        &self.groups[..self.len]
    }

    /// Allocations that are in no group, since there were too many groups.
    pub fn others(&self) -> u64 {
        self.count - self.groups().iter().map(|group| group.count).sum::<u64>()
    }

    /// The same as JSON: an object with `process`, `count`, `bytes`, `others`, `certain`, `reachable` and `groups`, whose fields
    /// are those of [`LeakGroup`]; where callers are kept also `callers`, addresses inside the calls as numbers, and `locations`, these as
    /// `file+0xoffset`.
    pub fn json(&self) -> impl fmt::Display + '_ {
        Json(self)
    }

    /// Counts a lost allocation, `one` as a group of its own.
    fn add(&mut self, one: LeakGroup) {
        self.count += one.count;
        self.bytes += one.bytes;
        let same = |group: &&mut LeakGroup| group.size == one.size && group.tag == one.tag;
        if let Some(group) = self.groups.iter_mut().take(self.len).find(same) {
            let (count, direct, bytes) = (group.count + one.count, group.direct + one.direct, group.bytes + one.bytes);
            if one.id < group.id {
                *group = one;
            }
            (group.count, group.direct, group.bytes) = (count, direct, bytes);
        } else if let Some(free) = self.groups.get_mut(self.len) {
            *free = one;
            self.len += 1;
        }
    }

    /// Most bytes first, by insertion: they are few.
    fn sort(&mut self) {
        let mut sorted = 0;
        while let Some(groups) = self.groups.get_mut(..=sorted).filter(|_| sorted < self.len) {
            let after = groups.iter().take_while(|group| group.bytes >= groups[sorted].bytes).count().min(sorted);
            groups[after..].rotate_right(1);
            sorted += 1;
        }
    }
}

impl fmt::Display for Leaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (process, lost, bytes, (count, held)) = (self.process, self.count, self.bytes, self.live);
        let no = if lost == 0 { "no " } else { "" };
        write!(
            f,
            "{no}leaks of process {process}: {lost} allocations, {bytes} bytes; {count}, {held} bytes, can be reached"
        )?;
        if !self.is_certain() {
            f.write_str("; other threads could not be stopped, and may have some of these")?;
        }
        for group in self.groups() {
            let LeakGroup { size, tag, count, direct, bytes, id, thread, .. } = group;
            write!(f, "\n{bytes:>10} bytes in {count:>6} of {size:>8}, first at {:#x}", group.address())?;
            if direct != count {
                write!(f, ", {} of them held by others", count - direct)?;
            }
            if *id != 0 {
                write!(f, ", id {id}, by thread {thread}")?;
                for (ms, text) in [(group.time_ms, " at "), (group.age_ms, " s, ")] {
                    write!(f, "{text}{}.{:03}", ms / 1000, ms % 1000)?;
                }
                f.write_str(" s ago")?;
            }
            if !tag.is_empty() {
                write!(f, ", for {}", Shown(tag))?;
            }
            Called::allocated(group.callers()).fmt(f)?;
        }
        match self.others() {
            0 => Ok(()),
            others => write!(f, "\nand {others} of other sizes"),
        }
    }
}

struct Json<'a>(&'a Leaks);

/// An object begun with these members.
#[inline(never)]
fn members(f: &mut fmt::Formatter<'_>, members: &[(&str, u64)]) -> fmt::Result {
    for (at, (name, value)) in members.iter().enumerate() {
        write!(f, "{}\"{name}\":{value}", if at == 0 { "{" } else { "," })?;
    }
    Ok(())
}

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(leaks) = self;
        let all = [
            ("process", leaks.process.into()),
            ("count", leaks.count),
            ("bytes", leaks.bytes),
            ("others", leaks.others()),
        ];
        members(f, &all)?;
        write!(f, ",\"certain\":{},\"reachable\":", leaks.is_certain())?;
        members(f, &[("count", leaks.live.0), ("bytes", leaks.live.1)])?;
        f.write_str("},\"groups\":")?;
        for (at, group) in leaks.groups().iter().enumerate() {
            f.write_str(if at == 0 { "[" } else { "," })?;
            let all = [
                ("size", group.size as u64),
                ("count", group.count),
                ("direct", group.direct),
                ("bytes", group.bytes),
                ("address", group.address() as u64),
                ("id", group.id),
                ("thread", group.thread.into()),
                ("time_ms", group.time_ms),
                ("age_ms", group.age_ms),
            ];
            members(f, &all)?;
            write!(f, ",\"tag\":{}{}}}", JsonText(group.tag), JsonCalled(group.callers()))?;
        }
        f.write_str(if leaks.len == 0 { "[]}" } else { "]}" })
    }
}

/// [`Called`] as further members of an object of JSON.
pub(crate) struct JsonCalled<'a>(pub(crate) &'a [usize]);

impl fmt::Display for JsonCalled<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, caller) in self.0.iter().enumerate() {
            let before = if at == 0 { ",\"callers\":[" } else { "," };
            write!(f, "{before}{}", caller.saturating_sub(1))?;
        }
        for (at, caller) in self.0.iter().enumerate() {
            let before = if at == 0 { "],\"locations\":[" } else { "," };
            write!(f, "{before}{}", JsonText(os::Location(caller.saturating_sub(1))))?;
        }
        f.write_str(if self.0.is_empty() { "" } else { "]" })
    }
}

/// What is displayed, as a text of JSON, with its quotes.
pub(crate) struct JsonText<T>(pub(crate) T);

impl<T: fmt::Display> fmt::Display for JsonText<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        write!(Escape(f), "{}", self.0)?;
        f.write_str("\"")
    }
}

/// Writes what stands between the quotes.
struct Escape<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for Escape<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for letter in text.chars() {
            match letter {
                '"' | '\\' => write!(self.0, "\\{letter}")?,
                letter if (letter as u32) < 32 => write!(self.0, "\\u{:04x}", letter as u32)?,
                letter => self.0.write_char(letter)?,
            }
        }
        Ok(())
    }
}

/// What a heap has lost, as the calling thread sees it, whose caller's registers these are; where there are records, of what
/// was allocated after the one with the ID `since`.
#[cold]
#[inline(never)]
pub(crate) fn find(source: Source<'_>, all: All<'_>, own: &Registers, since: u64) -> Result<Leaks, LeaksUnknown> {
    if has_room(own) { find_with_room(source, all, own, since) } else { Err(LeaksUnknown::Memory) }
}

/// Whether there is enough stack left, of which as little as can be is used until that is known.
#[inline(never)]
fn has_room(own: &Registers) -> bool {
    let mut room = STACK;
    os::mappings(&mut |mapping| {
        // The first thread's grows; of others what is mapped is all, whatever its name.
        if mapping.contains(own.stack) && mapping.name != b"[stack]" {
            room = own.stack - mapping.start;
        }
        mapping.start <= own.stack
    });
    room >= STACK
}

#[inline(never)]
fn find_with_room(source: Source<'_>, all: All<'_>, own: &Registers, since: u64) -> Result<Leaks, LeaksUnknown> {
    let until = source.tracker.mark();
    let (mut reach, others) = search(source, all, own, 0..0, None)?;
    let mut certain = !others;
    if others {
        let Some((memory, mut table)) = suspects(&mut reach) else {
            // What a first search tells may be in another thread's hand: better nothing than that.
            reach.release();
            return Err(LeaksUnknown::Memory);
        };
        let (mut same, mut stood, mut refused) = (0, 0, 0);
        for _ in 1..SEARCHES {
            certain = stood >= STOOD;
            if table.len() == 0 || same >= SAME || certain {
                break;
            }
            reach.release();
            // What a thread has in hand all the while, of the heap's as well, is seen by no search: those count between which each has
            // gone on.
            let counts = os::let_run();
            let still = if refused < REFUSED { Still::begin() } else { None };
            refused += u32::from(still.is_none());
            let again = search(source, all, own, memory.addresses(), still.as_ref());
            stood += u32::from(still.is_some_and(Still::go_on) && counts);
            match again {
                Ok(again) => (reach, _) = again,
                Err(error) => {
                    memory.release();
                    return Err(error);
                }
            }
            same = if narrow(&mut reach, &mut table) { 0 } else { same + u32::from(counts) };
        }
        memory.release();
    }
    // What was freed meanwhile is none either.
    reach.unlist_freed();
    reach.hold();
    let mut leaks = Leaks { certain, ..Leaks::new() };
    let now = os::coarse_ms();
    reach.each_own(&mut |reach, Listed { number, range, seen, .. }| {
        if seen {
            leaks.live = (leaks.live.0 + 1, leaks.live.1 + range.len() as u64);
        } else if let Some(one) = describe(source, range, (since, until), now) {
            let direct = u64::from(!reach.is_held(number));
            leaks.add(LeakGroup { count: 1, direct, bytes: one.size as u64, ..one });
        }
    });
    reach.release();
    leaks.sort();
    Ok(leaks)
}

/// Searches once; `hidden` is no root.
fn search<'a>(
    source: Source<'a>,
    all: All<'a>,
    own: &Registers,
    hidden: Range<usize>,
    still: Option<&Still>,
) -> Result<(Reach<'a>, bool), LeaksUnknown> {
    let mut reach = Reach::new(source, all, hidden).ok_or(LeaksUnknown::Memory)?;
    let mut here = [0];
    let is_told = os::read_memory((&raw const *own).addr(), &mut here) == 1;
    let visited = if is_told { roots::visit(&mut reach, own, still) } else { Err(LeaksUnknown::System) };
    let others = match visited {
        Ok(others) => others,
        Err(reason) => {
            reach.release();
            return Err(reason);
        }
    };
    reach.follow();
    reach.unlist_freed();
    Ok((reach, others))
}

/// The addresses of what a first search has not reached, in order, in memory of their own. `None`: the system has none.
fn suspects(reach: &mut Reach<'_>) -> Option<(Memory, Table<1>)> {
    let mut count = 0;
    reach.each_own(&mut |_, listed| count += usize::from(!listed.seen));
    let mut memory = Memory::new(count)?;
    let mut table = memory.cut(count);
    reach.each_own(&mut |_, listed| {
        if !listed.seen {
            table.push([listed.range.start]);
        }
    });
    Some((memory, table))
}

/// Leaves of what was suspected what a further search has not reached either, and takes all else for reached. Whether it is less.
fn narrow(reach: &mut Reach<'_>, suspects: &mut Table<1>) -> bool {
    let mut kept = 0;
    reach.each_own(&mut |reach, Listed { number, range, seen, .. }| {
        // What is kept lies before what is still to come, and is less than that: the table stays in order for each that is asked for.
        let at = suspects.first_not(|[address]| address < range.start);
        let was = suspects.get(at) == Some([range.start]);
        match suspects.all().get_mut(kept).filter(|_| was && !seen) {
            Some(place) => {
                *place = [range.start];
                kept += 1;
            }
            None => reach.excuse(number),
        }
    });
    let less = kept < suspects.len();
    suspects.truncate(kept);
    less
}

/// What is known of a lost allocation. `None`: it is none, or, by its ID, from before or after those that are asked for.
fn describe(
    Source { heap, tracker }: Source<'_>,
    range: Range<usize>,
    (since, until): (u64, u64),
    now: u64,
) -> Option<LeakGroup> {
    let plain = LeakGroup { size: range.len(), inverted: !range.start, ..LeakGroup::NONE };
    // A guarded one begins somewhere in its range.
    match tracker.find_beside(heap.place(range.start)).filter(|seen| range.contains(&seen.address)) {
        Some(seen) if !seen.is_live || seen.id <= since || seen.id > until => None,
        Some(seen) => {
            let mut callers = [0; SITE];
            tracker.callers(&seen, Of::Birth, &mut callers);
            Some(LeakGroup {
                callers,
                size: seen.size,
                tag: seen.tag,
                id: seen.id,
                thread: seen.thread,
                time_ms: seen.born_ms.saturating_sub(tracker.origin_ms()),
                age_ms: now.saturating_sub(seen.born_ms),
                ..plain
            })
        }
        None if since > 0 => None,
        None => heap.usable_size(range.start).is_some().then_some(plain),
    }
}
