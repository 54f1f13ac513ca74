//! The sampler: which allocations a memory profile looks at, where they were made, and which of them live.
//!
//! Each thread counts the bytes that it asks for down to the next sampling point (see `exponential`); the allocation that
//! has the point in it becomes a *sample*, found by its address until it is freed, and is added to the totals of its
//! *site*, the stack that it was made from. All of it lies outside the program's memory.
//!
//! | state of a sample | owner |
//! |---|---|
//! | none | the slab, or the thread that is writing it |
//! | entered | its allocation's owner: who frees that takes the entry out, by one exchange |
//!
//! A *run* lasts from one start of a profile to the next. A sample of an earlier run is taken out when its address is freed or
//! sampled again, and counts nowhere.
//!
//! Invariant, at rest: the live totals are the sum of the weights of the run's samples that are entered.

mod exponential;
mod site;
#[cfg(all(test, not(millpond_loom)))]
mod tests;

pub(crate) use exponential::{MEAN_MAX, STEP, mix};
pub(crate) use site::{Site, Totals, Weight};

use crate::config::FILTER;
use crate::modes::Index as Entries;
use crate::slab::{Node, Slab};
use crate::sync::{AtomicU32, AtomicUsize, Counter, Fault, Ordering, Slot, planted};
use crate::tagged::{Index, NONE};

/// Bytes between two samples, on average, where nobody says another number.
pub(crate) const MEAN: u64 = 512 << 10;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Sampler {
    samples: Slab<Sample>,
    sites: Slab<Site>,
    countdowns: Slab<Countdown>,
    by_address: Entries,
    by_stack: Entries,
    /// How many samples that are entered have an address with this hash: most frees need look no further.
    filter: [AtomicU32; FILTER],
    /// The number of the run; zero before the first.
    run: AtomicU32,
    /// Bytes between two sampling points, on average, and what the points are drawn from.
    mean: Counter,
    seed: Counter,
    /// Allocations that were to be sampled, and were not for want of memory.
    missed: Counter,
}

/// One sampled allocation.
#[derive(Debug)]
pub(crate) struct Sample {
    link: AtomicU32,
    index: AtomicU32,
    /// Each bit the other way round, zero without one: a profile does not make what it samples reachable.
    inverted: AtomicUsize,
    run: AtomicU32,
    site: Slot,
    objects: Slot,
    bytes: Slot,
}

/// How far a thread is from its next sampling point: the node with the index of the thread's cache.
#[derive(Debug)]
struct Countdown {
    link: AtomicU32,
    /// Bytes.
    left: Counter,
    /// What the next gap is drawn from.
    state: Counter,
    /// The run that both are of.
    run: Counter,
}

// SAFETY: zeros are a sample that is none; the link is one word.
unsafe impl Node for Sample {
    fn stride(_: usize) -> usize {
        size_of::<Self>()
    }

    fn link(&self) -> &AtomicU32 {
        &self.link
    }

    unsafe fn make(at: *mut Self, _: usize) {
        let [site, objects, bytes] = core::array::from_fn(|_| Slot::new(0));
        let (link, index, run) = (AtomicU32::new(NONE), AtomicU32::new(NONE), AtomicU32::new(0));
        let sample = Self { link, index, inverted: AtomicUsize::new(0), run, site, objects, bytes };
        // SAFETY: the caller gives the place.
        unsafe { at.write(sample) };
    }

    fn name(&self, index: Index) {
        self.index.store(index, Ordering::Relaxed);
    }
}

// SAFETY: zeros are a countdown of no run; the link is one word.
unsafe impl Node for Countdown {
    fn stride(_: usize) -> usize {
        size_of::<Self>()
    }

    fn link(&self) -> &AtomicU32 {
        &self.link
    }

    unsafe fn make(at: *mut Self, _: usize) {
        let [left, state, run] = [Counter::new(), Counter::new(), Counter::new()];
        // SAFETY: the caller gives the place.
        unsafe { at.write(Self { link: AtomicU32::new(NONE), left, state, run }) };
    }

    fn name(&self, _: Index) {}
}

impl Sample {
    /// Zero without one.
    fn address(&self) -> usize {
        match self.inverted.load(Ordering::Relaxed) {
            0 => 0,
            inverted => !inverted,
        }
    }
}

impl Countdown {
    fn draw(&self, mean: u64) {
        self.state.add(STEP);
        self.left.set(exponential::gap(mix(self.state.get()), mean));
    }
}

impl Sampler {
    const_fn! {
        pub(crate) const fn new() -> Self {
            Self {
                samples: Slab::new(),
                sites: Slab::new(),
                countdowns: Slab::new(),
                by_address: Entries::new(),
                by_stack: Entries::new(),
                filter: array_of![AtomicU32::new(0); FILTER],
                run: AtomicU32::new(0),
                mean: Counter::new(),
                seed: Counter::new(),
                missed: Counter::new(),
            }
        }
    }

