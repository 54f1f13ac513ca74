//! What the system tells of this process: its mappings, its threads, and memory that may be gone by now.
//!
//! All of it is read by plain system calls into buffers on the stack or of the caller's, so that it can be asked at the
//! program's end and on the way to an abort: nothing here allocates, takes a lock, or touches an address that it was given.

use super::files::again;
use super::linux::{limits, page_size, quietly, thread_id};
use super::maps::{FileName, Mapping, hexadecimal, mappings};
use super::refused::Refused;
#[cfg(millpond_shared)]
use crate::sync::Counter;
#[cfg(millpond_shared)]
use core::ffi::c_void;
use core::ffi::{CStr, c_long};
use core::fmt::{self, Write};

/// A file that is open for reading, or for writing at its end. Closed by [`close`](Self::close) alone: what is dropped by itself
/// costs code wherever something might unwind.
#[derive(Debug)]
pub(crate) struct Opened(i32);

impl Opened {
    fn open(path: &CStr) -> Option<Self> {
        Self::open_as(path, libc::O_RDONLY, 0).ok()
    }

    /// What the system has under this name of the process, by the thread that asks: see `maps`.
    fn own(names: [&CStr; 2]) -> Option<Self> {
        names.into_iter().find_map(Self::open)
    }

    /// A file to write to, at its end, or why not; made if it is not there.
    pub(crate) fn append(path: &CStr) -> Result<Self, Refused> {
        Self::open_to_write(path, libc::O_APPEND, 0o644)
    }

    /// The same, empty at first, readable as the process's mask says.
    pub(super) fn create(path: &CStr) -> Result<Self, Refused> {
        Self::open_to_write(path, libc::O_TRUNC, 0o666)
    }

    /// To open a FIFO waits until somebody reads it, and a program would stand still in an allocation: so that is refused. To write to
    /// one waits as to write to stderr does.
    fn open_to_write(path: &CStr, how: i32, mode: libc::mode_t) -> Result<Self, Refused> {
        let file = Self::open_as(path, libc::O_WRONLY | libc::O_CREAT | libc::O_NONBLOCK | how, mode)?;
        // SAFETY: our own descriptor, which nobody shares.
        quietly(|| unsafe { libc::syscall(libc::SYS_fcntl, file.0, libc::F_SETFL, how & libc::O_APPEND) });
        Ok(file)
    }

    fn open_as(path: &CStr, flags: i32, mode: libc::mode_t) -> Result<Self, Refused> {
        let flags = flags | libc::O_CLOEXEC | libc::O_NOCTTY;
        // SAFETY: a path that ends with its zero.
        let open = || unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, mode) };
        quietly(|| again(open)).map(|descriptor| Self(descriptor as i32))
    }

    /// Reads on into `bytes`; zero at the end, and where the system refuses.
    fn read(&self, bytes: &mut [u8]) -> usize {
        // SAFETY: the buffer is the caller's.
        let read = || unsafe { libc::syscall(libc::SYS_read, self.0, bytes.as_mut_ptr(), bytes.len()) };
        usize::try_from(quietly(read)).unwrap_or(0)
    }

    /// For whoever closes it otherwise.
    pub(super) fn into_descriptor(self) -> i32 {
        self.0
    }

    pub(super) fn close(self) {
        // SAFETY: our own descriptor.
        quietly(|| unsafe { libc::syscall(libc::SYS_close, self.0) });
    }
}

/// A short path, on the stack.
struct Path {
    bytes: [u8; 64],
    len: usize,
}

impl Path {
    fn new(text: fmt::Arguments<'_>) -> Self {
        let mut path = Self { bytes: [0; 64], len: 0 };
        let _ = path.write_fmt(text);
        path
    }

