//! What a program can ask of the records, of the global heap and of its own heaps: IDs, tags, what is live since a mark.

use crate::global::{self, ALL, HEAP, TRACKER};
use crate::heap::Called;
use crate::leaks::{self, JsonCalled, JsonText, Leaks, LeaksUnknown};
use crate::modes::{Of, Place, Seen, Tracker};
use crate::os;
use crate::report::Record;
use crate::tags;
use core::fmt;
use core::marker::PhantomData;
use core::ptr::{self, NonNull};

impl Tracker {
    /// A record as the program gets it.
    pub(crate) fn public(&self, seen: Seen) -> Record {
        let time_ms = seen.born_ms.saturating_sub(self.origin_ms());
        let Seen { id, address, size, align, thread, tag, .. } = seen;
        Record { id, address, size, align, thread, time_ms, tag }
    }

    pub(crate) fn id_of(&self, place: Place) -> Option<u64> {
        self.find(place).filter(|seen| seen.is_live).map(|seen| seen.id)
    }

    pub(crate) fn record(&self, id: u64) -> Option<Record> {
        self.find_id(id).map(|seen| self.public(seen))
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot { last: self.mark(), heap: self.heap() }
    }

    /// The last ID before a mark, which is to be of this heap.
    pub(crate) fn before(&self, snapshot: Snapshot) -> Result<u64, SnapshotError> {
        if snapshot.heap == self.heap() { Ok(snapshot.last) } else { Err(SnapshotError) }
    }

    /// What is live of what was allocated after one mark, and up to another.
    pub(crate) fn live(&self, from: Snapshot, to: Option<Snapshot>, by: GroupBy) -> Result<LiveSince, SnapshotError> {
        let from = self.before(from)?;
        let to = to.map_or(Ok(u64::MAX), |to| self.before(to))?;
        let mut live = LiveSince::default();
        let now = os::coarse_ms();
        self.walk(|seen| {
            if seen.id > from && seen.id <= to {
                let group = LiveGroup {
                    count: 1,
                    bytes: seen.size as u64,
                    first: seen.id,
                    time_ms: seen.born_ms.saturating_sub(self.origin_ms()),
                    age_ms: now.saturating_sub(seen.born_ms),
                    ..by.key(self, &seen, now.saturating_sub(seen.born_ms))
                };
                live.add(group);
            }
        });
        live.groups[..live.len].sort_unstable_by_key(|group| (core::cmp::Reverse(group.bytes), group.first));
        Ok(live)
    }
}

/// The ID of the live allocation that begins at `ptr`: `None` if none does, or no records are kept
/// ([`Mode::Fast`](crate::Mode::Fast)). O(1), any thread.
pub fn id_of(ptr: *const u8) -> Option<u64> {
    TRACKER.id_of(HEAP.place(ptr.addr()))
}

/// The address of the live allocation with this ID: `None` if it has been freed, or was never made, or no records are kept.
/// O(1), any thread.
pub fn ptr_of(id: u64) -> Option<NonNull<u8>> {
    NonNull::new(ptr::with_exposed_provenance_mut(TRACKER.find_id(id)?.address))
}

/// What is known of the live allocation with this ID: `None` as for [`ptr_of`]. O(1), any thread.
pub fn record(id: u64) -> Option<Record> {
    TRACKER.record(id)
}

/// Who called for the live allocation with this ID: stores the return addresses in `out`, innermost first, and returns how many.
/// Zero if it is not live, or no callers are kept; `MILLPOND_BACKTRACE` or
/// [`WithMode::backtrace`](crate::WithMode::backtrace) has them kept. O(`out`), any thread. [`Location`](crate::Location) prints
/// one in the form that `addr2line` understands.
///
/// They are found along the chain of frame pointers, which is as long as the program's code keeps it: compile with
/// `-C force-frame-pointers`, or `-fno-omit-frame-pointer` in C. The first is found in any case.
///
/// ```
/// let heap = millpond::Heap::builder().ids(true).backtrace(8).build()?;
/// let layout = core::alloc::Layout::new::<u64>();
/// let block = heap.alloc(layout)?;
/// let mut callers = [0; 8];
/// let count = heap.callers(heap.id_of(block.as_ptr()).expect("live"), &mut callers);
/// for caller in &callers[..count] {
///     println!("{}", millpond::Location(*caller));
/// }
/// assert!(count > 0);
/// # unsafe { heap.free(block, layout) };
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
pub fn callers(id: u64, out: &mut [usize]) -> usize {
    TRACKER.find_id(id).map_or(0, |seen| TRACKER.callers(&seen, Of::Birth, out))
}

