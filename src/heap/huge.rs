//! Huge allocations: from `HUGE_MIN` in size or alignment, a mapping of its own each, which grows by `mremap`.
//!
//! Where programs free one and ask for one by turns, what is freed is *kept* for a while, whole, for the next that is about as long:
//! to have the system take 64 MiB back and give them again costs more than to write to them. The first that is freed goes at once;
//! if another is asked for then, the next one is kept, and so on until one goes that nobody has asked for. Kept mappings lie on a
//! [`Shelf`] of their own. They are free pages that hold memory, and go as such: where there are too many of these, at a trim, once
//! they have rested, and as soon as the heap's arenas grow by an eighth of them. None is kept where addresses are short, where a heap
//! has a limit, and where there are records: there a use after the free is to fault, and nobody may find what was written before.
//!
//! | state of a mapping | its node | owner |
//! |---|---|---|
//! | in use | `bytes > 0`, and the page map names it for the first page | the program |
//! | kept | `bytes = 0`, and the page map names nothing there | nobody: who takes it from the shelf has it |
//! | taken | the same | the taker, who uses it or gives it to the system |
//!
//! Invariant: at rest, `huge` is the sum of the bytes in use and kept.

use super::Heap;
use super::large::entry;
use super::shelf::{Shelf, Shelved};
use crate::arena::{Budget, Fill};
use crate::config::{GROWTH_PART, KEPT_HUGE, KEPT_PART, PAGE, PAGE_SHIFT};
use crate::log::{Bytes, tell};
use crate::os;
use crate::report::Thp;
use crate::span::{HUGE, Large};
use crate::sync::{AtomicU32, AtomicUsize, Fault, Ordering, planted};
use crate::tagged::Index;
use core::ops::Range;
use core::ptr::{NonNull, null_mut, with_exposed_provenance_mut};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) shelf: Shelf<KEPT_HUGE, { u16::MAX as usize }>,
    /// [`STILL`], [`FREED`], [`ASKED`] or [`NEVER`].
    habit: AtomicU32,
    /// How much may be committed in arenas until all goes; zero: nothing has been kept since.
    until: AtomicUsize,
}

/// Nothing has been freed since something went that nobody had asked for.
const STILL: u32 = 0;
/// One has been freed, and went.
const FREED: u32 = 1;
/// And then one was asked for: the next is kept.
const ASKED: u32 = 2;
/// None is to be kept.
const NEVER: u32 = 3;

impl Kept {
    const_fn! {
        pub(super) const fn new() -> Self {
            Self { shelf: Shelf::new(), habit: AtomicU32::new(STILL), until: AtomicUsize::new(0) }
        }
    }

    /// Goes from one habit to another, if it is that. Relaxed, as all of it: who is overtaken has one mapped anew, or kept a while.
    fn turn(&self, from: u32, to: u32) {
        if self.habit.load(Ordering::Relaxed) == from {
            self.habit.store(to, Ordering::Relaxed);
        }
    }
}

/// How a huge allocation may move that has no room where it is.
#[derive(Clone, Copy)]
pub(super) struct Moving<'a> {
    pub(super) align: usize,
    /// Called before one that grows does, with its pages charged: afterwards there is no way back, and this may panic.
    pub(super) before: &'a dyn Fn(),
}

/// Pages that are charged for what is not done yet, and not charged if that panics.
struct Charged<'a>(&'a Budget, usize);

impl Drop for Charged<'_> {
    fn drop(&mut self) {
        self.0.discharge(self.1);
    }
}

impl Heap {
    /// A huge allocation of these bytes, whole pages, for the thread with this cache, or with none (`NONE`). `None`: more than there is.
    pub(super) fn map_huge(&self, thread: Index, bytes: usize, align: usize, fill: Fill) -> Option<NonNull<u8>> {
        let budget = self.spans.arenas.budget();
        if !budget.charge(bytes / PAGE) {
            return None;
        }
        let mapped = self.use_kept(thread, bytes, align, fill).or_else(|| self.map_charged(bytes, align, fill));
        match mapped {
            Some(_) => self.spans.arenas.keep_within(),
            None => budget.take_back(bytes / PAGE),
        }
        mapped
    }

