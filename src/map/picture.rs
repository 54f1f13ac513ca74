//! The map as text: a sign for each piece, in rows.
//!
//! | sign | most of the piece is |
//! |---|---|
//! | `0` to `9` | spans, of whose chunks so many tenths are in use |
//! | `L` | a large allocation |
//! | `k` | kept for the next large allocation |
//! | `~` | free, and may hold memory |
//! | `.` | free, and holds none |

use super::{Extent, HeapMap, Mark, Marks, Parts, Region, Use};
use crate::config::PAGE;
use core::fmt;

/// Signs of a row.
const SIGNS: usize = 64;
/// How many rows there are to be, about.
const ROWS: usize = 32;
/// Allocations with mappings of their own that are named.
const HUGE: usize = 16;

fn sign(parts: &Parts) -> char {
    let spans = parts.spans();
    let others = [(parts.large, 'L'), (parts.kept, 'k'), (parts.dirty, '~'), (parts.clean, '.')];
    match others.into_iter().max_by_key(|(bytes, _)| *bytes) {
        Some((most, other)) if most > spans => other,
        _ => (b'0' + (parts.live * 10 / spans.max(1)).min(9) as u8) as char,
    }
}

/// What is written, and what is not written yet.
struct Page<'a, 'b> {
    f: &'a mut fmt::Formatter<'b>,
    result: fmt::Result,
    row: [u8; SIGNS],
    len: usize,
    /// Where the row begins.
    address: usize,
    /// Signs of clean rows since the last that is written.
    clean: usize,
    is_clean: bool,
    /// Bytes of a sign.
    bytes: usize,
}

impl Page<'_, '_> {
    fn write(&mut self, text: fmt::Arguments<'_>) {
        self.result = self.result.and_then(|()| self.f.write_fmt(text));
    }

    /// Writes what has been begun.
    fn end(&mut self) {
        self.end_row();
        self.end_clean();
    }

    fn draw(&mut self, mark: &Mark, within: usize) {
        if within == 0 || self.len == SIGNS {
            self.end_row();
        }
        if within == 0 {
            self.end_clean();
        }
        if self.len == 0 {
            (self.address, self.is_clean) = (mark.address, true);
        }
        self.is_clean &= mark.parts.is_clean();
        self.row[self.len] = sign(&mark.parts) as u8;
        self.len += 1;
    }

    fn end_row(&mut self) {
        let len = core::mem::take(&mut self.len);
        if len > 0 && self.is_clean {
            self.clean += len;
        } else if len > 0 {
            self.end_clean();
            let (address, signs) = (self.address, self.row);
            let row = core::str::from_utf8(&signs[..len]).unwrap_or_default();
            self.write(format_args!("{address:#014x}  {row}\n"));
        }
    }

    fn end_clean(&mut self) {
        let signs = core::mem::take(&mut self.clean);
        if signs > 0 {
            let bytes = Size(signs * self.bytes);
            self.write(format_args!("{:14}  {bytes}, free, holds none\n", "..."));
        }
    }
}

/// Bytes in a unit that suits them.
pub(super) struct Size(pub(super) usize);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = |unit: u32| (self.0 as u128 * 10 + (1 << unit >> 1)) >> unit;
        let (tenths, unit) = match self.0 {
            bytes if bytes < 1 << 20 => (tenths(10), "KiB"),
            bytes if bytes < 1 << 30 => (tenths(20), "MiB"),
            _ => (tenths(30), "GiB"),
        };
        if tenths % 10 == 0 {
            write!(f, "{} {unit}", tenths / 10)
        } else {
            write!(f, "{}.{} {unit}", tenths / 10, tenths % 10)
        }
    }
}

impl fmt::Display for HeapMap<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extent = Extent::of(self);
        let row = extent.row(SIGNS * PAGE, ROWS);
        let bytes = row / SIGNS;
        let (arenas, s) = (extent.arenas, if extent.arenas == 1 { "" } else { "s" });
        writeln!(f, "map of {arenas} arena{s}: a sign is {}", Size(bytes))?;
        let mut page = Page { f, result: Ok(()), row: [0; SIGNS], len: 0, address: 0, clean: 0, is_clean: true, bytes };
        let mut marks = Marks::new(bytes, row, false);
        let mut huge = 0;
        // Those with mappings of their own come last.
        self.walk(&mut |region| match region.used_for {
            Use::Huge => {
                marks.end(&mut |mark, within| page.draw(mark, within));
                page.end();
                huge += 1;
                if huge <= HUGE {
                    let Region { address, bytes, .. } = region;
                    page.write(format_args!("{address:#014x}  {}, one allocation\n", Size(bytes)));
                }
            }
            _ => marks.add(&region, &mut |mark, within| page.draw(mark, within)),
        });
        marks.end(&mut |mark, within| page.draw(mark, within));
        page.end();
        page.result?;
        if huge > HUGE {
            writeln!(f, "and {} others with mappings of their own", huge - HUGE)?;
        }
        f.write_str(
            "0-9 spans, by tenths in use; L large; k kept for the next; ~ free, holds memory; . free, holds none",
        )?;
        for (at, (name, bytes)) in extent.all.named().into_iter().enumerate() {
            f.write_str(if at == 0 { "\n" } else { "; " })?;
            write!(f, "{name} {}", Size(bytes))?;
        }
        Ok(())
    }
}
