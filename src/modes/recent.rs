//! Recent frees: what is kept back of them for a while, so that no other allocation comes to be there, in queues of a fixed length.
//!
//! | queue | what waits there |
//! |---|---|
//! | frees, one for some threads each | chunks, each with its size |
//! | runs | large and guarded allocations, which keep their addresses alone |
//! | stuck | those of them that have left it, and were refused access (`ulimit -d`): the first to be tried again |
//! | firsts | first chunks of spans that came up and were not handed out |
//!
//! Who puts something in takes a turn, and has what was there a round before: it goes back to the heap. Whoever takes something out, in
//! either way, does so by an exchange, and has it alone; so does who only looks at it, and puts it back if its slot is still free.
//!
//! Invariant: what is kept back is in one slot, from the exchange that put it there to the one that takes it out.

use super::Tracker;
use crate::config::{ADDRESS_BITS, KEPT_FIRSTS, KEPT_MAX, KEPT_QUEUES, KEPT_RUNS, RECENT};
use crate::os;
use crate::sync::{AtomicU64, AtomicUsize, Counter, Fault, Ordering, planted};
use crossbeam_utils::CachePadded;

/// How many frees before it is looked at something is prefetched.
const AHEAD: usize = 8;

/// Address and size of what is kept back, in a word.
const fn pack(address: usize, size: usize) -> u64 {
    if size < LONG { (size as u64) << ADDRESS_BITS | address as u64 } else { address as u64 }
}

const fn unpack(word: u64) -> (usize, usize) {
    ((word & ((1 << ADDRESS_BITS) - 1)) as usize, (word >> ADDRESS_BITS) as usize)
}

/// From here on a size does not fit beside an address, and is zero there.
const LONG: usize = if ADDRESS_BITS > 32 { 1 << (u64::BITS - ADDRESS_BITS) } else { u32::MAX as usize };

const _: () = assert!(KEPT_MAX < LONG);

/// The last frees of some threads that are kept back.
#[derive(Debug)]
struct Frees {
    /// Address and size of each, oldest next.
    slots: [AtomicU64; RECENT],
    next: AtomicU64,
    /// Up to where the oldest have been forgotten before their turn.
    gone: AtomicU64,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Recent {
    queues: [CachePadded<Frees>; KEPT_QUEUES],
    /// The same of large and guarded ones, which keep their addresses alone: that is all.
    runs: [AtomicUsize; KEPT_RUNS],
    next_run: AtomicU64,
    /// Those that found their place taken when the system refused them access: few, since they are the first to be tried again.
    stuck: [AtomicUsize; KEPT_RUNS],
    /// First chunks of spans, which nobody had, in the same way as runs; and how many came here so far, and their bytes.
    firsts: [AtomicUsize; KEPT_FIRSTS],
    next_first: AtomicU64,
    first_bytes: Counter,
}

impl Frees {
    const_fn! {
        const fn new() -> Self {
            Self { slots: array_of![AtomicU64::new(0); RECENT], next: AtomicU64::new(0), gone: AtomicU64::new(0) }
        }
    }

    /// How many are in it, or a few more: some may have been taken out otherwise.
    fn len(&self) -> u64 {
        let (gone, next) = (self.gone.load(Ordering::Relaxed), self.next.load(Ordering::Relaxed));
        next.saturating_sub(gone).min(RECENT as u64)
    }

    /// See [`Tracker::forget_oldest`].
    fn forget_oldest(&self) -> Option<(usize, usize)> {
        loop {
            let (gone, next) = (self.gone.load(Ordering::Relaxed), self.next.load(Ordering::Relaxed));
            let oldest = gone.max(next.saturating_sub(RECENT as u64));
            if oldest >= next {
                return None;
            }
            // Whoever moves it on looks into the slot; a free that is slow to come there stays until its turn.
            if self.gone.compare_exchange(gone, oldest + 1, Ordering::Relaxed, Ordering::Relaxed).is_err() {
                continue;
            }
            let slot = &self.slots[oldest as usize % RECENT];
            if planted(Fault::ForgetStore) {
                let old = slot.load(Ordering::Relaxed);
                slot.store(0, Ordering::Relaxed);
                return (old != 0).then(|| unpack(old));
            }
            // ORDERING: Acquire, as in `remember`: what was there is the caller's from here on.
            match slot.swap(0, Ordering::Acquire) {
                0 => {}
                old => return Some(unpack(old)),
            }
        }
    }
}

impl Recent {
    const_fn! {
        pub(super) const fn new() -> Self {
            Self {
                queues: array_of![CachePadded::new(Frees::new()); KEPT_QUEUES],
                runs: array_of![AtomicUsize::new(0); KEPT_RUNS],
                next_run: AtomicU64::new(0),
                stuck: array_of![AtomicUsize::new(0); KEPT_RUNS],
                firsts: array_of![AtomicUsize::new(0); KEPT_FIRSTS],
                next_first: AtomicU64::new(0),
                first_bytes: Counter::new(),
            }
        }
    }
}

/// A free that is kept back, and has been taken out to be looked at: nobody else has it.
pub(crate) struct InHand<'a> {
    slot: &'a AtomicU64,
    word: u64,
}

