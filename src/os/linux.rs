//! The contract of [`os`](super) on Linux. Sole home, with [`slot`](crate::slot), of `libc` and of the processor.
//!
//! `errno` stays what it was, whatever the system refuses: `free` must not change it, nor an allocation that succeeds.

use super::Purged;
use super::files::{STDERR, write_all};
use super::frames::can_read;
use super::nursery::Nursery;
use super::reserve::{FLAGS, PROT, map_as};
use super::stock::{self, Stock};
use crate::report::Thp;
use crate::sync::{AtomicUsize, Ordering};
use core::ffi::{CStr, c_void};
use core::fmt::Write;

/// What is kept here, in one place, so that a small program has it in one OS page.
#[repr(C)]
struct Kept {
    page_size: AtomicUsize,
    /// The kernel's function that tells the time; zero before it has been looked for, [`NONE_THERE`] if there is none.
    #[cfg(feature = "malloc")]
    clock: AtomicUsize,
    /// The same of the one that tells the processor.
    #[cfg(feature = "malloc")]
    processor: AtomicUsize,
    stock: Stock,
    nursery: Nursery,
}

static KEPT: Kept = Kept {
    page_size: AtomicUsize::new(0),
    #[cfg(feature = "malloc")]
    clock: AtomicUsize::new(0),
    #[cfg(feature = "malloc")]
    processor: AtomicUsize::new(0),
    stock: Stock::new(),
    nursery: Nursery::new(),
};

/// Bytes of an OS page, read once from the system.
pub(crate) fn page_size() -> usize {
    // Relaxed: the value is the same whoever reads it first.
    match KEPT.page_size.load(Ordering::Relaxed) {
        0 => {
            // SAFETY: no preconditions. (`sysconf` says the same, from pages of libc's that a small program has no other use for.)
            let size = unsafe { libc::getauxval(libc::AT_PAGESZ) }.max(4096) as usize;
            KEPT.page_size.store(size, Ordering::Relaxed);
            size
        }
        size => size,
    }
}

/// Makes a call of the system and keeps `errno`.
pub(super) fn quietly<T>(call: impl FnOnce() -> T) -> T {
    let errno = errno();
    let result = call();
    set_errno(errno);
    result
}

/// For tables, of which little may ever be touched: in small pages also where the system gives huge ones to all.
fn map(len: usize) -> Option<usize> {
    let at = map_as(FLAGS | libc::MAP_NORESERVE, len)?;
    advise_thp(at, len, Thp::Never);
    Some(at)
}

pub(super) fn unmap(at: usize, len: usize) {
    if len > 0 && !give_up(at, len) {
        // This splits no mapping: only the addresses are lost.
        purge(at, len);
    }
}

/// See [`os`](super). Refused in the middle of a mapping, with as many mappings as there may be.
pub(crate) fn give_up(at: usize, len: usize) -> bool {
    // SAFETY: callers own `at..at + len` and use it no more.
    quietly(|| unsafe { libc::munmap(core::ptr::with_exposed_provenance_mut(at), len) }) == 0
}

/// See [`os`](super). Linux commits by touch: `reserve` maps readable and writable, since changing the protection
/// piece by piece would split mappings and run into their limit.
pub(crate) fn commit(_at: usize, _len: usize) -> bool {
    true
}

/// See [`os`](super). Fails where memory is locked, or a sandbox refuses `madvise`.
pub(crate) fn purge(at: usize, len: usize) -> Purged {
    let range = core::ptr::with_exposed_provenance_mut::<c_void>(at);
    // SAFETY: the caller owns the range, which is private and anonymous, and has nothing in it.
    match quietly(|| unsafe { libc::madvise(range, len, libc::MADV_DONTNEED) }) {
        0 => Purged::Zero,
        _ => Purged::Failed,
    }
}

/// See [`os`](super). Splits mappings, of which there can only be so many: for few ranges at a time.
pub(crate) fn protect(at: usize, len: usize, usable: bool) -> bool {
    let range = core::ptr::with_exposed_provenance_mut::<c_void>(at);
    // SAFETY: the caller owns the range, and nobody else is to use it.
    let set = |rights| len == 0 || quietly(|| unsafe { libc::mprotect(range, len, rights) }) == 0;
    if usable {
        return set(PROT);
    }
    let is_set = set(libc::PROT_NONE);
    if !is_set {
        // Where a range lies in several mappings, the first may have no access by now. To give it back splits none.
        set(PROT);
    }
    is_set
}