    fn map_charged(&self, bytes: usize, align: usize, fill: Fill) -> Option<NonNull<u8>> {
        // Where the addresses of what is freed are kept back, what grows may only do so into such as were left free behind it.
        let behind = if self.spans.arenas.is_sealed() { bytes / GROWTH_PART / PAGE * PAGE } else { 0 };
        let start = os::reserve_for_use(bytes, align.max(PAGE), behind)?;
        let page = start >> PAGE_SHIFT;
        let node = self.spans.page_map.prepare(page, 1).and_then(|()| self.larges.take());
        let Some(node) = node else {
            os::release(start, bytes);
            return None;
        };
        tell!(self.voice(), Os, "{} mapped at {start:#x}, for one allocation alone", Bytes(bytes));
        self.kept.turn(FREED, ASKED);
        self.advise(start, bytes);
        // Of zeroed memory much may never be touched.
        if fill == Fill::Any {
            self.spans.arenas.grow_beside(start, bytes);
        }
        if planted(Fault::HugeStore) {
            self.huge.store(self.huge.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
        } else {
            self.huge.fetch_add(bytes, Ordering::Relaxed);
        }
        node.head.describe(page, HUGE);
        self.spans.page_map.publish(page, 1, entry(node));
        node.set_bytes(bytes);
        NonNull::new(with_exposed_provenance_mut(start))
    }

    /// Makes a kept mapping that is about as long an allocation again. What the thread would keep has to make way for another: the
    /// two would be there at once.
    fn use_kept(&self, thread: Index, bytes: usize, align: usize, fill: Fill) -> Option<NonNull<u8>> {
        let pages = bytes / PAGE;
        let fits = |run: Shelved| fill == Fill::Any && run.pages >= pages.div_ceil(2) && run.pages / 2 <= pages;
        let Some(run) = self.kept.shelf.take_any(fits) else {
            if let Some(other) = self.kept.shelf.take_own(thread) {
                self.unmap_kept(other);
            }
            return None;
        };
        let node = self.larges.get(run.node);
        let (at, old) = (node.head.start(), run.pages * PAGE);
        if at % align != 0 || old != bytes && !os::resize(at, old, bytes) {
            self.unmap_kept(run);
            return None;
        }
        tell!(self.voice(), Os, "{} kept at {at:#x} serve again", Bytes(bytes));
        self.flow(bytes);
        self.huge.fetch_add(bytes.wrapping_sub(old), Ordering::Relaxed);
        self.spans.page_map.publish(at >> PAGE_SHIFT, 1, entry(node));
        node.set_bytes(bytes);
        NonNull::new(with_exposed_provenance_mut(at))
    }

    /// Takes a huge allocation that has been freed, whose node says so.
    pub(super) fn free_huge(&self, thread: Index, node: &Large, bytes: usize) {
        let run = Shelved::new(node.head.index(), bytes / PAGE, self.clock.now());
        let unwanted = if self.may_keep(bytes) {
            tell!(self.voice(), Os, "{} at {:#x} kept for a while", Bytes(bytes), node.head.start());
            self.ebb(bytes);
            self.kept.shelf.put(thread, run)
        } else {
            self.kept.turn(STILL, FREED);
            Some(run)
        };
        if let Some(run) = unwanted {
            self.unmap_kept(run);
        }
        self.spans.arenas.budget().discharge(bytes / PAGE);
    }

    /// Has each mapping go at once from now on, before the first is freed.
    #[allow(dead_code, reason = "modes alone have it so")]
    pub(crate) fn keep_no_mapping(&self) {
        self.kept.habit.store(NEVER, Ordering::Relaxed);
    }

    /// Whether so many bytes may stay mapped until they are asked for again.
    fn may_keep(&self, bytes: usize) -> bool {
        let arenas = &self.spans.arenas;
        let free = bytes + self.kept.shelf.bytes() + arenas.dirty();
        if free > self.dirty_bound()
            || self.kept.habit.load(Ordering::Relaxed) != ASKED
            || arenas.budget().limit().is_some()
            || os::address_limit().is_some()
        {
            return false;
        }
        self.kept.until.store(arenas.committed().load(Ordering::Relaxed) + bytes / KEPT_PART, Ordering::Relaxed);
        true
    }

    /// Has what is kept go if it is more than so many bytes.
    #[inline(never)]
    pub(super) fn clear_kept_beyond(&self, bytes: usize) {
        if self.kept.shelf.bytes() > bytes {
            self.clear_kept(|_| true);
        }
    }

    /// Has what is kept go if the heap has grown elsewhere.
    #[inline]
    pub(super) fn watch_kept(&self) {
        // Relaxed, as all of it: what is kept meanwhile goes later.
        let until = self.kept.until.load(Ordering::Relaxed);
        if until > 0 && self.spans.arenas.committed().load(Ordering::Relaxed) > until {
            self.kept.until.store(0, Ordering::Relaxed);
            self.clear_kept_beyond(0);
        }
    }

    /// Gives kept mappings that have rested back to the system; from any thread.
    pub(super) fn clear_kept(&self, rested: impl Fn(u16) -> bool) {
        self.kept.shelf.clear(rested, |run| {
            self.kept.turn(ASKED, STILL);
            self.unmap_kept(run);
        });
    }

    /// Gives a freed mapping that the caller has back to the system, and its node to the slab.
    #[unsafe(link_section = ".millpond_cold")]
    fn unmap_kept(&self, run: Shelved) {
        let (at, bytes) = (self.larges.get(run.node).head.start(), run.pages * PAGE);
        self.larges.give(run.node);
        self.huge.fetch_sub(bytes, Ordering::Relaxed);
        tell!(self.voice(), Os, "{} unmapped at {at:#x}", Bytes(bytes));
        os::release(at, bytes);
    }

    /// Where kept mappings lie: a moment's picture.
    pub(super) fn kept_memory(&self) -> impl Iterator<Item = Range<usize>> {
        let start = |run: &Shelved| self.larges.get(run.node).head.start();
        self.kept.shelf.runs().map(move |run| start(&run)..start(&run) + run.pages * PAGE)
    }

    /// Whether a mapping that lies on the shelf is as the module's table says.
    pub(super) fn is_kept(&self, run: Shelved) -> bool {
        let node = self.larges.get(run.node);
        node.bytes() == 0 && node.head.kind() == HUGE && self.spans.page_map.get(node.head.start()).is_none()
    }

    /// Sets the use of transparent huge pages, for what there is and for what comes.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn set_thp(&self, thp: Thp) {
        self.spans.arenas.set_thp(thp);
        self.clear_kept(|_| true);
        for (node, bytes) in self.huges() {
            // Only advice: one that goes or moves meanwhile is left as it is.
            os::advise_thp(node.head.start(), bytes, thp);
        }
    }

