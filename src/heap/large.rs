//! Large and huge allocations: above the largest class, or aligned to more than a page.
//!
//! A large one is a run of an arena: kept for reuse when freed, whole if it is short (`shelf`), purged later. A huge one,
//! from `HUGE_MIN` in size or alignment, is a mapping of its own, which goes back at once and grows by `mremap`. Both have
//! a node that the page map names: all pages of a large one, the first of a huge one.
//!
//! Invariant: a node with `bytes > 0` and the page map's entry for its first page name each other, unless its owner is
//! between taking the entry and giving the memory back.

use super::shelf::Shelved;
use super::{Guest, Heap};
use crate::arena::{Budget, Fill, Run};
use crate::config::{ADDRESS_BITS, EBB_BYTES, GROWTH_PART, HUGE_MIN, PAGE, PAGE_SHIFT};
use crate::log::{Bytes, tell};
use crate::os;
use crate::report::Thp;
use crate::span::{HUGE, Head, LARGE, Large};
use crate::sync::{Fault, Ordering, planted};
use crate::tagged::{Index, NONE};
use core::ptr::{NonNull, null_mut, with_exposed_provenance_mut};

/// How a huge allocation may move that has no room where it is.
#[derive(Clone, Copy)]
struct Moving<'a> {
    align: usize,
    /// Called before one that grows does, with its pages charged: afterwards there is no way back, and this may panic.
    before: &'a dyn Fn(),
}

/// Pages that are charged for what is not done yet, and not charged if that panics.
struct Charged<'a>(&'a Budget, usize);

impl Drop for Charged<'_> {
    fn drop(&mut self) {
        self.0.discharge(self.1);
    }
}

fn entry(node: &Large) -> *mut Head {
    (&raw const node.head).cast_mut()
}