/// See [`os`](super). A sandbox may answer in the kernel's place: then nothing is known.
#[cold]
#[inline(never)]
#[unsafe(link_section = ".millpond_cold")]
pub(crate) fn has_access(at: usize, len: usize) -> bool {
    // Nobody has addresses that low.
    const NOBODYS: usize = 4096;
    !can_read(NOBODYS) && (at..at + len).step_by(page_size()).all(can_read)
}

/// See [`os`](super).
pub(crate) fn release(at: usize, len: usize) {
    unmap(at, len);
}

/// See [`os`](super).
pub(crate) fn resize(at: usize, old: usize, new: usize) -> bool {
    let from = core::ptr::with_exposed_provenance_mut::<c_void>(at);
    // SAFETY: the caller owns the whole mapping `at..at + old`.
    quietly(|| unsafe { libc::mremap(from, old, new, 0) }) == from
}

/// See [`os`](super). When it refuses, the kernel may have unmapped the second already (before 6.17 for most of its reasons, later
/// for few), and another thread may have been given its addresses: so it is released only where it is known again.
#[unsafe(link_section = ".millpond_cold")]
pub(crate) fn remap(at: usize, old: usize, to: usize, new: usize) -> bool {
    let from = core::ptr::with_exposed_provenance_mut::<c_void>(at);
    let target = core::ptr::with_exposed_provenance_mut::<c_void>(to);
    // Two words that nobody else writes there: no other thread has this address on its stack. In a small page, since it goes at once.
    let mark = [(&raw const from).addr(), nanoseconds() as usize];
    advise_thp(to, page_size(), Thp::Never);
    // SAFETY: the second is reserved, and the caller's.
    unsafe { target.cast::<[usize; 2]>().write(mark) };
    // SAFETY: the caller owns both mappings whole, and has nothing in the second.
    if quietly(|| unsafe { libc::mremap(from, old, new, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, target) }) == target
    {
        return true;
    }
    let mut there = [0; 2];
    if super::read_memory(to, &mut there) == mark.len() && there == mark {
        unmap(to, new);
    }
    false
}

/// See [`os`](super).
pub(crate) fn metadata(len: usize) -> Option<usize> {
    KEPT.nursery.take(len).or_else(|| scratch(len))
}

/// See [`os`](super).
pub(crate) fn scratch(len: usize) -> Option<usize> {
    let len = len.next_multiple_of(page_size());
    map(len).or_else(|| KEPT.stock.take(len, page_size()))
}

/// See [`os`](super). The system then calls it shared, though nobody shares it.
pub(crate) fn apart(len: usize) -> Option<usize> {
    let len = len.next_multiple_of(page_size());
    map_as(FLAGS & !libc::MAP_PRIVATE | libc::MAP_SHARED | libc::MAP_NORESERVE, len).or_else(|| scratch(len))
}

/// What may do for tables where the system has no more to set aside: it may have much to give all the same.
const LITTLE: usize = 4 << 20;

/// Sees to it that about `len` bytes are set aside for [`metadata`] when the system gives no more, or else a few MiB, or a part of
/// one; but where it is `scarce`, no more than half of what there is. `false`: it gives no more already.
pub(crate) fn keep_stock(len: usize, scarce: bool) -> bool {
    let little = [1, 4, 16].map(|part| len.min(LITTLE / part));
    core::iter::once(len).chain(little).any(|len| KEPT.stock.left() >= len / 2 || add_stock(len, scarce))
}

fn add_stock(len: usize, scarce: bool) -> bool {
    let len = (len + stock::HEADER).next_multiple_of(page_size());
    // As much again is had and given back: what is left is for what the tables are of.
    let spare = if scarce { len } else { 0 };
    let Some(at) = map(len + spare) else { return false };
    unmap(at + len, spare);
    // In the nursery, if there is room: else it is all that is ever touched of the mapping.
    let header = KEPT.nursery.take(stock::HEADER).unwrap_or(at);
    // SAFETY: a fresh mapping, which is never released, and a table for the header, or the mapping's beginning.
    unsafe { KEPT.stock.add(header, at, len) };
    true
}

