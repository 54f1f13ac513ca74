//! Thread caches: what makes the fast path fast.
//!
//! Per class a bin points into the thread's loaded magazine. `alloc` compares two words, loads the chunk and steps
//! down; `free` compares, stores and steps up: no atomic read-modify-write, no loop. When a bin misses, the slow path
//! exchanges whole magazines with the spares here and with the pool.
//!
//! # States of a cache
//!
//! | state | owner |
//! |---|---|
//! | unborn, dead | nobody: statics with bins of nulls, which miss both ways; a thread that has no cache yet, or no more, points to one of them |
//! | `FREE` | the slab of caches, or whoever is taking it from there |
//! | `LIVE` | one thread; when that has vanished (`fork`, or an end without destructors), whoever adopts it |
//! | `ADOPTED` | the adopter, until it is free |
//!
//! # States of a bin
//!
//! Empty of a magazine: all null. Loaded: `bottom <= top <= limit` delimit the magazine's slots. *Armed*: loaded, but
//! `bottom = limit`, so that the next pop misses, does upkeep, and sets the bounds right: this is how a thread that would
//! never miss still drives the clock. Pushes need not be armed: without a pop in between they miss soon enough. A *stranger's*
//! bin, too, is armed: its chunks are smaller than a line of the processor's caches, others have allocated them, and the
//! thread has allocated none. They are not what its first pop is served.
//!
//! Another thread may look at any time (statistics, adoption in the child of a `fork`), and any instruction may be the
//! last one that a vanished thread executed. So each hand-over removes before it inserts; `loaded` names the magazine
//! before `top` points into it, and `top` is nulled after the magazine's own count is right again: a chunk is at each
//! instant in at most one place. The chain of spares is taken, by owner and thief alike, by exchange with nothing; only
//! the owner puts.
//!
//! Invariant: that of `charge`.

mod bin;
mod charge;
mod lot;
mod spares;
mod tally;
mod text;

pub(crate) use bin::Bin;
pub(crate) use lot::Lot;
pub(crate) use tally::{Begun, Counted, Tally};
pub(crate) use text::Text;

use crate::pool::{Magazine, Magazines};
use crate::size_class::{CLASSES, Class, INFO};
use crate::slab::Node;
use crate::sync::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Counter, Fault, Ordering, Slot, planted};
use crate::tagged::{Index, NONE};
use core::ops::Range;
use core::ptr::null_mut;

/// See the module's documentation.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct ThreadCache {
    bins: [Bin; CLASSES],
    link: AtomicU32,
    index: AtomicU32,
    /// The system's number of the thread, a count of owners, and the state: one word, so that an adopter that has
    /// looked at one owner cannot take the cache from another.
    state: AtomicU64,
    /// Set by the owner when it puts a spare: whether a thief need look.
    has_spares: AtomicU32,
    /// The shard of the processor on which the owner was a moment ago.
    home: AtomicU32,
    /// How many tags of the owner are in force: see [`Tags`](crate::tags::Tags).
    pub(crate) tags: AtomicU32,
    charge: AtomicUsize,
    /// Set by thieves: less may be held than is charged.
    robbed: AtomicU32,
    /// The class at which the search for something to evict goes on.
    hand: AtomicUsize,
    empties: AtomicU32,
    empty_count: AtomicU32,
    /// Slow paths until the next look at the clock.
    pub(crate) pulse: AtomicU32,
    /// How many times as many as at first, since the clock had not moved.
    pub(crate) pulses: AtomicU32,
    /// What the clock said then.
    pub(crate) seen_ms: AtomicU64,
    /// How often a bin may be armed again before the clock moves.
    pub(crate) rearm: AtomicU32,
    /// What a fine clock said when that was last earned by waiting.
    pub(crate) earned_us: AtomicU64,
    /// Large allocations for all owners so far, and their bytes.
    pub(crate) larges: Counter,
    pub(crate) large_bytes: Counter,
    /// What the thread's allocations are for, as it says.
    tag: Text,
    /// The IDs that the owner's allocations will have, where they have any.
    pub(crate) lot: Lot,
    /// What the owner allocates, where it is measured.
    pub(crate) tally: Tally,
    /// Of a front, which is always empty so that each call misses: the cache behind it.
    behind: AtomicPtr<ThreadCache>,
}

