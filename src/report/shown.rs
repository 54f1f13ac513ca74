//! Statistics as text: one figure a line, then times, then a table of the pools.
//!
//! Invariant: in each part all numbers of a column end in the same place, however long they are.

use super::{PoolStats, Stats};
use core::fmt;

/// The columns of the pools' table: what stands above, and the least width.
const POOL: [(&str, usize); 11] = [
    ("chunk", 8),
    ("allocations", 12),
    ("live", 10),
    ("threads", 10),
    ("pooled", 10),
    ("span free", 10),
    ("used", 7),
    ("hits", 7),
    ("refills", 9),
    ("drains", 9),
    ("spans", 6),
];

/// What stands in a column.
enum Cell {
    Number(u64),
    Share(Percent),
}

impl Cell {
    /// What a pool has in each.
    fn all(pool: &PoolStats) -> [Self; POOL.len()] {
        let hits = pool.allocations.saturating_sub(pool.refills);
        [
            Self::Number(pool.chunk_size as u64),
            Self::Number(pool.allocations),
            Self::Number(pool.live),
            Self::Number(pool.thread_cached),
            Self::Number(pool.pooled),
            Self::Number(pool.span_free),
            Self::Share(Percent(pool.live, pool.chunks)),
            Self::Share(Percent(hits, pool.allocations)),
            Self::Number(pool.refills),
            Self::Number(pool.drains),
            Self::Number(pool.spans),
        ]
    }

    fn width(&self) -> usize {
        match self {
            Self::Number(number) => width(*number),
            Self::Share(_) => 7,
        }
    }
}

/// The digits of a number.
fn width(number: u64) -> usize {
    1 + number.checked_ilog10().unwrap_or(0) as usize
}

/// How wide a column is that has these numbers: at least so many.
fn widest(least: usize, numbers: impl Iterator<Item = u64>) -> usize {
    numbers.fold(least, |widest, number| widest.max(width(number)))
}

/// A part of a whole in per cent, seven columns wide. In whole numbers of no more than 64 bits: the formatting of others would
/// be a tenth of the library in every program.
struct Percent(u64, u64);

impl fmt::Display for Percent {
    #[unsafe(link_section = ".millpond_cold")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // So that neither product overflows; of what is larger, the last bits say nothing.
        let shift = 10u32.saturating_sub(self.0.max(self.1).leading_zeros());
        let (part, whole) = (self.0 >> shift, self.1 >> shift);
        let tenths = (part * 1000 + whole / 2) / whole.max(1);
        write!(f, "{:>4}.{}%", tenths / 10, tenths % 10)
    }
}

impl fmt::Display for Stats {
    // Other systems' files name their sections in other ways.
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".millpond_cold"))]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            ("live", self.live),
            ("quarantine", self.quarantine),
            ("in thread caches", self.thread_cached),
            ("in pools", self.pooled),
            ("free in spans", self.span_free),
            ("span tails", self.tails),
            ("dirty runs", self.dirty),
            ("stranded", self.stranded),
            ("metadata", self.metadata),
        ];
        let sums = [("= committed", self.committed), ("purged in spans", self.purged), ("reserved", self.reserved)];
        let counts = [
            ("allocations", self.allocations),
            ("deallocations", self.deallocations),
            ("bytes allocated", self.allocated_bytes),
        ];
        let (fallbacks, larges) = (self.fallbacks, self.large_live);
        let bytes = rows.iter().chain(&sums).map(|(_, bytes)| *bytes as u64);
        let wide = widest(14, bytes.chain(counts.map(|(_, count)| count)).chain([fallbacks, larges]));

        writeln!(f, "{:<18} {:>wide$} {:>7}", "where", "bytes", "share")?;
        for (name, bytes) in rows {
            writeln!(f, "{name:<18} {bytes:>wide$} {}", Percent(bytes as u64, self.committed as u64))?;
        }
        for (name, bytes) in sums {
            writeln!(f, "{name:<18} {bytes:>wide$}")?;
        }
        let mut unused = |name, bytes: usize, of: usize| {
            writeln!(f, "{name:<18} {bytes:>wide$} {}", Percent(bytes as u64, of as u64))
        };
        unused("unused outside", self.committed.saturating_sub(self.live), self.committed)?;
        if let Some(requested) = self.requested {
            unused("unused inside", self.live.saturating_sub(requested), self.live)?;
        }
        writeln!(f, "{} spans, {} threads\n", self.spans, self.threads)?;
        for (name, count) in counts {
            writeln!(f, "{name:<18} {count:>wide$}")?;
        }
        let share = Percent(fallbacks, self.allocations.saturating_add(fallbacks));
        writeln!(f, "{:<18} {fallbacks:>wide$} {share}", "fallbacks")?;
        let (hits, served) = self.hits();
        writeln!(f, "{:<18} {:>wide$} {}", "thread cache hits", "", Percent(hits, served))?;
        writeln!(f, "{:<18} {larges:>wide$} live of {}", "above all pools", self.large_allocations)?;
        self.write_times(f)?;
        self.write_pools(f)
    }
}

