//! What is said of misuse where there are records: what was done, to which allocation, and what is known of that.
//!
//! Invariant: one line a misuse. It ends the process, but for a witness.

use super::Tracked;
use crate::config::{CALLERS, GRAIN};
use crate::log::Count;
use crate::modes::{Misuse, Of, Seen, Tracker};
use crate::os;
use crate::size_class::{Class, INFO};
use crate::span::LARGE;
use crate::tags::Shown;
use core::fmt;

impl Tracked<'_> {
    /// Tells what was done to an allocation that the caller has in hand: ends the process, but for a witness.
    #[cold]
    #[unsafe(link_section = ".millpond_cold")]
    pub(super) fn accuse_of(&self, address: usize, what: fmt::Arguments<'_>) {
        match self.tracker.find(self.heap.place(address)) {
            Some(seen) => self.tracker.witness.accuse(format_args!("{what}: {}", Known(&seen, self.tracker))),
            None => self.tracker.witness.accuse(what),
        }
    }

    #[cold]
    #[unsafe(link_section = ".millpond_cold")]
    pub(super) fn accuse(&self, verb: &str, address: usize, layout: Option<(usize, usize)>, misuse: Misuse) {
        match misuse {
            Misuse::Double(seen) => {
                let known = Known(&seen, self.tracker);
                // By now the memory may be inside another allocation, at which this free is aimed as likely.
                let now = self.around(address).filter(|now| now.is_live && now.address != address);
                let now = Now { address, seen: now, tracker: self.tracker };
                self.tracker.witness.accuse(format_args!("double free of {address:#x}: {known}{now}"))
            }
            Misuse::Layout(seen) => {
                let (size, align) = layout.unwrap_or_default();
                let (count, known) = (Count(size, "byte"), Known(&seen, self.tracker));
                let witness = &self.tracker.witness;
                if size == seen.size {
                    let own = seen.align;
                    return witness.accuse(format_args!(
                        "{verb} of {address:#x} with an alignment that is not its own, {align} instead of {own}: {known}"
                    ));
                }
                witness.accuse(format_args!(
                    "{verb} of {address:#x} with a size that is not its own, {count} aligned to {align}: {known}"
                ))
            }
            Misuse::Resized(seen) => {
                let (by, known) = (seen.freed_by, Known(&seen, self.tracker));
                self.tracker
                    .witness
                    .accuse(format_args!("{verb} of {address:#x}, which thread {by} is resizing: {known}"))
            }
            Misuse::Unknown => self.accuse_of_unknown(verb, address),
        }
    }

    /// Whether the allocation at an address has another size than the caller says, who has not rounded it up to the alignment: what
    /// a free takes for the same. If so, tells it.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn is_of_other_size(&self, verb: &str, address: usize, (size, align): (usize, usize)) -> bool {
        if align <= GRAIN || size % align != 0 {
            return false;
        }
        let seen = self.tracker.find(self.heap.place(address));
        let Some(seen) = seen.filter(|seen| seen.is_live && seen.align == align && seen.size != size) else {
            return false;
        };
        self.accuse(verb, address, Some((size, align)), Misuse::Layout(seen));
        true
    }

    /// Tells of a `realloc` of what is not live: ends the process, but for a witness.
    #[cold]
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn accuse_of_realloc(&self, address: usize) {
        match self.tracker.find(self.heap.place(address)) {
            Some(seen) if !seen.is_live => {
                let known = Known(&seen, self.tracker);
                self.tracker.witness.accuse(format_args!("realloc of {address:#x}, which has been freed: {known}"))
            }
            _ => self.accuse_of_unknown("realloc", address),
        }
    }

    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn accuse_of_unknown(&self, verb: &str, address: usize) {
        if let Some(seen) = self.around(address) {
            let (into, known) = (Count(address.wrapping_sub(seen.address), "byte"), Known(&seen, self.tracker));
            let start = seen.address;
            let witness = &self.tracker.witness;
            return witness
                .accuse(format_args!("{verb} of {address:#x}, {into} into the allocation {start:#x}: {known}"));
        }
        if self.heap.owns(address) {
            return self.tracker.witness.accuse(format_args!("{verb} of {address:#x}, where no allocation begins"));
        }
        let arenas = &self.heap.spans.arenas;
        let (whose, place) = (arenas.whose(), self.heap.nothing_at(address));
        self.tracker
            .witness
            .accuse(format_args!("{verb} of {address:#x}, which is not an allocation of {whose}: {place}"))
    }

    /// The allocation in which an address lies, live or freed not long ago.
    #[unsafe(link_section = ".millpond_cold")]
    fn around(&self, address: usize) -> Option<Seen> {
        let Some(head) = self.heap.spans.page_map.get(address) else {
            return self.beside(self.heap.huge_around(address)?, address);
        };
        let start = if head.kind() >= LARGE {
            return self.beside(head.start(), address);
        } else {
            let info = INFO.get(head.kind() as Class)?;
            head.start() + info.index(address.checked_sub(head.start())?) * info.size
        };
        self.tracker.find(self.heap.place(start))
    }

    /// The allocation that has the pages from `start` on, wherever in them it begins, if an address lies in it.
    fn beside(&self, start: usize, address: usize) -> Option<Seen> {
        let seen = self.tracker.find_beside(self.heap.place(start))?;
        (seen.address..=seen.address + seen.size).contains(&address).then_some(seen)
    }
}

