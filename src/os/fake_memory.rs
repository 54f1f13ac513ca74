//! The contract of [`os`](super) for unit tests: real memory, and a [`System`] that can be told to fail.
//!
//! Each thread plays on a system of its own, unless it [enters](System::enter) that of another: the threads of one test
//! do. All memory goes back when the last of them has let go of the system. The fake holds its callers to the contract:
//! a range that is committed or purged lies in one reservation and consists of whole pages, and what is released was
//! reserved so.

use super::Purged;
use crate::report::Thp;
use core::fmt::Arguments;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::{Cell, RefCell};
use std::string::{String, ToString};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::vec::Vec;

/// The alignment that `calloc` gives unasked: more would have every byte written.
const CALLOC_ALIGN: usize = 16;
/// What is written to memory that reads as anything.
const JUNK: u8 = 0xc3;

/// A piece of memory of the true system.
struct Block {
    at: usize,
    len: usize,
    /// Bytes from `at` on that may be used if it grows.
    room: usize,
    /// Behind the last byte ever committed; 0 if there was no need.
    committed: usize,
    /// Whether it reads as zero in the child of a fork.
    wiped: bool,
    raw: (usize, usize),
}

impl Block {
    /// Zeros that cost nothing until they are touched.
    fn new(len: usize, room: usize, align: usize) -> Option<Self> {
        let size = room + align;
        // SAFETY: the size is not zero.
        let raw = unsafe { alloc_zeroed(Layout::from_size_align(size, CALLOC_ALIGN).ok()?) };
        let raw = (!raw.is_null()).then(|| raw.expose_provenance())?;
        Some(Self { at: raw.next_multiple_of(align), len, room, committed: 0, wiped: false, raw: (raw, size) })
    }

    /// The addresses at which something may have been stored.
    fn used(&self) -> core::ops::Range<usize> {
        self.at..if self.committed > 0 { self.committed } else { self.at + self.len }
    }

    fn covers(&self, at: usize, len: usize) -> bool {
        self.at <= at && at + len <= self.at + self.len
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let (raw, size) = self.raw;
        // SAFETY: taken with this layout in `new`.
        unsafe { dealloc(bytes(raw), Layout::from_size_align(size, CALLOC_ALIGN).unwrap()) };
    }
}

fn bytes(at: usize) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut(at)
}

/// One fake system.
pub(crate) struct System {
    page_size: AtomicUsize,
    calls: AtomicU64,
    fail_from: AtomicU64,
    fail_until: AtomicU64,
    clock: AtomicU64,
    touch_us: AtomicU64,
    purges_to_junk: AtomicBool,
    grows: AtomicBool,
    locks: AtomicBool,
    keeps: AtomicBool,
    room: AtomicUsize,
    mappings: AtomicUsize,
    alone: AtomicBool,
    first_thread: AtomicBool,
    process: AtomicU32,
    gone: Mutex<Vec<u32>>,
    reserved: Mutex<Vec<Block>>,
    released: Mutex<Vec<Block>>,
    tables: Mutex<Vec<Block>>,
    said: Mutex<Vec<String>>,
}

std::thread_local! {
    static SYSTEM: RefCell<Option<Arc<System>>> = const { RefCell::new(None) };
    static THREAD: Cell<u32> = const { Cell::new(0) };
    static PROCESSOR: Cell<u32> = const { Cell::new(0) };
}

fn system() -> Arc<System> {
    SYSTEM.with_borrow_mut(|system| system.get_or_insert_with(|| Arc::new(System::new())).clone())
}

impl System {
    fn new() -> Self {
        Self {
            page_size: AtomicUsize::new(4096),
            calls: AtomicU64::new(0),
            fail_from: AtomicU64::new(u64::MAX),
            fail_until: AtomicU64::new(0),
            // No clock of a system stands at zero.
            clock: AtomicU64::new(1_000_000),
            touch_us: AtomicU64::new(0),
            purges_to_junk: AtomicBool::new(false),
            grows: AtomicBool::new(false),
            locks: AtomicBool::new(false),
            keeps: AtomicBool::new(false),
            room: AtomicUsize::new(usize::MAX),
            mappings: AtomicUsize::new(usize::MAX),
            alone: AtomicBool::new(false),
            first_thread: AtomicBool::new(false),
            process: AtomicU32::new(1),
            gone: Mutex::new(Vec::new()),
            reserved: Mutex::new(Vec::new()),
            released: Mutex::new(Vec::new()),
            tables: Mutex::new(Vec::new()),
            said: Mutex::new(Vec::new()),
        }
    }

    /// A new system, which the calling thread plays on from now on.
    pub(crate) fn fresh() -> Arc<Self> {
        let system = Arc::new(Self::new());
        system.enter();
        system
    }

