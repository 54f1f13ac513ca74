//! Operation streams: any bytes are a program of allocator calls, played over the global allocator or over a heap as a
//! value, against a shadow of what is live. The fuzz targets in `fuzz/` feed it; `tests/regressions.rs` replays what they
//! have found.
//!
//! Checked at each step: alignment, no overlap, zeros where they were asked for, contents when a block is resized or
//! freed, what the allocator says of each address; at the end, and where the stream asks for it, the conservation law.
#![allow(dead_code, reason = "each user takes its own part")]

use millpond::{Heap, Millpond, Mode, PoolTable};
use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// Live bytes beyond which a stream allocates no more.
const BUDGET: usize = 96 * MIB;
/// Operations of a stream; the rest of its bytes is not read.
const LONGEST: usize = 2000;
/// Longer blocks are written in part only: a line of each 4 KiB.
const WRITTEN_WHOLE: usize = 4 * KIB;
const LINE: usize = 16;

/// Operations played so far, over all streams.
pub static OPERATIONS: AtomicU64 = AtomicU64::new(0);

/// The bytes of a stream, read one after the other; nothing but zeros behind the last.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first as usize
    }

    fn word(&mut self) -> usize {
        self.byte() | self.byte() << 8
    }

    /// Small ones, ones about a class's boundary, and some of all others up to a mapping of its own.
    fn size(&mut self) -> usize {
        let kind = self.byte();
        match kind % 16 {
            0..=6 => self.word() % 1024,
            7..=10 => {
                let (doubling, eighth) = (3 + kind / 16, 8 + self.byte());
                let boundary = ((8 + eighth % 8) << doubling) / 8;
                (boundary + eighth / 8 % 3).saturating_sub(1)
            }
            11..=12 => self.word() * 4,
            13 => self.word() * 16,
            14 => self.word() * 64,
            _ if kind < 0x40 => 32 * MIB + self.word() * 64,
            _ => self.word() * 8,
        }
        .max(1)
    }

    fn align(&mut self) -> usize {
        match self.byte() {
            exponent @ 0..=31 => 1 << (exponent % 8),
            exponent @ 32..=47 => 1 << (exponent % 16),
            exponent @ 48..=49 => 1 << (exponent % 2 + 20),
            _ => 8,
        }
    }
}

/// What is played on.
trait Subject: Sync {
    fn alloc(&self, layout: Layout, zeroed: bool) -> Option<NonNull<u8>>;
    /// # Safety
    /// As `GlobalAlloc::dealloc` asks.
    unsafe fn free(&self, ptr: NonNull<u8>, layout: Layout);
    /// # Safety
    /// As `GlobalAlloc::realloc` asks.
    unsafe fn realloc(&self, ptr: NonNull<u8>, layout: Layout, size: usize) -> Option<NonNull<u8>>;
    fn flush(&self);
    fn trim(&self);
    /// Bytes that may be used there; `None` where it is none of the subject's.
    fn usable(&self, ptr: NonNull<u8>) -> Option<usize>;
    fn owns(&self, ptr: NonNull<u8>) -> bool;
    /// Whether a request may fail, or be served by another.
    fn is_limited(&self) -> bool;
    /// Verifies all, with so many bytes of use in the shadow.
    fn verify(&self, usable: usize, requested: usize);
    /// Something that only this kind of subject has.
    fn special(&self, what: usize, block: Option<NonNull<u8>>);
}

/// A live allocation.
#[derive(Clone, Copy, Debug)]
struct Block {
    ptr: NonNull<u8>,
    layout: Layout,
    stamp: u8,
}

// SAFETY: a block owns its memory; nothing in it belongs to a thread.
unsafe impl Send for Block {}

impl Block {
    fn parts(size: usize) -> impl Iterator<Item = (usize, usize)> {
        let (step, line) = if size <= WRITTEN_WHOLE { (size, size) } else { (4 * KIB, LINE) };
        // Of very long ones, the beginning.
        (0..size.min(4 * MIB)).step_by(step).map(move |at| (at, (at + line).min(size)))
    }