/// Where something was written that was not to be, in words.
pub(super) enum Written {
    /// So many bytes behind an allocation's last.
    Past { address: usize, byte: usize },
    /// So many bytes before its first: at least 1.
    Before { address: usize, bytes: usize },
    /// So many bytes into what was freed.
    Freed { address: usize, byte: usize },
}

impl fmt::Display for Written {
    #[unsafe(link_section = ".millpond_cold")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Past { address, byte: 0 } => write!(f, "write right past the end of {address:#x}"),
            Self::Past { address, byte } => write!(f, "write {} past the end of {address:#x}", Count(byte, "byte")),
            Self::Before { address, bytes } => {
                write!(f, "write {} before the beginning of {address:#x}", Count(bytes, "byte"))
            }
            Self::Freed { address, byte: 0 } => {
                write!(f, "write to {address:#x} after it was freed, at its beginning")
            }
            Self::Freed { address, byte } => {
                write!(f, "write to {address:#x} after it was freed, {} into it", Count(byte, "byte"))
            }
        }
    }
}

/// In which allocation an address lies that was another's, in words; nothing if in none.
struct Now<'a> {
    address: usize,
    seen: Option<Seen>,
    tracker: &'a Tracker,
}

impl fmt::Display for Now<'_> {
    #[unsafe(link_section = ".millpond_cold")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(seen) = &self.seen else { return Ok(()) };
        let (into, known) = (Count(self.address.wrapping_sub(seen.address), "byte"), Known(seen, self.tracker));
        write!(f, "; by now it lies {into} into the allocation {:#x}: {known}", seen.address)
    }
}

/// What is known of an allocation, in words.
pub(super) struct Known<'a>(pub(super) &'a Seen, pub(super) &'a Tracker);

impl fmt::Display for Known<'_> {
    #[unsafe(link_section = ".millpond_cold")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seen, since) = (self.0, |ms: u64| ms.saturating_sub(self.1.origin_ms()));
        let seconds = |ms: u64| (since(ms) / 1000, since(ms) % 1000);
        let (whole, part) = seconds(seen.born_ms);
        let (size, id, thread) = (Count(seen.size, "byte"), seen.id, seen.thread);
        write!(f, "{size}, id {id}, allocated by thread {thread} at {whole}.{part:03} s")?;
        if !seen.tag.is_empty() {
            write!(f, " for {}", Shown(seen.tag))?;
        }
        if !seen.is_live {
            let (whole, part) = seconds(seen.freed_ms);
            write!(f, ", freed by thread {} at {whole}.{part:03} s", seen.freed_by)?;
        }
        for (of, what) in [(Of::Birth, ALLOCATED), (Of::Free, FREED)] {
            if of == Of::Free && seen.is_live {
                break;
            }
            let mut callers = [0; CALLERS];
            let count = self.1.callers(seen, of, &mut callers);
            Called { what, callers: &callers[..count] }.fmt(f)?;
        }
        Ok(())
    }
}

/// Return addresses, as what stands behind other text; nothing if there are none. Each is where the call is, not what follows it, which
/// may belong to another line.
pub(crate) struct Called<'a> {
    what: &'static str,
    callers: &'a [usize],
}

impl<'a> Called<'a> {
    /// Of who asked for an allocation.
    pub(crate) fn allocated(callers: &'a [usize]) -> Self {
        Self { what: ALLOCATED, callers }
    }
}

const ALLOCATED: &str = "allocated";
const FREED: &str = "freed";

impl fmt::Display for Called<'_> {
    #[unsafe(link_section = ".millpond_cold")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, caller) in self.callers.iter().enumerate() {
            let location = os::Location(caller.saturating_sub(1));
            match at {
                0 => write!(f, ", {} from {location}", self.what)?,
                _ => write!(f, ", {location}")?,
            }
        }
        Ok(())
    }
}
