//! Files: what a profile or a report is written to, and what the loader knows of code.
//!
//! Raw system calls, since libc's are cancellation points, from buffers on the stack; `errno` stays what it was.

use super::fork::at_fork;
use super::linux::{errno, quietly, release_metadata, scratch};
use super::proc::Opened;
use super::refused::Refused;
use crate::sync::Counter;
use core::ffi::CStr;
use core::fmt::Write as _;

/// The longest path, with its end.
pub(crate) const PATH_MAX: usize = libc::PATH_MAX as usize;

pub(super) const STDERR: i32 = 2;

/// A file that is being written, a buffer at a time: what fits in the buffer is one piece, into which no other process writes.
pub(crate) struct Output<'a> {
    descriptor: i32,
    /// Whether it is to be closed: its number says nothing, where the program has closed stderr.
    is_own: bool,
    bytes: &'a mut [u8],
    len: usize,
    /// The first refusal: nothing is written after it.
    refused: Option<Refused>,
}

impl<'a> Output<'a> {
    /// A file at a path, empty at first, readable as the process's mask says.
    pub(crate) fn create(path: &CStr, buffer: &'a mut [u8]) -> Result<Self, Refused> {
        Opened::create(path).map(|file| Self::to(file.into_descriptor(), true, buffer))
    }

    /// One that is open, or stderr.
    pub(crate) fn new(file: Option<Opened>, buffer: &'a mut [u8]) -> Self {
        let is_own = file.is_some();
        Self::to(file.map_or(STDERR, Opened::into_descriptor), is_own, buffer)
    }

    fn to(descriptor: i32, is_own: bool, bytes: &'a mut [u8]) -> Self {
        Self { descriptor, is_own, bytes, len: 0, refused: None }
    }

    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<(), Refused> {
        while !bytes.is_empty() {
            if self.len == self.bytes.len() {
                self.flush()?;
            }
            let some = bytes.len().min(self.bytes.len() - self.len);
            self.bytes[self.len..self.len + some].copy_from_slice(&bytes[..some]);
            self.len += some;
            bytes = &bytes[some..];
        }
        Ok(())
    }

    /// Writes what is left; the first refusal, if there was any. The file is closed in any case.
    pub(crate) fn finish(mut self) -> Result<(), Refused> {
        self.flush()
    }

    /// Writes what the buffer has.
    pub(crate) fn flush(&mut self) -> Result<(), Refused> {
        let all = &self.bytes[..core::mem::take(&mut self.len)];
        if self.refused.is_none() {
            self.refused = write_all(self.descriptor, all).err();
        }
        self.refused.map_or(Ok(()), Err)
    }
}

/// Writes all of it, whatever signals come meanwhile, unless the system refuses. A refusal is no signal: what is said of memory must
/// not end a program that nobody listens to, or that has written as much as it may.
#[unsafe(link_section = ".millpond_cold")]
pub(super) fn write_all(descriptor: i32, bytes: &[u8]) -> Result<(), Refused> {
    let held = Held::begin();
    let written = write_each(descriptor, bytes);
    if let Some(held) = held {
        held.end(written.err());
    }
    written
}

#[unsafe(link_section = ".millpond_cold")]
fn write_each(descriptor: i32, bytes: &[u8]) -> Result<(), Refused> {
    let mut rest = bytes;
    while !rest.is_empty() {
        // SAFETY: reads the caller's bytes alone.
        let write = || unsafe { libc::syscall(libc::SYS_write, descriptor, rest.as_ptr(), rest.len()) };
        match quietly(|| again(write))? {
            some if some > 0 => rest = rest.get(some as usize..).unwrap_or_default(),
            _ => return Err(Refused(libc::EIO)),
        }
    }
    Ok(())
}

/// The signals that a write which is refused sends to its thread, held back meanwhile; as the kernel has them, a bit a signal.
struct Held {
    /// The thread's mask before.
    mask: u64,
    /// Those that had come before, and wait: they are the program's.
    waiting: u64,
}

const SIGNALS: u64 = bit(libc::SIGPIPE) | bit(libc::SIGXFSZ);

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