    /// Has the calling thread play on this system.
    pub(crate) fn enter(self: &Arc<Self>) {
        SYSTEM.set(Some(self.clone()));
    }

    /// OS pages of another size.
    pub(crate) fn set_page_size(&self, size: usize) {
        self.page_size.store(size, Ordering::Relaxed);
    }

    /// Whether a purge keeps nothing, and leaves what was there to chance, rather than zeros.
    pub(crate) fn set_purges_to_junk(&self, junk: bool) {
        self.purges_to_junk.store(junk, Ordering::Relaxed);
    }

    /// Whether the addresses of what is released from now on stay free, to be reserved again.
    pub(crate) fn set_keeps(&self, keeps: bool) {
        self.keeps.store(keeps, Ordering::Relaxed);
    }

    /// Whether reservations made from now on can grow in place, to twice their length.
    pub(crate) fn set_grows(&self, grows: bool) {
        self.grows.store(grows, Ordering::Relaxed);
    }

    /// Whether all memory is locked, as by `mlockall`: then nothing can be purged.
    pub(crate) fn set_locks(&self, locks: bool) {
        self.locks.store(locks, Ordering::Relaxed);
    }

    /// The most bytes that may be mapped at a time, used or not, as where nothing is overcommitted.
    pub(crate) fn set_room(&self, bytes: usize) {
        self.room.store(bytes, Ordering::Relaxed);
    }

    /// The most mappings that there may be at a time.
    pub(crate) fn set_mappings(&self, count: usize) {
        self.mappings.store(count, Ordering::Relaxed);
    }

    /// Whether there is room for one more mapping, of so many bytes.
    fn has_room(&self, len: usize) -> bool {
        let tables = self.tables.lock().unwrap();
        let reserved = self.reserved();
        let blocks = || reserved.iter().chain(tables.iter());
        let bytes: usize = blocks().map(|block| block.len).sum();
        let room = self.room.load(Ordering::Relaxed);
        bytes.saturating_add(len) <= room && blocks().count() < self.mappings.load(Ordering::Relaxed)
    }

    /// What [`is_alone`] says.
    pub(crate) fn set_alone(&self, alone: bool) {
        self.alone.store(alone, Ordering::Relaxed);
    }

    /// What [`is_first_thread`] says.
    pub(crate) fn set_first_thread(&self, first: bool) {
        self.first_thread.store(first, Ordering::Relaxed);
    }

    /// Has the process be known by the next number, as a child is.
    pub(crate) fn next_process(&self) {
        self.process.fetch_add(1, Ordering::Relaxed);
    }

    /// Has a thread be gone.
    pub(crate) fn end_thread(&self, id: u32) {
        self.gone.lock().unwrap().push(id);
    }

    /// What was said since the last call.
    pub(crate) fn said(&self) -> Vec<String> {
        core::mem::take(&mut *self.said.lock().unwrap())
    }

    /// How many microseconds each first touch takes.
    pub(crate) fn set_touch(&self, us: u64) {
        self.touch_us.store(us, Ordering::Relaxed);
    }

    /// Moves the clock on.
    pub(crate) fn advance_ms(&self, ms: u64) {
        self.clock.fetch_add(ms, Ordering::Relaxed);
    }

    /// While the value lives, calls number `from` up to but not including `until`, counted from zero, fail.
    pub(crate) fn failing(self: &Arc<Self>, from: u64, until: u64) -> Failing {
        self.calls.store(0, Ordering::Relaxed);
        self.fail_from.store(from, Ordering::Relaxed);
        self.fail_until.store(until, Ordering::Relaxed);
        Failing(self.clone())
    }

    /// Bytes reserved and not released.
    pub(crate) fn reserved_bytes(&self) -> usize {
        self.reserved().iter().map(|block| block.len).sum()
    }

    /// Bytes of those OS pages of all reservations that do not read as zero: the system holds memory for them.
    pub(crate) fn resident_bytes(&self) -> usize {
        let size = self.page_size.load(Ordering::Relaxed);
        let zeros = std::vec![0u8; size];
        let blocks = self.reserved();
        let pages = blocks.iter().flat_map(|block| block.used().step_by(size));
        // SAFETY: inside a reservation, of which nobody writes any part now.
        pages.filter(|at| unsafe { core::slice::from_raw_parts(bytes(*at), size) } != zeros).count() * size
    }

    fn reserved(&self) -> MutexGuard<'_, Vec<Block>> {
        self.reserved.lock().unwrap()
    }

    fn refused(&self) -> bool {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        (self.fail_from.load(Ordering::Relaxed)..self.fail_until.load(Ordering::Relaxed)).contains(&call)
    }

    fn assert_reserved(&self, at: usize, len: usize, unit: usize) {
        assert!(at % unit == 0 && len % unit == 0 && len > 0, "{at:#x} and {len:#x} are no multiples of {unit:#x}");
        assert!(self.reserved().iter().any(|block| block.covers(at, len)), "{at:#x}, {len:#x} is in no reservation");
    }
}