    fn bytes(&self, from: usize, to: usize) -> &'static mut [u8] {
        // SAFETY: a part of the block, which is ours; one slice of it at a time is in use.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr().add(from), to - from) }
    }

    fn write(&self) {
        Self::parts(self.layout.size()).for_each(|(from, to)| self.bytes(from, to).fill(self.stamp));
    }

    /// What of the first `len` bytes was written of a block of `size` is there.
    fn verify(&self, size: usize, len: usize, stamp: u8) {
        for (from, to) in Self::parts(size).take_while(|(from, _)| *from < len) {
            let bytes = self.bytes(from, to.min(len));
            assert!(bytes.iter().all(|byte| *byte == stamp), "{self:?} was written to at {from:#x}");
        }
    }

    fn verify_all(&self) {
        self.verify(self.layout.size(), self.layout.size(), self.stamp);
    }
}

struct Shadow<'a, S> {
    subject: &'a S,
    blocks: BTreeMap<usize, Block>,
    live: usize,
    stamp: u8,
}

impl<S: Subject> Shadow<'_, S> {
    fn insert(&mut self, block: Block) {
        let (at, size) = (block.ptr.addr().get(), block.layout.size());
        assert_eq!(at % block.layout.align(), 0, "{block:?}");
        if let Some((below, other)) = self.blocks.range(..=at).next_back() {
            assert!(below + other.layout.size() <= at, "{block:?} overlaps {other:?}");
        }
        if let Some((above, other)) = self.blocks.range(at..).next() {
            assert!(at + size <= *above, "{block:?} overlaps {other:?}");
        }
        match self.subject.usable(block.ptr) {
            Some(usable) => assert!(usable >= size && self.subject.owns(block.ptr), "{usable} usable of {block:?}"),
            None => assert!(self.subject.is_limited(), "{block:?} is not the allocator's"),
        }
        block.write();
        self.live += size;
        self.blocks.insert(at, block);
    }

    fn remove(&mut self, which: usize) -> Option<Block> {
        let which = which % self.blocks.len().max(1);
        let at = *self.blocks.keys().nth(which)?;
        let block = self.blocks.remove(&at)?;
        self.live -= block.layout.size();
        Some(block)
    }

    fn alloc(&mut self, layout: Layout, zeroed: bool) {
        if self.live + layout.size().max(layout.align()) > BUDGET {
            return;
        }
        let Some(ptr) = self.subject.alloc(layout, zeroed) else {
            return assert!(self.subject.is_limited(), "{layout:?} was refused");
        };
        self.stamp = self.stamp % 255 + 1;
        let block = Block { ptr, layout, stamp: self.stamp };
        if zeroed {
            block.verify(layout.size(), layout.size(), 0);
        }
        self.insert(block);
    }

    fn resize(&mut self, which: usize, size: usize) {
        if self.live + size > BUDGET {
            return;
        }
        let Some(old) = self.remove(which) else { return };
        old.verify_all();
        // SAFETY: a live block of that layout; the size is not zero, and small.
        let moved = unsafe { self.subject.realloc(old.ptr, old.layout, size) };
        let (from, align) = (old.layout.size(), old.layout.align());
        let block = match moved {
            Some(ptr) => {
                let block = Block { ptr, layout: Layout::from_size_align(size, align).unwrap(), ..old };
                block.verify(from, from.min(size), old.stamp);
                block
            }
            None => {
                assert!(self.subject.is_limited(), "{size} bytes were refused");
                old.verify_all();
                old
            }
        };
        self.insert(block);
    }

    fn free(&mut self, which: usize, elsewhere: bool) {
        let Some(block) = self.remove(which) else { return };
        let subject = self.subject;
        let free = move || {
            block.verify_all();
            // SAFETY: a live block of that layout, freed once.
            unsafe { subject.free({ block }.ptr, block.layout) };
        };
        match elsewhere {
            true => std::thread::scope(|scope| scope.spawn(free).join().expect("the block is whole")),
            false => free(),
        }
    }

    fn verify(&self) {
        let usable = self.blocks.values().filter_map(|block| self.subject.usable(block.ptr)).sum();
        let ours = self.blocks.values().filter(|block| self.subject.usable(block.ptr).is_some());
        self.subject.verify(usable, ours.map(|block| block.layout.size()).sum());
    }

    fn play(&mut self, bytes: &mut Bytes<'_>) {
        for _ in 0..LONGEST {
            if bytes.0.is_empty() {
                break;
            }
            OPERATIONS.fetch_add(1, Ordering::Relaxed);
            let what = bytes.byte();
            match what % 16 {
                0..=5 => {
                    let (size, align) = (bytes.size(), bytes.align());
                    self.alloc(Layout::from_size_align(size, align).unwrap(), what >= 0xc0);
                }
                // Many of a kind: what makes magazines go and come.
                6 => {
                    let (size, count) = (bytes.size(), bytes.byte());
                    let layout = Layout::from_size_align(size, 8).unwrap();
                    (0..count).for_each(|_| self.alloc(layout, false));
                }
                7 => {
                    let (first, count) = (bytes.word(), bytes.byte());
                    (0..count).for_each(|_| self.free(first, false));
                }
                8..=10 => {
                    let which = bytes.word();
                    self.free(which, false);
                }
                11..=12 => {
                    let (which, size) = (bytes.word(), bytes.size());
                    self.resize(which, size);
                }
                13 => self.subject.flush(),
                14 if what < 0x40 => self.subject.trim(),
                14 if what < 0x60 => self.verify(),
                14 if what < 0x70 => {
                    let which = bytes.word();
                    self.free(which, true);
                }
                _ => {
                    let block = self.blocks.values().nth(bytes.byte()).map(|block| block.ptr);
                    self.subject.special(what / 16, block);
                }
            }
        }
        while !self.blocks.is_empty() {
            self.free(0, false);
        }
        self.subject.flush();
        self.verify();
    }
}

