//! A program that stands between the allocator and the system: of one kind of call, one is refused, or all from one on.
//! The program then gets null or goes on; afterwards all is sound and works.
//!
//! Arguments: the kind (`none` for none), the number of the first refused call, and `once` or `ever`. It prints how many
//! calls of each kind there were. No standard library starts it: that would allocate before the first refusal is planned.
//! With `leaks` instead of all that, it looks for leaks, and has memory for ever more of what that takes.
#![no_main]

use core::ffi::{CStr, c_char, c_int, c_long, c_void};
use millpond::{Heap, LeaksUnknown, Millpond};
use std::alloc::{GlobalAlloc, Layout};
use std::fmt::Write as _;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

const KINDS: [&CStr; 5] = [c"mmap", c"munmap", c"madvise", c"mremap", c"key"];

static CALLS: [AtomicU32; KINDS.len()] = [const { AtomicU32::new(0) }; KINDS.len()];
static KIND: AtomicUsize = AtomicUsize::new(usize::MAX);
static FIRST: AtomicU32 = AtomicU32::new(0);
static LAST: AtomicU32 = AtomicU32::new(0);
/// Only the allocator's calls count: those inside it.
static INSIDE: AtomicBool = AtomicBool::new(false);
/// The most bytes that were refused.
static REFUSED: AtomicUsize = AtomicUsize::new(0);

/// Whether this call is to be refused.
fn refused(kind: usize) -> bool {
    if !INSIDE.load(Ordering::Relaxed) {
        return false;
    }
    let call = CALLS[kind].fetch_add(1, Ordering::Relaxed);
    let planned = KIND.load(Ordering::Relaxed) == kind;
    planned && (FIRST.load(Ordering::Relaxed)..=LAST.load(Ordering::Relaxed)).contains(&call)
}

/// What a refused call returns.
fn refuse<T>(result: T) -> T {
    // SAFETY: the thread's own.
    unsafe { *libc::__errno_location() = libc::ENOMEM };
    result
}

/// # Safety
/// As the system's.
// SAFETY: stands for libc's, and does the same.
#[unsafe(no_mangle)]
unsafe extern "C" fn mmap(
    at: *mut c_void,
    len: usize,
    prot: c_int,
    flags: c_int,
    file: c_int,
    from: i64,
) -> *mut c_void {
    if refused(0) {
        REFUSED.fetch_max(len, Ordering::Relaxed);
        return refuse(libc::MAP_FAILED);
    }
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_mmap, at, len, prot, flags, file, from) as *mut c_void }
}

/// # Safety
/// As the system's.
// SAFETY: stands for libc's, and does the same.
#[unsafe(no_mangle)]
unsafe extern "C" fn munmap(at: *mut c_void, len: usize) -> c_int {
    if refused(1) {
        return refuse(-1);
    }
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_munmap, at, len) as c_int }
}

/// # Safety
/// As the system's.
// SAFETY: stands for libc's, and does the same.
#[unsafe(no_mangle)]
unsafe extern "C" fn madvise(at: *mut c_void, len: usize, advice: c_int) -> c_int {
    if refused(2) {
        return refuse(-1);
    }
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_madvise, at, len, advice) as c_int }
}

/// # Safety
/// As the system's.
// SAFETY: stands for libc's, and does the same.
#[unsafe(no_mangle)]
unsafe extern "C" fn mremap(at: *mut c_void, old: usize, new: usize, flags: c_int, to: *mut c_void) -> *mut c_void {
    if refused(3) {
        return refuse(libc::MAP_FAILED);
    }
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_mremap, at, old, new, flags, to) as *mut c_void }
}

/// # Safety
/// As the system's.
// SAFETY: stands for libc's, and calls it.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_key_create(
    key: *mut libc::pthread_key_t,
    end: Option<unsafe extern "C" fn(*mut c_void)>,
) -> c_int {
    if refused(4) {
        return libc::EAGAIN;
    }
    unsafe extern "C" {
        fn __pthread_key_create(key: *mut libc::pthread_key_t, end: Option<unsafe extern "C" fn(*mut c_void)>)
        -> c_int;
    }
    // SAFETY: the caller's.
    unsafe { __pthread_key_create(key, end) }
}

/// Whether the list of threads is refused, or what each of them does.
static NO_THREADS: AtomicBool = AtomicBool::new(false);
static UNTOLD: AtomicBool = AtomicBool::new(false);
/// How often somebody waited for a while.
static WAITS: AtomicU32 = AtomicU32::new(0);

