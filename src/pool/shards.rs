//! Shards: the full magazines and listed spans of all pools, near to the processors that freed them.
//!
//! What a thread frees lies in the caches of the processor that it runs on, and whoever writes there next on another has to wait
//! for each line: 30 ns where the two are near, 200 where they are far. So each of the first processors has a *shard*, with a stack
//! of full magazines and one of listed spans for each class; those after them share it in turn. *Drain* puts a magazine into the
//! shard of its processor, its *home*, and *restore* lists a span there; *refill* and *carve* take from there, and only where there is
//! nothing from another, the nearest by number first. (tcmalloc's transfer caches are sharded by cache domain in the same way.)
//!
//! A home is where a thread was a moment ago: each stack takes any number of threads, so nothing depends on it. Which shards
//! there may be anything in is known by bits that are set for good: a program that has run on one processor looks at its shard and
//! the first.
//!
//! The bounds of a pool are shared by as many shards as were used in the last period, by a tick: a thread that moves now and then
//! does not lessen what it may keep. One that was not used then, and may be by the next tick, has no more than its part among all
//! that are known, or each of many processors that free at once would keep as much as if it were alone. So a pool holds at most
//! twice its bounds, once its shards are known, beside what those still hold that are used no more: of that, each tick returns half.
//!
//! Invariant: a shard that is not yet known holds nothing, and that of each stack ([`full`](super::full)).

use super::full::{Full, halvings, set};
use super::{Magazine, Magazines};
use crate::config::SHARDS;
use crate::size_class::{CLASSES, Class, INFO};
use crate::stack::Stack;
use crate::sync::{AtomicU32, Fault, Ordering, planted};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Shards {
    /// Those that are known: a bit each.
    known: AtomicU32,
    /// How often a pool's bounds are halved where all that are known share them: kept, or each drain would count bits.
    halvings: AtomicU32,
    /// Of each class, those that have magazines to return before the next tick: a bit each. A hint, so that each look at the clock
    /// need not visit all stacks, whose lines others write.
    owing: [AtomicU32; CLASSES],
    /// Of each class, how many spans were opened so far: no more than tell a class of which there are many.
    pub(super) opened: [AtomicU32; CLASSES],
    shards: [Shard; SHARDS],
}

/// What there is of each class. By class within: what one processor writes shares no line with what another does, and a
/// small program touches one OS page.
#[derive(Debug)]
struct Shard([Part; CLASSES]);

/// A shard's part of one class: a line of the processor's caches.
#[derive(Debug)]
#[repr(align(64))]
struct Part {
    full: Full,
    /// Spans that have free chunks.
    listed: Stack,
}

impl Shards {
    const_fn! {
        pub(crate) const fn new() -> Self {
            Self {
                known: AtomicU32::new(0),
                halvings: AtomicU32::new(0),
                owing: array_of![AtomicU32::new(0); CLASSES],
                opened: array_of![AtomicU32::new(0); CLASSES],
                shards: array_of![Shard(array_of![Part { full: Full::new(), listed: Stack::new() }; CLASSES]); SHARDS],
            }
        }
    }

    /// The home of whoever runs on a processor.
    #[inline]
    pub(crate) fn home(&self, processor: u32) -> u32 {
        let home = processor % SHARDS as u32;
        if self.known.load(Ordering::Relaxed) >> home & 1 == 0 {
            self.learn(home);
        }
        home
    }

    /// Has a shard known.
    #[cold]
    fn learn(&self, home: u32) {
        if planted(Fault::ShardForgotten) {
            return self.known.store(self.known.load(Ordering::Relaxed) | 1 << home, Ordering::Relaxed);
        }
        // Relaxed: a thread that does not know a shard yet takes what it needs elsewhere. Whoever looks at all of them comes after
        // all that there was.
        let known = self.known.fetch_or(1 << home, Ordering::Relaxed) | 1 << home;
        self.halvings.fetch_max(halvings(known.count_ones()), Ordering::Relaxed);
    }

    /// The shards that may hold anything: a bit each. The first is everybody's who has not asked.
    #[inline]
    fn known(&self) -> u32 {
        self.known.load(Ordering::Relaxed) | 1
    }

