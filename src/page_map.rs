//! The page map: from an address to the node that describes the run it lies in.
//!
//! Two levels: a root, and leaves that each describe 4 GiB and are made when first needed. An entry is the address of
//! a [`Head`](crate::span::Head), or null: two dependent loads answer both "which span?" and "is it ours?" (tcmalloc's
//! page map is of this kind).
//!
//! An entry is published after its node is made and before any address in the page is handed out, and cleared before
//! the run is given back; only the run's owner does either.
//!
//! Behind its entries a leaf has a *note* for each page, a word that says where to put a freed chunk without a look at the
//! node: the place of a span's class in a thread cache, and one more, so that zero says "no span". Notes of a mebibyte
//! share a cache line; nodes have lines of their own.
//!
//! Invariant: an entry is null, or names a node whose run contains the page.

use crate::config::{ADDRESS_BITS, LEAF_BITS, PAGE_SHIFT, ROOT_BITS, ZERO_IS_NODE};
use crate::os;
use crate::sync::{AtomicPtr, AtomicU32, Fault, Ordering, Point, planted, point};
use core::ptr;

const LEAF: usize = 1 << LEAF_BITS;

/// Bytes that the map holds for a page.
pub(crate) const PAGE_BYTES: usize = size_of::<AtomicPtr<()>>() + size_of::<AtomicU32>();

/// See the module's documentation. `T` is what entries point to.
#[derive(Debug)]
pub(crate) struct PageMap<T> {
    root: [AtomicPtr<AtomicPtr<T>>; 1 << ROOT_BITS],
}

impl<T> PageMap<T> {
    const_fn! {
        pub(crate) const fn new() -> Self {
            Self { root: array_of![AtomicPtr::new(ptr::null_mut()); 1 << ROOT_BITS] }
        }
    }

    /// The node of the run in which `address` lies, if it is known: O(1), two dependent loads.
    #[inline]
    pub(crate) fn get(&self, address: usize) -> Option<&T> {
        if address >> ADDRESS_BITS != 0 {
            return None;
        }
        let page = address >> PAGE_SHIFT;
        // ORDERING: Acquire pairs with the exchange in `prepare`: the leaf is made.
        let leaf = self.root[page >> LEAF_BITS].load(Ordering::Acquire);
        if leaf.is_null() {
            return None;
        }
        // SAFETY: a published leaf has this many entries and stays for ever.
        let entry = unsafe { &*leaf.add(page % LEAF) };
        // ORDERING: Acquire pairs with the Release in `publish`: the node is made.
        let node = entry.load(Ordering::Acquire);
        // SAFETY: entries are null or point to nodes, which are type-stable.
        unsafe { node.as_ref() }
    }

    /// The note for the page of `address`; zero where there is none: O(1), two dependent loads.
    #[inline(always)]
    pub(crate) fn noted(&self, address: usize) -> u32 {
        let page = address >> PAGE_SHIFT;
        let Some(slot) = self.root.get(page >> LEAF_BITS) else { return 0 };
        // ORDERING: Acquire pairs with the exchange in `prepare`: the leaf is made.
        match slot.load(Ordering::Acquire) {
            leaf if leaf.is_null() => 0,
            // Relaxed: whoever frees a chunk was given it after the note was made.
            leaf => Self::note_of(leaf, page).load(Ordering::Relaxed),
        }
    }

    #[inline(always)]
    fn note_of<'a>(leaf: *mut AtomicPtr<T>, page: usize) -> &'a AtomicU32 {
        // SAFETY: a published leaf has this many notes behind its entries and stays for ever.
        unsafe { &*leaf.add(LEAF).cast::<AtomicU32>().add(page % LEAF) }
    }

    /// Has the processor fetch the entry for `address`.
    #[inline]
    pub(crate) fn prefetch(&self, address: usize) {
        if address >> ADDRESS_BITS == 0 {
            let page = address >> PAGE_SHIFT;
            // Relaxed: only an address to prefetch, which need not be right.
            let leaf = self.root[page >> LEAF_BITS].load(Ordering::Relaxed);
            os::prefetch_read(leaf.addr() + page % LEAF * size_of::<AtomicPtr<T>>());
        }
    }

