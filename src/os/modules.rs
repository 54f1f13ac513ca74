//! Where an address lies: in which file that the process has mapped, and how far into it, so that `addr2line -e FILE` finds
//! the line.
//!
//! The kernel's list of mappings is read anew for each address, through a buffer on the stack: for a last word or a report.
//! The offset is counted from the file's first mapping, but for programs that are linked to fixed addresses: there the
//! address itself is what tools want.

use core::fmt;

/// An address in code, to be written as `file+0xoffset`; as a number alone where no file is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location(pub usize);

/// Bytes that are read at once; a line is longer than half of it only if its path is, and is then cut off.
const BUFFER: usize = 1024;

/// One line of the list.
struct Mapping<'a> {
    start: usize,
    end: usize,
    offset: usize,
    path: &'a [u8],
}

/// A number at the start of `text`, in hexadecimal, and what follows the character behind it.
fn hex(text: &[u8]) -> Option<(usize, &[u8])> {
    let len = text.iter().position(|byte| !byte.is_ascii_hexdigit())?;
    let digit = |byte: &u8| (*byte as char).to_digit(16).unwrap_or(0) as usize;
    Some((text[..len].iter().fold(0, |value, byte| value << 4 | digit(byte)), &text[len + 1..]))
}

/// `start-end flags offset device inode path`.
fn parse(line: &[u8]) -> Option<Mapping<'_>> {
    let (start, rest) = hex(line)?;
    let (end, rest) = hex(rest)?;
    let (offset, _) = hex(rest.get(5..)?)?;
    let path = line.iter().position(|byte| *byte == b'/').map_or(&[][..], |at| &line[at..]);
    Some(Mapping { start, end, offset, path })
}

/// A short name of a file, to tell it from others: its path's last bytes, with their length.
#[derive(Clone, Copy)]
struct Name {
    bytes: [u8; 64],
    len: usize,
}

impl Name {
    fn of(path: &[u8]) -> Self {
        let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        let len = last.len().min(64);
        let mut bytes = [0; 64];
        bytes[..len].copy_from_slice(&last[..len]);
        Self { bytes, len }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The file that is mapped at an address, and where it begins.
fn find(address: usize) -> Option<(Name, usize)> {
    let mut first: Option<(Name, usize)> = None;
    let mut found = None;
    each_line(|line| {
        let Some(mapping) = parse(line).filter(|mapping| !mapping.path.is_empty()) else { return true };
        let name = Name::of(mapping.path);
        if mapping.offset == 0 && first.is_none_or(|(known, _)| known.bytes() != name.bytes()) {
            first = Some((name, mapping.start));
        }
        if !(mapping.start..mapping.end).contains(&address) {
            return true;
        }
        let start = first.filter(|(known, _)| known.bytes() == name.bytes()).map(|(_, start)| start);
        found = Some((name, start.unwrap_or(mapping.start - mapping.offset)));
        false
    });
    found
}

/// Calls `visit` with each line of the list, until it says no.
fn each_line(mut visit: impl FnMut(&[u8]) -> bool) {
    let mut buffer = [0; BUFFER];
    let mut len = 0;
    super::read_maps(|read| {
        loop {
            let got = read(&mut buffer[len..]);
            len += got;
            let Some(end) = buffer[..len].iter().position(|byte| *byte == b'\n') else {
                if got == 0 || len == BUFFER {
                    break;
                }
                continue;
            };
            if !visit(&buffer[..end]) {
                break;
            }
            buffer.copy_within(end + 1..len, 0);
            len -= end + 1;
        }
    });
}

/// Whether the file at `start` is linked to fixed addresses.
fn is_fixed(start: usize) -> bool {
    const TYPE: usize = 16;
    const EXECUTABLE: u16 = 2;
    // SAFETY: the first mapping of a file of which code is mapped, which begins with its header.
    let (magic, kind) = unsafe {
        let header = core::ptr::with_exposed_provenance::<u8>(start);
        (header.cast::<[u8; 4]>().read(), header.add(TYPE).cast::<u16>().read())
    };
    magic == *b"\x7fELF" && kind == EXECUTABLE
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((name, start)) = find(self.0) else { return write!(f, "{:#x}", self.0) };
        let offset = if is_fixed(start) { self.0 } else { self.0 - start };
        write!(f, "{}+{offset:#x}", name.bytes().escape_ascii())
    }
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn lines_are_read_as_the_kernel_writes_them() {
        let line = b"7f12a000-7f12c000 r-xp 00026000 fe:01 1234                       /usr/lib/x y.so";
        let mapping = parse(line).expect("a line");
        assert_eq!((mapping.start, mapping.end, mapping.offset), (0x7f12_a000, 0x7f12_c000, 0x26000));
        assert_eq!(Name::of(mapping.path).bytes(), b"x y.so");
        assert!(parse(b"7f12a000-7f12c000 rw-p 00000000 00:00 0 ").expect("a line").path.is_empty());
        assert!(parse(b"").is_none() && parse(b"x").is_none());
    }

    #[test]
    fn code_lies_in_the_file_that_runs() {
        let name = std::env::current_exe().unwrap().file_name().unwrap().to_str().unwrap().to_string();
        let here = (lines_are_read_as_the_kernel_writes_them as fn()) as usize;
        let text = Location(here).to_string();
        let (file, offset) = text.rsplit_once("+0x").expect("a file");
        assert!(file == name && usize::from_str_radix(offset, 16).expect("a number") < 1 << 30, "{text}");
        assert_eq!(Location(16).to_string(), "0x10");
    }
}