/// Gives back what [`scratch`] or [`apart`] returned, or [`metadata`]: then for the loser of a race to publish it, or at a heap's end.
pub(crate) fn release_metadata(at: usize, len: usize) {
    if KEPT.nursery.has(at) {
        // It stays; whoever searches memory for addresses must not find those of a heap that is no more.
        // SAFETY: the caller's alone, of the length that it was taken with.
        return unsafe { core::ptr::with_exposed_provenance_mut::<u8>(at).write_bytes(0, len) };
    }
    let len = len.next_multiple_of(page_size());
    if KEPT.stock.has(at) {
        if purge(at, len) == Purged::Zero {
            KEPT.stock.give(at, len);
        }
    } else {
        unmap(at, len);
    }
}

/// Whether [`metadata`] or [`scratch`] had this from what was set aside.
pub(super) fn is_of_stock(at: usize) -> bool {
    KEPT.stock.has(at)
}

/// Asks for, or refuses, transparent huge pages in a range. Only advice: errors change nothing.
pub(crate) fn advise_thp(at: usize, len: usize, thp: Thp) {
    let advice = match thp {
        Thp::Default | Thp::System => return,
        Thp::Always => libc::MADV_HUGEPAGE,
        Thp::Never => libc::MADV_NOHUGEPAGE,
    };
    // SAFETY: advice about our own mapping changes no contents.
    quietly(|| unsafe { libc::madvise(core::ptr::with_exposed_provenance_mut(at), len, advice) });
}

/// Writes a zero to where one is, and says whether that took as long as so many microseconds, and the thread had not to make way for
/// others meanwhile.
#[cold]
pub(crate) fn is_slow_to_touch(at: usize, us: u64) -> bool {
    // Not the clock of the thread's own time: to read that has the system look whether the thread has had enough.
    let (switches, start) = (switches(), fine_us());
    // SAFETY: the caller's: the byte is reserved, and nobody else's.
    unsafe { core::ptr::with_exposed_provenance_mut::<u8>(at).write_volatile(0) };
    fine_us().saturating_sub(start) >= us && self::switches() == switches
}

