//! The full magazines of one class in one shard: a stack, with what is counted at each visit.
//!
//! What they may hold is bounded in bytes, and, since a few chunks can pin many spans, by need: each tick returns as many
//! magazines as were not needed since the last (the low-water mark, as in Bonwick's vmem), and while far more comes in than
//! goes out, the bound is one magazine. A stack may be *deep*, by twice as many magazines as it served of late: what is built
//! and dropped all the time need not go through its spans' bits, and what is freed once serves other classes.
//!
//! How many magazines are in the stack is what the top one says: each is told, before it is put there, how high it will lie. So
//! one exchange both passes a magazine and counts it.
//!
//! Invariant: the top magazine says how many there are, and each says one more than the one below.

use super::{Magazine, Magazines};
use crate::config::SPILL_TICKS;
use crate::size_class::ClassInfo;
use crate::slab::Node;
use crate::stack::Stack;
use crate::sync::{AtomicU32, Fault, Ordering, Point, planted, point};
use crate::tagged::{Index, NONE};

/// See the module's documentation. With the listed spans, a line of the processor's caches.
#[derive(Debug)]
pub(super) struct Full {
    stack: Stack,
    /// The least depth since the last tick.
    low: AtomicU32,
    /// Magazines that came and that were asked for since the last tick.
    drains: AtomicU32,
    refills: AtomicU32,
    /// Magazines that it served since the last tick, and half of what this was then.
    served: AtomicU32,
    /// One more than how often the bounds of the pool are halved for this part of it; zero if nobody came or asked in the last
    /// period.
    halvings: AtomicU32,
    /// Whether far more came than went.
    burst: AtomicU32,
    /// Magazines to return to their spans before the next tick.
    surplus: AtomicU32,
    /// For how many ticks still it is known that it had to refuse one.
    spills: AtomicU32,
}

impl Full {
    const_fn! {
        pub(super) const fn new() -> Self {
            Self {
                stack: Stack::new(),
                low: AtomicU32::new(0),
                drains: AtomicU32::new(0),
                refills: AtomicU32::new(0),
                served: AtomicU32::new(0),
                halvings: AtomicU32::new(0),
                burst: AtomicU32::new(0),
                surplus: AtomicU32::new(0),
                spills: AtomicU32::new(0),
            }
        }
    }