/// Calls `visit` with the record of each live allocation; none without records. Other threads may go on: what lives throughout is
/// visited once, what comes or goes meanwhile may be. Linear in the most records that there ever were.
///
/// `visit` may allocate and free; what it allocates may be visited too.
pub fn walk(mut visit: impl FnMut(Record)) {
    TRACKER.walk(|seen| visit(TRACKER.public(seen)));
}

/// A mark between all allocations so far and those to come, for [`live_since`]. O(1), any thread.
pub fn snapshot() -> Snapshot {
    TRACKER.snapshot()
}

/// What is live now and was allocated after the mark; nothing without records. Linear in the most records that there ever were.
///
/// # Errors
/// [`SnapshotError`]: the mark is of a [`Heap`](crate::Heap), whose [`live_since`](crate::Heap::live_since) takes it.
///
/// ```
/// # #[global_allocator]
/// # static GLOBAL: millpond::WithMode = millpond::Millpond::with_mode(millpond::Mode::Tracked);
/// let mark = millpond::snapshot();
/// let kept = vec![1u8; 100];
/// let live = millpond::live_since(mark)?;
/// assert!(live.groups().iter().any(|group| group.size == 100));
///
/// let heap = millpond::Heap::new()?;
/// assert_eq!(millpond::live_since(heap.snapshot()).unwrap_err(), millpond::SnapshotError);
/// # drop(kept);
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
pub fn live_since(snapshot: Snapshot) -> Result<LiveSince, SnapshotError> {
    TRACKER.live(snapshot, None, GroupBy::SizeAndTag)
}

/// Live allocations that are no longer reachable: no data, stack or register of the program has an address in them, nor has any
/// allocation that is reachable, in this heap or another. What the runtime keeps, and what the program holds to its end, is not among them.
///
/// In all modes; where there are records ([`Mode::Tracked`](crate::Mode::Tracked)), with ID, tag, thread and time. The
/// environment variable `MILLPOND_LEAKS` asks for the same at the program's end. Reads all memory of the program that may hold
/// addresses, some 0.3 µs a chunk and search; allocates nothing. Other threads go on meanwhile; if anything is found, and there are
/// others, they stand still for each of two more searches, stopped as a debugger stops them: what they wait for goes on, but for
/// `epoll_wait`, `sigtimedwait`, `semop` and the like, which may end early (`EINTR`).
///
/// * Some leaks are missed: a number may look like an address, and an address that nobody needs any more may stand on a stack, or, without
///   records, in a live chunk behind the bytes that were asked for.
/// * All heaps are searched, whichever is asked: what only a freed or a lost allocation of another heap has the address of is lost. What
///   an allocator other than Millpond has given out counts as reachable, with what is free there.
/// * Addresses that are stored in another form (as an exclusive or, in a file, across two words), in memory that is shared with other
///   processes, or where nobody may read, are not recognised: what only they name counts as leaked.
/// * In the child of a `fork`, what only threads of the parent held is leaked.
/// * Where other threads cannot be stopped, since a debugger has them, a sandbox refuses `ptrace`, or one cannot be interrupted, it is searched
///   until four searches in a row, and 16 at most, tell no less. Then what a thread has in a register alone, and what threads replace
///   all the time, may count as leaked: see [`Leaks::is_certain`].
///
/// # Errors
/// [`LeaksUnknown`]: the system lets nobody look, or has no memory for the tables, some 20 bytes for each chunk, used or not.
///
/// ```
/// # #[global_allocator]
/// # static GLOBAL: millpond::Millpond = millpond::Millpond;
/// let leaks = millpond::leaks()?;
/// println!("{leaks}");
/// # Ok::<(), millpond::LeaksUnknown>(())
/// ```
#[inline(never)]
pub fn leaks() -> Result<Leaks, LeaksUnknown> {
    leaks::find(ALL.program, ALL, &os::registers(), 0)
}

/// As [`leaks()`], of what was allocated after a mark; of all, where there are no records.
///
/// # Errors
/// As [`leaks()`]; and [`LeaksUnknown::Snapshot`]: the mark is of a [`Heap`](crate::Heap).
#[inline(never)]
pub fn leaks_since(snapshot: Snapshot) -> Result<Leaks, LeaksUnknown> {
    let since = TRACKER.before(snapshot)?;
    leaks::find(ALL.program, ALL, &os::registers(), since)
}

/// A mark between a heap's allocations so far and those to come: see [`snapshot`].
///
/// It is of one heap, the program's or a [`Heap`](crate::Heap), and every other heap refuses it with [`SnapshotError`], also one
/// that was made when that heap was gone. Plain data, which keeps no heap alive. In the child of a `fork` it is of the same heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "it does nothing but mark a moment"]
pub struct Snapshot {
    last: u64,
    heap: u64,
}

/// A [`Snapshot`] is of another heap than the one that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "there is no more to say")]
pub struct SnapshotError;

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the snapshot is of another heap")
    }
}

impl core::error::Error for SnapshotError {}

