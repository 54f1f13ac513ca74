//! Where an address lies: in which mapped file, and at which offset, so that `addr2line -e FILE OFFSET` finds the line.
//!
//! The kernel's list of mappings is read anew for each address: for a last word or a report. The offset is counted from the
//! file's first mapping; but for programs that are linked to fixed addresses tools want the address itself. Where the file's
//! beginning is not mapped, it is that in the file.
//!
//! Anybody may ask for any address: nothing is read there but by the system.

use super::maps::{FileName, copy_from, mappings};
use core::fmt;

/// An address in code. `Display` writes `file+0xoffset`, or the number alone where no file is mapped; it reads
/// `/proc/thread-self/maps` and allocates nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "a number that anybody may name")]
pub struct Location(pub usize);

/// The file that is mapped at an address, without its folders, where its beginning is mapped, if it is, and the place in it.
#[unsafe(link_section = ".millpond_cold")]
fn find(address: usize) -> Option<(FileName, Option<usize>, usize)> {
    let mut first: Option<(FileName, usize)> = None;
    let mut found = None;
    mappings(&mut |mapping| {
        if mapping.name.first() != Some(&b'/') {
            return true;
        }
        let name = FileName::new(mapping.name.rsplit(|byte| *byte == b'/').next().unwrap_or_default());
        if mapping.offset == 0 && first.is_none_or(|(known, _)| known != name) {
            first = Some((name, mapping.start));
        }
        if !mapping.contains(address) {
            return true;
        }
        let start = first.filter(|(known, _)| *known == name).map(|(_, start)| start);
        found = Some((name, start, (address - mapping.start).wrapping_add(mapping.offset)));
        false
    });
    found
}

/// Whether the file that begins at `start` is linked to fixed addresses: not, where that is not to be known.
fn is_fixed(start: usize) -> bool {
    const EXECUTABLE: [u8; 2] = 2u16.to_ne_bytes();
    // What it is, and of which kind.
    let mut header = [0; 18];
    copy_from(start, &mut header) && header.starts_with(b"\x7fELF") && header.ends_with(&EXECUTABLE)
}

impl fmt::Display for Location {
    #[unsafe(link_section = ".millpond_cold")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((name, start, place)) = find(self.0) else { return write!(f, "{:#x}", self.0) };
        let offset = match start {
            Some(start) if is_fixed(start) => self.0,
            Some(start) => self.0 - start,
            None => place,
        };
        write!(f, "{name}+{offset:#x}")
    }
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn code_lies_in_the_file_that_runs() {
        let name = std::env::current_exe().unwrap().file_name().unwrap().to_str().unwrap().to_string();
        let here = (code_lies_in_the_file_that_runs as fn()) as usize;
        let text = Location(here).to_string();
        let (file, offset) = text.rsplit_once("+0x").expect("a file");
        assert!(file == name && usize::from_str_radix(offset, 16).expect("a number") < 1 << 30, "{text}");
        assert_eq!(Location(16).to_string(), "0x10");
    }

    /// Maps `len` bytes of a file from `offset` on, below which nobody may read.
    fn map(file: &std::fs::File, offset: usize, len: usize) -> usize {
        use std::os::fd::AsRawFd;
        const NOBODYS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: fresh mappings, the second within the first.
        unsafe {
            let around = libc::mmap(core::ptr::null_mut(), offset + len, libc::PROT_NONE, NOBODYS, -1, 0);
            assert_ne!(around, libc::MAP_FAILED);
            let (at, flags) = (around.wrapping_byte_add(offset), libc::MAP_PRIVATE | libc::MAP_FIXED);
            let at = libc::mmap(at, len, libc::PROT_READ, flags, file.as_raw_fd(), offset as libc::off_t);
            assert_ne!(at, libc::MAP_FAILED);
            at.addr()
        }
    }

    #[test]
    fn an_address_is_told_in_a_file_of_which_the_beginning_cannot_be_read() {
        let path = std::env::temp_dir().join(std::format!("millpond-modules-{}", std::process::id()));
        std::fs::write(&path, [1; 8192]).unwrap();
        let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let told = |address: usize, offset: usize| {
            assert_eq!(Location(address).to_string(), std::format!("{name}+{offset:#x}"));
        };
        told(map(&file, 4096, 4096) + 8, 4096 + 8);
        let whole = map(&file, 0, 8192);
        told(whole + 4096, 4096);
        file.set_len(0).unwrap();
        told(whole + 4096, 4096);
        std::fs::remove_file(path).unwrap();
    }
}
