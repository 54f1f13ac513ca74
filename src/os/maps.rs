//! The kernel's list of this process's mappings, `/proc/thread-self/maps`, read anew each time: for a report, or a last word. By the
//! thread that asks, since where the first thread has ended, `/proc/self` tells nothing; before Linux 3.17 there is no other.
//!
//! Through a buffer on the stack, by raw system calls: nothing here allocates, takes a lock, or changes `errno`. A line that is
//! longer than the buffer ends with it, which is a name's end at most.

use core::ffi::CStr;
use core::fmt;

/// One line of `/proc/self/maps`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapping<'a> {
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// `rwxp`, each a dash where it is not so.
    rights: [u8; 4],
    /// Where it begins in its file.
    pub(crate) offset: usize,
    /// A path, a name in brackets, or nothing.
    pub(crate) name: &'a [u8],
}

impl<'a> Mapping<'a> {
    #[unsafe(link_section = ".millpond_cold")]
    #[inline(never)]
    fn parse(line: &'a [u8]) -> Option<Self> {
        let (start, rest) = hexadecimal(line);
        let (end, rest) = hexadecimal(rest.strip_prefix(b"-")?);
        let rest = rest.strip_prefix(b" ")?;
        let (rights, rest) = rest.split_first_chunk::<4>()?;
        let (offset, _) = hexadecimal(rest.strip_prefix(b" ")?);
        // Offset, device and node come before the name.
        let name = rest.splitn(5, |byte| *byte == b' ').nth(4).unwrap_or_default().trim_ascii();
        Some(Self { start, end, rights: *rights, offset, name })
    }

    pub(crate) fn contains(&self, address: usize) -> bool {
        (self.start..self.end).contains(&address)
    }

    pub(crate) fn is_readable(&self) -> bool {
        self.rights[0] == b'r'
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.rights[1] == b'w'
    }

    pub(crate) fn is_code(&self) -> bool {
        self.rights[2] == b'x'
    }

    /// Whether what is written to it is this process's alone.
    pub(crate) fn is_private(&self) -> bool {
        self.rights[3] == b'p'
    }

    /// Whether nobody may touch it, as what lies below a stack.
    pub(crate) fn is_guard(&self) -> bool {
        self.rights[..3] == *b"---"
    }
}

/// A number in hexadecimal digits, and what follows it.
#[unsafe(link_section = ".millpond_cold")]
#[inline(never)]
pub(super) fn hexadecimal(text: &[u8]) -> (usize, &[u8]) {
    let mut value = 0usize;
    let mut rest = text;
    while let Some((byte, behind)) = rest.split_first() {
        let Some(digit) = (*byte as char).to_digit(16) else { break };
        (value, rest) = (value << 4 | digit as usize, behind);
    }
    (value, rest)
}

/// What reads on into a buffer: how many bytes, none at the end.
type More<'a> = &'a mut dyn FnMut(&mut [u8]) -> usize;

/// Calls `visit` with each mapping, in the order of their addresses, until it says no. Whether the system tells.
pub(crate) fn mappings(visit: &mut dyn FnMut(&Mapping<'_>) -> bool) -> bool {
    let mut told = false;
    read_from([c"/proc/thread-self/maps", c"/proc/self/maps"], 0, &mut |more| {
        told = each_line(more, &mut |line| Mapping::parse(line).is_some_and(|mapping| visit(&mapping)));
    });
    told
}

/// Copies what this process has at an address, as the system reads it: whether all of that is there, and can be read without harm.
/// For what the list has told of, which may be gone by now, a file that has become shorter, or a device.
#[unsafe(link_section = ".millpond_cold")]
pub(super) fn copy_from(address: usize, out: &mut [u8]) -> bool {
    let mut copied = false;
    read_from([c"/proc/thread-self/mem", c"/proc/self/mem"], address, &mut |more| copied = more(out) == out.len());
    copied
}

/// A file that is open, and `errno` as it was before. Closed by its drop: what looks at the mappings may be the program's, and panic.
struct Open {
    file: libc::c_long,
    errno: i32,
}

impl Drop for Open {
    fn drop(&mut self) {
        // SAFETY: our own descriptor, and the calling thread's own errno.
        unsafe {
            libc::syscall(libc::SYS_close, self.file);
            *libc::__errno_location() = self.errno;
        }
    }
}

/// Calls `body` with what reads on in a file from a place on, if the system does not refuse: the first of these that can be opened.
#[unsafe(link_section = ".millpond_cold")]
fn read_from(paths: [&CStr; 2], place: usize, body: &mut dyn FnMut(More<'_>)) {
    const CLOSE_ON_EXEC: i32 = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: raw calls, which are no cancellation points; the buffers are the caller's.
    unsafe {
        let errno = *libc::__errno_location();
        let open = |path: &CStr| libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), CLOSE_ON_EXEC);
        let Some(file) = paths.into_iter().map(open).find(|file| *file >= 0) else {
            *libc::__errno_location() = errno;
            return;
        };
        let _open = Open { file, errno };
        if place == 0 || libc::syscall(libc::SYS_lseek, file, place, libc::SEEK_SET) == place as libc::c_long {
            body(&mut |out| libc::syscall(libc::SYS_read, file, out.as_mut_ptr(), out.len()).max(0) as usize);
        }
    }
}

