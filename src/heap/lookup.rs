//! Questions about one address.

use super::Heap;
use crate::arena::Place;
use crate::os;
use crate::size_class::{Class, INFO};
use crate::span::{LARGE, Span};

impl Heap {
    /// The bytes that may be used at an address: `None` if no allocation begins there. For a chunk that is freed but not yet
    /// back in its span, as if it were live. O(1).
    pub(crate) fn usable_size(&self, address: usize) -> Option<usize> {
        let head = self.spans.page_map.get(address)?;
        if head.kind() >= LARGE {
            return self.large_bytes(head, address);
        }
        // The node of a run that is being given back by another thread may describe another one by now.
        let info = INFO.get(head.kind() as Class)?;
        let offset = address.checked_sub(head.start())?;
        let chunk = info.index(offset);
        (chunk < info.chunks && chunk * info.size == offset).then(|| {
            // SAFETY: a head whose kind is a class is that of a span.
            let span = unsafe { head.node::<Span>() };
            (!span.is_free(info, chunk)).then_some(info.size)
        })?
    }

    /// Whether an address lies in a span or a larger allocation.
    pub(crate) fn owns(&self, address: usize) -> bool {
        let head = self.spans.page_map.get(address);
        // On the shelf, a run is nobody's.
        head.is_some_and(|head| head.kind() < LARGE || self.large_bytes(head, head.start()).is_some())
            || self.huge_around(address).is_some()
    }

    /// Whether an address lies in an arena of the heap's, or a larger allocation.
    pub(crate) fn has(&self, address: usize) -> bool {
        self.owns(address) || self.spans.arenas.have(address)
    }

    /// What lies at an address that is no allocation, to be shown.
    #[unsafe(link_section = ".millpond_cold")]
    pub(super) fn nothing_at(&self, address: usize) -> Place<'_> {
        self.spans.arenas.place(address).free_if(self.kept_memory().any(|kept| kept.contains(&address)))
    }

    /// Ends the process for a call of this name on what is no allocation.
    #[cold]
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn die_of_unknown(&self, verb: &str, address: usize) -> ! {
        if self.owns(address) {
            os::die(format_args!("{verb} of {address:#x}, where no allocation begins"));
        }
        let arenas = &self.spans.arenas;
        let (whose, place) = (arenas.whose(), self.nothing_at(address));
        os::die(format_args!("{verb} of {address:#x}, which is not an allocation of {whose}: {place}"))
    }

    /// The same on an allocation, by a caller who says another size.
    #[cold]
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    pub(super) fn die_of_size(&self, verb: &str, address: usize) -> ! {
        os::die(format_args!("{verb} of {address:#x} with a size that is not its own"))
    }

    /// Where the huge allocation begins in which an address lies whose page is none of its first. Linear in their number.
    pub(crate) fn huge_around(&self, address: usize) -> Option<usize> {
        let mut bounds = self.larges().map(|(node, bytes)| (node.head.start(), bytes));
        bounds.find(|(start, bytes)| (*start..start + bytes).contains(&address)).map(|(start, _)| start)
    }
}
