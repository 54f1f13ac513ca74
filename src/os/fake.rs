//! The contract of [`os`](super) for the models, which run all on one thread of the system.
//!
//! Reservations are bare numbers, small enough for a shrunk page map. Each grain of them has a [`Slot`] that stands for
//! what is stored there: [`touch`], [`purge`] and [`release`] write it, so a model in which two may use the same memory
//! at a time fails.

use super::Purged;
use crate::report::Thp;
use crate::sync::{AtomicUsize, Ordering, Slot};
use core::fmt::Arguments;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::vec::Vec;

/// Addresses that there are: what the shrunk page map covers.
const SPACE: usize = 1 << 13;
/// Bytes that one slot stands for: an OS page and the smallest chunk.
const GRAIN: usize = 16;
const TABLE_ALIGN: usize = 64;

std::thread_local! {
    /// The end of the last reservation. No address is given out twice.
    static END: Cell<usize> = const { Cell::new(0) };
    /// Start and length of each reservation.
    static RESERVED: RefCell<Vec<(usize, usize)>> = const { RefCell::new(Vec::new()) };
    static GRAINS: RefCell<Vec<Slot>> = const { RefCell::new(Vec::new()) };
    static TABLES: RefCell<Vec<(usize, Layout)>> = const { RefCell::new(Vec::new()) };
    static THREAD: Cell<u32> = const { Cell::new(1) };
    static REFUSES: Cell<bool> = const { Cell::new(false) };
    static REFUSES_PURGES: Cell<bool> = const { Cell::new(false) };
    /// Which table from now on is refused; none if zero.
    static REFUSED_TABLE: Cell<u32> = const { Cell::new(0) };
    static CUT: RefCell<Option<Rc<AtomicUsize>>> = const { RefCell::new(None) };
}

/// Begins anew: frees all that the last execution has taken, of which nothing is used any more.
pub(crate) fn begin() {
    for (at, layout) in TABLES.take() {
        // SAFETY: taken with this layout in `metadata`, and no longer used.
        unsafe { dealloc(core::ptr::with_exposed_provenance_mut(at), layout) };
    }
    RESERVED.take();
    GRAINS.take();
    END.set(0);
    THREAD.set(1);
    REFUSES.set(false);
    REFUSED_TABLE.set(0);
    REFUSES_PURGES.set(false);
    CUT.set(Some(Rc::new(AtomicUsize::new(0))));
}

/// Writes to memory, as whoever it was handed out to would. Fails the model if anybody else may be using it.
pub(crate) fn touch(at: usize, len: usize) {
    GRAINS.with_borrow(|grains| grains[at / GRAIN..(at + len).div_ceil(GRAIN)].iter().for_each(|grain| grain.set(at)));
}

/// The threads that there have been are gone, without a word; those to come have another number.
pub(crate) fn end_threads() {
    THREAD.set(THREAD.get() + 1);
}

/// The longest path.
pub(crate) const PATH_MAX: usize = 4096;

pub(crate) fn page_size() -> usize {
    GRAIN
}

pub(crate) fn reserve(len: usize, align: usize) -> Option<usize> {
    let at = (END.get() + 1).next_multiple_of(align);
    if at + len > SPACE {
        return None;
    }
    END.set(at + len);
    GRAINS.with_borrow_mut(|grains| grains.resize_with((at + len).div_ceil(GRAIN), || Slot::new(0)));
    RESERVED.with_borrow_mut(|reserved| reserved.push((at, len)));
    Some(at)
}

pub(crate) fn reserve_again(at: usize, len: usize) -> bool {
    let is_free =
        RESERVED.with_borrow(|reserved| reserved.iter().all(|(from, long)| at + len <= *from || from + long <= at));
    if is_free {
        touch(at, len);
        RESERVED.with_borrow_mut(|reserved| reserved.push((at, len)));
    }
    is_free
}

pub(crate) fn commit(_at: usize, _len: usize) -> bool {
    !REFUSES.replace(false)
}

/// The next commit is refused.
pub(crate) fn refuse_commit() {
    REFUSES.set(true);
}

pub(crate) fn purge(at: usize, len: usize) -> Purged {
    assert!(at % GRAIN == 0 && len % GRAIN == 0 && len > 0);
    if REFUSES_PURGES.get() {
        return Purged::Failed;
    }
    touch(at, len);
    Purged::Zero
}

/// All purges from now on are refused, and no addresses taken back that are given up.
pub(crate) fn refuse_purges() {
    REFUSES_PURGES.set(true);
}

pub(crate) fn protect(_: usize, _: usize, _: bool) -> bool {
    true
}