    /// Makes the leaves for a run, so that [`publish`](Self::publish) cannot fail. `None` if there is no memory.
    pub(crate) fn prepare(&self, page: usize, pages: usize) -> Option<()> {
        for slot in self.root.get(page >> LEAF_BITS..=(page + pages - 1) >> LEAF_BITS)? {
            // Relaxed: only whether it is there; whoever looks into a leaf acquires it for himself.
            if !slot.load(Ordering::Relaxed).is_null() {
                continue;
            }
            let bytes = LEAF * PAGE_BYTES;
            let at = os::metadata(bytes)?;
            let leaf = ptr::with_exposed_provenance_mut::<AtomicPtr<T>>(at);
            if !ZERO_IS_NODE {
                for entry in 0..LEAF {
                    // SAFETY: inside the bytes that were reserved just now.
                    unsafe {
                        leaf.add(entry).write(AtomicPtr::new(ptr::null_mut()));
                        leaf.add(LEAF).cast::<AtomicU32>().add(entry).write(AtomicU32::new(0));
                    }
                }
            }
            if planted(Fault::MapLeaf) {
                // ORDERING: as below.
                slot.store(leaf, Ordering::Release);
                continue;
            }
            point(Point::FirstUse);
            // ORDERING: Release publishes the leaf; pairs with the Acquire loads of the root. The loser's is undone.
            if slot.compare_exchange(ptr::null_mut(), leaf, Ordering::Release, Ordering::Relaxed).is_err() {
                os::release_metadata(at, bytes);
            }
        }
        Some(())
    }

    /// Gives all leaves back, at the heap's end.
    ///
    /// # Safety
    /// The map is not used any more.
    pub(crate) unsafe fn dispose(&self) {
        for slot in &self.root {
            // Relaxed: whoever says that nobody uses it any more comes after all who did.
            let leaf = slot.load(Ordering::Relaxed);
            if !leaf.is_null() {
                os::release_metadata(leaf.expose_provenance(), LEAF * PAGE_BYTES);
            }
        }
    }

    /// Points the entries of a prepared run to its node, or clears them (null). Only the run's owner may.
    pub(crate) fn publish(&self, page: usize, pages: usize, node: *mut T) {
        (page..page + pages).for_each(|page| Self::enter(self.leaf(page), page, node));
    }

    /// The same, with a note for each page.
    pub(crate) fn publish_noted(&self, page: usize, pages: usize, node: *mut T, note: u32) {
        for page in page..page + pages {
            let leaf = self.leaf(page);
            // Relaxed: whoever is given a chunk of the run is given it by an exchange; the entry publishes it to others.
            Self::note_of(leaf, page).store(note, Ordering::Relaxed);
            Self::enter(leaf, page, node);
        }
    }

    /// The leaf of a prepared page.
    fn leaf(&self, page: usize) -> *mut AtomicPtr<T> {
        // ORDERING: Acquire pairs with the exchange in `prepare`.
        let leaf = self.root[page >> LEAF_BITS].load(Ordering::Acquire);
        debug_assert!(!leaf.is_null(), "page {page} is not prepared");
        leaf
    }

    fn enter(leaf: *mut AtomicPtr<T>, page: usize, node: *mut T) {
        // SAFETY: prepared, so the leaf is there.
        let entry = unsafe { &*leaf.add(page % LEAF) };
        // ORDERING: Release pairs with the Acquire in `get`: whoever finds the node sees it made.
        let publish = if planted(Fault::MapPublish) { Ordering::Relaxed } else { Ordering::Release };
        entry.store(node, publish);
    }

    /// Clears the entry of a page that has no owner, if it has one.
    pub(crate) fn clear(&self, page: usize) {
        // Relaxed: `publish_noted` acquires the leaf.
        if !self.root[page >> LEAF_BITS].load(Ordering::Relaxed).is_null() {
            self.publish_noted(page, 1, ptr::null_mut(), 0);
        }
    }

    /// Clears the entry of a page if it still names `node`, and says whether it did: of two owners-to-be, one wins.
    pub(crate) fn take(&self, page: usize, node: *mut T) -> bool {
        // Relaxed: the caller has acquired the leaf, when it found `node` there.
        let leaf = self.root[page >> LEAF_BITS].load(Ordering::Relaxed);
        // SAFETY: the caller found `node` through this leaf.
        let entry = unsafe { &*leaf.add(page % LEAF) };
        if planted(Fault::MapTake) {
            let there = entry.load(Ordering::Relaxed) == node;
            entry.store(ptr::null_mut(), Ordering::Relaxed);
            return there;
        }
        // Relaxed: the address came to the caller by the program's own hand-over, with all that was done to the run; and
        // whoever finds nothing follows nothing.
        entry.compare_exchange(node, ptr::null_mut(), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}