    fn advise(&self, start: usize, bytes: usize) {
        let thp = self.spans.arenas.thp();
        os::advise_thp(start, bytes, thp);
    }

    pub(super) fn resize_huge(
        &self,
        node: &Large,
        old: usize,
        new: usize,
        to: Option<Moving<'_>>,
    ) -> Option<NonNull<u8>> {
        let budget = self.spans.arenas.budget();
        let more = new.saturating_sub(old) / PAGE;
        if more > 0 && !budget.charge(more) {
            return None;
        }
        let charged = Charged(budget, more);
        let resized = self.resize_charged(node, old, new, to);
        core::mem::forget(charged);
        match resized {
            Some(_) => budget.discharge(old.saturating_sub(new) / PAGE),
            None => budget.take_back(more),
        }
        self.spans.arenas.keep_within();
        resized
    }

    fn resize_charged(&self, node: &Large, old: usize, new: usize, to: Option<Moving<'_>>) -> Option<NonNull<u8>> {
        let from = node.head.start();
        // Never more than is mapped, should the caller vanish in between.
        node.set_bytes(old.min(new));
        let to = if os::resize(from, old, new) {
            from
        } else if let Some(to) = to.and_then(|to| self.move_huge(node, old, new, to)) {
            to
        } else {
            node.set_bytes(old);
            return None;
        };
        self.spans.page_map.publish(to >> PAGE_SHIFT, 1, entry(node));
        node.set_bytes(new);
        self.huge.fetch_add(new.wrapping_sub(old), Ordering::Relaxed);
        self.advise(to, new);
        NonNull::new(with_exposed_provenance_mut(to))
    }

    /// Moves a huge allocation, whose entry is then not yet published. `None` leaves all as it was.
    fn move_huge(&self, node: &Large, old: usize, new: usize, Moving { align, before }: Moving<'_>) -> Option<usize> {
        let (from, page) = (node.head.start(), node.head.page());
        if new > old {
            before();
        }
        let to = os::reserve_for_use(new, align.max(PAGE), 0)?;
        if self.spans.page_map.prepare(to >> PAGE_SHIFT, 1).is_none() {
            os::release(to, new);
            return None;
        }
        // Cleared before the addresses are given up: another thread may be given them at once.
        self.spans.page_map.publish(page, 1, null_mut());
        if !os::remap(from, old, to, new) {
            self.spans.page_map.publish(page, 1, entry(node));
            return None;
        }
        node.head.describe(to >> PAGE_SHIFT, HUGE);
        Some(to)
    }

    /// Whether what begins at an address has a mapping of its own. For what is live.
    pub(super) fn is_huge(&self, address: usize) -> bool {
        self.spans.page_map.get(address).is_some_and(|head| head.kind() == HUGE)
    }

    /// Those with a mapping of their own.
    pub(crate) fn huges(&self) -> impl Iterator<Item = (&Large, usize)> {
        self.larges().filter(|(node, _)| node.head.kind() == HUGE)
    }
}
