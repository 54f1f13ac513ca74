//! What a heap knows of its allocations, for whoever asks: IDs, records, what is live since a mark, what is lost.

use super::Heap;
use crate::chunks::{self, Chunk};
use crate::global::ALL;
use crate::leaks::{self, Leaks, LeaksUnknown, Source};
use crate::map::HeapMap;
use crate::modes::Of;
use crate::os;
use crate::records::{self, GroupBy, LiveSince, Snapshot, SnapshotError, Tag};
use crate::report::Record;
use core::ptr::{self, NonNull};

impl Heap {
    /// The ID of the live allocation that begins at `ptr`: `None` if none does, or the heap gives no IDs. O(1), any thread.
    pub fn id_of(&self, ptr: *const u8) -> Option<u64> {
        self.inner().tracker.id_of(self.inner().core.place(ptr.addr()))
    }

    /// The address of the live allocation with this ID: `None` if it has been freed, or was never made. O(1), any thread.
    pub fn ptr_of(&self, id: u64) -> Option<NonNull<u8>> {
        NonNull::new(ptr::with_exposed_provenance_mut(self.inner().tracker.find_id(id)?.address))
    }

    /// What is known of the live allocation with this ID. O(1), any thread.
    pub fn record(&self, id: u64) -> Option<Record> {
        self.inner().tracker.record(id)
    }

    /// Who called for the live allocation with this ID: as [`callers`](crate::callers).
    pub fn callers(&self, id: u64, out: &mut [usize]) -> usize {
        let tracker = &self.inner().tracker;
        tracker.find_id(id).map_or(0, |seen| tracker.callers(&seen, Of::Birth, out))
    }

    /// Calls `visit` with the record of each live allocation: as [`walk`](crate::walk). A heap without IDs has none: see
    /// [`walk_chunks`](Self::walk_chunks).
    ///
    /// ```
    /// let heap = millpond::Heap::builder().ids(true).build()?;
    /// let block = heap.alloc(core::alloc::Layout::new::<u64>())?;
    /// let mut sizes = Vec::new();
    /// heap.walk(|record| sizes.push(record.size));
    /// assert_eq!(sizes, [8]);
    /// # let _ = block;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn walk(&self, mut visit: impl FnMut(Record)) {
        let tracker = &self.inner().tracker;
        tracker.walk(|seen| visit(tracker.public(seen)));
    }

    /// Calls `visit` with each allocation of the heap, in every mode, while other threads go on: see
    /// [`walk_chunks`](crate::walk_chunks). What a fallback has given out is none of the heap's.
    pub fn walk_chunks(&self, mut visit: impl FnMut(Chunk)) -> Option<usize> {
        let inner = self.inner();
        chunks::walk(&inner.core, &inner.tracker, inner.mode, &mut visit)
    }

    /// A map of the heap: what each of its pages is used for. See [`map`](crate::map()).
    ///
    /// ```
    /// let heap = millpond::Heap::builder().build()?;
    /// let block = heap.alloc(core::alloc::Layout::new::<[u8; 100]>())?;
    /// let mut live = 0;
    /// heap.map().visit(|region| {
    ///     if let millpond::Use::Span { live: chunks, .. } = region.used_for {
    ///         live += chunks;
    ///     }
    /// });
    /// assert_eq!(live, 1);
    /// # let _ = block;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn map(&self) -> HeapMap<'_> {
        HeapMap::of(&self.inner().core)
    }

    /// A mark between the heap's allocations so far and those to come, for [`live_since`](Self::live_since). O(1).
    pub fn snapshot(&self) -> Snapshot {
        self.inner().tracker.snapshot()
    }

    /// What is live now and was allocated after the mark; nothing without IDs. Linear in the most records that there ever were.
    ///
    /// # Errors
    /// [`SnapshotError`]: the mark is of another heap.
    ///
    /// ```
    /// let heap = millpond::Heap::builder().ids(true).build()?;
    /// let mark = heap.snapshot();
    /// let block = heap.alloc(core::alloc::Layout::new::<u64>())?;
    /// let live = heap.live_since(mark)?;
    /// assert_eq!((live.count(), live.bytes()), (1, 8));
    /// # let _ = block;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn live_since(&self, snapshot: Snapshot) -> Result<LiveSince, SnapshotError> {
        self.inner().tracker.live(snapshot, None, GroupBy::SizeAndTag)
    }

    /// What was allocated after one mark and before another and is live now, in groups; nothing, if `to` is the earlier one. Linear
    /// in the most records that there ever were.
    ///
    /// # Errors
    /// [`SnapshotError`]: a mark is of another heap.
    ///
    /// ```
    /// use millpond::{GroupBy, Heap, SnapshotError};
    ///
    /// let heap = Heap::builder().ids(true).build()?;
    /// let from = heap.snapshot();
    /// let block = heap.alloc(core::alloc::Layout::new::<u64>())?;
    /// assert_eq!(heap.diff(from, heap.snapshot(), GroupBy::Size)?.count(), 1);
    ///
    /// let other = Heap::builder().ids(true).build()?;
    /// assert_eq!(other.diff(from, other.snapshot(), GroupBy::Size).unwrap_err(), SnapshotError);
    /// # let _ = block;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn diff(&self, from: Snapshot, to: Snapshot, by: GroupBy) -> Result<LiveSince, SnapshotError> {
        self.inner().tracker.live(from, Some(to), by)
    }

    /// What the heap has given out and is live but no longer reachable: as [`leaks`](crate::leaks()).
    ///
    /// # Errors
    /// As [`leaks`](crate::leaks()).
    #[inline(never)]
    pub fn leaks(&self) -> Result<Leaks, LeaksUnknown> {
        leaks::find(self.source(), ALL, &os::registers(), 0)
    }

    fn source(&self) -> Source<'_> {
        Source { heap: &self.inner().core, tracker: &self.inner().tracker }
    }

    /// As [`leaks`](Self::leaks), of what was allocated after a mark; of all, where the heap gives no IDs.
    ///
    /// # Errors
    /// As [`leaks`](crate::leaks()); and [`LeaksUnknown::Snapshot`]: the mark is of another heap.
    #[inline(never)]
    pub fn leaks_since(&self, snapshot: Snapshot) -> Result<Leaks, LeaksUnknown> {
        let since = self.inner().tracker.before(snapshot)?;
        leaks::find(self.source(), ALL, &os::registers(), since)
    }

    /// Says what the calling thread's allocations are for: [`tag`](crate::tag) as a method. A tag is the thread's, so it holds for
    /// its allocations from other heaps too. O(1).
    ///
    /// ```
    /// let heap = millpond::Heap::builder().ids(true).build()?;
    /// let mark = heap.snapshot();
    /// let parsing = heap.tag("parser");
    /// let block = heap.alloc(core::alloc::Layout::new::<u64>())?;
    /// drop(parsing);
    /// assert_eq!(heap.live_since(mark)?.groups()[0].tag, "parser");
    /// # let _ = block;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn tag(&self, tag: &'static str) -> Tag {
        records::tag(tag)
    }
}
