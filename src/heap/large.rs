//! Large allocations, above the largest class or aligned to more than a page: where those that are huge part from them.
//!
//! A large one is a run of an arena: kept for reuse when freed, whole if it is short (`shelf`), purged later. A huge one is a
//! mapping (`huge`). Both have a node that the page map names: all pages of a large one, the first of a huge one.
//!
//! Invariant: a node with `bytes > 0` and the page map's entry for its first page name each other, unless its owner is
//! between taking the entry and giving the memory back.

use super::huge::Moving;
use super::shelf::Shelved;
use super::{Guest, Heap};
use crate::arena::{Fill, Run};
use crate::config::{ADDRESS_BITS, EBB_BYTES, HUGE_MIN, PAGE, PAGE_SHIFT};
use crate::os;
use crate::span::{HUGE, Head, LARGE, Large};
use crate::tagged::{Index, NONE};
use core::ptr::{NonNull, null_mut, with_exposed_provenance_mut};

pub(super) fn entry(node: &Large) -> *mut Head {
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
                self.map_huge(thread, bytes, align, fill).or_else(|| {
                    self.use_run(self.spans.arenas.take_large_run_there(bytes / PAGE, (align / PAGE).max(1), fill)?)
                })
            } else {
                self.use_run(self.spans.arenas.take_large_run(bytes / PAGE, (align / PAGE).max(1), fill)?)
            }
        };
        once().or_else(|| {
            if !self.could_serve(bytes, align) {
                return None;
            }
            // The caller's own cache goes too: its last chunks of large classes may pin a good part of a limited heap.
            self.reclaim((thread != NONE).then(|| self.caches.get(thread)), once)
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

    /// Gives runs that have rested on the shelf back to their arenas, and kept mappings to the system; from any thread.
    pub(crate) fn clear_shelf(&self, rested: impl Fn(u16) -> bool) {
        self.shelf.clear(&rested, |run| self.unshelve(run));
        self.clear_kept(rested);
    }

    /// Gives a freed run that the caller has back to its arena, and its node to the slab.
    fn unshelve(&self, run: Shelved) {
        let page = self.larges.get(run.node).head.page();
        self.spans.page_map.publish(page + 1, run.pages - 1, null_mut());
        self.larges.give(run.node);
        self.spans.arenas.give_run(page, run.pages);
        self.spans.arenas.untake(run.pages);
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
            self.free_huge(thread, node, bytes);
        } else if let Some(run) =
            self.shelf.put(thread, Shelved::new(node.head.index(), bytes / PAGE, self.clock.now()))
        {
            let bytes = run.pages * PAGE;
            self.unshelve(run);
            if self.relieve_all() > EBB_BYTES {
                self.ebb(bytes);
            }
        }
        // What lies on the shelf is in use to the budget, and nothing else tells of it.
        self.spans.arenas.budget().count_change();
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
            self.spans.arenas.untake((old - new) / PAGE);
        } else if new > old {
            let more = self.spans.arenas.extend_run(page, old / PAGE, new / PAGE)?;
            if self.spans.page_map.prepare(more.page, more.pages).is_none() {
                self.spans.arenas.give_run(more.page, more.pages);
                self.spans.arenas.untake(more.pages);
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

    /// The same as [`resize_large`](Self::resize_large), at the same address. False: all is as it was.
    #[cold]
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    pub(super) fn resize_here(&self, thread: Index, address: usize, size: usize) -> bool {
        self.resize_within(thread, address, size, None).is_some()
    }

    /// Makes what has pages of its own shorter where it is, also what is huge and had better move: where there is no memory for another.
    /// False: all is as it was.
    #[cold]
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn shrink_here(&self, thread: Index, address: usize, size: usize) -> bool {
        let node = self.large_at("realloc", address);
        let (old, new) = (node.bytes(), size.max(1).next_multiple_of(PAGE));
        if node.head.kind() != HUGE || new >= old {
            return new <= old && self.resize_here(thread, address, size);
        }
        let _guest = self.enter(thread);
        self.resize_huge(node, old, new, None).is_some()
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

    /// How many nodes of large allocations are free; `None` if their list is not well-formed.
    pub(super) fn free_larges(&self) -> Option<(usize, usize)> {
        Some((self.larges.free_nodes()?, self.larges.made() as usize))
    }
}