/// # Safety
/// As the system's.
// SAFETY: stands for libc's, and does the same.
#[unsafe(no_mangle)]
unsafe extern "C" fn syscall(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> c_long {
    // SAFETY: the caller's.
    unsafe {
        if number == libc::SYS_nanosleep {
            WAITS.fetch_add(1, Ordering::Relaxed);
        }
        if number == libc::SYS_openat {
            let path = CStr::from_ptr(core::ptr::with_exposed_provenance(b));
            let is_list = path == c"/proc/self/task" && NO_THREADS.load(Ordering::Relaxed);
            if is_list || path.to_bytes().ends_with(b"/syscall") && UNTOLD.load(Ordering::Relaxed) {
                *libc::__errno_location() = libc::EMFILE;
                return -1;
            }
        }
        let result: c_long;
        core::arch::asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
        if (-4095..0).contains(&result) {
            *libc::__errno_location() = -result as c_int;
            return -1;
        }
        result
    }
}

/// Text to a descriptor, without allocating.
struct To(c_int);

impl std::fmt::Write for To {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        // SAFETY: writes what is there.
        unsafe { libc::write(self.0, text.as_ptr().cast(), text.len()) };
        Ok(())
    }
}

fn fail(text: std::fmt::Arguments<'_>) -> ! {
    let _ = writeln!(To(2), "{text}");
    // SAFETY: leaves.
    unsafe { libc::_exit(1) }
}

macro_rules! ensure {
    ($holds:expr, $($text:tt)*) => {
        if !$holds {
            fail(format_args!($($text)*));
        }
    };
}

/// Calls the allocator.
fn within<T>(call: impl FnOnce() -> T) -> T {
    let was = INSIDE.swap(true, Ordering::Relaxed);
    let result = call();
    INSIDE.store(was, Ordering::Relaxed);
    result
}

/// A block that knows what it was filled with; nothing where the request was refused.
#[derive(Clone, Copy)]
struct Block(*mut u8, usize);

const NONE: Block = Block(null_mut(), 0);

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).expect("a layout")
}

impl Block {
    /// `must`: no request may fail.
    fn new(size: usize, zeroed: bool, must: bool) -> Self {
        // SAFETY: the size is not zero.
        let at = within(|| unsafe {
            if zeroed { Millpond.alloc_zeroed(layout(size)) } else { Millpond.alloc(layout(size)) }
        });
        ensure!(!must || !at.is_null(), "{size} bytes were refused");
        let block = Self(at, size);
        if zeroed {
            block.each(|byte| ensure!(*byte == 0, "{size} bytes are not zero"));
        }
        block.each(|byte| *byte = size as u8);
        block
    }

    /// A byte of each 4 KiB, or of each 64 where it is long, and the last.
    fn each(self, mut act: impl FnMut(&mut u8)) {
        if !self.0.is_null() {
            let step = if self.1 < MIB { 4 * KIB } else { 64 * KIB };
            // SAFETY: inside the block.
            (0..self.1).step_by(step).chain([self.1 - 1]).for_each(|at| act(unsafe { &mut *self.0.add(at) }));
        }
    }

    fn resize(self, size: usize, must: bool) -> Self {
        if self.0.is_null() {
            return self;
        }
        // SAFETY: a live block of that layout.
        let at = within(|| unsafe { Millpond.realloc(self.0, layout(self.1), size) });
        ensure!(!must || !at.is_null(), "{size} bytes were refused");
        if at.is_null() {
            self.each(|byte| ensure!(*byte == self.1 as u8, "a refused block has changed"));
            return self;
        }
        let block = Self(at, size);
        // SAFETY: as above; what both have was filled.
        ensure!(unsafe { *at } == self.1 as u8, "a resized block has lost its contents");
        block.each(|byte| *byte = size as u8);
        block
    }

