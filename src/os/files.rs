//! Files: what a profile or a report is written to, and what the loader knows of code.
//!
//! Raw system calls, since libc's are cancellation points, from buffers on the stack; `errno` stays what it was.

use super::linux::{errno, quietly, release_metadata, scratch};
use super::proc::Opened;
use core::ffi::CStr;
use core::fmt::Write as _;

/// The longest path, with its end.
pub(crate) const PATH_MAX: usize = libc::PATH_MAX as usize;

const STDERR: i32 = 2;

/// A file that is being written, a buffer at a time.
pub(crate) struct Output {
    descriptor: i32,
    bytes: [u8; 1024],
    len: usize,
}

/// The file takes no more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refused;

impl Output {
    /// A file at a path, empty at first, readable as the process's mask says. `None`: the system refuses.
    pub(crate) fn create(path: &CStr) -> Option<Self> {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC;
        // SAFETY: a string that ends.
        let open = || unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0o666) };
        let descriptor = quietly(open) as i32;
        (descriptor >= 0).then_some(Self { descriptor, bytes: [0; 1024], len: 0 })
    }

    /// One that is open, or stderr.
    pub(crate) fn new(file: Option<Opened>) -> Self {
        Self { descriptor: file.map_or(STDERR, Opened::into_descriptor), bytes: [0; 1024], len: 0 }
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

    /// Writes what is left. The file is closed in any case.
    pub(crate) fn finish(mut self) -> Result<(), Refused> {
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Refused> {
        let mut rest = &self.bytes[..core::mem::take(&mut self.len)];
        while !rest.is_empty() {
            // SAFETY: the buffer is ours.
            let write = || unsafe { libc::syscall(libc::SYS_write, self.descriptor, rest.as_ptr(), rest.len()) };
            match quietly(|| again(write)) {
                some if some > 0 => rest = &rest[some as usize..],
                _ => return Err(Refused),
            }
        }
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.descriptor != STDERR {
            // SAFETY: our own descriptor, used no more.
            quietly(|| unsafe { libc::syscall(libc::SYS_close, self.descriptor) });
        }
    }
}

impl core::fmt::Write for Output {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.write(text.as_bytes()).map_err(|Refused| core::fmt::Error)
    }
}

/// Writes `millpond: ` and `text`, with a line's end, at the end of a file, which is open for so long only: a descriptor that
/// stays would be closed, and its number used again, by programs that close all. Keeps `errno`.
#[unsafe(link_section = ".millpond_cold")]
pub(crate) fn say_in(path: &CStr, text: core::fmt::Arguments<'_>) {
    if let Some(file) = Opened::append(path) {
        let mut file = Output::new(Some(file));
        let _ = writeln!(file, "millpond: {text}");
        let _ = file.finish();
    }
}

/// Whether a file can be written to at its end; it is made if it is not there.
pub(crate) fn can_append(path: &CStr) -> bool {
    Opened::append(path).is_some()
}

/// A path in memory of its own, from the root on: it stays right wherever the program goes. `None`: it is too long, or the system
/// refuses.
#[unsafe(link_section = ".millpond_cold")]
pub(crate) fn keep_path(path: &[u8]) -> Option<usize> {
    let at = scratch(PATH_MAX)?;
    let place = core::ptr::with_exposed_provenance_mut::<u8>(at);
    let mut len = 0;
    if path.first() != Some(&b'/') {
        // SAFETY: so many bytes are there. The system writes a path and its zero, and says how long both are.
        let got = quietly(|| unsafe { libc::syscall(libc::SYS_getcwd, place, PATH_MAX) });
        len = usize::try_from(got).ok().filter(|got| *got > 1)?;
        // SAFETY: where its zero was.
        unsafe { place.add(len - 1).write(b'/') };
    }
    if len + path.len() >= PATH_MAX {
        release_metadata(at, PATH_MAX);
        return None;
    }
    // SAFETY: there is room for it, and for the zero behind it, which is there.
    unsafe { place.add(len).copy_from(path.as_ptr(), path.len()) };
    Some(at)
}

/// Makes a call again for as long as signals interrupt it.
fn again(mut call: impl FnMut() -> libc::c_long) -> libc::c_long {
    loop {
        let result = call();
        if result >= 0 || errno() != libc::EINTR {
            return result;
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