impl Heap {
    /// What a thread does before a run is in its hands: one without a cache, which nobody would adopt, is a guest.
    fn enter(&self, thread: Index) -> Option<Guest<'_>> {
        if thread != NONE {
            return None;
        }
        self.settle_without_cache();
        Some(self.guest())
    }

    /// At least `size` bytes aligned to `align`, a power of two, for the thread with this cache, or with none (`NONE`).
    /// `None`: more than there is, even after a trim.
    #[cold]
    #[inline(never)]
    pub(crate) fn alloc_large(&self, thread: Index, size: usize, align: usize, fill: Fill) -> Option<NonNull<u8>> {
        debug_assert!(align.is_power_of_two(), "an alignment of {align}");
        let bytes = size.max(1).checked_next_multiple_of(PAGE).filter(|bytes| *bytes < 1 << ADDRESS_BITS)?;
        let _guest = self.enter(thread);
        let at = self.find_large(thread, bytes, align, fill)?;
        self.watch_growth();
        if thread == NONE {
            self.counts.larges.add_shared(1);
            self.counts.large_bytes.add_shared(bytes as u64);
        } else {
            let cache = self.caches.get(thread);
            cache.larges.add(1);
            cache.large_bytes.add(bytes as u64);
        }
        Some(at)
    }

    fn find_large(&self, thread: Index, bytes: usize, align: usize, fill: Fill) -> Option<NonNull<u8>> {
        if align <= PAGE {
            if let Some(run) = self.shelf.take(thread, bytes / PAGE) {
                return self.reuse(run, fill);
            }
        }
        let once = || {
            if bytes >= HUGE_MIN || align >= HUGE_MIN {
                // Where address space is short, the arenas may have what the system has not. None is made for it: what
                // an arena reserves stays reserved.
                self.map_huge(bytes, align).or_else(|| {
                    self.use_run(self.spans.arenas.take_run_there(bytes / PAGE, (align / PAGE).max(1), fill)?)
                })
            } else {
                self.use_run(self.spans.arenas.take_run(bytes / PAGE, (align / PAGE).max(1), fill)?)
            }
        };
        once().or_else(|| {
            if !self.could_serve(bytes, align) {
                return None;
            }
            // The caller's own cache goes too: its last chunks of large classes may pin a good part of a limited heap.
            self.reclaim((thread != NONE).then(|| self.caches.get(thread)));
            once()
        })
    }

    /// Whether so many bytes could be served if all that is free were given back: a request that nothing can serve must not
    /// cost everybody their caches, nor what is kept back.
    #[cold]
    pub(super) fn could_serve(&self, bytes: usize, align: usize) -> bool {
        let whole = bytes.saturating_add(if align > PAGE { align } else { 0 });
        whole < 1 << ADDRESS_BITS && os::could_give(whole) && self.spans.arenas.budget().could_hold(bytes / PAGE)
    }

    /// Makes a run that the caller has taken an allocation.
    fn use_run(&self, run: Run) -> Option<NonNull<u8>> {
        let node = self.spans.page_map.prepare(run.page, run.pages).and_then(|()| self.larges.take());
        let Some(node) = node else {
            self.spans.arenas.give_run(run.page, run.pages);
            return None;
        };
        self.flow(run.pages * PAGE);
        node.head.describe(run.page, LARGE);
        self.spans.page_map.publish(run.page, run.pages, entry(node));
        node.set_bytes(run.pages * PAGE);
        self.spans.arenas.try_huge(run.page, run.pages);
        NonNull::new(with_exposed_provenance_mut(run.page << PAGE_SHIFT))
    }

    /// Makes a run that the caller has taken from the shelf an allocation again.
    fn reuse(&self, run: Shelved, fill: Fill) -> Option<NonNull<u8>> {
        let node = self.larges.get(run.node);
        let at = with_exposed_provenance_mut::<u8>(node.head.start());
        if fill == Fill::Zero {
            // SAFETY: the run's pages, which are the caller's.
            unsafe { at.write_bytes(0, run.pages * PAGE) };
        }
        self.spans.page_map.publish(node.head.page(), 1, entry(node));
        node.set_bytes(run.pages * PAGE);
        NonNull::new(at)
    }

    /// Gives runs that have rested on the shelf back to their arenas; from any thread.
    pub(crate) fn clear_shelf(&self, rested: impl Fn(u16) -> bool) {
        self.shelf.clear(rested, |run| self.unshelve(run));
    }

    /// Gives a freed run that the caller has back to its arena, and its node to the slab.
    fn unshelve(&self, run: Shelved) {
        let page = self.larges.get(run.node).head.page();
        self.spans.page_map.publish(page + 1, run.pages - 1, null_mut());
        self.larges.give(run.node);
        self.spans.arenas.give_run(page, run.pages);
    }

    fn map_huge(&self, bytes: usize, align: usize) -> Option<NonNull<u8>> {
        let budget = self.spans.arenas.budget();
        if !budget.charge(bytes / PAGE) {
            return None;
        }
        let mapped = self.map_charged(bytes, align);
        match mapped {
            Some(_) => self.spans.arenas.keep_within(),
            None => budget.take_back(bytes / PAGE),
        }
        mapped
    }

    fn map_charged(&self, bytes: usize, align: usize) -> Option<NonNull<u8>> {
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
        self.advise(start, bytes);
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

    /// Sets the use of transparent huge pages, for what there is and for what comes.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn set_thp(&self, thp: Thp) {
        self.spans.arenas.set_thp(thp);
        for (node, bytes) in self.huges() {
            // Only advice: one that goes or moves meanwhile is left as it is.
            os::advise_thp(node.head.start(), bytes, thp);
        }
    }

    fn advise(&self, start: usize, bytes: usize) {
        let thp = self.spans.arenas.thp();
        os::advise_thp(start, bytes, thp);
    }

    /// The node of a large or huge allocation that starts at `address`, on which there is a call of this name. Ends the process
    /// if there is none.
    fn large_at(&self, verb: &str, address: usize) -> &Large {
        match self.spans.page_map.get(address) {
            Some(head) if head.kind() < LARGE => self.die_of_size(verb, address),
            // SAFETY: a head of this kind is that of a large node.
            Some(head) if head.start() == address => unsafe { head.node() },
            _ => self.die_of_unknown(verb, address),
        }
    }

    /// Frees a large or huge allocation, for the thread with this cache, or with none (`NONE`).
    #[cold]
    #[inline(never)]
    pub(crate) fn free_large(&self, thread: Index, address: usize) {
        let _guest = self.enter(thread);
        let node = self.large_at("free", address);
        let (page, bytes, kind) = (node.head.page(), node.bytes(), node.head.kind());
        if !self.spans.page_map.take(page, entry(node)) {
            os::die(format_args!("double free of {address:#x}"));
        }
        node.set_bytes(0);
        if kind == HUGE {
            self.larges.give(node.head.index());
            self.huge.fetch_sub(bytes, Ordering::Relaxed);
            tell!(self.voice(), Os, "{} unmapped at {address:#x}", Bytes(bytes));
            os::release(address, bytes);
            self.spans.arenas.budget().discharge(bytes / PAGE);
        } else if let Some(run) = self.shelf.put(thread, node.head.index(), bytes / PAGE, self.clock.now()) {
            let bytes = run.pages * PAGE;
            self.unshelve(run);
            if self.relieve() > EBB_BYTES {
                self.ebb(bytes);
            }
        }
        self.attend_large(thread);
    }

    /// Resizes a large or huge allocation without copying, if that can be done, for the thread with this cache, or with
    /// none (`NONE`). `size` is one that no class serves. A huge one may move, to an address aligned to `align`; `None`
    /// leaves all as it was.
    #[cold]
    #[inline(never)]
    pub(crate) fn resize_large(&self, thread: Index, address: usize, size: usize, align: usize) -> Option<NonNull<u8>> {
        self.resize_within(thread, address, size, Some(Moving { align, before: &|| () }))
    }

    /// The same, with what is to be done before one that grows moves: should it panic, all is as it was.
    #[cold]
    #[inline(never)]
    #[allow(dead_code, reason = "heaps of one's own alone have a soft limit")]
    pub(crate) fn resize_large_after(
        &self,
        thread: Index,
        address: usize,
        (size, align): (usize, usize),
        before: &dyn Fn(),
    ) -> Option<NonNull<u8>> {
        self.resize_within(thread, address, size, Some(Moving { align, before }))
    }

    /// The same; none moves that is not told how.
    fn resize_within(&self, thread: Index, address: usize, size: usize, to: Option<Moving<'_>>) -> Option<NonNull<u8>> {
        let new = size.max(1).checked_next_multiple_of(PAGE).filter(|bytes| *bytes < 1 << ADDRESS_BITS)?;
        let _guest = self.enter(thread);
        let node = self.large_at("realloc", address);
        let (page, old) = (node.head.page(), node.bytes());
        if node.head.kind() == HUGE && new != old {
            return if new < HUGE_MIN / 2 { None } else { self.resize_huge(node, old, new, to) };
        }
        if new < old {
            self.spans.page_map.publish(page + new / PAGE, (old - new) / PAGE, null_mut());
            node.set_bytes(new);
            self.spans.arenas.give_run(page + new / PAGE, (old - new) / PAGE);
        } else if new > old {
            let more = self.spans.arenas.extend_run(page, old / PAGE, new / PAGE)?;
            if self.spans.page_map.prepare(more.page, more.pages).is_none() {
                self.spans.arenas.give_run(more.page, more.pages);
                return None;
            }
            self.spans.page_map.publish(more.page, more.pages, entry(node));
            node.set_bytes(new);
        }
        NonNull::new(with_exposed_provenance_mut(address))
    }

    /// Whether [`resize_here`](Self::resize_here) is for an allocation of this size: not where it comes to be so much smaller
    /// that it had better move. For what is live, and has pages of its own.
    pub(super) fn is_resized_here(&self, address: usize, size: usize) -> bool {
        size < 1 << ADDRESS_BITS && !(size < HUGE_MIN / 2 && self.is_huge(address))
    }

    /// Whether what begins at an address has a mapping of its own. For what is live.
    pub(super) fn is_huge(&self, address: usize) -> bool {
        self.spans.page_map.get(address).is_some_and(|head| head.kind() == HUGE)
    }

    /// The same as [`resize_large`](Self::resize_large), at the same address. False: all is as it was.
    #[cold]
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    pub(super) fn resize_here(&self, thread: Index, address: usize, size: usize) -> bool {
        self.resize_within(thread, address, size, None).is_some()
    }

    fn resize_huge(&self, node: &Large, old: usize, new: usize, to: Option<Moving<'_>>) -> Option<NonNull<u8>> {
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

    /// Whether a run that lies on the shelf is as the shelf's invariant says.
    pub(super) fn is_shelved(&self, run: Shelved) -> bool {
        let node = self.larges.get(run.node);
        let names = |page: usize| {
            self.spans.page_map.get(page << PAGE_SHIFT).map_or(null_mut(), |head| (&raw const *head).cast_mut())
        };
        let page = node.head.page();
        node.bytes() == 0
            && names(page).is_null()
            && (page + 1..page + run.pages).all(|page| names(page) == entry(node))
    }

    /// Bytes of the large or huge allocation that begins at `address`, whose page the page map says is `head`'s.
    pub(crate) fn large_bytes(&self, head: &Head, address: usize) -> Option<usize> {
        // SAFETY: a head of this kind is that of a large node.
        let bytes = unsafe { head.node::<Large>() }.bytes();
        (head.start() == address && bytes > 0).then_some(bytes)
    }

    /// All large and huge allocations, and the bytes of each, which are some: another may be freeing it. A moment's picture.
    pub(super) fn larges(&self) -> impl Iterator<Item = (&Large, usize)> {
        self.larges.iter().map(|node| (node, node.bytes())).filter(|(_, bytes)| *bytes > 0)
    }

    /// Those with a mapping of their own.
    pub(crate) fn huges(&self) -> impl Iterator<Item = (&Large, usize)> {
        self.larges().filter(|(node, _)| node.head.kind() == HUGE)
    }

    /// How many nodes of large allocations are free; `None` if their list is not well-formed.
    pub(super) fn free_larges(&self) -> Option<(usize, usize)> {
        Some((self.larges.free_nodes()?, self.larges.made() as usize))
    }
}