    fn text(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

impl Write for Path {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // The last byte stays zero.
        let room = self.bytes.get_mut(self.len..self.len + text.len() + 1).ok_or(fmt::Error)?;
        room[..text.len()].copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

/// Reads memory of this process that may be gone, by the system: how many whole words could be read.
pub(crate) fn read_memory(at: usize, words: &mut [usize]) -> usize {
    let len = size_of_val(words);
    let local = libc::iovec { iov_base: words.as_mut_ptr().cast(), iov_len: len };
    let remote = libc::iovec { iov_base: core::ptr::without_provenance_mut(at), iov_len: len };
    // SAFETY: writes to the caller's buffer alone; the system looks at the other address, and says if it is none.
    let read = || unsafe {
        // Any thread of the process will do, but for a first one that has ended.
        let thread = libc::syscall(libc::SYS_gettid);
        libc::syscall(
            libc::SYS_process_vm_readv,
            thread,
            &raw const local,
            1 as c_long,
            &raw const remote,
            1 as c_long,
            0 as c_long,
        )
    };
    usize::try_from(quietly(read)).unwrap_or(0) / size_of::<usize>()
}

/// Which OS pages hold something of this process's own, as `/proc/thread-self/pagemap` has it.
#[derive(Debug)]
pub(crate) struct Pages(Option<Opened>);

const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
/// The page is a file's, or shared.
const OF_FILE: u64 = 1 << 61;

impl Pages {
    pub(crate) fn open() -> Self {
        Self(Opened::own([c"/proc/thread-self/pagemap", c"/proc/self/pagemap"]))
    }

    /// Asks no more.
    pub(crate) fn close(self) {
        if let Some(file) = self.0 {
            file.close();
        }
    }

    /// Whether it can be said.
    pub(crate) fn is_known(&self) -> bool {
        self.0.is_some()
    }

    /// Where the next OS page is, from `at` to `end`, that holds something: `end`, if none does. `at` itself, if the system
    /// does not know such a question (before Linux 6.7).
    pub(crate) fn next(&self, at: usize, end: usize) -> usize {
        let Self(Some(file)) = self else { return at };
        const SCAN: u64 = 0xc060_6610;
        const HELD: u64 = 1 << 3 | 1 << 4;
        let mut region = [0u64; 3];
        let to = region.as_mut_ptr().expose_provenance() as u64;
        // Bytes of this; flags; from, to, and how far it was looked; regions: where to, how many, pages in all; which pages.
        let mut question = [96, 0, at as u64, end as u64, 0, to, 1, 1, 0, 0, HELD, HELD];
        // SAFETY: reads the question, and writes to it and to the region.
        match quietly(|| unsafe { libc::syscall(libc::SYS_ioctl, file.0, SCAN, question.as_mut_ptr()) }) {
            0 => end,
            1 => (region[0] as usize).clamp(at, end),
            _ => at,
        }
    }

    /// For up to 64 OS pages of `size` bytes from `at` on, whether they hold something of this process's own, one bit
    /// each. All of them, where it cannot be said.
    pub(crate) fn written(&self, at: usize, size: usize) -> u64 {
        let Self(Some(file)) = self else { return u64::MAX };
        let mut entries = [0u64; 64];
        let (len, from) = (size_of_val(&entries), at / size * size_of::<u64>());
        // SAFETY: writes to our own buffer.
        let read = || unsafe { libc::syscall(libc::SYS_pread64, file.0, entries.as_mut_ptr(), len, from) };
        if usize::try_from(quietly(read)) != Ok(len) {
            return u64::MAX;
        }
        let holds = |entry: &u64| entry & (PRESENT | SWAPPED) != 0 && entry & OF_FILE == 0;
        entries.iter().enumerate().fold(0, |bits, (page, entry)| bits | (holds(entry) as u64) << page)
    }
}

/// Calls `visit` with the number of each thread of this process. Whether the system tells.
#[unsafe(link_section = ".millpond_cold")]
pub(crate) fn threads(visit: &mut dyn FnMut(u32)) -> bool {
    let Some(folder) = Opened::open(c"/proc/self/task") else { return false };
    #[repr(align(8))]
    struct Entries([u8; 2048]);
    let mut entries = Entries([0; 2048]);
    loop {
        let (at, len) = (entries.0.as_mut_ptr(), entries.0.len());
        // SAFETY: writes to our own buffer.
        let read = quietly(|| unsafe { libc::syscall(libc::SYS_getdents64, folder.0, at, len) });
        let left = usize::try_from(read).unwrap_or(0);
        if left == 0 {
            folder.close();
            return read == 0;
        }
        let mut rest = entries.0.get(..left).unwrap_or_default();
        // Node, offset, length of the entry, kind, name.
        while let (Some([low, high]), Some(name)) = (rest.get(16..18), rest.get(19..)) {
            if let Some(number) = decimal(name) {
                visit(number);
            }
            let len = u16::from_ne_bytes([*low, *high]);
            rest = rest.get(usize::from(len).max(1)..).unwrap_or_default();
        }
    }
}

/// The number that ends with a zero byte.
fn decimal(text: &[u8]) -> Option<u32> {
    let mut value = 0u32;
    for byte in text.iter().take_while(|byte| **byte != 0) {
        value = value.checked_mul(10)?.checked_add((*byte as char).to_digit(10)?)?;
    }
    (value > 0).then_some(value)
}

/// How many bytes the process has beyond what it may have (`ulimit -v`, `ulimit -d`), where a limit came late: before so many have gone
/// back, the system gives none. Zero, where it does not say; all that there can be, where a sandbox refuses whatever goes back.
#[unsafe(link_section = ".millpond_cold")]
pub(crate) fn beyond_limits() -> usize {
    if !may_map() {
        return usize::MAX;
    }
    let limits = limits();
    if limits == [None; 2] {
        return 0;
    }
    let Some(file) = Opened::own([c"/proc/thread-self/statm", c"/proc/self/statm"]) else { return 0 };
    let mut bytes = [0; 128];
    let len = file.read(&mut bytes);
    file.close();
    // In OS pages: all addresses first, and sixth what is private, with stacks.
    let mut numbers = bytes[..len].split(|byte| !byte.is_ascii_digit()).map(|digits| {
        digits.iter().fold(0usize, |value, digit| value.saturating_mul(10).saturating_add((digit - b'0') as usize))
    });
    let has = [numbers.next(), numbers.nth(4)].map(|pages| pages.unwrap_or(0).saturating_mul(page_size()));
    let beyond = |(has, limit): (usize, Option<usize>)| has.saturating_sub(limit.unwrap_or(usize::MAX));
    has.into_iter().zip(limits).map(beyond).max().unwrap_or(0)
}

/// Whether the system would map memory, as far as that does not go by how much there is.
#[unsafe(link_section = ".millpond_cold")]
fn may_map() -> bool {
    const FLAGS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    /// More than there are addresses: the kernel itself has no room for it, whatever is locked or limited.
    const TOO_MUCH: usize = 1 << 62;
    // SAFETY: maps nothing.
    quietly(|| unsafe {
        let got = libc::mmap(core::ptr::null_mut(), TOO_MUCH, libc::PROT_NONE, FLAGS, -1, 0);
        got != libc::MAP_FAILED || *libc::__errno_location() == libc::ENOMEM
    })
}

/// Processor time that [`let_run`] has each thread get, in nanoseconds: more than an address is in a register alone.
const TURN_NS: u64 = 100_000;
/// How often it asks whether one has had it, and how long it waits before it asks again.
const ASKS: u32 = 500;
static WAIT: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// Has each other thread that runs go on for a while, up to half a second for all of them. Whether each has, or by now waits in the system or
/// is no more; so, too, where the system does not tell.
#[unsafe(link_section = ".millpond_cold")]
pub(crate) fn let_run() -> bool {
    let asking = thread_id();
    let mut left = ASKS;
    threads(&mut |thread| {
        if thread == asking || !is_told_to_run(thread) {
            return;
        }
        let Some(before) = processor_time(thread) else { return };
        let has_run = || processor_time(thread).is_none_or(|now| now.wrapping_sub(before) >= TURN_NS);
        while left > 0 && !has_run() {
            left -= 1;
            // Not a yield, which leaves out whoever has less of a claim to the processor. SAFETY: reads a constant alone.
            quietly(|| unsafe { libc::syscall(libc::SYS_nanosleep, &raw const WAIT, 0) });
        }
    });
    left > 0
}

/// Whether the system tells that a thread of this process runs.
#[unsafe(link_section = ".millpond_cold")]
fn is_told_to_run(thread: u32) -> bool {
    let Some(file) = what_it_does(thread) else { return false };
    let mut bytes = [0; 16];
    let len = file.read(&mut bytes);
    file.close();
    bytes.get(..len).unwrap_or_default().starts_with(b"running")
}

/// The file that tells what a thread of this process asks of the system.
#[unsafe(link_section = ".millpond_cold")]
fn what_it_does(thread: u32) -> Option<Opened> {
    Opened::open(Path::new(format_args!("/proc/self/task/{thread}/syscall")).text())
}

/// For how long a thread of this process has had a processor, in nanoseconds, if there is such a thread, and the system says so.
#[unsafe(link_section = ".millpond_cold")]
fn processor_time(thread: u32) -> Option<u64> {
    /// The clock is a thread's, and counts what the scheduler gave.
    const OF_THREAD: i32 = 1 << 2 | 2;
    // As `pthread_getcpuclockid` makes it, for which one needs the thread's handle.
    let clock = !(thread as i32) << 3 | OF_THREAD;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to our own time.
    let told = quietly(|| unsafe { libc::syscall(libc::SYS_clock_gettime, clock, &raw mut time) });
    (told == 0).then_some((time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64))
}

/// The registers of a thread that waits in the system: `visit` is called with what it gave the system, and its stack
/// pointer is returned; zero, if it has ended. `None`: it runs, or the system does not say.
#[unsafe(link_section = ".millpond_cold")]
pub(crate) fn waiting_at(thread: u32, visit: &mut dyn FnMut(usize)) -> Option<usize> {
    let file = what_it_does(thread)?;
    let mut bytes = [0; 256];
    let len = file.read(&mut bytes);
    file.close();
    let text = bytes.get(..len).unwrap_or_default().trim_ascii();
    // The call's number, what it was given, the stack pointer, the instruction's address; or just these two behind a -1.
    let (mut last, mut stack) = (None, None);
    for word in text.split(|byte| *byte == b' ').skip(1) {
        let (number, _) = hexadecimal(word.strip_prefix(b"0x").unwrap_or(word));
        (stack, last) = (last, Some(number));
        visit(number);
    }
    stack
}

/// What the calling thread has in registers that a call keeps, and where its stack ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registers {
    pub(crate) kept: [usize; 6],
    pub(crate) stack: usize,
}

/// The registers of the function that asks.
#[inline(always)]
pub(crate) fn registers() -> Registers {
    let mut kept = [0usize; 6];
    let stack;
    // SAFETY: writes the array alone.
    unsafe {
        core::arch::asm!(
            "mov [{to}], rbx",
            "mov [{to} + 8], rbp",
            "mov [{to} + 16], r12",
            "mov [{to} + 24], r13",
            "mov [{to} + 32], r14",
            "mov [{to} + 40], r15",
            "mov {stack}, rsp",
            to = in(reg) &raw mut kept,
            stack = lateout(reg) stack,
            options(nostack, preserves_flags)
        );
    }
    Registers { kept, stack }
}

/// Ends the process with another code than it was to have, from a function that runs at its end.
fn exit_with(code: i32) -> ! {
    // SAFETY: glibc goes on with what is still to run at the end, and ends with the code of the last call.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::exit(code)
    }
    // SAFETY: another may not be called twice: what streams hold is written, and that is all.
    #[cfg(not(target_env = "gnu"))]
    unsafe {
        libc::fflush(core::ptr::null_mut());
        libc::_exit(code)
    }
}

/// Has the process end with another code than it was to have, from a function that runs at its end: at once, or, where
/// [`enter_code`] has entered something, in its turn.
#[cfg(not(millpond_shared))]
pub(crate) fn end_with(code: i32) {
    exit_with(code)
}

/// To be called before any function is entered for the program's end.
#[cfg(not(millpond_shared))]
pub(crate) fn enter_code() {}

/// The code with which the process is to end; zero: its own.
#[cfg(millpond_shared)]
static CODE: Counter = Counter::new();

/// The same in a library. There glibc calls what is to run at the end among the destructors of all libraries, and whoever ends the
/// process from there takes their turn from those that come later.
#[cfg(millpond_shared)]
pub(crate) fn end_with(code: i32) {
    CODE.set(code as u64);
}

/// Enters what ends the process with the code that [`end_with`] is told: as no library's, so that its turn is behind all that is
/// entered later, and behind the destructors of libraries.
#[cfg(millpond_shared)]
#[unsafe(link_section = ".millpond_cold")]
pub(crate) fn enter_code() {
    unsafe extern "C" {
        fn __cxa_atexit(last: extern "C" fn(*mut c_void), with: *mut c_void, library: *const c_void) -> i32;
    }
    extern "C" fn last(_: *mut c_void) {
        match CODE.get() {
            0 => {}
            code => exit_with(code as i32),
        }
    }
    // SAFETY: `last` stays valid for ever: this library is never unloaded.
    unsafe { __cxa_atexit(last, core::ptr::null_mut(), core::ptr::null()) };
}

/// What lies at an address that is no allocation, in words that follow a colon; looked up when it is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place(pub(crate) usize);

impl fmt::Display for Place {
    #[unsafe(link_section = ".millpond_cold")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(address) = *self;
        match address as isize >> 47 {
            0 if address < 1 << 16 => return f.write_str("too small to be an address"),
            0 => {}
            -1 => return f.write_str("an address of the kernel's"),
            _ => return f.write_str("not canonical: no address at all"),
        }
        let here = (&raw const address).addr();
        // The mapping before, as far as it matters: where it ends, and whether it is the data of a file.
        let (mut end, mut is_data, mut found) = (0, false, false);
        let mut result = Ok(());
        let mut file = FileName::default();
        let told = mappings(&mut |mapping| {
            let is_file = mapping.name.first() == Some(&b'/');
            if !mapping.contains(address) {
                // Data that is zero at first lies behind the rest of the file's, in no file.
                let goes_on = is_data && mapping.start == end && mapping.name.is_empty() && mapping.is_writable();
                if is_file {
                    file = FileName::new(mapping.name);
                }
                (end, is_data) = (mapping.end, (is_file || goes_on) && mapping.is_writable());
                return mapping.start <= address;
            }
            found = true;
            let zeros = is_data && mapping.start == end && mapping.name.is_empty();
            result = tell_mapping(mapping, here, if zeros { Some(&file) } else { None }, f);
            false
        });
        match (found, told) {
            (true, _) => result,
            (false, true) => f.write_str("where nothing is mapped"),
            (false, false) => f.write_str("of which the system tells nothing"),
        }
    }
}