const FREE: u64 = 0;
const LIVE: u64 = 1;
const ADOPTED: u64 = 2;
const STATE: u64 = 3;
const OWNER: u64 = 4;

/// Who owned a live cache when somebody looked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner(u64);

impl Owner {
    /// The system's number of the thread.
    pub(crate) fn thread(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

// SAFETY: zeros are a free cache with empty bins; the link is one word.
unsafe impl Node for ThreadCache {
    fn stride(_: usize) -> usize {
        size_of::<Self>()
    }

    fn link(&self) -> &AtomicU32 {
        &self.link
    }

    unsafe fn make(at: *mut Self, _: usize) {
        // SAFETY: the caller gives the place.
        unsafe { at.write(Self::new()) };
    }

    fn name(&self, index: Index) {
        self.index.store(index, Ordering::Relaxed);
    }
}

impl ThreadCache {
    const_fn! {
        pub(crate) const fn new() -> Self {
            Self {
                bins: array_of![Bin::new(); CLASSES],
                link: AtomicU32::new(NONE),
                index: AtomicU32::new(NONE),
                state: AtomicU64::new(FREE),
                has_spares: AtomicU32::new(0),
                home: AtomicU32::new(0),
                tags: AtomicU32::new(0),
                charge: AtomicUsize::new(0),
                robbed: AtomicU32::new(0),
                hand: AtomicUsize::new(0),
                empties: AtomicU32::new(NONE),
                empty_count: AtomicU32::new(0),
                pulse: AtomicU32::new(0),
                pulses: AtomicU32::new(0),
                seen_ms: AtomicU64::new(0),
                rearm: AtomicU32::new(0),
                earned_us: AtomicU64::new(0),
                larges: Counter::new(),
                large_bytes: Counter::new(),
                tag: Text::new(),
                lot: Lot::new(),
                tally: Tally::new(),
                behind: AtomicPtr::new(null_mut()),
            }
        }
    }

    #[inline(always)]
    pub(crate) fn bin(&self, class: Class) -> &Bin {
        &self.bins[class]
    }

    /// Where the bins lie, and how large one is: what the fast path takes for granted.
    #[allow(dead_code, reason = "Rust 1.85 does not count its use in a nameless constant")]
    pub(crate) const LAYOUT: (usize, usize) = (core::mem::offset_of!(Self, bins), size_of::<Bin>());

    /// The bin at a place.
    ///
    /// # Safety
    /// `place` comes from [`place_of`](crate::size_class::place_of).
    #[inline(always)]
    pub(crate) unsafe fn bin_at(&self, place: usize) -> &Bin {
        // SAFETY: the bins come first, `BIN_BYTES` each, and the place is that of one of them.
        unsafe { &*(&raw const *self).byte_add(place).cast::<Bin>() }
    }

    #[inline]
    pub(crate) fn index(&self) -> Index {
        self.index.load(Ordering::Relaxed)
    }

    /// Makes this the front of a cache, for the same thread.
    pub(crate) fn stand_before(&'static self, cache: &'static ThreadCache) {
        self.behind.store((&raw const *cache).cast_mut(), Ordering::Relaxed);
    }

    /// The cache behind a front; of any other, itself.
    #[inline]
    pub(crate) fn behind(&'static self) -> &'static ThreadCache {
        // SAFETY: null, or a cache that stays for ever, as `stand_before` was given it.
        unsafe { self.behind.load(Ordering::Relaxed).as_ref() }.unwrap_or(self)
    }

    /// The shard of the owner's processor.
    #[inline]
    pub(crate) fn home(&self) -> u32 {
        self.home.load(Ordering::Relaxed)
    }

    pub(crate) fn set_home(&self, home: u32) {
        self.home.store(home, Ordering::Relaxed);
    }

    /// The system's number of the owner.
    pub(crate) fn thread(&self) -> u32 {
        Owner(self.state.load(Ordering::Relaxed)).thread()
    }

    /// What the owner's allocations are for. Only the owner may ask, and say.
    pub(crate) fn tag(&self) -> &'static str {
        self.tag.get()
    }

    /// Says what the owner's allocations are for from now on.
    pub(crate) fn set_tag(&self, tag: &'static str) {
        self.tag.set(tag);
    }

    /// Makes the caller's cache that of the thread with this number.
    pub(crate) fn join(&self, thread: u32) {
        self.bins.iter().for_each(|bin| bin.portion.store(0, Ordering::Relaxed));
        self.set_tag("");
        self.tags.store(0, Ordering::Relaxed);
        self.tally.forget();
        self.renumber(thread);
    }

    /// Says the number of the cache's owner anew: after a fork, in which threads are renumbered.
    pub(crate) fn renumber(&self, thread: u32) {
        let owners = (self.state.load(Ordering::Relaxed) as u32 as u64 & !STATE).wrapping_add(OWNER) as u32 as u64;
        // ORDERING: Release pairs with `owner`: whoever sees it alive sees what was set before.
        self.state.store((thread as u64) << 32 | owners | LIVE, Ordering::Release);
        self.note_theft();
    }

    /// Ends the caller's ownership; all bins are empty.
    pub(crate) fn leave(&self) {
        let owners = self.state.load(Ordering::Relaxed) as u32 as u64 & !STATE;
        // ORDERING: Release: who sees it free sees it empty.
        self.state.store(owners | FREE, Ordering::Release);
    }

    /// The owner, if the cache is a thread's.
    pub(crate) fn owner(&self) -> Option<Owner> {
        // ORDERING: Acquire pairs with `join`.
        let state = self.state.load(Ordering::Acquire);
        (state & STATE == LIVE).then_some(Owner(state))
    }

    /// Makes the cache of a thread that is no more the caller's, if nobody else has: then its bins are the caller's.
    pub(crate) fn adopt(&self, owner: Owner) -> bool {
        if planted(Fault::AdoptBoth) {
            self.state.store(owner.0 & !STATE | ADOPTED, Ordering::Relaxed);
            return true;
        }
        // Relaxed: `owner` has acquired what `join` published; the thread's own stores happened before it vanished.
        self.state.compare_exchange(owner.0, owner.0 & !STATE | ADOPTED, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Whether the cache bears the word of the calling thread, whose cache of another heap is `own`.
    #[inline]
    pub(crate) fn has_word_of(&self, own: &Self) -> bool {
        // Relaxed: only the thread itself ever puts it there.
        self.state.load(Ordering::Relaxed) == own.state.load(Ordering::Relaxed)
    }

    /// Makes the cache the calling thread's, whose cache of another heap is `own`. False: somebody is emptying it.
    pub(crate) fn claim(&self, own: &Self) -> bool {
        let mine = own.state.load(Ordering::Relaxed);
        let seen = self.state.load(Ordering::Relaxed);
        if planted(Fault::ClaimsBlindly) {
            self.state.store(mine, Ordering::Relaxed);
            return true;
        }
        // ORDERING: AcqRel: Acquire pairs with `leave`, of whoever has emptied it; its last owner's stores came before its
        // end, and so before the thread was given its index. Release pairs with `owner`.
        seen & STATE != ADOPTED && self.state.compare_exchange(seen, mine, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Whether this is the owner now.
    pub(crate) fn is_owned(&self, owner: Owner) -> bool {
        // ORDERING: Acquire pairs with `leave` and `join`: if it no longer is, all that it did is seen.
        self.state.load(Ordering::Acquire) == owner.0
    }

    /// Whether somebody is settling the cache; if they have vanished, it is for a repair to go on.
    pub(crate) fn is_adopted(&self) -> bool {
        // Relaxed: nobody goes on with what is in it before a repair, which has it alone.
        self.state.load(Ordering::Relaxed) & STATE == ADOPTED
    }

    /// The magazine loaded for a class.
    pub(crate) fn loaded<'a>(&self, class: Class, magazines: &'a Magazines) -> Option<&'a Magazine> {
        // ORDERING: Acquire pairs with `load`, for those who look at another thread's cache.
        match self.bins[class].loaded.load(Ordering::Acquire) {
            NONE => None,
            index => Some(magazines.get(index)),
        }
    }

    /// Whether a magazine is loaded for a class. Only the owner may ask.
    pub(crate) fn is_loaded(&self, class: Class) -> bool {
        self.bins[class].loaded.load(Ordering::Relaxed) != NONE
    }

    /// Loads a magazine that the owner has in hand into an empty bin.
    pub(crate) fn load(&self, class: Class, magazine: &Magazine) {
        magazine.prefetch();
        let count = magazine.count();
        // ORDERING: Release, and this order: see the module's documentation.
        let publish = if planted(Fault::LoadRelaxed) { Ordering::Relaxed } else { Ordering::Release };
        self.bins[class].loaded.store(magazine.index(), publish);
        self.bound(class, magazine, magazine.base().wrapping_add(count));
    }

    /// Sets the bounds of a bin with a loaded magazine.
    fn bound(&self, class: Class, magazine: &Magazine, top: *mut Slot) {
        let base = magazine.base();
        let bin = &self.bins[class];
        // ORDERING: Release, as in `push`. The bounds are the owner's alone.
        bin.top.store(top, Ordering::Release);
        bin.bottom.store(base, Ordering::Relaxed);
        bin.limit.store(base.wrapping_add(INFO[class].slots), Ordering::Relaxed);
    }

    /// Chunks in the loaded magazine of a class. From another thread, a moment's picture.
    pub(crate) fn loaded_count(&self, class: Class, magazine: &Magazine) -> usize {
        let base = magazine.base();
        // ORDERING: Acquire pairs with `push` and `bound`.
        let each = if planted(Fault::TopRelaxed) { Ordering::Relaxed } else { Ordering::Acquire };
        let top = self.bins[class].top.load(each);
        if top.is_null() {
            return magazine.peek_count();
        }
        let count = (top.addr().wrapping_sub(base.addr())) / size_of::<Slot>();
        if count <= INFO[class].slots { count } else { 0 }
    }

    /// Takes the loaded magazine out of its bin, its count set.
    pub(crate) fn unload<'a>(&self, class: Class, magazines: &'a Magazines) -> Option<&'a Magazine> {
        let magazine = self.loaded(class, magazines)?;
        magazine.set_count(self.loaded_count(class, magazine));
        let bin = &self.bins[class];
        // The bounds first: who adopts a bin that names no magazine looks no further, and its next owner may begin with a push.
        bin.bottom.store(null_mut(), Ordering::Relaxed);
        bin.limit.store(null_mut(), Ordering::Relaxed);
        // ORDERING: Release: the count is right before `top` no longer tells; then the bin lets the magazine go.
        bin.top.store(null_mut(), Ordering::Release);
        // ORDERING: Release: in a child of a fork there are neither `top` nor bounds, if this is so.
        bin.loaded.store(NONE, Ordering::Release);
        Some(magazine)
    }

    /// Sets the bounds of all bins right, in whose middle the owner before may have vanished.
    #[cold]
    pub(crate) fn set_right(&self, magazines: &Magazines) {
        for class in 0..CLASSES {
            if let Some(magazine) = self.unload(class, magazines) {
                self.load(class, magazine);
            }
        }
        self.note_theft();
    }

    /// Has loaded bins miss at their next pop, so that the calling thread does upkeep even if it would never miss.
    pub(crate) fn arm(&self, classes: Range<Class>) {
        for bin in &self.bins[classes] {
            if bin.loaded.load(Ordering::Relaxed) != NONE {
                bin.bottom.store(bin.limit.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
    }

    /// Sets the bounds of an armed bin right. Says whether it was armed.
    pub(crate) fn disarm(&self, class: Class, magazines: &Magazines) -> bool {
        let bin = &self.bins[class];
        let bottom = bin.bottom.load(Ordering::Relaxed);
        if bottom.is_null() || bottom != bin.limit.load(Ordering::Relaxed) {
            return false;
        }
        if let Some(magazine) = self.loaded(class, magazines) {
            bin.bottom.store(magazine.base(), Ordering::Relaxed);
        }
        true
    }

    /// Verifies the bounds of all bins while the owner is elsewhere.
    pub(crate) fn check(&self, magazines: &Magazines) -> bool {
        (0..CLASSES).all(|class| {
            let bin = &self.bins[class];
            let Some(magazine) = self.loaded(class, magazines) else { return bin.is_named() };
            let base = magazine.base().addr();
            let top = bin.top.load(Ordering::Relaxed).addr();
            let (bottom, limit) = (bin.bottom.load(Ordering::Relaxed).addr(), bin.limit.load(Ordering::Relaxed).addr());
            let end = base + INFO[class].slots * size_of::<Slot>();
            let armed = bottom == end;
            (armed || bottom == base) && limit == end && (base..=end).contains(&top)
        })
    }
}

#[cfg(all(test, not(millpond_loom)))]
mod tests;