impl Stats {
    #[unsafe(link_section = ".millpond_cold")]
    fn write_times(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(timing) = &self.timing else { return Ok(()) };
        let rows = [("alloc", timing.alloc), ("free", timing.free)]
            .map(|(name, of)| (name, [of.timed, of.mean_ns, of.p50_ns, of.p99_ns, of.max_ns]));
        let heads = [("timed", 14), ("mean", 9), ("p50", 9), ("p99", 9), ("max", 9)];
        let wide: [usize; 5] = core::array::from_fn(|at| widest(heads[at].1, rows.iter().map(|(_, of)| of[at])));
        write!(f, "\n{:<18}", "time, ns")?;
        for ((head, _), wide) in heads.iter().zip(wide) {
            write!(f, " {head:>wide$}")?;
        }
        for (name, of) in rows {
            write!(f, "\n{name:<18}")?;
            for (number, wide) in of.iter().zip(wide) {
                write!(f, " {number:>wide$}")?;
            }
        }
        writeln!(f)
    }

    #[unsafe(link_section = ".millpond_cold")]
    fn write_pools(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut wide = POOL.map(|(_, least)| least);
        for pool in self.pools.used() {
            wide.iter_mut().zip(Cell::all(pool)).for_each(|(wide, cell)| *wide = cell.width().max(*wide));
        }
        for (at, ((head, _), wide)) in POOL.iter().zip(wide).enumerate() {
            write!(f, "{}{head:>wide$}", separator(at))?;
        }
        for pool in self.pools.used() {
            for (at, (cell, wide)) in Cell::all(pool).iter().zip(wide).enumerate() {
                f.write_str(separator(at))?;
                match cell {
                    Cell::Number(number) => write!(f, "{number:>wide$}")?,
                    Cell::Share(share) => write!(f, "{share}")?,
                }
            }
        }
        Ok(())
    }
}

/// What stands before a column.
fn separator(column: usize) -> &'static str {
    if column == 0 { "\n" } else { " " }
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;
    use crate::report::Timing;
    use std::string::{String, ToString};
    use std::vec::Vec;

    /// Where the words of a line end.
    fn ends(line: &str) -> Vec<usize> {
        let letters: Vec<char> = line.chars().chain([' ']).collect();
        (1..letters.len()).filter(|end| letters[*end] == ' ' && letters[*end - 1] != ' ').collect()
    }

    /// The last so many words of all lines of a part, whose first has what stands above, end in the same places.
    fn is_aligned(part: &[&str], words: usize) -> bool {
        let last = |line: &&str| ends(line).into_iter().rev().take(words).collect::<Vec<_>>();
        let rows: Vec<_> = part[1..].iter().map(last).collect();
        rows.iter()
            .all(|row| row.len() == words && *row == rows[0] && row.iter().all(|end| ends(part[0]).contains(end)))
    }

    /// Statistics whose numbers have so many digits.
    fn long(digits: u32) -> Stats {
        let number = 10u64.pow(digits - 1);
        let mut stats = Stats {
            live: number as usize,
            committed: number as usize,
            reserved: number as usize,
            allocations: number,
            allocated_bytes: number,
            fallbacks: number,
            large_live: number,
            requested: Some(1),
            timing: Some(Timing::default()),
            ..Stats::default()
        };
        stats.timing.iter_mut().for_each(|timing| timing.free.max_ns = number);
        for (at, pool) in stats.pools.iter_mut().take(3).enumerate() {
            *pool = PoolStats { chunk_size: 8 << at, allocations: 1, spans: 1, ..PoolStats::default() };
        }
        let all = PoolStats {
            chunk_size: 262_144,
            allocations: number,
            live: number,
            thread_cached: number,
            pooled: number,
            span_free: number,
            chunks: number,
            spans: number,
            refills: number,
            drains: number,
        };
        stats.pools[1] = all;
        stats
    }

    /// Whoever has statistics may set them.
    #[test]
    fn no_number_is_too_large() {
        let most = u64::MAX;
        let mut stats = Stats { allocations: most, fallbacks: most, ..long(20) };
        for pool in stats.pools.iter_mut() {
            *pool = PoolStats { allocations: most, live: most, chunks: most, ..PoolStats::default() };
        }
        assert_eq!((stats.fallback_share(), stats.hit_rate()), (1.0, 1.0));
        stats.pools.iter_mut().for_each(|pool| pool.refills = most);
        assert_eq!(stats.hit_rate(), 0.0);
        assert!(stats.to_string().contains("100.0%"));
    }

    #[test]
    fn columns_stay_columns_however_long_numbers_are() {
        for digits in 1..=20 {
            let text: String = long(digits).to_string();
            let parts: Vec<Vec<&str>> = text.split("\n\n").map(|part| part.lines().collect()).collect();
            let [places, counts, times, pools] = &parts[..] else { panic!("{text}") };
            assert!(is_aligned(&places[..10], 2), "{text}");
            let end = ends(places[0])[1];
            assert!(places[10..13].iter().chain(&counts[..3]).all(|line| line.len() == end), "{text}");
            assert!(is_aligned(times, 5) && times.len() == 3, "{text}");
            assert!(is_aligned(pools, POOL.len()) && pools.len() == 4, "{text}");
        }
    }
}