/// In words, what a mapping is: the stack of this thread, if `here` lies in it, or of another; or of which file, if it has one or
/// if these are its `zeros`.
#[unsafe(link_section = ".millpond_cold")]
fn tell_mapping(
    mapping: &Mapping<'_>,
    here: usize,
    zeros: Option<&FileName>,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let is_file = mapping.name.first() == Some(&b'/');
    match (mapping.name, zeros) {
        _ if mapping.contains(here) => f.write_str("an address of the stack of this thread"),
        (name, _) if is_file && mapping.is_code() => write!(f, "in the code of the file {}", FileName::new(name)),
        (name, _) if is_file => write!(f, "in the data of the file {}", FileName::new(name)),
        (_, Some(file)) => write!(f, "in the data of the file {file}"),
        (b"[stack]", _) => f.write_str("an address of the stack of the first thread"),
        (b"[heap]", _) => f.write_str("in what the program has from `brk`"),
        (name, _) if !name.is_empty() => write!(f, "in {}", FileName::new(name)),
        _ => match stack_of(mapping) {
            Some(thread) => write!(f, "an address of the stack of thread {thread}"),
            None => f.write_str("in a mapping of no file"),
        },
    }
}

/// The thread, if one waits in the system, whose stack a mapping has.
fn stack_of(mapping: &Mapping<'_>) -> Option<u32> {
    let mut found = None;
    threads(&mut |thread| {
        if found.is_none() && waiting_at(thread, &mut |_| {}).is_some_and(|stack| mapping.contains(stack)) {
            found = Some(thread);
        }
    });
    found
}