    /// Takes a magazine for a thread that needs it: O(1), one exchange.
    #[inline(always)]
    pub(super) fn serve<'a>(&self, magazines: &'a Magazines) -> Option<&'a Magazine> {
        let magazine = self.take(magazines)?;
        self.asked();
        count(&self.served);
        Some(magazine)
    }

    /// Counts that one was asked for.
    pub(super) fn asked(&self) {
        count(&self.refills);
    }

    /// Takes a magazine: O(1), one exchange.
    #[inline(always)]
    pub(super) fn take<'a>(&self, magazines: &'a Magazines) -> Option<&'a Magazine> {
        let magazine = magazines.get(self.stack.pop(magazines)?);
        point(Point::Hand);
        let left = magazine.height().wrapping_sub(1);
        // Relaxed, as all counts here: they steer.
        if left < self.low.load(Ordering::Relaxed) {
            self.low.store(left, Ordering::Relaxed);
        }
        Some(magazine)
    }

    /// Puts a magazine that the caller owns on top, if there are not enough: O(1). How often bounds are halved is asked where the
    /// last period does not tell.
    #[inline(always)]
    pub(super) fn drain(
        &self,
        info: &ClassInfo,
        otherwise: impl FnOnce() -> u32,
        magazines: &Magazines,
        magazine: &Magazine,
    ) -> bool {
        count(&self.drains);
        let bound = self.bound(info, otherwise);
        let mut told = false;
        let taken = self.stack.push_if(magazine.link(), magazine.index(), |top| {
            let below = height(magazines, top);
            if !(planted(Fault::HeightOnce) && told) {
                magazine.set_height(below + 1);
            }
            told = true;
            below < bound
        });
        if !taken {
            set(&self.spills, SPILL_TICKS);
        }
        taken
    }

    /// How many there may be.
    #[inline]
    pub(super) fn bound(&self, info: &ClassInfo, otherwise: impl FnOnce() -> u32) -> u32 {
        if self.in_burst() {
            return 1;
        }
        let halvings = self.halvings(otherwise);
        // Wrapping: where the clock stands it may be any number, and the pool is as deep as others for a while.
        let twice = self.served.load(Ordering::Relaxed).wrapping_mul(2);
        share(info.pooled, halvings).saturating_add(twice).min(share(info.deep, halvings))
    }

    #[inline]
    fn halvings(&self, otherwise: impl FnOnce() -> u32) -> u32 {
        match self.halvings.load(Ordering::Relaxed) {
            0 => otherwise(),
            more => more - 1,
        }
    }

    /// Whether it had to refuse one of late.
    #[inline]
    pub(super) fn spills(&self) -> bool {
        self.spills.load(Ordering::Relaxed) != 0
    }

    #[inline]
    pub(super) fn in_burst(&self) -> bool {
        self.burst.load(Ordering::Relaxed) != 0
    }

    /// Says how many shards share what the pool may hold, this one among them; zero if it does not, since nobody came there.
    pub(super) fn share_among(&self, shards: u32) {
        set(&self.halvings, if shards == 0 { 0 } else { 1 + halvings(shards) });
    }

    /// Ends a period: sets whether the next begins in a burst, and of the magazines that were not needed in this one, half to
    /// return to their spans; or all, if they are few. Says whether anybody came or asked.
    pub(super) fn tick(&self, magazines: &Magazines) -> bool {
        let (drains, refills) = (self.drains.load(Ordering::Relaxed), self.refills.load(Ordering::Relaxed));
        let depth = self.depth(magazines);
        let low = self.low.load(Ordering::Relaxed).min(depth);
        set(&self.drains, 0);
        set(&self.refills, 0);
        set(&self.served, self.served.load(Ordering::Relaxed) / 2);
        set(&self.burst, (drains > refills.saturating_mul(8).saturating_add(16)) as u32);
        set(&self.spills, self.spills.load(Ordering::Relaxed).saturating_sub(1));
        set(&self.low, depth);
        set(&self.surplus, if low > 16 { low.div_ceil(2) } else { low });
        drains > 0 || refills > 0
    }

    /// Whether there are magazines to return before the next tick.
    pub(super) fn owes(&self) -> bool {
        self.surplus.load(Ordering::Relaxed) > 0
    }

    /// Takes a magazine that is to return to its spans before the next tick, if one is.
    pub(super) fn take_surplus<'a>(&self, magazines: &'a Magazines) -> Option<&'a Magazine> {
        let surplus = self.surplus.load(Ordering::Relaxed);
        if surplus == 0 {
            return None;
        }
        // Not a read-modify-write: two may return the same one, and so one more.
        self.surplus.store(surplus - 1, Ordering::Relaxed);
        self.take(magazines)
    }

    /// How many there are. While others use the stack, a moment's picture, if the top one stayed there so long.
    pub(super) fn depth(&self, magazines: &Magazines) -> u32 {
        height(magazines, self.stack.top())
    }

    /// Calls `visit` for each from the top, while no other thread uses the stack.
    pub(super) fn walk(&self, magazines: &Magazines, visit: &mut dyn FnMut(&Magazine)) {
        self.stack.walk(magazines, self.depth(magazines) as usize, |index| visit(magazines.get(index)));
    }

    /// The same, and whether the stack is well-formed and each height right.
    pub(super) fn check(&self, magazines: &Magazines, visit: &mut dyn FnMut(&Magazine)) -> bool {
        // Of the one that is next, and whether all were as they should be.
        let (mut expected, mut right) = (self.depth(magazines), true);
        let ends = self.stack.walk(magazines, magazines.made() as usize, |index| {
            let magazine = magazines.get(index);
            right &= expected > 0 && magazine.height() == expected;
            expected = expected.saturating_sub(1);
            visit(magazine);
        });
        ends && right && expected == 0
    }
}

/// What is left of so many magazines for each, if they are halved so often.
#[inline]
fn share(magazines: u32, halvings: u32) -> u32 {
    (magazines >> halvings).max(1)
}

/// How often what is shared by so many is halved for each.
pub(super) fn halvings(shards: u32) -> u32 {
    shards.next_power_of_two().trailing_zeros()
}

/// Most stacks rest: what does not change is not written, and the memory of those that were never used not touched.
pub(super) fn set(word: &AtomicU32, value: u32) {
    if word.load(Ordering::Relaxed) != value {
        word.store(value, Ordering::Relaxed);
    }
}

fn count(counter: &AtomicU32) {
    // Not a read-modify-write: a lost count now and then changes nothing.
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

/// What a magazine says that is, or was a moment ago, on top of a stack.
fn height(magazines: &Magazines, top: Index) -> u32 {
    if top == NONE { 0 } else { magazines.get(top).height() }
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;
    use crate::size_class::INFO;

    /// Where the clock stands there is no tick, and nothing begins anew.
    #[test]
    fn whatever_was_counted_it_bounds_as_it_should() {
        let (full, magazines, info) = (Full::new(), Magazines::new(), &INFO[0]);
        full.drains.store(1000, Ordering::Relaxed);
        for count in [1 << 29, 1 << 31, u32::MAX] {
            [&full.refills, &full.served].iter().for_each(|counter| counter.store(count, Ordering::Relaxed));
            assert!((info.pooled..=info.deep).contains(&full.bound(info, || 0)), "{count} served");
            full.tick(&magazines);
            assert!(!full.in_burst(), "{count} were asked for");
            full.drains.store(1000, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_was_refused_is_known_for_a_while() {
        let _system = crate::os::fake::System::fresh();
        let (full, magazines, info) = (Full::new(), Magazines::new(), &INFO[0]);
        while full.drain(info, || 0, &magazines, magazines.take().unwrap()) {
            assert!(!full.spills());
        }
        assert!(full.spills() && full.depth(&magazines) == info.pooled);
        for _ in 1..SPILL_TICKS {
            full.tick(&magazines);
            assert!(full.spills());
        }
        full.tick(&magazines);
        assert!(!full.spills());
    }
}
