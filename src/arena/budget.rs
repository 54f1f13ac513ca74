//! A budget: how many pages all runs and huge allocations of a heap may have together.
//!
//! Charged before pages are claimed, discharged after they are given back, so that it never says less than what is in
//! use. Without a limit nothing is counted.
//!
//! Free pages that hold memory are not charged; who takes others has as many go back as would pass the limit together with
//! those in use (`Arenas::keep_within`).
//!
//! Once a soft limit has been passed, what is freed may lie in pools, and pages stay in use by it: whether the heap has been below in
//! between shows no more. So it is to be trimmed each time that a [`MORE`]th more is in use than was since the last time: what has
//! been below then passes the limit again.
//!
//! Where there is a limit, the budget also knows whether a *reclaim*, which gathers all that is free, would be in vain. Whatever may
//! change what one finds is counted: pages that somebody is about to be charged, and may give back; what lies again where only a
//! reclaim reaches it, once it does; a span that was passed since another held it. Who has reclaimed in vain notes the count that he had
//! seen before. While it stands, a full heap need not be searched again for each request.
//!
//! Invariant: with a limit, `pages in use <= used <= limit`, equal at rest but for what vanished threads had in hand; and, at
//! rest, `used + dirty <= limit`, if the system has taken what it was given.

use crate::config::PAGE;
use crate::sync::{AtomicU32, AtomicUsize, Fault, Ordering, planted};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Budget {
    /// In pages; zero: none. Set before the heap is used.
    limit: AtomicUsize,
    /// In pages; zero: none.
    soft: AtomicUsize,
    used: AtomicUsize,
    /// Whether `soft` has been passed and nobody has said so yet, [`UNSAID`]; whether it is to be trimmed, [`UNTRIMMED`]; and above that
    /// how often it has been passed.
    passed: AtomicU32,
    /// How many pages are in use, once it has been passed, when it is to be trimmed.
    full: AtomicUsize,
    /// How often what a reclaim finds may have changed.
    changes: AtomicUsize,
    /// One more than what `changes` was before the last reclaim in vain; zero: there was none.
    vain: AtomicUsize,
}

const UNSAID: u32 = 1;
const UNTRIMMED: u32 = 2;
const ONCE: u32 = 4;
/// Which part of what was in use must be added before it is trimmed again.
const MORE: usize = 8;

/// When it is to be trimmed, where so much was in use.
fn full_from(used: usize) -> usize {
    used + (used / MORE).max(1)
}

/// What has happened to a soft limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passed {
    /// It was passed.
    First,
    /// Much more than before is in use beyond it.
    Further,
}

impl Budget {
    const_fn! {
        pub(crate) const fn new() -> Self {
            Self {
                limit: AtomicUsize::new(0),
                soft: AtomicUsize::new(0),
                used: AtomicUsize::new(0),
                passed: AtomicU32::new(0),
                full: AtomicUsize::new(0),
                changes: AtomicUsize::new(0),
                vain: AtomicUsize::new(0),
            }
        }
    }

    /// Sets the limits, in pages, before the heap is used; `soft` is zero for none.
    pub(crate) fn set(&self, limit: usize, soft: usize) {
        // Relaxed: whoever hands the heap to other threads publishes it.
        self.limit.store(limit, Ordering::Relaxed);
        self.soft.store(soft, Ordering::Relaxed);
    }

    /// The limit in pages, if there is one.
    pub(crate) fn limit(&self) -> Option<usize> {
        Some(self.limit.load(Ordering::Relaxed)).filter(|limit| *limit > 0)
    }

    /// The soft limit in bytes, if there is one.
    pub(crate) fn soft_bytes(&self) -> Option<usize> {
        Some(self.soft.load(Ordering::Relaxed) * PAGE).filter(|soft| *soft > 0)
    }

    /// Bytes charged.
    pub(crate) fn used_bytes(&self) -> usize {
        self.used.load(Ordering::Relaxed) * PAGE
    }

    /// Whether so many pages could be had if all others came back.
    pub(crate) fn could_hold(&self, pages: usize) -> bool {
        self.limit().is_none_or(|limit| pages <= limit)
    }

    /// Charges pages that are about to be taken. False: they are too many.
    #[inline]
    pub(crate) fn charge(&self, pages: usize) -> bool {
        let Some(limit) = self.limit() else { return true };
        // ORDERING: Acquire pairs with the exchange: who is refused since others have charged sees that counted.
        let mut used = self.used.load(Ordering::Acquire);
        loop {
            let Some(sum) = used.checked_add(pages).filter(|sum| *sum <= limit) else { return false };
            self.count_change();
            if planted(Fault::ChargeStore) {
                self.used.store(sum, Ordering::Relaxed);
                return true;
            }
            // ORDERING: Release pairs with the load above. Relaxed on failure: who is refused then has counted its own change.
            match self.used.compare_exchange_weak(used, sum, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => {
                    let soft = self.soft.load(Ordering::Relaxed);
                    if soft > 0 && sum > soft && used > soft {
                        // Relaxed, as all of it: a trim too many does no harm, and one that is missed is made up for by the next.
                        let full = self.full.load(Ordering::Relaxed).min(full_from(used));
                        self.full.store(full, Ordering::Relaxed);
                        if sum >= full {
                            self.passed.fetch_or(UNTRIMMED, Ordering::Relaxed);
                        }
                    } else if soft > 0 && sum > soft {
                        // ORDERING: Release pairs with the Acquire in `unsay`: who sees it counted sees what was charged.
                        self.passed.fetch_add(ONCE, Ordering::Release);
                        // Relaxed, and last: who has not seen it counted has unsaid it before, or fails to.
                        self.passed.fetch_or(UNSAID, Ordering::Relaxed);
                    }
                    return true;
                }
                Err(now) => used = now,
            }
        }
    }

