//! The floor of spans: their nodes, with the arenas and the page map below, as the pools use it.

use super::{Head, Span};
use crate::arena::{Arenas, Density, Fill};
use crate::config::{APART, PAGE, PAGE_SHIFT, PageStart, SPAN_WORDS};
use crate::log::{Count, tell};
use crate::os::{self, Purged};
use crate::page_map::PageMap;
use crate::size_class::{CLASSES, Class, INFO, place};
use crate::slab::Slab;
use crate::sync::{Fault, Ordering, planted};

/// Slabs of span nodes, by the words of their bitmaps.
pub(crate) const SLABS: usize = SPAN_WORDS.len();

/// See the module's documentation; in this order for the heap's sake.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Spans {
    page: PageStart,
    /// Has the last entries of the map, which are those of the addresses that the system gives first, in one OS page with
    /// what follows them.
    apart: [u8; APART],
    pub(crate) page_map: PageMap<Head>,
    slabs: [Slab<Span>; SLABS],
    pub(crate) arenas: Arenas,
}

/// The slab of each class's spans.
static SLAB_OF: [u8; CLASSES] = {
    let mut slabs = [0; CLASSES];
    let mut class = 0;
    while class < CLASSES {
        while SPAN_WORDS[slabs[class] as usize] < INFO[class].words {
            slabs[class] += 1;
        }
        class += 1;
    }
    slabs
};

impl Spans {
    const_fn! {
        pub(crate) const fn new() -> Self {
            Self {
                page: PageStart,
                apart: [0; APART],
                page_map: PageMap::new(),
                slabs: array_of![Slab::new(); SLABS],
                arenas: Arenas::new(),
            }
        }
    }

    /// The nodes of a class's spans.
    pub(crate) fn nodes(&self, class: Class) -> &Slab<Span> {
        &self.slabs[SLAB_OF[class] as usize]
    }

    /// All slabs of span nodes.
    pub(crate) fn slabs(&self) -> &[Slab<Span>] {
        &self.slabs
    }

    /// Bytes of all span nodes.
    pub(crate) fn bytes(&self) -> usize {
        self.slabs.iter().map(Slab::bytes).sum()
    }

    /// Gives all of it back, at the heap's end.
    ///
    /// # Safety
    /// No chunk, run or node is used any more.
    pub(crate) unsafe fn dispose(&self) {
        // SAFETY: the caller's word.
        unsafe {
            self.slabs.iter().for_each(|slab| slab.dispose());
            self.page_map.dispose();
            self.arenas.dispose();
        }
    }

    /// Every span that owns a run, as far as a walk can tell while others go on.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Span> {
        let nodes = self.slabs.iter().flat_map(Slab::iter);
        nodes.filter(|span| span.is_live())
    }

    /// Takes a run for a class and makes it a span, held by the caller, all but the first `taken` chunks free.
    pub(crate) fn open(&self, class: Class, taken: usize, density: Density, now: u32) -> Option<&Span> {
        let pages = INFO[class].pages;
        let run = match density {
            Density::Dense => self.arenas.take_run(pages, 1, Fill::Any)?,
            Density::Sparse => self.arenas.take_sparse_run(pages)?,
        };
        let nodes = self.nodes(class);
        nodes.shape(SPAN_WORDS[SLAB_OF[class] as usize]);
        let Some(span) = self.page_map.prepare(run.page, pages).and_then(|()| nodes.take()) else {
            self.arenas.give_run(run.page, pages);
            return None;
        };
        span.open(run.page, class, taken, now);
        self.publish(span, class);
        let (size, chunks) = (INFO[class].size, INFO[class].chunks);
        tell!(
            self.arenas.voice(),
            Span,
            "a span of {} of {size} B opened at {:#x}",
            Count(chunks, "chunk"),
            span.head.start()
        );
        Some(span)
    }

    /// Has the page map name a span for all of its pages.
    pub(crate) fn publish(&self, span: &Span, class: Class) {
        let (page, pages) = (span.head.page(), INFO[class].pages);
        self.page_map.publish_noted(page, pages, (&raw const span.head).cast_mut(), place(class) as u32 + 1);
    }

    /// Gives the run of a span back that the caller has found wholly free, and the node unless it is a tombstone.
    pub(crate) fn retire(&self, span: &Span, class: Class) {
        let (page, pages) = (span.head.page(), INFO[class].pages);
        tell!(
            self.arenas.voice(),
            Span,
            "the span of {} B at {:#x} is wholly free: retired",
            INFO[class].size,
            span.head.start()
        );
        self.page_map.publish_noted(page, pages, core::ptr::null_mut(), 0);
        let purged = span.unpurge_all();
        if purged == 0 {
            self.arenas.give_run(page, pages);
        } else if os::purge(page << PAGE_SHIFT, pages * PAGE) == Purged::Zero {
            // It has rested long enough for a part to be purged; the arena accounts for whole pages, so all of it goes.
            self.arenas.committed().fetch_sub(pages * PAGE - purged, Ordering::Relaxed);
            self.arenas.give_zero_run(page, pages);
        } else {
            if planted(Fault::RetireStore) {
                let committed = self.arenas.committed();
                committed.store(committed.load(Ordering::Relaxed) + purged, Ordering::Relaxed);
            } else {
                self.arenas.committed().fetch_add(purged, Ordering::Relaxed);
            }
            self.arenas.give_run(page, pages);
        }
        let index = span.head.index();
        if span.close() {
            self.nodes(class).give(index);
        }
    }

    /// Has the processor fetch what a restore of a chunk changes in its span, if that is known without a look at it.
    #[inline]
    pub(crate) fn prefetch(&self, chunk: usize, class: Class) {
        if let Some(head) = self.page_map.get(chunk) {
            let node = core::ptr::from_ref(head).addr();
            os::prefetch_write(node);
            let info = &INFO[class];
            if info.pages == 1 {
                os::prefetch_write(node + size_of::<Span>() + info.index(chunk % PAGE) / 64 * size_of::<u64>());
            }
        }
    }

    /// The span of a class in which a chunk that is being freed lies. Ends the process if there is none.
    #[inline]
    pub(crate) fn owner(&self, chunk: usize, class: Class) -> &Span {
        match self.page_map.get(chunk) {
            // SAFETY: a head whose kind is a class is that of a span.
            Some(head) if head.kind() == class as u32 => unsafe { head.node() },
            Some(_) => os::die(format_args!("free of {chunk:#x} with a size that is not its own")),
            None => os::die(format_args!(
                "free of {chunk:#x}, which is not an allocation of {}: {}",
                self.arenas.whose(),
                self.arenas.place(chunk)
            )),
        }
    }
}