impl InHand<'_> {
    /// Address and size.
    pub(crate) fn what(&self) -> (usize, usize) {
        unpack(self.word)
    }

    /// Puts it back where it was. If another is there by now, it stays the caller's: address and size.
    pub(crate) fn put_back(self) -> Option<(usize, usize)> {
        let Self { slot, word } = self;
        if planted(Fault::PutBackStore) {
            // ORDERING: as below.
            slot.store(word, Ordering::Release);
            return None;
        }
        // ORDERING: Release: whoever has it next has it after the caller's look.
        let order = if planted(Fault::PutBackRelaxed) { Ordering::Relaxed } else { Ordering::Release };
        slot.compare_exchange(0, word, order, Ordering::Relaxed).err().map(|_| unpack(word))
    }
}

impl Recent {
    /// The queue of a thread's frees.
    #[inline]
    fn of(&self, thread: u32) -> &Frees {
        &self.queues[thread as usize % KEPT_QUEUES]
    }

    /// The slots of all queues that were ever used: others are pages that nobody has touched.
    fn frees(&self) -> impl Iterator<Item = &AtomicU64> {
        // Relaxed: who has put something in before the caller began is seen by whatever told the caller.
        let used = self.queues.iter().filter(|frees| frees.next.load(Ordering::Relaxed) != 0);
        used.flat_map(|frees| &frees.slots)
    }
}

impl Tracker {
    /// Puts what a thread has freed, and is kept back, among its recent frees and returns what comes out for it, if anything does: address
    /// and size.
    #[inline]
    pub(crate) fn remember(&self, thread: u32, address: usize, size: usize) -> Option<(usize, usize)> {
        let frees = self.recent.of(thread);
        let next = Self::turn(&frees.next);
        // Relaxed: only an address to prefetch, which need not be right.
        os::prefetch_read(unpack(frees.slots[(next + AHEAD) % RECENT].load(Ordering::Relaxed)).0);
        // ORDERING: AcqRel: what was there is the caller's from here on, and what the caller did to its own is published.
        let both = if planted(Fault::RememberRelaxed) { Ordering::Relaxed } else { Ordering::AcqRel };
        match frees.slots[next % RECENT].swap(pack(address, size), both) {
            0 => None,
            old => Some(unpack(old)),
        }
    }

    /// Takes the oldest of a thread's recent frees out before its turn, or, if there is none, another's. `None`: there is none left.
    pub(crate) fn forget_oldest(&self, thread: u32) -> Option<(usize, usize)> {
        let each = |others: usize| self.recent.of(thread.wrapping_add(others as u32)).forget_oldest();
        (0..KEPT_QUEUES).find_map(each)
    }

    /// One of the threads whose queue is the longest, this one if its queue is: who frees no more leaves room to others.
    pub(crate) fn longest(&self, thread: u32) -> u32 {
        let each = (0..KEPT_QUEUES as u32).rev().map(|others| thread.wrapping_add(others));
        // The last of those that are equal.
        each.max_by_key(|thread| self.recent.of(*thread).len()).unwrap_or(thread)
    }

    /// Takes all recent frees out and calls `last` with each.
    pub(crate) fn forget_all(&self, mut last: impl FnMut(usize, usize)) {
        for slot in self.recent.frees() {
            // ORDERING: Acquire, as in `remember`: what was there is the caller's from here on.
            match slot.swap(0, Ordering::Acquire) {
                0 => {}
                old => {
                    let (address, size) = unpack(old);
                    last(address, size);
                }
            }
        }
    }

    /// As [`remember`](Self::remember), for what keeps its addresses alone.
    pub(crate) fn remember_run(&self, address: usize) -> Option<usize> {
        Self::put_in(&self.recent.runs[Self::turn(&self.recent.next_run) % KEPT_RUNS], address)
    }

    /// Takes out the run that would come out for the next one.
    pub(crate) fn forget_next_run(&self) -> Option<usize> {
        // Relaxed: whoever else comes meanwhile takes another, or finds nothing.
        let next = self.recent.next_run.load(Ordering::Relaxed) as usize % KEPT_RUNS;
        // ORDERING: Acquire, as in `forget_oldest`.
        Some(self.recent.runs[next].swap(0, Ordering::Acquire)).filter(|run| *run != 0)
    }