fn play(subject: &impl Subject, bytes: &mut Bytes<'_>) {
    Shadow { subject, blocks: BTreeMap::new(), live: 0, stamp: 0 }.play(bytes);
}

struct Global;

impl Subject for Global {
    fn alloc(&self, layout: Layout, zeroed: bool) -> Option<NonNull<u8>> {
        // SAFETY: the size is not zero.
        NonNull::new(unsafe { if zeroed { Millpond.alloc_zeroed(layout) } else { Millpond.alloc(layout) } })
    }

    unsafe fn free(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { Millpond.dealloc(ptr.as_ptr(), layout) };
    }

    unsafe fn realloc(&self, ptr: NonNull<u8>, layout: Layout, size: usize) -> Option<NonNull<u8>> {
        // SAFETY: the caller's.
        NonNull::new(unsafe { Millpond.realloc(ptr.as_ptr(), layout, size) })
    }

    fn flush(&self) {
        millpond::flush_thread();
    }

    fn trim(&self) {
        millpond::trim();
    }

    fn usable(&self, ptr: NonNull<u8>) -> Option<usize> {
        millpond::usable_size(ptr.as_ptr())
    }

    fn owns(&self, ptr: NonNull<u8>) -> bool {
        millpond::owns(ptr.as_ptr())
    }

    fn is_limited(&self) -> bool {
        false
    }

    fn verify(&self, _: usize, requested: usize) {
        // Others may be inside it, and it may be the program's own.
        assert!(millpond::stats().live >= requested, "{:?}", millpond::stats());
    }

    fn special(&self, what: usize, block: Option<NonNull<u8>>) {
        let inside = block.map(|block| block.as_ptr().wrapping_add(1));
        let id = block.and_then(|block| millpond::id_of(block.as_ptr()));
        match what % 4 {
            0 => assert!(inside.is_none_or(|at| millpond::usable_size(at).is_none())),
            1 => assert!(id.is_none_or(|id| millpond::ptr_of(id) == block)),
            2 => drop(millpond::stats()),
            _ => assert!(id.is_none_or(|id| millpond::record(id).is_some_and(|record| record.id == id))),
        }
    }
}

struct Value {
    heap: Heap,
    mode: Mode,
    is_limited: bool,
    bits: usize,
}

impl Subject for Value {
    fn alloc(&self, layout: Layout, zeroed: bool) -> Option<NonNull<u8>> {
        (if zeroed { self.heap.alloc_zeroed(layout) } else { self.heap.alloc(layout) }).ok()
    }