/// While it lives, some calls fail: see [`System::failing`].
pub(crate) struct Failing(Arc<System>);

impl Failing {
    /// Calls so far that could have failed.
    pub(crate) fn seen(&self) -> u64 {
        self.0.calls.load(Ordering::Relaxed)
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        self.0.fail_from.store(u64::MAX, Ordering::Relaxed);
        self.0.fail_until.store(0, Ordering::Relaxed);
    }
}

/// The longest path.
pub(crate) const PATH_MAX: usize = 4096;

pub(crate) fn page_size() -> usize {
    system().page_size.load(Ordering::Relaxed)
}

pub(crate) fn reserve(len: usize, align: usize) -> Option<usize> {
    assert!(len > 0 && len % page_size() == 0 && align % page_size() == 0 && align.is_power_of_two());
    let system = system();
    if system.refused() || !system.has_room(len) {
        return None;
    }
    let room = if system.grows.load(Ordering::Relaxed) { len.checked_mul(2)? } else { len };
    let block = Block::new(len, room, align)?;
    let at = block.at;
    system.reserved().push(block);
    Some(at)
}

pub(crate) fn commit(at: usize, len: usize) -> bool {
    let system = system();
    system.assert_reserved(at, len, page_size());
    if system.refused() {
        return false;
    }
    for block in system.reserved().iter_mut().filter(|block| block.covers(at, len)) {
        block.committed = block.committed.max(at + len);
    }
    true
}

pub(crate) fn purge(at: usize, len: usize) -> Purged {
    let system = system();
    system.assert_reserved(at, len, page_size());
    if system.refused() || system.locks.load(Ordering::Relaxed) {
        return Purged::Failed;
    }
    let (byte, outcome) =
        if system.purges_to_junk.load(Ordering::Relaxed) { (JUNK, Purged::Clean) } else { (0, Purged::Zero) };
    // SAFETY: the caller owns the range.
    unsafe { core::ptr::write_bytes(bytes(at), byte, len) };
    outcome
}

pub(crate) fn protect(at: usize, len: usize, _: bool) -> bool {
    let system = system();
    if len > 0 {
        system.assert_reserved(at, len, page_size());
    }
    !system.refused()
}

/// Nothing takes access away here.
pub(crate) fn has_access(_: usize, _: usize) -> bool {
    true
}

pub(crate) fn release(at: usize, len: usize) {
    let system = system();
    let mut reserved = system.reserved();
    let place = reserved.iter().position(|block| (block.at, block.len) == (at, len));
    let block = reserved.swap_remove(place.expect("released what was not reserved"));
    if system.keeps.load(Ordering::Relaxed) {
        system.released.lock().unwrap().push(block);
    }
}

pub(crate) fn give_up(at: usize, len: usize) -> bool {
    let refused = system().refused();
    if !refused {
        release(at, len);
    }
    !refused
}

pub(crate) fn reserve_again(at: usize, len: usize) -> bool {
    let system = system();
    if system.refused() || !system.has_room(len) {
        return false;
    }
    let mut released = system.released.lock().unwrap();
    let Some(place) = released.iter().position(|block| (block.at, block.len) == (at, len)) else { return false };
    let block = released.swap_remove(place);
    // SAFETY: nobody has this memory.
    unsafe { core::ptr::write_bytes(bytes(at), 0, len) };
    system.reserved().push(block);
    true
}

pub(crate) fn resize(at: usize, old: usize, new: usize) -> bool {
    let system = system();
    if system.refused() || (new > old && !system.has_room(new - old)) {
        return false;
    }
    let mut reserved = system.reserved();
    let block = reserved.iter_mut().find(|block| (block.at, block.len) == (at, old));
    let block = block.expect("resized what was not reserved");
    if new > block.room {
        return false;
    }
    if new < old {
        // SAFETY: the caller gives this part up.
        unsafe { core::ptr::write_bytes(bytes(at + new), 0, old - new) };
    }
    block.len = new;
    true
}

pub(crate) fn remap(at: usize, old: usize, to: usize, new: usize) -> bool {
    let system = system();
    if system.refused() {
        release(to, new);
        return false;
    }
    assert!(
        system.reserved().iter().any(|block| (block.at, block.len) == (to, new)),
        "remapped to what is not reserved"
    );
    // SAFETY: both are reserved, and distinct.
    unsafe { core::ptr::copy_nonoverlapping(bytes(at), bytes(to), old.min(new)) };
    release(at, old);
    true
}

