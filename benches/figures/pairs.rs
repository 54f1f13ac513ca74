//! The result of the micro bench: made by `micro`, shown by it and again at the end of `throughput`.

use super::geometric_mean;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Nanoseconds for an allocation and its free, by pattern, size and allocator.
#[derive(Serialize, Deserialize)]
pub struct PairTable {
    /// The cargo process that ran the bench: the table belongs to the run of whoever has the same parent.
    pub cargo: u32,
    /// The first is the one that the others are compared with.
    pub allocators: Vec<String>,
    pub rows: Vec<PairRow>,
}

/// The medians of one pattern and size, in the order of the allocators.
#[derive(Serialize, Deserialize)]
pub struct PairRow {
    pub pattern: String,
    pub size: usize,
    pub nanoseconds: Vec<f64>,
}

impl PairTable {
    /// Where the table is kept.
    pub fn path() -> PathBuf {
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("micro.json")
    }

    pub fn print(&self) {
        let (subject, rivals) = self.allocators.split_first().expect("an allocator");
        println!("\nalloc + free through one shim, one thread: ns a pair, and how many times faster {subject} is");
        print!("{:<8} {:>9}", "pattern", "size");
        self.allocators.iter().for_each(|name| print!(" {name:>10}"));
        rivals.iter().for_each(|name| print!(" {:>14}", format!("vs {name}")));
        println!();
        for row in &self.rows {
            print!("{:<8} {:>9}", row.pattern, row.size);
            row.nanoseconds.iter().for_each(|ns| print!(" {ns:>10.2}"));
            row.ratios().for_each(|ratio| print!(" {ratio:>13.2}x"));
            println!();
        }
        for (nth, name) in rivals.iter().enumerate() {
            let ratios = self.rows.iter().filter_map(|row| row.ratios().nth(nth));
            println!("geometric mean vs {name}: {:.2}x", geometric_mean(ratios));
        }
    }
}

impl PairRow {
    fn ratios(&self) -> impl Iterator<Item = f64> {
        let subject = self.nanoseconds[0];
        self.nanoseconds[1..].iter().map(move |rival| rival / subject)
    }
}
