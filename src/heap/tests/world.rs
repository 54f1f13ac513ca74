//! A heap over a fake system, and clients that use it as the global allocator does, and remember what they have.

use super::super::Heap;
use crate::arena::Fill;
use crate::config::{CACHE_BYTES, HUGE_MIN, PAGE, PULSE, VAIN};
use crate::os::fake::System;
use crate::report::Stats;
use crate::size_class::{CLASSES, Class, INFO, at_place, place_of};
use crate::span::HUGE;
use crate::tagged::{Index, NONE};
use crate::thread_cache::ThreadCache;
use core::ptr::{NonNull, with_exposed_provenance_mut};
use std::boxed::Box;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::vec::Vec;

/// After so many slow paths a thread has looked at the clock.
pub(super) const LOOKS: u32 = PULSE * VAIN + 1;

/// Nothing need be wiped: the tests do it themselves.
pub(super) extern "C" fn wipe() {}

pub(super) fn class_of(size: usize) -> Class {
    at_place(place_of(size, 1).unwrap())
}

/// An allocation, all of which is full of its stamp; if it is long, a line of each 4 KiB; if it is huge, of each MiB.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) at: usize,
    pub(super) size: usize,
    pub(super) align: usize,
    stamp: u8,
}

/// Longer ones are written in part only.
const WRITTEN_WHOLE: usize = 16 << 10;
const LINE: usize = 64;

impl Block {
    pub(super) fn class(&self) -> Option<Class> {
        place_of(self.size, self.align).map(at_place)
    }

    /// Bytes that it takes.
    pub(super) fn usable(&self) -> usize {
        self.class().map_or(self.size.max(1).next_multiple_of(PAGE), |class| INFO[class].size)
    }

    fn bytes(&self, from: usize, to: usize) -> &'static mut [u8] {
        // SAFETY: a part of the allocation, which is the client's; one slice of it at a time is in use.
        unsafe { core::slice::from_raw_parts_mut(with_exposed_provenance_mut(self.at + from), to - from) }
    }

    /// What is written of the first `len` bytes.
    fn parts(&self, len: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (step, line) = match self.usable() {
            usable if usable <= WRITTEN_WHOLE => (len.max(1), len),
            usable if usable < HUGE_MIN => (4096, LINE),
            _ => (1 << 20, LINE),
        };
        (0..len).step_by(step).map(move |at| (at, (at + line).min(len)))
    }

    fn write(&self) {
        self.parts(self.usable()).for_each(|(from, to)| self.bytes(from, to).fill(self.stamp));
        let end = self.usable();
        self.bytes(end - LINE.min(end), end).fill(self.stamp);
    }

    /// What was written to the first `len` bytes is there still.
    fn verify(&self, len: usize, stamp: u8) {
        for (from, to) in self.parts(len) {
            assert!(all_are(self.bytes(from, to), stamp), "{self:x?} was written to by another, at {from:#x}");
        }
    }

    pub(super) fn verify_all(&self) {
        self.verify(self.usable(), self.stamp);
        let end = self.usable();
        assert!(all_are(self.bytes(end - LINE.min(end), end), self.stamp), "{self:x?} was written to at its end");
    }
}

/// Compared in one go, so that it is fast without optimisation too.
fn all_are(bytes: &[u8], byte: u8) -> bool {
    bytes.is_empty() || bytes[0] == byte && bytes[1..] == bytes[..bytes.len() - 1]
}

pub(super) struct World {
    pub(super) heap: Box<Heap>,
    pub(super) system: Arc<System>,
}

impl World {
    pub(super) fn new() -> Self {
        Self { system: System::fresh(), heap: Box::new(Heap::new()) }
    }

