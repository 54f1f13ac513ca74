//! A look at all that is live and all that is kept back in the mode `hardened`: what of it was written to where nobody may.
//!
//! What is seen when something is freed, or at last given back, is seen here without that; so that it is told at the program's
//! end at the latest. Other threads go on. What is kept back is in hand while it is looked at, so that nobody gives it back. What
//! is live may be freed at any moment: if it looks broken it is looked at once more, and counts if it is still the same
//! allocation's. Its memory may be gone meanwhile, or without access, a chunk's as well, whose span may have become something
//! else: so the system reads it, an OS page at a time, of which copies are kept for what lies beside. What looks broken in a
//! copy is read anew: it may have been allocated since. At the end of a program of which no other thread has a cache, nothing goes
//! meanwhile, and chunks are read as they are: some sandboxes kill for the question (that of OpenSSH's `sshd`).
//!
//! Invariant: what is told was broken while it was live, or kept back.

use super::Tracked;
use super::edges::{WORDS, canary};
use super::guard::{before_guarded, behind_guarded, canary_before};
use super::told::{Known, Written};
use crate::config::CANARY;
use crate::modes::{InHand, Seen};
use crate::os;
use crate::report::Mode;
use crate::size_class::{Class, at_place};
use core::fmt::Arguments;
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};

/// Lines that are written of one look.
const LINES: usize = 16;

