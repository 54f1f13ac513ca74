//! Where an address lies: in which mapped file, and at which offset, so that `addr2line -e FILE OFFSET` finds the line.
//!
//! The kernel's list of mappings is read anew for each address: for a last word or a report. The offset is counted from the
//! file's first mapping; but for programs that are linked to fixed addresses tools want the address itself.

use super::maps::{FileName, mappings};
use core::fmt;

/// An address in code. `Display` writes `file+0xoffset`, or the number alone where no file is mapped; it reads
/// `/proc/self/maps` and allocates nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location(pub usize);

/// The file that is mapped at an address, without its folders, and where it begins.
fn find(address: usize) -> Option<(FileName, usize)> {
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
        found = Some((name, start.unwrap_or(mapping.start - mapping.offset)));
        false
    });
    found
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
    #[unsafe(link_section = ".millpond_cold")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((name, start)) = find(self.0) else { return write!(f, "{:#x}", self.0) };
        let offset = if is_fixed(start) { self.0 } else { self.0 - start };
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
}