    /// Begins a run with so many bytes, 1 to `MEAN_MAX`, between two samples on average; the same seed draws the same points.
    /// Linear in the samples and sites that there are. What other threads are sampling or ending at that moment may count in
    /// either run, for good.
    pub(crate) fn restart(&self, mean: u64, seed: u64) {
        self.mean.set(mean.clamp(1, MEAN_MAX));
        self.seed.set(seed);
        self.missed.set(0);
        let run = self.run.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        self.sites.iter().for_each(Site::restart);
        for sample in self.samples.iter() {
            let address = sample.address();
            if address != 0 && sample.run.load(Ordering::Relaxed) != run {
                // One that has become the new run's meanwhile, at the same address, is ended with the others.
                self.settle(address, sample.index.load(Ordering::Relaxed));
            }
        }
    }

    pub(crate) fn mean(&self) -> u64 {
        self.mean.get()
    }

    /// Allocations that were to be sampled in this run, and were not for want of memory.
    pub(crate) fn missed(&self) -> u64 {
        self.missed.get()
    }

    /// Counts an allocation of `size` bytes by the thread with the cache of this index: whether it is to be sampled.
    /// O(1); only that thread may.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn is_due(&self, thread: Index, size: usize) -> bool {
        let Some(countdown) = self.countdowns.reached(thread).or_else(|| self.countdowns.reach(thread)) else {
            return false;
        };
        let run = self.run.load(Ordering::Relaxed) as u64;
        if countdown.run.get() != run {
            countdown.run.set(run);
            countdown.state.set(mix(self.seed.get() ^ thread as u64));
            countdown.draw(self.mean.get());
        }
        let (size, left) = (size.max(1) as u64, countdown.left.get());
        if size < left {
            countdown.left.set(left - size);
            return false;
        }
        // The distance from the allocation's end to the next point has the same distribution: it has no memory.
        countdown.draw(self.mean.get());
        true
    }

    /// Makes an allocation of `size` bytes a sample, made from this stack, innermost frame first. The caller owns it. O(1).
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn begin(&self, address: usize, size: usize, stack: &[usize]) {
        // What was freed there by a thread that did not know of the run yet.
        while self.end(address) {}
        if !self.enter(address, size, stack) {
            self.missed.add_shared(1);
        }
    }

    fn enter(&self, address: usize, size: usize, stack: &[usize]) -> bool {
        let Some(site) = self.site(stack) else { return false };
        let Some(sample) = self.samples.take() else { return false };
        let size = size.max(1) as u64;
        let weight = site.weigh(size, exponential::weight(size, self.mean.get()));
        sample.run.store(self.run.load(Ordering::Relaxed), Ordering::Relaxed);
        sample.site.set(site.index() as usize);
        sample.objects.set(weight.objects as usize);
        sample.bytes.set(weight.bytes as usize);
        sample.inverted.store(!address, Ordering::Relaxed);
        site.allocate(weight);
        self.filter_add(address, 1);
        // The entry publishes what was written.
        if !self.by_address.insert(address as u64, sample.index.load(Ordering::Relaxed)) {
            self.give(sample);
            site.free(weight);
            self.filter_add(address, u32::MAX);
            return false;
        }
        true
    }

    /// Ends the sample at an address, which the caller is about to free: whether there was one. O(1).
    #[inline]
    pub(crate) fn end(&self, address: usize) -> bool {
        self.filter(address).load(Ordering::Relaxed) != 0 && self.find_and_end(address)
    }

    #[inline(never)]
    fn find_and_end(&self, address: usize) -> bool {
        self.find_and_take(address).inspect(|index| self.end_taken(*index)).is_some()
    }

    /// Takes the sample at an address out, for a caller who may put it back, and else ends it. O(1).
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn take_out(&self, address: usize) -> Option<Index> {
        if self.filter(address).load(Ordering::Relaxed) == 0 { None } else { self.find_and_take(address) }
    }

    fn find_and_take(&self, address: usize) -> Option<Index> {
        let is = |index| self.samples.get(index).address() == address;
        // Again, if what was found is gone by then: it may be an older one that a new run has taken out.
        while let Some(index) = self.by_address.find(address as u64, is) {
            if self.take(address, index) {
                return Some(index);
            }
        }
        None
    }

    /// Puts a sample back that the caller has taken out. Without memory for its entry it is ended.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn put_back(&self, address: usize, index: Index) {
        self.filter_add(address, 1);
        if !self.by_address.insert(address as u64, index) {
            self.filter_add(address, u32::MAX);
            self.end_taken(index);
        }
    }

    fn filter(&self, address: usize) -> &AtomicU32 {
        let hash = ((address >> 3) as u64).wrapping_mul(STEP);
        &self.filter[(hash >> (u64::BITS - FILTER.ilog2())) as usize]
    }

    /// Adds to what the filter says of an address: one, or one less than none.
    #[inline]
    fn filter_add(&self, address: usize, more: u32) {
        let filter = self.filter(address);
        if planted(Fault::FilterStore) {
            return filter.store(filter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
        }
        // Relaxed: whoever is to free it was given its address afterwards.
        filter.fetch_add(more, Ordering::Relaxed);
    }

    /// Takes an entry out. True for one caller only.
    fn take(&self, address: usize, index: Index) -> bool {
        let is_taken = self.by_address.remove(address as u64, index);
        if is_taken {
            self.filter_add(address, u32::MAX);
        }
        is_taken
    }

    #[cold]
    fn settle(&self, address: usize, index: Index) {
        if self.take(address, index) {
            self.end_taken(index);
        }
    }

    /// Ends a sample that the caller has taken out.
    #[cold]
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn end_taken(&self, index: Index) {
        let sample = self.samples.get(index);
        if sample.run.load(Ordering::Relaxed) == self.run.load(Ordering::Relaxed) {
            let weight = Weight { objects: sample.objects.get() as u64, bytes: sample.bytes.get() as u64 };
            self.sites.get(sample.site.get() as Index).free(weight);
        }
        self.give(sample);
    }

    /// Gives a sample back that the caller has alone.
    fn give(&self, sample: &Sample) {
        if !planted(Fault::SampleLate) {
            sample.inverted.store(0, Ordering::Relaxed);
        }
        self.samples.give(sample.index.load(Ordering::Relaxed));
        if planted(Fault::SampleLate) {
            sample.inverted.store(0, Ordering::Relaxed);
        }
    }

    /// Ends all samples whose addresses are gone, at once. Linear in the samples that there are.
    #[cold]
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn end_all(&self, is_gone: impl Fn(usize) -> bool) {
        for sample in (1..=self.samples.made()).map(|index| self.samples.get(index)) {
            let address = sample.address();
            if address != 0 && is_gone(address) {
                self.settle(address, sample.index.load(Ordering::Relaxed));
            }
        }
    }

    /// The site of a stack. Two threads that meet a stack first at the same time may make two.
    fn site(&self, stack: &[usize]) -> Option<&Site> {
        let hash = stack.iter().fold(stack.len() as u64, |hash, frame| mix(hash.wrapping_add(STEP) ^ *frame as u64));
        if let Some(index) = self.by_stack.find(hash, |index| self.sites.get(index).is(stack)) {
            return Some(self.sites.get(index));
        }
        let site = self.sites.take()?;
        site.write(stack);
        if !self.by_stack.insert(hash, site.index()) {
            if !planted(Fault::SampleLate) {
                site.clear();
            }
            self.sites.give(site.index());
            if planted(Fault::SampleLate) {
                site.clear();
            }
            return None;
        }
        Some(site)
    }

    /// Calls `visit` for each site that something came from in this run: a moment's picture.
    pub(crate) fn walk(&self, mut visit: impl FnMut(&Site, Totals)) {
        for site in self.sites.iter() {
            let totals = site.totals();
            if !site.frames().is_empty() && totals.allocated_objects > 0 {
                visit(site, totals);
            }
        }
    }

    /// Bytes of all tables.
    pub(crate) fn bytes(&self) -> usize {
        let slabs = self.samples.bytes() + self.sites.bytes() + self.countdowns.bytes();
        slabs + self.by_address.bytes() + self.by_stack.bytes()
    }

    /// Verifies the module's equation, while no other thread is in the sampler.
    #[allow(dead_code, reason = "for tests")]
    pub(crate) fn check(&self) -> bool {
        let run = self.run.load(Ordering::Relaxed);
        let mut live = Weight { objects: 0, bytes: 0 };
        for sample in self.samples.iter() {
            let address = sample.address();
            let index = sample.index.load(Ordering::Relaxed);
            if address == 0 || sample.run.load(Ordering::Relaxed) != run {
                continue;
            }
            if self.by_address.find(address as u64, |found| found == index).is_none() {
                return false;
            }
            live.objects += sample.objects.get() as u64;
            live.bytes += sample.bytes.get() as u64;
        }
        let mut sum = Weight { objects: 0, bytes: 0 };
        for site in self.sites.iter() {
            let weight = site.live();
            sum = Weight { objects: sum.objects + weight.objects, bytes: sum.bytes + weight.bytes };
        }
        sum == live
    }
}