    /// A client with a cache of its own.
    pub(super) fn join(&self) -> Client<'_> {
        let mut client = self.client();
        assert!(client.join());
        client
    }

    /// A client that has no cache yet.
    pub(super) fn client(&self) -> Client<'_> {
        Client { heap: &self.heap, cache: None, dead: false, blocks: Vec::new(), stamp: 0 }
    }

    /// Verifies the heap, and that it knows of exactly what the clients have.
    pub(super) fn check(&self, clients: &[&Client<'_>]) -> Stats {
        let blocks: Vec<&Block> = clients.iter().flat_map(|client| &client.blocks).collect();
        self.check_live(blocks.iter().map(|block| block.usable()).sum())
    }

    pub(super) fn check_live(&self, live: usize) -> Stats {
        let stats = self.heap.check().unwrap();
        assert_eq!(stats.live, live, "conservation: {stats:?}");
        assert_eq!(stats.stranded, 0, "{stats:?}");
        assert_eq!(stats.reserved - stats.metadata, self.system.reserved_bytes());
        stats
    }

    /// What trim must leave if no chunk is cached: larger allocations, and of each span the units in which a chunk
    /// lives; of a full span, which no sweep visits, all.
    pub(super) fn least(&self, clients: &[&Client<'_>]) -> usize {
        let mut bytes = 0;
        let mut spans: BTreeMap<usize, Vec<&Block>> = BTreeMap::new();
        for block in clients.iter().flat_map(|client| &client.blocks) {
            match block.class() {
                None => bytes += block.usable(),
                Some(_) => {
                    spans.entry(self.heap.spans.page_map.get(block.at).unwrap().start()).or_default().push(block)
                }
            }
        }
        for (start, blocks) in spans {
            let info = &INFO[blocks[0].class().unwrap()];
            let unit = (info.pages * PAGE / 64).next_power_of_two().max(crate::os::page_size());
            let mut units: Vec<usize> = blocks
                .iter()
                .flat_map(|block| (block.at - start) / unit..=(block.at - start + info.size - 1) / unit)
                .collect();
            units.sort_unstable();
            units.dedup();
            bytes += if blocks.len() == info.chunks { info.pages * PAGE } else { units.len() * unit };
        }
        bytes
    }

    /// Trims, and verifies that all went that could.
    pub(super) fn trim(&self, clients: &[&Client<'_>]) {
        for client in clients {
            if let Some(cache) = client.cache {
                self.heap.flush(cache);
            }
        }
        let before = self.heap.committed();
        let trimmed = self.heap.trim(None);
        let stats = self.check(clients);
        assert_eq!(trimmed.loaded, 0);
        assert_eq!(trimmed.returned, before - stats.committed);
        assert_eq!((stats.thread_cached, stats.pooled, stats.dirty), (0, 0, 0), "{stats:?}");
        assert_eq!(stats.committed - stats.metadata, self.least(clients), "{stats:?}");
        // The clients' stamps are no zeros: every OS page of a live chunk is resident, and none that is purged.
        assert!(self.system.resident_bytes() <= stats.committed - stats.metadata);
    }

    /// Has the clients free all and go. Then nothing is left.
    pub(super) fn finish(&self, clients: Vec<Client<'_>>) {
        for mut client in clients {
            client.free_all();
            client.leave();
        }
        self.trim(&[]);
        let stats = self.check(&[]);
        assert_eq!((stats.committed, stats.spans, stats.threads), (stats.metadata, 0, 0));
        assert_eq!(self.heap.magazines.free_nodes(), Some(self.heap.magazines.made() as usize));
        assert_eq!(self.heap.caches.free_nodes(), Some(self.heap.caches.made() as usize));
        for slab in self.heap.spans.slabs() {
            assert_eq!(slab.free_nodes(), Some(slab.made() as usize));
        }
        assert!(self.heap.larges().all(|(node, _)| node.head.kind() != HUGE));
        assert_eq!(self.system.resident_bytes(), 0);
    }
}

/// What a thread of a program is to its allocator.
pub(super) struct Client<'a> {
    pub(super) heap: &'a Heap,
    pub(super) cache: Option<&'a ThreadCache>,
    /// Whether its cache is gone for good: then it uses the shared path.
    pub(super) dead: bool,
    pub(super) blocks: Vec<Block>,
    stamp: u8,
}

impl<'a> Client<'a> {
    pub(super) fn join(&mut self) -> bool {
        assert!(self.cache.is_none());
        self.cache = self.heap.join(wipe);
        self.cache.is_some()
    }

    pub(super) fn leave(&mut self) {
        if let Some(cache) = self.cache.take() {
            self.heap.leave(cache);
        }
        self.dead = true;
    }

    /// The cache after a miss: made now, if there was none and there is memory for one.
    fn own(&mut self) -> Option<&'a ThreadCache> {
        if self.dead {
            self.heap.settle_without_cache();
        } else if self.cache.is_none() {
            self.join();
        }
        self.cache
    }

    fn thread(&self) -> Index {
        self.cache.map_or(NONE, ThreadCache::index)
    }

    fn take(&mut self, size: usize, align: usize, zeroed: bool) -> Option<usize> {
        let Some(class) = place_of(size, align).map(at_place) else {
            let fill = if zeroed { Fill::Zero } else { Fill::Any };
            return self.heap.alloc_large(self.thread(), size, align, fill).map(|at| at.as_ptr().expose_provenance());
        };
        let chunk = self.cache.and_then(|cache| cache.bin(class).pop()).or_else(|| match self.own() {
            Some(cache) => self.heap.alloc_slow(cache, class),
            None => self.heap.alloc_shared(class),
        })?;
        if zeroed {
            // SAFETY: a chunk of the client's, of at least that size.
            unsafe { chunk.as_ptr().write_bytes(0, size) };
        }
        Some(chunk.as_ptr().expose_provenance())
    }

    /// Verifies that its cache holds no more than it may.
    pub(super) fn check_cache(&self) {
        let Some(cache) = self.cache else { return };
        let holds = |class| {
            let loaded = cache.loaded(class, &self.heap.magazines).is_some() as usize;
            (loaded + cache.spare_count(class)) * INFO[class].magazine_bytes()
        };
        let held: usize = (0..CLASSES).map(holds).sum();
        assert!(held <= CACHE_BYTES, "a cache holds {held} bytes");
    }

    /// Allocates, and verifies alignment and zeros. False: there was no memory.
    pub(super) fn alloc(&mut self, size: usize, align: usize, zeroed: bool) -> bool {
        let Some(at) = self.take(size, align, zeroed) else { return false };
        self.stamp = self.stamp % 255 + 1;
        let block = Block { at, size, align, stamp: self.stamp };
        assert!(at != 0 && at % align == 0);
        if zeroed {
            block.verify(size, 0);
        }
        block.write();
        self.blocks.push(block);
        true
    }

    /// Takes one of its blocks out of its hands, verified.
    pub(super) fn forget(&mut self, which: usize) -> Block {
        let block = self.blocks.swap_remove(which % self.blocks.len());
        block.verify_all();
        block
    }

    pub(super) fn free(&mut self, which: usize) {
        if !self.blocks.is_empty() {
            let block = self.forget(which);
            self.give(block.at, block.class());
        }
    }

    pub(super) fn give(&mut self, at: usize, class: Option<Class>) {
        let Some(class) = class else { return self.heap.free_large(self.thread(), at) };
        let chunk = NonNull::new(with_exposed_provenance_mut(at)).unwrap();
        if !self.cache.is_some_and(|cache| cache.bin(class).push(chunk)) {
            match self.own() {
                Some(cache) => self.heap.free_after_miss(cache, class, chunk),
                None => self.heap.free_shared(class, chunk),
            }
        }
    }

    pub(super) fn free_all(&mut self) {
        while !self.blocks.is_empty() {
            self.free(self.blocks.len() - 1);
        }
    }

    /// Resizes as the global allocator does. False: there was no memory, and nothing has changed.
    pub(super) fn realloc(&mut self, which: usize, size: usize) -> bool {
        // Nobody else may use it meanwhile.
        let old = self.forget(which);
        let Block { at, size: from, align, stamp } = old;
        let (was, is) = (place_of(from, align), place_of(size, align));
        let mut to = None;
        if was.is_some() && was == is {
            to = Some(at);
        } else if was.is_none() && is.is_none() {
            to = self.heap.resize_large(self.thread(), at, size, align).map(|at| at.as_ptr().expose_provenance());
        }
        if to.is_none() {
            to = self.take(size, align, false);
            if let Some(to) = to {
                let target = Block { at: to, size, align, stamp };
                target.bytes(0, size.min(from)).copy_from_slice(old.bytes(0, size.min(from)));
                self.give(at, old.class());
            }
        }
        let Some(to) = to else {
            self.blocks.push(old);
            return false;
        };
        assert_eq!(to % align, 0);
        Block { at: to, ..old }.verify(size.min(from), stamp);
        let block = Block { at: to, size, align, stamp };
        block.write();
        self.blocks.push(block);
        true
    }

    /// Bytes that its cache holds, over all classes.
    pub(super) fn cached(&self) -> usize {
        let Some(cache) = self.cache else { return 0 };
        let of = |class: Class| {
            let loaded = cache.loaded(class, &self.heap.magazines);
            let mut count = loaded.map_or(0, |magazine| cache.loaded_count(class, magazine));
            cache.walk_spares(class, &self.heap.magazines, |magazine| count += magazine.count());
            count * INFO[class].size
        };
        (0..CLASSES).map(of).sum()
    }
}