impl Tracked<'_> {
    /// Says a line of each, up to a number, on stderr, and returns how many there are. Perhaps at the program's end.
    pub(crate) fn check_memory(&self, at_end: bool) -> usize {
        let mut count = 0;
        self.audit(at_end, &mut |what| {
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
    fn audit(&self, at_end: bool, tell: &mut dyn FnMut(Arguments<'_>)) {
        if self.mode != Mode::Hardened {
            return;
        }
        let mut here = [0];
        let alone = at_end && self.cache.is_some_and(|cache| self.heap.has_one_thread(cache));
        let asks = !alone && os::read_memory((&raw const here).addr(), &mut here) == here.len();
        let audit = Audit { of: self, asks, copies: if asks { Copies::new() } else { None } };
        // What is being resized has its old canary or its new one, and is looked at when that is over.
        self.tracker.walk(|seen| {
            if !seen.is_resized {
                audit.look_at_live(&seen, tell);
            }
        });
        self.tracker.look_at_recent(|kept| self.look_at_kept(kept, tell));
    }
}

/// Copies of OS pages in memory of their own, each in the place of its number, and which they are of; one look's.
struct Copies {
    at: usize,
    page: usize,
}

impl Copies {
    const BYTES: usize = 2 << 20;

    /// `None`: the system has no memory for them.
    fn new() -> Option<Self> {
        let page = os::page_size();
        Some(Self { at: os::scratch(Self::BYTES + Self::BYTES / page * WORD)?, page })
    }

    /// Where a copy is of some bytes in one OS page. `None`: they lie in two, or cannot be read.
    fn copy(&self, at: usize, len: usize) -> Option<*const u8> {
        let (page, into) = (at & !(self.page - 1), at & (self.page - 1));
        if into + len > self.page {
            return None;
        }
        let place = page / self.page % (Self::BYTES / self.page);
        let copied = with_exposed_provenance_mut::<usize>(self.at + Self::BYTES).wrapping_add(place);
        let copy = with_exposed_provenance_mut::<usize>(self.at).wrapping_byte_add(place * self.page);
        // SAFETY: within the memory that was taken in `new`, which is this thread's alone, and zeros at first.
        unsafe {
            if copied.read() != page {
                copied.write(0);
                let words = core::slice::from_raw_parts_mut(copy, self.page / WORD);
                if os::read_memory(page, words) < words.len() {
                    return None;
                }
                copied.write(page);
            }
        }
        Some(copy.cast_const().cast::<u8>().wrapping_add(into))
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        os::release_metadata(self.at, Self::BYTES + Self::BYTES / self.page * WORD);
    }
}

/// One look.
struct Audit<'a> {
    of: &'a Tracked<'a>,
    /// Whether chunks are read by the system, which lets a process read its own memory.
    asks: bool,
    copies: Option<Copies>,
}

/// Whether a copy will do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Copy,
    Memory,
}

impl Audit<'_> {
    /// Reads words of a chunk, or of pages of an allocation's own: how many there are. Where the system refuses, only chunks are
    /// looked at.
    #[unsafe(link_section = ".millpond_cold")]
    fn read(&self, at: usize, is_chunk: bool, from: From, words: &mut [usize]) -> usize {
        let copy = self.copies.as_ref().filter(|_| from == From::Copy);
        let there = match copy.and_then(|copies| copies.copy(at, size_of_val(words))) {
            Some(copy) => copy,
            None if self.asks || !is_chunk => return os::read_memory(at, words),
            None => with_exposed_provenance(at),
        };
        for (place, word) in words.iter_mut().enumerate() {
            // SAFETY: within a copy; or bytes of a chunk with its canary, which may be gone, but nothing better is to be had.
            *word = usize::from_ne_bytes(unsafe { there.cast::<[u8; WORD]>().add(place).read_volatile() });
        }
        words.len()
    }

    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    fn look_at_live(&self, seen: &Seen, tell: &mut dyn FnMut(Arguments<'_>)) {
        let Tracked { heap, tracker, .. } = self.of;
        let class = match heap.spans.page_map.noted(seen.address) {
            0 => None,
            note => Some(at_place(note as usize - 1)),
        };
        if class.is_none() && self.of.is_guarded(seen.address) {
            let beside = |from| self.broken_beside_guarded(seen, from);
            if let Some(what) = beside(From::Copy).and_then(|_| beside(From::Memory)).filter(|_| self.is_same(seen)) {
                tell(format_args!("{what}: {}", Known(seen, tracker)));
            }
            return;
        }
        let behind = |from| self.broken_behind(seen, class, from);
        if let Some(past) = behind(From::Copy).and_then(|_| behind(From::Memory)).filter(|_| self.is_same(seen)) {
            let known = Known(seen, tracker);
            let what = Written::Past { address: seen.address, byte: past };
            return tell(format_args!("{what}: {known}"));
        }
        let Some(class) = class.filter(|_| tracker.knows_all()) else { return };
        let Some(before) = self.of.before(seen.address, class) else { return };
        let edge = |at, from| {
            let mut there = [0; WORDS];
            (self.read(at, true, from, &mut there) == WORDS).then(|| there.map(|word| word as u64))
        };
        let edge = |from| self.of.broken_before_by(before, class, |at| edge(at, from));
        let Some(bytes) = edge(From::Copy).and_then(|_| edge(From::Memory)) else { return };
        // It may be told of the one before already.
        let other = tracker.find(heap.place(before)).filter(|other| other.is_live);
        let is_told = other.is_some_and(|other| self.broken_behind(&other, Some(class), From::Memory).is_some());
        if !is_told && self.is_same(seen) {
            tell(format_args!("{}", self.of.told_before(seen.address, bytes, Some(before))));
        }
    }

    /// The first of the bytes behind a live allocation that has changed.
    #[unsafe(link_section = ".millpond_cold")]
    fn broken_behind(&self, seen: &Seen, class: Option<Class>, from: From) -> Option<usize> {
        let expected = canary(seen.address, seen.size);
        let mut there = [0; WORDS];
        // Where fewer words can be read there are no more, or they are gone.
        let read = self.read(seen.address + seen.size, class.is_some(), from, &mut there);
        let first = (0..read).find(|word| there[*word] as u64 != expected[*word])?;
        let byte = (there[first] as u64 ^ expected[first]).to_le().trailing_zeros() as usize / 8;
        Some(first * WORD + byte)
    }

    /// What was written beside a live guarded allocation, on its OS pages: behind those there may be access although nothing is
    /// there, see `arena::growth`.
    #[unsafe(link_section = ".millpond_cold")]
    fn broken_beside_guarded(&self, seen: &Seen, from: From) -> Option<Written> {
        let Seen { address, size, .. } = *seen;
        // Whole words, of which some bytes may be the allocation's.
        let read = |at, words: usize| {
            let mut there = [0; WORDS];
            (self.read(at, false, from, &mut there[..words]) == words).then(|| bytes(&there.map(|word| word as u64)))
        };
        let behind = behind_guarded(address, size);
        let words = behind.div_ceil(WORD);
        if let Some(there) = read(address + size + behind - words * WORD, words) {
            let (there, expected) = (&there[words * WORD - behind..], bytes(&canary(address, size)));
            if let Some(byte) = (0..behind).find(|byte| there[*byte] != expected[*byte]) {
                return Some(Written::Past { address, byte });
            }
        }
        let before = before_guarded(address);
        let there = read(address - before, before.div_ceil(WORD))?;
        let expected = &bytes(&canary(canary_before(address), 0))[CANARY - before..];
        let byte = (0..before).find(|byte| there[*byte] != expected[*byte])?;
        Some(Written::Before { address, bytes: before - byte })
    }

    /// Whether an allocation is live still, and was not resized meanwhile.
    fn is_same(&self, seen: &Seen) -> bool {
        let is_same = |now: Seen| now.is_live && !now.is_resized && (now.id, now.freed_ms) == (seen.id, seen.freed_ms);
        self.of.tracker.find(self.of.heap.place(seen.address)).is_some_and(is_same)
    }
}

impl Tracked<'_> {
    /// Looks at what is kept back, each while it is in hand: nobody gives it back meanwhile.
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    fn look_at_kept(&self, kept: InHand<'_>, tell: &mut dyn FnMut(Arguments<'_>)) {
        let (address, size) = kept.what();
        let found = self.written_in_kept(address, size);
        let left = kept.put_back();
        if let Some((address, size)) = left {
            self.release(address, size, found.is_none());
        }
        // Last: a witness may panic.
        if let Some((seen, byte)) = found {
            tell(format_args!("{}: {}", Written::Freed { address, byte }, Known(&seen, self.tracker)));
        }
    }

    /// The first byte of a free in hand that is not what was written over it, and what is known of it.
    #[unsafe(link_section = ".millpond_cold")]
    fn written_in_kept(&self, address: usize, size: usize) -> Option<(Seen, usize)> {
        let seen = self.tracker.find(self.heap.place(address)).filter(|seen| !seen.is_live)?;
        let size = if size == 0 { seen.size } else { size };
        let fill = self.tracker.quarantine.fill(self.mode, size)?;
        Some((seen, self.changed(address, size, fill)?))
    }
}

/// Words as they lie in memory.
fn bytes(words: &[u64; WORDS]) -> [u8; CANARY] {
    core::array::from_fn(|at| words[at / WORD].to_ne_bytes()[at % WORD])
}

const WORD: usize = size_of::<usize>();
const _: () = assert!(WORDS == CANARY / WORD);