/// Calls `visit` with each line that `more` reads, until it says no. Whether there was one.
#[unsafe(link_section = ".millpond_cold")]
#[inline(never)]
fn each_line(more: More<'_>, visit: &mut dyn FnMut(&[u8]) -> bool) -> bool {
    let mut bytes = [0; 2048];
    let (mut filled, mut told, mut cut) = (0, false, false);
    loop {
        let read = more(bytes.get_mut(filled..).unwrap_or_default());
        filled += read;
        let mut rest = bytes.get(..filled).unwrap_or_default();
        while let Some(len) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, behind) = rest.split_at_checked(len + 1).unwrap_or_default();
            rest = behind;
            // The end of a line whose beginning has been seen is none.
            if !core::mem::take(&mut cut) {
                told = true;
                if !visit(line.trim_ascii_end()) {
                    return true;
                }
            }
        }
        if read == 0 {
            return told;
        }
        let left = rest.len();
        if left == bytes.len() {
            // Longer than the buffer: its beginning has to do.
            if !cut && !visit(&bytes) {
                return true;
            }
            (cut, filled) = (true, 0);
        } else {
            bytes.copy_within(filled - left..filled, 0);
            filled = left;
        }
    }
}

/// The end of a path, which says most.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct FileName {
    bytes: [u8; 160],
    len: usize,
    cut: bool,
}

impl Default for FileName {
    fn default() -> Self {
        Self::new(b"")
    }
}

impl FileName {
    #[unsafe(link_section = ".millpond_cold")]
    pub(super) fn new(path: &[u8]) -> Self {
        let mut name = Self { bytes: [0; 160], len: 0, cut: path.len() > 160 };
        let shown = &path[path.len().saturating_sub(160)..];
        name.len = shown.len();
        name.bytes[..shown.len()].copy_from_slice(shown);
        name
    }
}

impl fmt::Display for FileName {
    #[unsafe(link_section = ".millpond_cold")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = if self.cut { "…" } else { "" };
        write!(f, "{cut}{}", self.bytes[..self.len].escape_ascii())
    }
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;
    use std::string::{String, ToString};
    use std::vec::Vec;

    #[test]
    fn lines_are_read_as_the_kernel_writes_them() {
        let line = b"7f12a000-7f12c000 r-xp 00026000 fe:01 1234                       /usr/lib/x y.so";
        let mapping = Mapping::parse(line).expect("a line");
        assert_eq!((mapping.start, mapping.end, mapping.offset), (0x7f12_a000, 0x7f12_c000, 0x26000));
        assert_eq!(mapping.name, b"/usr/lib/x y.so");
        assert!(mapping.is_readable() && mapping.is_code() && mapping.is_private());
        assert!(!mapping.is_writable() && !mapping.is_guard());
        let plain = Mapping::parse(b"7f12a000-7f12c000 ---p 00000000 00:00 0 ").expect("a line");
        assert!(plain.name.is_empty() && plain.is_guard());
        assert!(Mapping::parse(b"").is_none() && Mapping::parse(b"x").is_none());
    }

    /// Whatever is read at a time, and however long a line is.
    #[test]
    fn lines_come_whole_and_long_ones_cut() {
        let long = "y".repeat(5000);
        let text = std::format!("one\n{long}\ntwo\n{}\nthree", &long[..2047]);
        for step in [1, 3, 100, 2047, 2048, 9000] {
            let mut rest = text.as_bytes();
            let mut seen: Vec<String> = Vec::new();
            let told = each_line(
                &mut |out| {
                    let len = step.min(out.len()).min(rest.len());
                    out[..len].copy_from_slice(&rest[..len]);
                    rest = &rest[len..];
                    len
                },
                &mut |line| {
                    seen.push(String::from_utf8(line.to_vec()).expect("text"));
                    true
                },
            );
            // The last has no end: the kernel writes none like that.
            assert!(told && seen == ["one", &long[..2048], "two", &long[..2047]], "{step}: {seen:?}");
        }
    }

    #[test]
    fn the_end_of_a_long_path_is_shown() {
        assert_eq!(FileName::new(b"/a/b").to_string(), "/a/b");
        let path = std::format!("/{}/b", "a".repeat(200));
        let shown = FileName::new(path.as_bytes()).to_string();
        assert!(shown.starts_with("…a") && shown.ends_with("a/b"), "{shown}");
    }
}
