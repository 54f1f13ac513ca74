//! A look at all that is live and all that is kept back in the mode `hardened`: what of it was written to where nobody may.
//!
//! What is seen when something is freed, or at last given back, is seen here without that; so that it is told at the program's
//! end at the latest. Other threads go on: what looks broken is looked at once more, and counts if it is still the same
//! allocation's. What has pages of its own may be gone meanwhile, so the system reads it.
//!
//! Invariant: what is told was broken while it was live, or kept back.

use super::Tracked;
use super::edges::canary;
use super::tracked::Known;
use crate::config::CANARY;
use crate::modes::Seen;
use crate::os;
use crate::report::Mode;
use crate::size_class::{Class, at_place};
use core::fmt::Arguments;
use core::ptr::with_exposed_provenance;

/// Lines that are written of one look.
const LINES: usize = 16;

impl Tracked<'_> {
    /// Says a line of each, up to a number, on stderr, and returns how many there are.
    pub(crate) fn check_memory(&self) -> usize {
        let mut count = 0;
        self.audit(&mut |what| {
            count += 1;
            if count <= LINES {
                self.tracker.witness.say(what);
            }
        });
        if count > LINES {
            self.tracker.witness.say(format_args!("and {} more", count - LINES));
        }
        count
    }

    /// Calls `tell` with a line of each. Linear in the most allocations that ever lived.
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    fn audit(&self, tell: &mut dyn FnMut(Arguments<'_>)) {
        if self.mode != Mode::Hardened {
            return;
        }
        // What is being resized has its old canary or its new one, and is looked at when that is over.
        self.tracker.walk(|seen| {
            if !seen.is_resized {
                self.look_at_live(&seen, tell);
            }
        });
        self.tracker.walk_recent(|address, size, is_still| self.look_at_kept(address, size, is_still, tell));
    }

    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    fn look_at_live(&self, seen: &Seen, tell: &mut dyn FnMut(Arguments<'_>)) {
        let class = match self.heap.spans.page_map.noted(seen.address) {
            0 => None,
            note => Some(at_place(note as usize - 1)),
        };
        if let Some(past) = self.broken_behind(seen, class).filter(|_| self.is_same(seen)) {
            let known = Known(seen, self.tracker);
            return tell(format_args!("write {past} bytes past the end of {:#x}: {known}", seen.address));
        }
        let Some(class) = class.filter(|_| self.tracker.knows_all()) else { return };
        let Some(before) = self.before(seen.address, class) else { return };
        let Some(bytes) = self.broken_before(before, class) else { return };
        // It may be told of the one before already.
        let other = self.tracker.find(self.heap.place(before));
        let is_told = other.is_some_and(|other| other.is_live && self.broken_behind(&other, Some(class)).is_some());
        if !is_told && self.is_same(seen) {
            tell(format_args!("{}", self.told_before(seen.address, bytes, Some(before))));
        }
    }

    /// The first of the bytes behind a live allocation that has changed.
    fn broken_behind(&self, seen: &Seen, class: Option<Class>) -> Option<usize> {
        if class.is_some() {
            return (0..CANARY).find(|past| self.is_broken(seen.address, seen.size, *past));
        }
        let expected = canary(seen.address, seen.size);
        let mut there = [0; CANARY / size_of::<usize>()];
        // Where fewer words can be read there are no more, or the pages are gone.
        let words = os::read_memory(seen.address + seen.size, &mut there);
        let first = (0..words).find(|word| there[*word] as u64 != expected[*word])?;
        let byte = (there[first] as u64 ^ expected[first]).to_le().trailing_zeros() as usize / 8;
        Some(first * size_of::<u64>() + byte)
    }

    /// Whether an allocation is live still, and was not resized meanwhile.
    fn is_same(&self, seen: &Seen) -> bool {
        let is_same = |now: Seen| now.is_live && !now.is_resized && (now.id, now.freed_ms) == (seen.id, seen.freed_ms);
        self.tracker.find(self.heap.place(seen.address)).is_some_and(is_same)
    }

    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    fn look_at_kept(
        &self,
        address: usize,
        size: usize,
        is_still: &dyn Fn() -> bool,
        tell: &mut dyn FnMut(Arguments<'_>),
    ) {
        let find = || self.tracker.find(self.heap.place(address)).filter(|seen| !seen.is_live);
        let Some(seen) = find() else { return };
        let size = if size == 0 { seen.size } else { size };
        if self.heap.spans.page_map.noted(address) == 0 {
            // Pages of its own, which may be gone.
            return;
        }
        let Some(fill) = self.tracker.quarantine.fill(self.mode, size).filter(|_| is_still()) else { return };
        let at = with_exposed_provenance::<u8>(address);
        // SAFETY: bytes of a chunk, which can be read whoever has it; ours, if it is still kept back at the end.
        let written = (0..size).find(|byte| unsafe { at.add(*byte).read_volatile() } != fill);
        // Had it been given back, another allocation would be there, or none be kept back.
        if let Some(byte) = written.filter(|_| find() == Some(seen) && is_still()) {
            let known = Known(&seen, self.tracker);
            tell(format_args!("write to {address:#x} after it was freed, {byte} bytes into it: {known}"));
        }
    }
}