impl From<SnapshotError> for LeaksUnknown {
    fn from(_: SnapshotError) -> Self {
        Self::Snapshot
    }
}

impl Snapshot {
    /// What the program's allocator gave out after this mark and before a `later` one and is live now, in groups; nothing, if the
    /// other is the earlier one. For marks of a [`Heap`](crate::Heap) use [`Heap::diff`](crate::Heap::diff). Linear in the most
    /// records that there ever were.
    ///
    /// # Errors
    /// [`SnapshotError`]: a mark is of a [`Heap`](crate::Heap).
    ///
    /// ```no_run
    /// use millpond::GroupBy;
    ///
    /// let before = millpond::snapshot();
    /// // … one request …
    /// let after = millpond::snapshot();
    /// // … many others, in which what the first has left behind should have gone …
    /// println!("{}", before.diff(after, GroupBy::Age)?);
    /// # Ok::<(), millpond::SnapshotError>(())
    /// ```
    pub fn diff(self, later: Self, by: GroupBy) -> Result<LiveSince, SnapshotError> {
        TRACKER.live(self, Some(later), by)
    }
}

/// By what live allocations are grouped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupBy {
    /// The bytes asked for, and the tag.
    #[default]
    SizeAndTag,
    /// The bytes asked for.
    Size,
    /// The tag.
    Tag,
    /// The age: below 100 ms, 1 s, 10 s, 100 s and so on.
    Age,
    /// The innermost eight callers, as far as records keep them (`MILLPOND_BACKTRACE`,
    /// [`HeapBuilder::backtrace`](crate::HeapBuilder::backtrace)).
    Site,
}

impl GroupBy {
    /// A group of one, with what it is known by and nothing else: whatever else records come to know is told apart here.
    fn key(self, tracker: &Tracker, seen: &Seen, age_ms: u64) -> LiveGroup {
        let none = LiveGroup::default();
        match self {
            Self::SizeAndTag => LiveGroup { size: seen.size, tag: seen.tag, ..none },
            Self::Size => LiveGroup { size: seen.size, ..none },
            Self::Tag => LiveGroup { tag: seen.tag, ..none },
            Self::Age => LiveGroup {
                younger_ms: (2..19).map(|log| 10u64.pow(log)).find(|most| age_ms < *most).unwrap_or(u64::MAX),
                ..none
            },
            Self::Site => {
                let mut site = Site { callers: [0; SITE], len: 0 };
                site.len = tracker.callers(seen, Of::Birth, &mut site.callers) as u8;
                LiveGroup { site, ..none }
            }
        }
    }
}

/// Callers by which sites are told apart.
const SITE: usize = 8;

/// Where allocations were asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Site {
    callers: [usize; SITE],
    len: u8,
}

/// Live allocations that have something in common: see [`GroupBy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LiveGroup {
    /// The bytes that each asked for; zero where groups are not by size.
    pub size: usize,
    /// Their tag; empty if they have none, or groups are not by tag.
    pub tag: &'static str,
    /// The upper bound of their ages, in milliseconds; zero where groups are not by age.
    pub younger_ms: u64,
    /// Who called for them.
    site: Site,
    /// How many there are.
    pub count: u64,
    /// The sum of their bytes.
    pub bytes: u64,
    /// The least of their IDs.
    pub first: u64,
    /// Milliseconds from the heap's first allocation to the one with the ID `first`.
    pub time_ms: u64,
    /// Milliseconds from that one to now.
    pub age_ms: u64,
}

impl LiveGroup {
    /// The return addresses of their callers, innermost first: empty where groups are not by site, or records keep no callers.
    /// [`Location`](crate::Location) prints one in the form that `addr2line` understands.
    pub fn callers(&self) -> &[usize] {
        &self.site.callers[..self.site.len as usize]
    }
}

const GROUPS: usize = 64;

/// What is live since a mark, in groups, most bytes first; plain data. As text by `Display`, as JSON by
/// [`json`](Self::json).
#[derive(Clone, Copy, Debug)]
#[must_use = "it does nothing but tell"]
pub struct LiveSince {
    groups: [LiveGroup; GROUPS],
    len: usize,
    count: u64,
    bytes: u64,
}

impl Default for LiveSince {
    fn default() -> Self {
        Self { groups: [LiveGroup::default(); GROUPS], len: 0, count: 0, bytes: 0 }
    }
}

impl LiveSince {
    /// Counts an allocation, a group of one.
    fn add(&mut self, one: LiveGroup) {
        self.count += 1;
        self.bytes += one.bytes;
        let key = |group: &LiveGroup| (group.size, group.tag, group.younger_ms, group.site);
        if let Some(group) = self.groups[..self.len].iter_mut().find(|group| key(group) == key(&one)) {
            let (count, bytes) = (group.count + 1, group.bytes + one.bytes);
            if one.first < group.first {
                *group = one;
            }
            (group.count, group.bytes) = (count, bytes);
        } else if let Some(free) = self.groups.get_mut(self.len) {
            *free = one;
            self.len += 1;
        }
        // Else in the sums only.
    }