    /// See the field.
    #[inline]
    pub(super) fn halvings(&self) -> u32 {
        self.halvings.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn full(&self, class: Class, shard: u32) -> &Full {
        &self.shards[shard as usize % SHARDS].0[class].full
    }

    /// The stack of a class's listed spans in a shard.
    #[inline]
    pub(super) fn listed(&self, class: Class, shard: u32) -> &Stack {
        &self.shards[shard as usize % SHARDS].0[class].listed
    }

    /// Whether a shard may hold anything.
    pub(super) fn is_known(&self, shard: u32) -> bool {
        self.known() >> shard & 1 == 1
    }

    /// All shards that may hold anything.
    pub(super) fn each(&self) -> impl Iterator<Item = u32> + Clone + use<> {
        let known = self.known();
        (0..SHARDS as u32).filter(move |shard| known >> shard & 1 == 1)
    }

    /// The same but for one, the nearest by number first.
    #[inline]
    pub(super) fn others(&self, home: u32) -> impl Iterator<Item = u32> + use<> {
        let others = self.known() & !(1 << home);
        let steps = if others == 0 { 1..1 } else { 1..SHARDS as u32 };
        steps.map(move |step| home ^ step).filter(move |shard| others >> shard & 1 == 1)
    }

    /// The stacks of a class that may hold anything.
    fn all(&self, class: Class) -> impl Iterator<Item = &Full> {
        self.each().map(move |shard| self.full(class, shard))
    }

    /// Takes a full magazine for a thread that needs it, from its home if there is one: one exchange, and a look at each other
    /// shard that is known where there is none.
    #[inline(always)]
    pub(crate) fn refill<'a>(&self, class: Class, home: u32, magazines: &'a Magazines) -> Option<&'a Magazine> {
        self.full(class, home).serve(magazines).or_else(|| self.refill_elsewhere(class, home, magazines))
    }

    #[cold]
    #[inline(never)]
    fn refill_elsewhere<'a>(&self, class: Class, home: u32, magazines: &'a Magazines) -> Option<&'a Magazine> {
        let full = self.others(home).find_map(|shard| self.full(class, shard).serve(magazines));
        if full.is_none() {
            self.full(class, home).asked();
        }
        full
    }

    /// Puts a magazine that the caller owns among the full ones of its home, if there are not enough there: O(1), one exchange.
    #[inline(always)]
    pub(crate) fn drain(&self, class: Class, home: u32, magazines: &Magazines, magazine: &Magazine) -> bool {
        self.full(class, home).drain(&INFO[class], || self.halvings(), magazines, magazine)
    }

    /// Whether more comes into a shard than is needed: then thread caches there keep no spares of the class.
    #[inline]
    pub(crate) fn in_burst(&self, class: Class, home: u32) -> bool {
        self.full(class, home).in_burst()
    }

    /// Whether a shard had to refuse magazines of late.
    #[inline]
    pub(crate) fn spills(&self, class: Class, home: u32) -> bool {
        self.full(class, home).spills()
    }

    /// Takes a full magazine from anywhere.
    pub(crate) fn take<'a>(&self, class: Class, magazines: &'a Magazines) -> Option<&'a Magazine> {
        self.all(class).find_map(|full| full.take(magazines))
    }

    /// Takes a full magazine that is to return to its spans before the next tick, if one is.
    pub(crate) fn take_surplus<'a>(&self, class: Class, magazines: &'a Magazines) -> Option<&'a Magazine> {
        let owing = &self.owing[class];
        loop {
            // Relaxed: it steers. A bit that is cleared as a tick sets it is set by the next.
            let all = owing.load(Ordering::Relaxed);
            if all == 0 {
                return None;
            }
            let shard = all.trailing_zeros();
            let magazine = self.full(class, shard).take_surplus(magazines);
            if magazine.is_some() {
                return magazine;
            }
            owing.fetch_and(!(1 << shard), Ordering::Relaxed);
        }
    }

    /// Ends a period for a class.
    pub(crate) fn tick(&self, class: Class, magazines: &Magazines) {
        let each = self.each();
        let used =
            each.clone().fold(0u32, |used, shard| used | (self.full(class, shard).tick(magazines) as u32) << shard);
        each.clone().for_each(|shard| self.full(class, shard).share_among((used >> shard & 1) * used.count_ones()));
        let owes = |shard: &u32| self.full(class, *shard).owes();
        set(&self.owing[class], each.filter(owes).fold(0, |owing, shard| owing | 1 << shard));
    }

    /// Full magazines of a class. While others come and go, a moment's picture.
    pub(crate) fn depth(&self, class: Class, magazines: &Magazines) -> u32 {
        self.all(class).map(|full| full.depth(magazines)).sum()
    }

    /// Calls `visit` for each full magazine of a class, while no other thread uses them.
    #[inline(never)]
    pub(crate) fn walk(&self, class: Class, magazines: &Magazines, mut visit: impl FnMut(&Magazine)) {
        self.all(class).for_each(|full| full.walk(magazines, &mut visit));
    }

    /// The same, and whether all is as it should be.
    pub(crate) fn check(&self, class: Class, magazines: &Magazines, mut visit: impl FnMut(&Magazine)) -> bool {
        (0..SHARDS as u32).all(|shard| {
            let full = self.full(class, shard);
            if self.is_known(shard) { full.check(magazines, &mut visit) } else { full.depth(magazines) == 0 }
        })
    }
}