pub(crate) fn metadata(len: usize) -> Option<usize> {
    let system = system();
    if system.refused() || !system.has_room(len) {
        return None;
    }
    let block = Block::new(len, len, 4096)?;
    let at = block.at;
    system.tables.lock().unwrap().push(block);
    Some(at)
}

pub(crate) fn release_metadata(at: usize, len: usize) {
    let system = system();
    let mut tables = system.tables.lock().unwrap();
    let place = tables.iter().position(|block| (block.at, block.len) == (at, len));
    let block = tables.swap_remove(place.expect("released what was no table"));
    assert!(!block.wiped, "what a child finds as zero is to serve again as another table");
    // SAFETY: the caller gives it up.
    unsafe { core::ptr::write_bytes(bytes(block.at), JUNK, block.len) };
}

pub(crate) fn scratch(len: usize) -> Option<usize> {
    metadata(len)
}

pub(crate) fn apart(len: usize) -> Option<usize> {
    metadata(len)
}

pub(crate) fn wiped_metadata(len: usize, _wipe: extern "C" fn()) -> Option<usize> {
    let at = metadata(len)?;
    set_wiped(at, true);
    Some(at)
}

pub(crate) fn release_wiped(at: usize, len: usize) {
    set_wiped(at, false);
    release_metadata(at, len);
}

fn set_wiped(at: usize, wiped: bool) {
    let system = system();
    let mut tables = system.tables.lock().unwrap();
    tables.iter_mut().find(|block| block.at == at).expect("it is a table").wiped = wiped;
}

pub(crate) fn advise_thp(_at: usize, _len: usize, _thp: Thp) {}

/// As slow as was [said](System::set_touch).
pub(crate) fn is_slow_to_touch(at: usize, us: u64) -> bool {
    // SAFETY: the caller's: the byte is reserved, and nobody else's.
    unsafe { bytes(at).write_volatile(0) };
    system().touch_us.load(Ordering::Relaxed) >= us
}

pub(crate) fn fine_us() -> u64 {
    coarse_ms() * 1000
}

pub(crate) fn coarse_ms() -> u64 {
    system().clock.load(Ordering::Relaxed)
}

/// Has the calling thread be known by another number.
pub(crate) fn set_thread_id(id: u32) {
    THREAD.set(id);
}

pub(crate) fn thread_id() -> u32 {
    static THREADS: AtomicU32 = AtomicU32::new(1000);
    if THREAD.get() == 0 {
        THREAD.set(THREADS.fetch_add(1, Ordering::Relaxed));
    }
    THREAD.get()
}

/// Has the calling thread run on another processor.
pub(crate) fn set_processor(number: u32) {
    PROCESSOR.set(number);
}

pub(crate) fn processor() -> u32 {
    PROCESSOR.get()
}

pub(crate) fn is_first_thread() -> bool {
    system().first_thread.load(Ordering::Relaxed)
}

pub(crate) fn thread_is_gone(id: u32) -> bool {
    system().gone.lock().unwrap().contains(&id)
}

pub(crate) fn environment(_visit: impl FnMut(&'static [u8])) -> bool {
    true
}

pub(crate) fn at_exit(_last: extern "C" fn()) {}

pub(crate) fn read_memory(_at: usize, _words: &mut [usize]) -> usize {
    0
}

pub(crate) fn say(text: Arguments<'_>) {
    system().said.lock().unwrap().push(text.to_string());
}

pub(crate) fn say_in(_path: &core::ffi::CStr, _text: Arguments<'_>) -> Result<(), super::Refused> {
    Ok(())
}

pub(crate) fn try_append(_path: &core::ffi::CStr) -> Result<(), super::Refused> {
    Ok(())
}

pub(crate) fn die(text: Arguments<'_>) -> ! {
    panic!("millpond: {text}")
}

#[inline(always)]
pub(crate) fn prefetch_write(_at: usize) {}

#[inline(always)]
pub(crate) fn prefetch_read(_at: usize) {}

pub(crate) fn address_limit() -> Option<usize> {
    None
}

pub(crate) fn is_access_limited() -> bool {
    false
}

pub(crate) fn beyond_limits() -> usize {
    0
}

pub(crate) fn keep_stock(_len: usize, _scarce: bool) -> bool {
    true
}

pub(crate) fn is_alone() -> bool {
    system().alone.load(Ordering::Relaxed)
}

pub(crate) fn process_id() -> u32 {
    system().process.load(Ordering::Relaxed)
}

pub(crate) fn reserve_for_use(len: usize, align: usize, _: usize) -> Option<usize> {
    reserve(len, align)
}

pub(crate) fn could_give(_bytes: usize) -> bool {
    true
}

/// What lies at an address: nothing is known of it here.
pub(crate) struct Place(pub(crate) usize);

impl core::fmt::Display for Place {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#x} of the true system", self.0)
    }
}