    /// Takes out a run that was refused access, if there is one.
    pub(crate) fn forget_stuck_run(&self) -> Option<usize> {
        let slot = self.recent.stuck.iter().find(|slot| slot.load(Ordering::Relaxed) != 0)?;
        // ORDERING: Acquire, as in `forget_oldest`.
        Some(slot.swap(0, Ordering::Acquire)).filter(|run| *run != 0)
    }

    /// Puts a run that was taken out back, wherever there is room. False: there is none.
    pub(crate) fn keep_run_further(&self, address: usize) -> bool {
        // ORDERING: Release, as in `remember`: what was done to it is done.
        let publish = if planted(Fault::RememberRelaxed) { Ordering::Relaxed } else { Ordering::Release };
        let slots = self.recent.runs.iter().chain(&self.recent.stuck);
        slots.filter(|slot| slot.load(Ordering::Relaxed) == 0).any(|slot| {
            if planted(Fault::FurtherStore) {
                slot.store(address, publish);
                return true;
            }
            slot.compare_exchange(0, address, publish, Ordering::Relaxed).is_ok()
        })
    }

    /// As [`remember_run`](Self::remember_run), for a first chunk of a span, of so many bytes, that comes up and is not handed out.
    pub(crate) fn remember_first(&self, address: usize, bytes: usize) -> Option<usize> {
        self.recent.first_bytes.add_shared(bytes as u64);
        Self::put_in(&self.recent.firsts[Self::turn(&self.recent.next_first) % KEPT_FIRSTS], address)
    }

    /// The next turn: one caller's, so that nothing comes out before there is no room.
    #[inline]
    fn turn(next: &AtomicU64) -> usize {
        if planted(Fault::TurnStore) {
            let turn = next.load(Ordering::Relaxed);
            next.store(turn + 1, Ordering::Relaxed);
            return turn as usize;
        }
        next.fetch_add(1, Ordering::Relaxed) as usize
    }

    fn put_in(slot: &AtomicUsize, address: usize) -> Option<usize> {
        // ORDERING: as in `remember`.
        let both = if planted(Fault::RememberRelaxed) { Ordering::Relaxed } else { Ordering::AcqRel };
        Some(slot.swap(address, both)).filter(|old| *old != 0)
    }

    /// How often that was done, and with how many bytes: so many allocations and frees are none of the program's.
    pub(crate) fn firsts_kept(&self) -> (u64, u64) {
        (self.recent.next_first.load(Ordering::Relaxed), self.recent.first_bytes.get())
    }

    /// As [`forget_all`](Self::forget_all), for those.
    pub(crate) fn forget_firsts(&self, last: impl FnMut(usize)) {
        Self::forget_each(&self.recent.firsts, last);
    }

    /// And for runs.
    pub(crate) fn forget_runs(&self, mut last: impl FnMut(usize)) {
        Self::forget_each(&self.recent.stuck, &mut last);
        Self::forget_each(&self.recent.runs, last);
    }

    fn forget_each(slots: &[AtomicUsize], mut last: impl FnMut(usize)) {
        for slot in slots {
            // ORDERING: Acquire, as in `remember`: what was there is the caller's from here on.
            match slot.swap(0, Ordering::Acquire) {
                0 => {}
                old => last(old),
            }
        }
    }

    /// Takes each recent free out for as long as `look` has it.
    pub(crate) fn look_at_recent(&self, mut look: impl FnMut(InHand<'_>)) {
        for slot in self.recent.frees() {
            // Relaxed: the exchange below decides; most are full.
            if slot.load(Ordering::Relaxed) == 0 {
                continue;
            }
            // ORDERING: Acquire, as in `remember`: what was there is the caller's from here on.
            match slot.swap(0, Ordering::Acquire) {
                0 => {}
                word => look(InHand { slot, word }),
            }
        }
    }

    /// Calls `visit` with the address of each recent free, each run, and each first chunk: a moment's picture.
    pub(crate) fn walk_kept(&self, visit: impl FnMut(usize)) {
        // Relaxed: only addresses.
        let recent = self.recent.frees().map(|slot| unpack(slot.load(Ordering::Relaxed)).0);
        let others = self.recent.runs.iter().chain(&self.recent.stuck).chain(&self.recent.firsts);
        let others = others.map(|slot| slot.load(Ordering::Relaxed));
        recent.chain(others).filter(|address| *address != 0).for_each(visit);
    }
}