    /// Takes pages that have been given back off.
    #[inline]
    pub(crate) fn discharge(&self, pages: usize) {
        if self.limit().is_some() {
            self.used.fetch_sub(pages, Ordering::Relaxed);
            self.count_change();
        }
    }

    /// Counts a change of what a reclaim finds, after it.
    #[inline]
    pub(crate) fn count_change(&self) {
        if self.limit().is_some() {
            // ORDERING: Release pairs with the Acquire in `changes`: who sees it counted finds it.
            let publish = if planted(Fault::ChangeRelaxed) { Ordering::Relaxed } else { Ordering::Release };
            self.changes.fetch_add(1, publish);
        }
    }

    /// How many changes there were, to be asked before a reclaim.
    pub(crate) fn changes(&self) -> usize {
        // ORDERING: Acquire pairs with `count_change`.
        self.changes.load(Ordering::Acquire)
    }

    /// Notes that a reclaim that began after `changes` was asked has found nothing of use.
    pub(crate) fn note_vain(&self, changes: usize) {
        // Without a limit nothing is counted.
        if self.limit().is_some() {
            // Relaxed: it says nothing but which count that was.
            self.vain.store(changes.wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// Whether a reclaim would be in vain, but for what lies in the caller's own cache: nothing has changed since the last that was.
    pub(crate) fn is_vain(&self) -> bool {
        // Relaxed: the count that it is compared with is read behind it, and never goes back.
        let vain = self.vain.load(Ordering::Relaxed);
        vain != 0 && vain == self.changes().wrapping_add(1)
    }

    /// Takes pages off that were charged and could not be had: the soft limit was not passed by them.
    pub(crate) fn take_back(&self, pages: usize) {
        if self.limit().is_some() {
            self.used.fetch_sub(pages, Ordering::Relaxed);
            self.unsay();
        }
    }

    /// Has nobody told that the soft limit was passed, if no more is charged by now than that: who passes it while others have what
    /// they will not keep says nothing, and then it stays said for him.
    fn unsay(&self) {
        // ORDERING: Acquire pairs with the Release in `charge`.
        let seen = self.passed.load(Ordering::Acquire);
        // Relaxed: all that was charged by those who have passed it so far is seen; who passes it from now on counts it, and the
        // exchange fails.
        if seen & UNSAID != 0 && self.used.load(Ordering::Relaxed) <= self.soft.load(Ordering::Relaxed) {
            if planted(Fault::UnsayStore) {
                return self.passed.store(seen & !UNSAID, Ordering::Relaxed);
            }
            let _ = self.passed.compare_exchange(seen, seen & !UNSAID, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Whether the soft limit has been passed since the last call, once for each time and to one caller, or much more is in use.
    #[inline]
    pub(crate) fn take_passed(&self) -> Option<Passed> {
        if self.passed.load(Ordering::Relaxed) & (UNSAID | UNTRIMMED) == 0 {
            return None;
        }
        self.take_passed_now()
    }

    #[cold]
    fn take_passed_now(&self) -> Option<Passed> {
        match self.passed.fetch_and(!(UNSAID | UNTRIMMED), Ordering::Relaxed) {
            passed if passed & UNSAID != 0 => Some(Passed::First),
            passed if passed & UNTRIMMED != 0 => Some(Passed::Further),
            _ => None,
        }
    }

    /// Notes that all that is free has gone back.
    pub(crate) fn note_trimmed(&self) {
        let used = self.used.load(Ordering::Relaxed).max(self.soft.load(Ordering::Relaxed));
        self.full.store(full_from(used), Ordering::Relaxed);
    }
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;
    use crate::sync::stepped::interrupted;

    /// Whatever another charges and keeps in the middle of it.
    #[test]
    fn what_could_not_be_had_takes_no_word_from_who_has_passed_the_limit() {
        let tried = |step| {
            let budget = Budget::new();
            budget.set(10, 4);
            let steps = interrupted(step, &mut || assert!(budget.charge(5)), || {
                assert!(budget.charge(5));
                budget.take_back(5);
            });
            assert_eq!(budget.take_passed() == Some(Passed::First), step < steps, "before step {step}");
            steps
        };
        let steps = tried(u64::MAX);
        (0..steps).for_each(|step| _ = tried(step));
    }
}
