//! The map as a picture, a document of SVG: rows of bars. A bar is a region, or, where they are narrow, several, and is
//! divided by what is in use, in magazines and free. Pointed at, it says what it is.

use super::picture::Size;
use super::{Extent, HeapMap, Mark, Marks, Region, Use};
use core::fmt;

/// Units that a row is long, and the least that a bar is.
const WIDTH: usize = 1024;
const BAR: usize = 8;
/// Bytes of a row, at least, and how many rows there are to be, about.
const ROW: usize = 1 << 20;
const ROWS: usize = 256;
/// Units from row to row, and of a bar's height.
const STEP: usize = 12;
const HEIGHT: usize = 10;
const LEFT: usize = 110;
const TOP: usize = 58;
/// Allocations with mappings of their own that are drawn.
const HUGE: usize = 64;

/// A class of the style for each of [`Parts::named`](super::Parts::named).
const CLASSES: [&str; 7] = ["u", "c", "f", "l", "k", "d", "n"];
const STYLE: &str = "rect{stroke:#fff;stroke-width:.4}text{font:9px monospace;fill:#555}.h{font-size:12px}\
    .u{fill:#1f5f99}.c{fill:#7fb2de}.f{fill:#d5e3ef}.l{fill:#5b3f8c}.k{fill:#b9a5d6}.d{fill:#e8a33d}.n{fill:#f1f1f1}";

/// See the module's documentation.
pub(super) struct Svg<'a>(pub(super) HeapMap<'a>);

/// How far a picture has been drawn.
struct Drawing<'a> {
    f: &'a mut dyn fmt::Write,
    result: fmt::Result,
    /// Bytes of a row.
    row: usize,
    /// Rows so far, and where the last begins.
    rows: usize,
    last: usize,
}

impl Drawing<'_> {
    fn write(&mut self, text: fmt::Arguments<'_>) {
        self.result = self.result.and_then(|()| self.f.write_fmt(text));
    }

    /// Begins a row, unless it is the last. Where it lies.
    fn begin(&mut self, address: usize) -> usize {
        if self.rows == 0 || self.last != address {
            (self.rows, self.last) = (self.rows + 1, address);
            let (y, text) = (self.y(), self.y() + HEIGHT - 2);
            self.write(format_args!("<text x=\"4\" y=\"{text}\">{address:#x}</text>"));
            self.write(format_args!(
                "<rect class=\"n\" x=\"{LEFT}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n"
            ));
        }
        self.y()
    }

    fn y(&self) -> usize {
        TOP + (self.rows - 1) * STEP
    }

    fn draw(&mut self, mark: &Mark, within: usize) {
        // As its row is already; and a row of nothing else is none.
        if mark.parts.is_clean() {
            return;
        }
        let from = within % self.row;
        let y = self.begin(mark.address - from);
        self.write(format_args!("<g><title>{}</title>", Told(mark)));
        let (mut at, row) = (from, self.row);
        for ((_, bytes), class) in mark.parts.named().into_iter().zip(CLASSES).filter(|((_, bytes), _)| *bytes > 0) {
            let (x, width) = (Tenths(LEFT * 10 + tenths(at, row)), Tenths(tenths(at + bytes, row) - tenths(at, row)));
            self.write(format_args!(
                "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{HEIGHT}\"/>"
            ));
            at += bytes;
        }
        self.write(format_args!("</g>\n"));
    }

    fn huge(&mut self, region: &Region) {
        let (y, bytes) = (self.begin(region.address), Size(region.bytes));
        self.write(format_args!(
            "<g><title>{bytes}, one allocation</title><rect class=\"l\" x=\"{LEFT}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/></g>\n"
        ));
    }
}

/// Where so many bytes of a row end, in tenths of units.
fn tenths(bytes: usize, row: usize) -> usize {
    (bytes as u128 * (WIDTH * 10) as u128 / row as u128) as usize
}

/// A number of tenths.
struct Tenths(usize);

impl fmt::Display for Tenths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 % 10 {
            0 => write!(f, "{}", self.0 / 10),
            rest => write!(f, "{}.{rest}", self.0 / 10),
        }
    }
}