    /// How many allocations.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The sum of the bytes that they asked for.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The groups, most bytes first. There are 64 at most, the first that were met; what is in none of them is still in the sums.
    pub fn groups(&self) -> &[LiveGroup] {
        &self.groups[..self.len]
    }

    /// How many allocations are in no group, since there were too many groups.
    pub fn others(&self) -> u64 {
        self.count - self.groups().iter().map(|group| group.count).sum::<u64>()
    }

    /// The same as JSON: an object with `count`, `bytes`, `others` and `groups`, whose fields are those of [`LiveGroup`]. A group by
    /// [`GroupBy::Site`] also has `callers`, addresses inside the calls as numbers, and `locations`, these as `file+0xoffset`.
    ///
    /// ```
    /// let heap = millpond::Heap::builder().ids(true).build()?;
    /// let mark = heap.snapshot();
    /// let block = heap.alloc(core::alloc::Layout::new::<u64>())?;
    /// let json = heap.live_since(mark)?.json().to_string();
    /// assert!(json.starts_with(r#"{"count":1,"bytes":8,"others":0,"groups":[{"size":8,"#));
    /// # let _ = block;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn json(&self) -> impl fmt::Display + '_ {
        Json(self)
    }
}

impl fmt::Display for LiveSince {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} allocations, {} bytes", self.count, self.bytes)?;
        for group in self.groups() {
            write!(f, "\n{:>10} bytes in {:>6}", group.bytes, group.count)?;
            if group.size > 0 {
                write!(f, " of {:>8}", group.size)?;
            }
            write!(f, ", from id {}", group.first)?;
            match group.younger_ms {
                0 => {}
                most => write!(f, ", younger than {}.{} s", most / 1000, most % 1000 / 100)?,
            }
            if !group.tag.is_empty() {
                write!(f, ", for {}", tags::Shown(group.tag))?;
            }
            Called::allocated(group.callers()).fmt(f)?;
        }
        match self.others() {
            0 => Ok(()),
            others => write!(f, "\nand {others} in other groups"),
        }
    }
}

struct Json<'a>(&'a LiveSince);

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LiveSince { count, bytes, .. } = self.0;
        write!(f, "{{\"count\":{count},\"bytes\":{bytes},\"others\":{},\"groups\":[", self.0.others())?;
        for (at, group) in self.0.groups().iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let LiveGroup { size, younger_ms, count, bytes, first, time_ms, age_ms, .. } = group;
            write!(f, "{comma}{{\"size\":{size},\"count\":{count},\"bytes\":{bytes},\"first\":{first}")?;
            write!(f, ",\"younger_ms\":{younger_ms},\"time_ms\":{time_ms},\"age_ms\":{age_ms}")?;
            write!(f, ",\"tag\":{}{}}}", JsonText(group.tag), JsonCalled(group.callers()))?;
        }
        write!(f, "]}}")
    }
}

/// A tag in force: marks the calling thread's allocations, in every heap that keeps records, until it is dropped. Then the latest
/// of the others that are in force counts again. See [`tag`].
#[derive(Debug)]
#[must_use = "the tag ends when this is dropped"]
pub struct Tag {
    begun: (u64, &'static str),
    /// Of one thread.
    thread: PhantomData<*const ()>,
}

/// Says what the calling thread's allocations are for, until the returned [`Tag`] is dropped. Tags nest: the latest of those in
/// force counts. They may be dropped in any order, up to 32 of a thread at a time; beyond those, in reverse order. O(1) for the
/// latest, else linear in those after it. Of a longer tag than 65 535 bytes that much is kept. In text, control characters in it
/// are shown as escapes.
///
/// ```
/// let heap = millpond::Heap::builder().ids(true).build()?;
/// let layout = core::alloc::Layout::new::<u64>();
/// let block = {
///     let _parsing = millpond::tag("parser");
///     heap.alloc(layout)?
/// };
/// let id = heap.id_of(block.as_ptr()).expect("live");
/// assert_eq!(heap.record(id).map(|record| record.tag), Some("parser"));
/// // SAFETY: allocated above.
/// unsafe { heap.free(block, layout) };
/// assert_eq!(heap.record(id), None);
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
pub fn tag(tag: &'static str) -> Tag {
    let begun = global::cache().map_or((0, ""), |own| tags::begin(&global::TAGS, own, tag));
    Tag { begun, thread: PhantomData }
}

impl Drop for Tag {
    fn drop(&mut self) {
        if let Some(own) = global::cache() {
            tags::end(&global::TAGS, own, self.begun);
        }
    }
}