    unsafe fn free(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { self.heap.free(ptr, layout) };
    }

    unsafe fn realloc(&self, ptr: NonNull<u8>, layout: Layout, size: usize) -> Option<NonNull<u8>> {
        // SAFETY: the caller's.
        unsafe { self.heap.realloc(ptr, layout, size) }.ok()
    }

    fn flush(&self) {
        self.heap.flush_thread();
    }

    fn trim(&self) {
        self.heap.trim();
    }

    fn usable(&self, ptr: NonNull<u8>) -> Option<usize> {
        self.heap.usable_size(ptr.as_ptr())
    }

    fn owns(&self, ptr: NonNull<u8>) -> bool {
        self.heap.owns(ptr.as_ptr())
    }

    fn is_limited(&self) -> bool {
        self.is_limited
    }

    fn verify(&self, usable: usize, requested: usize) {
        let stats = self.heap.check().unwrap_or_else(|error| panic!("{error}: {:?}", self.heap.stats()));
        match self.mode {
            Mode::Fast => assert_eq!(stats.live, usable, "{stats:?}"),
            _ => assert!(stats.live >= requested && (requested > 0 || stats.live == 0), "{requested}, {stats:?}"),
        }
        assert_eq!(stats.stranded, 0);
        if let Some(capacity) = self.heap.capacity() {
            // Free pages that hold memory still are no use of it.
            assert!(stats.committed - stats.metadata - stats.dirty <= capacity, "{capacity}, {stats:?}");
        }
    }

    fn special(&self, what: usize, block: Option<NonNull<u8>>) {
        let id = block.and_then(|block| self.heap.id_of(block.as_ptr()));
        match what % 4 {
            0 => {
                let bit = block.map_or(0, |block| block.addr().get() / 8) % (self.bits + 1);
                assert_eq!(self.heap.set_bit(bit, true).is_ok(), bit < self.bits);
                assert!(bit == self.bits || self.heap.get_bit(bit) == Ok(true));
            }
            1 => assert!(id.is_none_or(|id| self.heap.ptr_of(id) == block)),
            2 => assert!(id.is_none_or(|id| self.heap.record(id).is_some_and(|record| record.id == id))),
            _ => {
                let mut count = 0;
                self.heap.walk(|_| count += 1);
                assert!(self.mode != Mode::Fast || count == 0);
            }
        }
    }
}

/// Plays a stream over the global allocator.
pub fn global(stream: &[u8]) {
    play(&Global, &mut Bytes(stream));
}

/// Makes a heap as the first bytes say, and plays the others over it.
pub fn heap(stream: &[u8]) {
    let mut bytes = Bytes(stream);
    let (mode, table, limit, extra) = (bytes.byte(), bytes.byte(), bytes.byte(), bytes.byte());
    let mode = [Mode::Fast, Mode::Tracked, Mode::Hardened][mode % 3];
    let mut sizes: Vec<usize> = (0..table / 8 % 8 + 1).map(|_| bytes.size().min(256 * KIB)).collect();
    sizes.sort_unstable();
    let pools = match table % 4 {
        0 | 1 => PoolTable::Default,
        2 => PoolTable::Classic,
        _ => PoolTable::Sizes(&sizes),
    };
    let bits = extra / 4;
    let mut builder = Heap::builder().mode(mode).pools(pools).bits(bits);
    let capacity = [None, Some(MIB), Some(8 * MIB), Some(40 * MIB)][limit % 4];
    if let Some(capacity) = capacity {
        builder = builder.capacity(capacity);
        if limit & 4 != 0 {
            builder = builder.soft_limit(capacity / 2, |heap, bytes| assert!(bytes <= heap.capacity().unwrap()));
        }
    }
    if extra % 2 == 1 {
        builder = builder.fallback(&System);
    }
    // Two of the sizes may be of one class.
    let Ok(heap) = builder.build() else { return assert!(matches!(pools, PoolTable::Sizes(_))) };
    play(&Value { heap, mode, is_limited: capacity.is_some(), bits }, &mut bytes);
}
