//! Files: what a profile is written to, and where the system says what lies at which address.
//!
//! Raw system calls, since libc's are cancellation points, from buffers on the stack; `errno` stays what it was.

use super::linux::{errno, quietly};
use core::ffi::{CStr, c_void};

/// The longest path, with its end.
pub(crate) const PATH_MAX: usize = libc::PATH_MAX as usize;

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
        close(self.descriptor);
    }
}

impl core::fmt::Write for Output {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.write(text.as_bytes()).map_err(|Refused| core::fmt::Error)
    }
}

fn close(descriptor: i32) {
    // SAFETY: our own descriptor, used no more.
    quietly(|| unsafe { libc::syscall(libc::SYS_close, descriptor) });
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

/// What is mapped where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapping<'a> {
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// Where `start` is in the file.
    pub(crate) offset: usize,
    pub(crate) is_executable: bool,
    /// The file's path, or the kernel's name for it in brackets, or nothing.
    pub(crate) name: &'a [u8],
}

/// Calls `visit` with each mapping of the process, in order of address: with none if the system does not tell.
pub(crate) fn mappings(mut visit: impl FnMut(Mapping<'_>)) {
    let path = c"/proc/self/maps";
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: a string that ends.
    let open = || unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0) };
    let descriptor = quietly(open) as i32;
    if descriptor < 0 {
        return;
    }
    let mut bytes = [0; PATH_MAX + 128];
    let mut len = 0;
    loop {
        let rest = &mut bytes[len..];
        let (at, room) = (rest.as_mut_ptr().cast::<c_void>(), rest.len());
        // SAFETY: the buffer is ours, with that much room.
        let read = quietly(|| again(|| unsafe { libc::syscall(libc::SYS_read, descriptor, at, room) }));
        if read <= 0 {
            break;
        }
        len += read as usize;
        let mut done = 0;
        while let Some(end) = bytes[done..len].iter().position(|byte| *byte == b'\n') {
            if let Some(mapping) = mapping(&bytes[done..done + end]) {
                visit(mapping);
            }
            done += end + 1;
        }
        if done == 0 && len == bytes.len() {
            // No line is so long.
            break;
        }
        bytes.copy_within(done..len, 0);
        len -= done;
    }
    close(descriptor);
}

/// `start-end rwxp offset device inode   name`.
fn mapping(line: &[u8]) -> Option<Mapping<'_>> {
    let mut rest = line;
    let mut word = || {
        let end = rest.iter().position(|byte| *byte == b' ').unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after.trim_ascii_start();
        word
    };
    let (range, rights, offset, _, _) = (word(), word(), word(), word(), word());
    let dash = range.iter().position(|byte| *byte == b'-')?;
    Some(Mapping {
        start: hexadecimal(&range[..dash])?,
        end: hexadecimal(&range[dash + 1..])?,
        offset: hexadecimal(offset)?,
        is_executable: rights.get(2) == Some(&b'x'),
        name: rest,
    })
}

fn hexadecimal(digits: &[u8]) -> Option<usize> {
    usize::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()
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