impl Held {
    /// `None`: the system refuses, and they come as they would.
    fn begin() -> Option<Self> {
        let mut held = Self { mask: 0, waiting: 0 };
        // SAFETY: words of our own, of the kernel's size.
        let is_held = quietly(|| unsafe {
            libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, &SIGNALS, &mut held.mask, size_of::<u64>()) == 0
        });
        // What was not held back before does not wait.
        if is_held && held.mask & SIGNALS != 0 {
            // SAFETY: as above. Refused, it stays zero.
            quietly(|| unsafe { libc::syscall(libc::SYS_rt_sigpending, &mut held.waiting, size_of::<u64>()) });
        }
        is_held.then_some(held)
    }

    /// Takes the signal of a refusal away, and lets others come again.
    fn end(self, refused: Option<Refused>) {
        let came = match refused {
            Some(Refused(libc::EPIPE)) => bit(libc::SIGPIPE),
            Some(Refused(libc::EFBIG)) => bit(libc::SIGXFSZ),
            _ => 0,
        } & !self.waiting;
        let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: as above; the null is for what is told of the signal.
        let take = || unsafe {
            let nothing = core::ptr::null_mut::<u8>();
            libc::syscall(libc::SYS_rt_sigtimedwait, &came, nothing, &at_once, size_of::<u64>())
        };
        if came != 0 {
            // Where the system tells of a refusal without a signal, there is none to take.
            let _ = quietly(|| again(take));
        }
        // SAFETY: as above.
        quietly(|| unsafe {
            let nothing = core::ptr::null_mut::<u64>();
            libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &self.mask, nothing, size_of::<u64>())
        });
    }
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        if self.is_own {
            // SAFETY: our own descriptor, used no more.
            quietly(|| unsafe { libc::syscall(libc::SYS_close, self.descriptor) });
        }
    }
}

impl core::fmt::Write for Output<'_> {
    #[unsafe(link_section = ".millpond_cold")]
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.write(text.as_bytes()).map_err(|_| core::fmt::Error)
    }
}

/// Writes `millpond: ` and `text`, with a line's end, at the end of a file, which is open for so long only: a descriptor that
/// stays would be closed, and its number used again, by programs that close all. Keeps `errno`. Or why it cannot be, or not all of it.
#[unsafe(link_section = ".millpond_cold")]
pub(crate) fn say_in(path: &CStr, text: core::fmt::Arguments<'_>) -> Result<(), Refused> {
    let mut buffer = [0; 1024];
    let mut file = Output::new(Some(Opened::append(path)?), &mut buffer);
    // What is refused is known at the end.
    let _ = writeln!(file, "millpond: {text}");
    file.finish()
}

/// Whether a file can be written to at its end, or why not; it is made if it is not there.
pub(crate) fn try_append(path: &CStr) -> Result<(), Refused> {
    Opened::append(path).map(Opened::close)
}

/// A path in memory of its own, from the root on: it stays right wherever the program goes. Or why not.
#[unsafe(link_section = ".millpond_cold")]
pub(crate) fn keep_path(path: &[u8]) -> Result<usize, Refused> {
    let at = scratch(PATH_MAX).ok_or(Refused(libc::ENOMEM))?;
    let place = core::ptr::with_exposed_provenance_mut::<u8>(at);
    let folder = if path.first() == Some(&b'/') {
        Ok(0)
    } else {
        // SAFETY: so many bytes are there. The system writes a path and its zero, and says how long both are.
        quietly(|| again(|| unsafe { libc::syscall(libc::SYS_getcwd, place, PATH_MAX) }))
    };
    let fits = |len: libc::c_long| match usize::try_from(len) {
        Ok(len) if len + path.len() < PATH_MAX => Ok(len),
        _ => Err(Refused::TOO_LONG),
    };
    let len = folder.and_then(fits).inspect_err(|_| release_metadata(at, PATH_MAX))?;
    if len > 0 {
        // SAFETY: where its zero was.
        unsafe { place.add(len - 1).write(b'/') };
    }
    // SAFETY: there is room for it, and for the zero behind it, which is there.
    unsafe { place.add(len).copy_from(path.as_ptr(), path.len()) };
    Ok(at)
}

/// stderr's file, open once more for the program's end: the descriptor, and which file it was. Zero: it is not.
static KEPT: [Counter; 3] = [const { Counter::new() }; 3];