pub(crate) fn has_access(_: usize, _: usize) -> bool {
    true
}

/// Nobody calls.
pub(crate) fn frames_from(_: usize, _: &mut [usize]) -> usize {
    0
}

#[derive(Clone, Copy, Debug)]
pub struct Location(pub usize);

impl core::fmt::Display for Location {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

pub(crate) fn release(at: usize, len: usize) {
    touch(at, len);
    RESERVED.with_borrow_mut(|reserved| {
        let place = reserved.iter().position(|reservation| *reservation == (at, len));
        reserved.swap_remove(place.expect("released what was not reserved"));
    });
}

pub(crate) fn give_up(at: usize, len: usize) -> bool {
    if REFUSES_PURGES.get() {
        return false;
    }
    release(at, len);
    true
}

/// Shrinks in place alone.
pub(crate) fn resize(at: usize, old: usize, new: usize) -> bool {
    if new > old {
        return false;
    }
    touch(at + new, old - new);
    RESERVED.with_borrow_mut(|reserved| {
        let place = reserved.iter().position(|reservation| *reservation == (at, old));
        reserved[place.expect("resized what was not reserved")].1 = new;
    });
    let cut = CUT.with_borrow(Option::clone).expect("an execution has begun");
    // ORDERING: Release: who asks the system afterwards comes after this call.
    cut.fetch_add(old - new, Ordering::Release);
    true
}

/// Bytes that have been cut off what was resized.
pub(crate) fn cut() -> usize {
    let cut = CUT.with_borrow(Option::clone).expect("an execution has begun");
    // ORDERING: Acquire: as another call that comes after `resize`.
    cut.load(Ordering::Acquire)
}

pub(crate) fn remap(at: usize, old: usize, _to: usize, _new: usize) -> bool {
    release(at, old);
    true
}

/// The `which`-th table from now on is refused.
pub(crate) fn refuse_table(which: u32) {
    REFUSED_TABLE.set(which);
}

pub(crate) fn metadata(len: usize) -> Option<usize> {
    if REFUSED_TABLE.replace(REFUSED_TABLE.get().saturating_sub(1)) == 1 {
        return None;
    }
    let layout = Layout::from_size_align(len, TABLE_ALIGN).ok()?;
    // SAFETY: the length is not zero.
    let at = unsafe { alloc_zeroed(layout) }.expose_provenance();
    TABLES.with_borrow_mut(|tables| tables.push((at, layout)));
    Some(at)
}

/// Stays until the execution ends: what is used after its release is then found by the model, not by a crash.
pub(crate) fn release_metadata(_at: usize, _len: usize) {}

pub(crate) fn scratch(len: usize) -> Option<usize> {
    metadata(len)
}

pub(crate) fn apart(len: usize) -> Option<usize> {
    metadata(len)
}

pub(crate) fn wiped_metadata(len: usize, _wipe: extern "C" fn()) -> Option<usize> {
    metadata(len)
}

pub(crate) fn release_wiped(at: usize, len: usize) {
    release_metadata(at, len);
}

/// For whoever has the addresses alone.
pub(crate) fn advise_thp(at: usize, len: usize, _thp: Thp) {
    touch(at, len);
}

pub(crate) fn is_slow_to_touch(_at: usize, _us: u64) -> bool {
    false
}

pub(crate) fn fine_us() -> u64 {
    0
}

pub(crate) fn coarse_ms() -> u64 {
    0
}

pub(crate) fn processor() -> u32 {
    0
}

pub(crate) fn thread_id() -> u32 {
    THREAD.get()
}

pub(crate) fn process_id() -> u32 {
    1
}

pub(crate) fn is_first_thread() -> bool {
    false
}

pub(crate) fn is_alone() -> bool {
    false
}

pub(crate) fn thread_is_gone(id: u32) -> bool {
    id < THREAD.get()
}

pub(crate) fn environment(_visit: impl FnMut(&'static [u8])) -> bool {
    true
}

pub(crate) fn at_exit(_last: extern "C" fn()) {}

pub(crate) fn read_memory(_at: usize, _words: &mut [usize]) -> usize {
    0
}

pub(crate) fn say(_text: Arguments<'_>) {}

pub(crate) fn say_in(_path: &core::ffi::CStr, _text: Arguments<'_>) -> Result<(), super::Refused> {
    Ok(())
}

pub(crate) fn try_append(_path: &core::ffi::CStr) -> Result<(), super::Refused> {
    Ok(())
}

pub(crate) fn die(text: Arguments<'_>) -> ! {
    panic!("millpond: {text}")
}

pub(crate) fn prefetch_write(_at: usize) {}

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