/// What only counts.
struct Nowhere;

impl fmt::Write for Nowhere {
    fn write_str(&mut self, _: &str) -> fmt::Result {
        Ok(())
    }
}

/// What a bar says of itself.
struct Told<'a>(&'a Mark);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = self.0;
        match mark.only {
            Some(Region { address, bytes, used_for: Use::Span { chunk_size, live, cached, free, purged } }) => {
                write!(
                    f,
                    "{address:#x}, {}: {live} of {} chunks of {chunk_size} B in use",
                    Size(bytes),
                    live + cached + free
                )?;
                if cached > 0 {
                    write!(f, ", {cached} in magazines")?;
                }
                if purged > 0 {
                    write!(f, ", {} gone back", Size(purged))?;
                }
                Ok(())
            }
            Some(Region { address, bytes, .. }) => {
                write!(f, "{address:#x}, {}: ", Size(bytes))?;
                let name = mark.parts.named().into_iter().find(|(_, bytes)| *bytes > 0);
                f.write_str(name.map_or("", |(name, _)| name))
            }
            None => {
                write!(f, "{:#x}, {}:", mark.address, Size(mark.bytes))?;
                let some = mark.parts.named().into_iter().filter(|(_, bytes)| *bytes > 0);
                some.enumerate().try_for_each(|(at, (name, bytes))| {
                    write!(f, "{}{name} {}", if at == 0 { " " } else { ", " }, Size(bytes))
                })
            }
        }
    }
}

impl Svg<'_> {
    /// Draws all rows, and says how many there are.
    fn rows(&self, extent: &Extent, f: &mut dyn fmt::Write) -> Result<usize, fmt::Error> {
        let row = extent.row(ROW, ROWS);
        let mut drawing = Drawing { f, result: Ok(()), row, rows: 0, last: 0 };
        let mut marks = Marks::new(row / WIDTH * BAR, row, true);
        let mut left = HUGE;
        // Those with mappings of their own come last.
        self.0.walk(&mut |region| match region.used_for {
            Use::Huge if left == 0 => {}
            Use::Huge => {
                marks.end(&mut |mark, within| drawing.draw(mark, within));
                drawing.huge(&region);
                left -= 1;
            }
            _ => marks.add(&region, &mut |mark, within| drawing.draw(mark, within)),
        });
        marks.end(&mut |mark, within| drawing.draw(mark, within));
        drawing.result.map(|()| drawing.rows)
    }
}

impl fmt::Display for Svg<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extent = Extent::of(&self.0);
        let rows = self.rows(&extent, &mut Nowhere)?;
        let (width, height) = (LEFT + WIDTH + 4, TOP + rows * STEP + 4);
        writeln!(
            f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">"
        )?;
        writeln!(f, "<style>{STYLE}</style>")?;
        writeln!(f, "<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>")?;
        let (arenas, s) = (extent.arenas, if extent.arenas == 1 { "" } else { "s" });
        let (huge, each) = (extent.huge, Size(extent.row(ROW, ROWS)));
        write!(f, "<text class=\"h\" x=\"4\" y=\"14\">{arenas} arena{s}, {each} a row")?;
        if huge.0 > 0 {
            write!(f, "; {} in {} with mappings of their own", Size(huge.1), huge.0)?;
            if huge.0 > HUGE {
                write!(f, ", of which {HUGE} are drawn")?;
            }
        }
        f.write_str("</text>\n")?;
        for (at, ((name, bytes), class)) in extent.all.named().into_iter().zip(CLASSES).enumerate() {
            let (x, y) = (LEFT + at % 4 * (WIDTH / 4), 22 + at / 4 * STEP);
            write!(f, "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{HEIGHT}\" height=\"{HEIGHT}\"/>")?;
            writeln!(f, "<text x=\"{}\" y=\"{}\">{name}: {}</text>", x + 14, y + HEIGHT - 2, Size(bytes))?;
        }
        self.rows(&extent, f)?;
        f.write_str("</svg>\n")
    }
}