/// Descriptors from here on are in nobody's way; the lower ones are for processes that may have no more (`ulimit -n`).
const ASIDE: [i32; 4] = [900, 200, 50, 10];

/// Keeps stderr's file open beside it, for what is told when the program ends: many close stderr before that (all of coreutils do).
/// Other programs that this one executes do not inherit it.
#[unsafe(link_section = ".millpond_cold")]
pub(crate) fn keep_stderr() {
    // SAFETY: makes a descriptor of our own, or fails.
    let keep = |from: &i32| quietly(|| unsafe { libc::fcntl(STDERR, libc::F_DUPFD_CLOEXEC, *from) });
    let Some(kept) = ASIDE.iter().map(keep).find(|kept| *kept > 0) else { return };
    if let Some(file) = file_of(kept) {
        let words = [kept as u64, file[0], file[1]];
        KEPT.iter().zip(words).for_each(|(place, word)| place.set(word));
    }
}

/// The descriptor that is kept, if it still is. Not if the program has closed it, and has a file of its own there.
#[unsafe(link_section = ".millpond_cold")]
fn kept() -> Option<i32> {
    let [kept, device, file] = KEPT.each_ref().map(Counter::get);
    (kept > 0 && file_of(kept as i32) == Some([device, file])).then_some(kept as i32)
}

/// Has it closed in each child of a `fork`. A child may leave its parent's stderr, as daemons do, and others may wait for the end of
/// what that leads to. Takes a lock of libc's and may allocate.
#[unsafe(link_section = ".millpond_cold")]
pub(crate) fn keep_no_stderr_in_children() {
    extern "C" fn close() {
        if let Some(kept) = kept() {
            // SAFETY: our own descriptor.
            quietly(|| unsafe { libc::syscall(libc::SYS_close, kept) });
        }
        KEPT[0].set(0);
    }
    if kept().is_some() {
        at_fork(close);
    }
}

/// Makes stderr what it was, if it is closed.
#[unsafe(link_section = ".millpond_cold")]
pub(crate) fn restore_stderr() {
    if let Some(kept) = kept().filter(|_| file_of(STDERR).is_none()) {
        // SAFETY: a descriptor of our own, and one that nobody has.
        quietly(|| unsafe { libc::dup2(kept, STDERR) });
    }
}

/// Device and number of the file that is open there.
#[unsafe(link_section = ".millpond_cold")]
fn file_of(descriptor: i32) -> Option<[u64; 2]> {
    // SAFETY: plain numbers, valid as zeros.
    let mut told: libc::stat = unsafe { core::mem::zeroed() };
    // Not libc's, which may be that of a library that asks another process. SAFETY: ours to write.
    let result = quietly(|| unsafe { libc::syscall(libc::SYS_fstat, descriptor, &mut told) });
    (result == 0).then_some([told.st_dev, told.st_ino])
}

/// Makes a call again for as long as signals interrupt it.
pub(super) fn again(mut call: impl FnMut() -> libc::c_long) -> Result<libc::c_long, Refused> {
    loop {
        match call() {
            result if result >= 0 => return Ok(result),
            _ if errno() == libc::EINTR => {}
            _ => return Err(Refused(errno())),
        }
    }
}

/// What the loader knows of a code address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Symbol {
    /// The file that it is in, and where that begins.
    pub(crate) file: &'static CStr,
    pub(crate) start: usize,
    /// The function's name, if it is exported.
    pub(crate) name: Option<&'static CStr>,
}

/// Asks the loader, which takes its lock for that: not from inside an allocation.
pub(crate) fn symbol(address: usize) -> Option<Symbol> {
    let place = core::ptr::with_exposed_provenance(address);
    // SAFETY: zeros are a valid `Dl_info`, which the call fills in; any address may be asked for. The strings stay for as long
    // as the file is loaded, which is longer than the caller looks at them.
    unsafe {
        let mut info: libc::Dl_info = core::mem::zeroed();
        if libc::dladdr(place, &mut info) == 0 || info.dli_fname.is_null() {
            return None;
        }
        let name = (!info.dli_sname.is_null()).then(|| CStr::from_ptr(info.dli_sname));
        Some(Symbol { file: CStr::from_ptr(info.dli_fname), start: info.dli_fbase.addr(), name })
    }
}