/// How often the thread has had to make way for others.
fn switches() -> i64 {
    let mut usage = core::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` has room for what the call writes; zeros are one, should it fail.
    quietly(|| unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init().ru_nivcsw
    })
}

/// The processor on which the calling thread is, or was a moment ago: no system call where the C library or the vDSO has it, as on
/// x86-64. Zero where the system does not say.
#[cfg(not(feature = "malloc"))]
pub(crate) fn processor() -> u32 {
    // SAFETY: without arguments.
    quietly(|| unsafe { libc::sched_getcpu() }).try_into().unwrap_or(0)
}

/// The same by the vDSO: libc's `sched_getcpu` may be another library's. Zero without one: it is not worth a system call.
#[cfg(feature = "malloc")]
pub(crate) fn processor() -> u32 {
    type Tell = unsafe extern "C" fn(*mut u32, *mut u32, *mut c_void) -> libc::c_long;
    let tell = match found(&KEPT.processor, b"__vdso_getcpu\0") {
        NONE_THERE => return 0,
        tell => core::ptr::with_exposed_provenance::<c_void>(tell),
    };
    let mut processor = 0;
    // SAFETY: the vDSO's function of this name is of this type, and writes where it is given a place.
    match unsafe {
        core::mem::transmute::<*const c_void, Tell>(tell)(&mut processor, core::ptr::null_mut(), core::ptr::null_mut())
    } {
        0 => processor,
        _ => 0,
    }
}

/// Milliseconds of a monotonic clock, a few milliseconds coarse; a `vdso` call, no system call. As all clocks here it may go back, or
/// stand before zero, where libc's function is that of a library which fakes the time.
pub(crate) fn coarse_ms() -> u64 {
    let now = time(libc::CLOCK_MONOTONIC_COARSE);
    (now.tv_sec as u64).wrapping_mul(1000).wrapping_add(now.tv_nsec as u64 / 1_000_000)
}

/// Microseconds of a monotonic clock; a `vdso` call, no system call, but dearer than the coarse one.
pub(crate) fn fine_us() -> u64 {
    nanoseconds() / 1000
}

/// Nanoseconds of the same clock.
pub(crate) fn nanoseconds() -> u64 {
    clock(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds since 1970.
pub(crate) fn wall_ns() -> u64 {
    clock(libc::CLOCK_REALTIME)
}

fn clock(id: libc::clockid_t) -> u64 {
    let now = time(id);
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

fn time(id: libc::clockid_t) -> libc::timespec {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is ours to write.
    unsafe { tell(id, &mut now) };
    now
}

#[cfg(not(feature = "malloc"))]
use libc::clock_gettime as tell;

/// Of [`Kept::clock`] and [`Kept::processor`].
#[cfg(feature = "malloc")]
const NONE_THERE: usize = 1;

/// As libc's `clock_gettime`, which may be another library's: see [`vdso`](super::vdso).
///
/// # Safety
/// `now` may be written.
#[cfg(feature = "malloc")]
unsafe fn tell(id: libc::clockid_t, now: *mut libc::timespec) -> i32 {
    type Tell = unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> i32;
    // SAFETY: the caller's; the vDSO's function of this name is of this type.
    unsafe {
        match found(&KEPT.clock, b"__vdso_clock_gettime\0") {
            NONE_THERE => quietly(|| libc::syscall(libc::SYS_clock_gettime, id, now) as i32),
            clock => core::mem::transmute::<*const c_void, Tell>(core::ptr::with_exposed_provenance(clock))(id, now),
        }
    }
}

/// The address of a function of the vDSO, which is looked for once.
#[cfg(feature = "malloc")]
fn found(kept: &AtomicUsize, name: &[u8]) -> usize {
    // Relaxed: whoever looks for it finds the same function.
    match kept.load(Ordering::Relaxed) {
        0 => find(kept, name),
        at => at,
    }
}

#[cfg(feature = "malloc")]
#[cold]
fn find(kept: &AtomicUsize, name: &[u8]) -> usize {
    // SAFETY: at the image's address lies the image.
    let found = unsafe {
        match quietly(|| libc::getauxval(libc::AT_SYSINFO_EHDR)) as usize {
            0 => None,
            image => super::vdso::find(image, name),
        }
    };
    let at = found.unwrap_or(NONE_THERE);
    kept.store(at, Ordering::Relaxed);
    at
}

/// The calling thread's number, unique among the living threads of the system.
pub(crate) fn thread_id() -> u32 {
    // SAFETY: no preconditions.
    quietly(|| unsafe { libc::syscall(libc::SYS_gettid) as u32 })
}

/// The number of the calling process.
pub(crate) fn process_id() -> u32 {
    // SAFETY: no preconditions. A raw call: older C libraries remember the parent's in a child of `vfork`.
    quietly(|| unsafe { libc::syscall(libc::SYS_getpid) as u32 })
}

/// Whether the calling thread is the one with which its process began: after a `fork`, the thread that forked.
pub(crate) fn is_first_thread() -> bool {
    process_id() == thread_id()
}

/// Whether the system is sure that no thread of this process has this number.
pub(crate) fn thread_is_gone(id: u32) -> bool {
    // SAFETY: signal 0 is sent to nobody: the call only asks.
    let ask = || unsafe { libc::syscall(libc::SYS_tgkill, process_id() as libc::c_long, id as libc::c_long, 0) };
    quietly(|| ask() == -1 && errno() == libc::ESRCH)
}

/// Whether the calling thread is sure to be the only one of its process, as `/proc` counts them.
pub(crate) fn is_alone() -> bool {
    // SAFETY: zeros are a valid `stat`, which the call fills in. A raw call: libc's may be that of a library that asks another
    // process.
    quietly(|| unsafe {
        let mut status: libc::stat = core::mem::zeroed();
        // A directory has two links and one for each directory in it; here, one for each thread.
        libc::syscall(libc::SYS_newfstatat, libc::AT_FDCWD, c"/proc/self/task".as_ptr(), &mut status, 0) == 0
            && status.st_nlink == 3
    })
}

pub(super) fn errno() -> i32 {
    // SAFETY: the calling thread's own errno.
    unsafe { *libc::__errno_location() }
}

pub(super) fn set_errno(value: i32) {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = value };
}

/// Calls `visit` with each environment variable, as `NAME=value`: with none if the program runs with more rights than its
/// user. `false`: libc does not know them yet.
pub(crate) fn environment(mut visit: impl FnMut(&'static [u8])) -> bool {
    unsafe extern "C" {
        // Not this crate's alone: libc sets it, and so may the program.
        static mut environ: *const *const libc::c_char;
    }
    // SAFETY: no preconditions.
    if quietly(|| unsafe { libc::getauxval(libc::AT_SECURE) }) != 0 {
        return true;
    }
    // SAFETY: a null-terminated array of strings, or null before libc has set it. Called at first use, when the
    // program has hardly had the chance to change it from another thread.
    unsafe {
        let mut entry = environ;
        if entry.is_null() {
            return false;
        }
        while !(*entry).is_null() {
            visit(CStr::from_ptr(*entry).to_bytes());
            entry = entry.add(1);
        }
    }
    true
}

/// Text on its way to stderr, by raw system calls (libc's `write` is a cancellation point), a buffer at a time.
struct Stderr {
    bytes: [u8; 256],
    len: usize,
}

impl Stderr {
    fn flush(&mut self) {
        // One that takes no more has nobody to be told.
        let _ = write_all(STDERR, &self.bytes[..core::mem::take(&mut self.len)]);
    }
}

impl Write for Stderr {
    #[unsafe(link_section = ".millpond_cold")]
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes() {
            if self.len == self.bytes.len() {
                self.flush();
            }
            self.bytes[self.len] = byte;
            self.len += 1;
        }
        Ok(())
    }
}

/// Writes `millpond: ` and `text`, with a line's end, to stderr; keeps `errno`.
pub(crate) fn say(text: core::fmt::Arguments<'_>) {
    let mut stderr = Stderr { bytes: [0; 256], len: 0 };
    let _ = writeln!(stderr, "millpond: {text}");
    stderr.flush();
}

/// Has `last` called when the process ends by `exit`. Takes a lock of libc's and may allocate: not for each call of a
/// program, but for the first.
pub(crate) fn at_exit(last: extern "C" fn()) {
    // SAFETY: `last` stays valid for ever: it is a function of this crate.
    unsafe { libc::atexit(last) };
}

/// Ends the process with one line on stderr: something has been misused, and going on would corrupt memory.
#[cold]
#[inline(never)]
pub(crate) fn die(text: core::fmt::Arguments<'_>) -> ! {
    say(text);
    // SAFETY: no preconditions.
    unsafe { libc::abort() }
}

/// Has the processor fetch the cache line at an address, which need not be mapped, in order to write to it.
#[inline(always)]
pub(crate) fn prefetch_write(at: usize) {
    // SAFETY: a prefetch has no effect but on caches, and never faults.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        core::arch::asm!("prefetchw byte ptr [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Has the processor fetch the cache line at an address, which need not be mapped, in order to read it.
#[inline(always)]
pub(crate) fn prefetch_read(at: usize) {
    // SAFETY: as above.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        core::arch::asm!("prefetcht0 byte ptr [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// The limit on the process's address space or private memory (`ulimit -v`, `ulimit -d`), if there is one: what is
/// reserved counts under both.
pub(crate) fn address_limit() -> Option<usize> {
    limits().into_iter().flatten().min()
}

/// Both of them.
pub(super) fn limits() -> [Option<usize>; 2] {
    // SAFETY: where to write is the caller's.
    [limit(|limit| unsafe { libc::getrlimit(libc::RLIMIT_AS, limit) }), data_limit()]
}

/// Whether private memory is limited by itself (`ulimit -d`): what has no access does not count under that, so it may be that access
/// which was taken away is not to be had again.
pub(crate) fn is_access_limited() -> bool {
    data_limit().is_some()
}

fn data_limit() -> Option<usize> {
    // SAFETY: where to write is the caller's.
    limit(|limit| unsafe { libc::getrlimit(libc::RLIMIT_DATA, limit) })
}

fn limit(ask: impl FnOnce(*mut libc::rlimit) -> i32) -> Option<usize> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let known = quietly(|| ask(&mut limit)) == 0;
    (known && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur as usize)
}

/// Whether the system could give so many bytes if all the process has were given back: no more than its limit, or twice
/// the machine's memory.
pub(crate) fn could_give(bytes: usize) -> bool {
    // SAFETY: zeros are a valid `sysinfo`, which the call fills in. (`sysconf` asks the same, but older C libraries read a
    // file for it, by way of `malloc`.)
    let memory = quietly(|| unsafe {
        let mut info: libc::sysinfo = core::mem::zeroed();
        match libc::sysinfo(&mut info) {
            0 => (info.totalram as usize).saturating_mul(info.mem_unit as usize),
            _ => usize::MAX,
        }
    });
    let bound = memory.saturating_mul(2);
    bytes <= address_limit().map_or(bound, |limit| limit.min(bound))
}