    fn free(self) {
        if !self.0.is_null() {
            self.each(|byte| ensure!(*byte == self.1 as u8, "{} bytes were overwritten", self.1));
            // SAFETY: a live block of that layout, freed once.
            within(|| unsafe { Millpond.dealloc(self.0, layout(self.1)) });
        }
    }
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Chunks of some classes, more than a magazine of each.
fn small(must: bool) {
    for size in [16, 200, 3000, 40 * KIB] {
        let mut blocks = [NONE; 150];
        blocks.iter_mut().for_each(|block| *block = Block::new(size, size == 200, must));
        blocks.iter().step_by(2).for_each(|block| block.free());
        within(millpond::flush_thread);
        blocks.iter().skip(1).step_by(2).for_each(|block| block.resize(size + size / 2, must).free());
    }
}

extern "C" fn young(must: *mut c_void) -> *mut c_void {
    small(!must.is_null());
    null_mut()
}

fn scenario(must: bool) {
    small(must);
    let large = [Block::new(MIB, true, must), Block::new(5 * MIB, false, must), Block::new(20 * MIB, true, must)];
    let huge = Block::new(40 * MIB, false, must);
    let huge = huge.resize(80 * MIB, must);
    large[0].resize(3 * MIB, must).free();
    let huge = huge.resize(36 * MIB, must);
    large[1].free();
    within(millpond::trim);
    huge.resize(9 * MIB, must).free();
    large[2].free();
    // SAFETY: a thread that is joined; libc's own calls of the system do not come by here.
    unsafe {
        let mut thread = core::mem::zeroed();
        let must = if must { &raw const KIND as *mut c_void } else { null_mut() };
        let was = INSIDE.swap(false, Ordering::Relaxed);
        ensure!(libc::pthread_create(&mut thread, core::ptr::null(), young, must) == 0, "no thread");
        ensure!(libc::pthread_join(thread, null_mut()) == 0, "no end of it");
        INSIDE.store(was, Ordering::Relaxed);
    }
    within(millpond::trim);
}

/// A thread that is there until the program ends.
extern "C" fn waits(_: *mut c_void) -> *mut c_void {
    loop {
        // SAFETY: no preconditions.
        unsafe { libc::pause() };
    }
}

/// Leaks are told after all searches that another thread calls for, or it is said that there is no memory.
fn look_for_leaks() {
    const LOST: usize = 100_000;
    // SAFETY: a thread that outlives what is done here.
    unsafe {
        let mut thread = core::mem::zeroed();
        let made = libc::pthread_create(&mut thread, core::ptr::null(), waits, null_mut());
        ensure!(made == 0, "no thread");
    }
    (0..LOST).for_each(|_| _ = Block::new(64, false, true));
    // What was set aside for tables goes to those of heaps, which stay; what is left of it is too short for one.
    KIND.store(0, Ordering::Relaxed);
    LAST.store(u32::MAX, Ordering::Relaxed);
    within(|| {
        while let Ok(heap) = Heap::new() {
            core::mem::forget(heap);
        }
    });
    let short = REFUSED.load(Ordering::Relaxed);
    FIRST.store(u32::MAX, Ordering::Relaxed);
    NO_THREADS.store(true, Ordering::Relaxed);
    let found = within(millpond::leaks).map(|leaks| leaks.count());
    ensure!(found == Err(LeaksUnknown::System), "of threads that are not known: {found:?}");
    NO_THREADS.store(false, Ordering::Relaxed);
    // Of a thread that is not known to run nobody waits for a turn.
    UNTOLD.store(true, Ordering::Relaxed);
    let found = within(millpond::leaks).map(|leaks| leaks.count());
    let waits = WAITS.load(Ordering::Relaxed);
    ensure!(found.is_ok_and(|count| count > LOST as u64 / 2) && waits == 0, "{found:?} after {waits} waits");
    UNTOLD.store(false, Ordering::Relaxed);
    for more in 0..100 {
        REFUSED.store(0, Ordering::Relaxed);
        FIRST.store(CALLS[0].load(Ordering::Relaxed) + more, Ordering::Relaxed);
        let found = within(millpond::leaks);
        let refused = REFUSED.load(Ordering::Relaxed);
        match found {
            Err(LeaksUnknown::Memory) if refused > short => {}
            Ok(leaks) if refused <= short => {
                ensure!(leaks.count() > LOST as u64 / 2 && more > 2, "{} after {more} calls", leaks.count());
                return;
            }
            Ok(leaks) => fail(format_args!("{} leaks, and {refused} bytes refused after {more} calls", leaks.count())),
            Err(error) => fail(format_args!("{refused} bytes refused after {more} calls: {error}")),
        }
    }
    fail(format_args!("nothing is enough"));
}

/// The program.
// SAFETY: the system calls it by this name.
#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, arguments: *const *const c_char) -> c_int {
    // SAFETY: so many strings.
    let argument = |at| unsafe { CStr::from_ptr(*arguments.add(at)) };
    if count == 2 && argument(1) == c"leaks" {
        look_for_leaks();
        return 0;
    }
    ensure!(count == 4, "a kind, a number, and how");
    let first = argument(2).to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let ever = argument(3) == c"ever";
    FIRST.store(first, Ordering::Relaxed);
    LAST.store(if ever { u32::MAX } else { first }, Ordering::Relaxed);
    KIND.store(KINDS.iter().position(|kind| *kind == argument(1)).unwrap_or(usize::MAX), Ordering::Relaxed);
    scenario(!ever);
    for (kind, calls) in KINDS.iter().zip(&CALLS) {
        let _ = writeln!(To(1), "{} {}", kind.to_str().unwrap_or(""), calls.load(Ordering::Relaxed));
    }
    // From here on nothing is refused: all works, nothing is lost.
    KIND.store(usize::MAX, Ordering::Relaxed);
    scenario(true);
    let stats = millpond::check();
    ensure!(stats.is_ok(), "{stats:?}");
    let stats = stats.unwrap_or_default();
    ensure!(stats.live == 0 && stats.stranded == 0, "{stats:?}");
    0
}
