//! A child's side of the comparison: the whole work once in a fresh process, and what it took.

use std::error::Error;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::corpus::Corpus;
use crate::index::{Index, Totals};
use crate::options::Options;

/// What the child may ask of the allocator that it runs on.
pub struct Allocator {
    /// Gives free memory back to the system.
    pub trim: fn(),
    /// The allocator's own statistics, ready to print.
    pub stats: fn() -> Option<String>,
}

/// One run's figures. Resident bytes are `None` where the system does not tell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    pub totals: Totals,
    pub index: Duration,
    pub drop: Duration,
    pub peak: Option<u64>,
    pub alive: Option<u64>,
    pub dropped: Option<u64>,
    pub settled: Option<u64>,
    pub trimmed: Option<u64>,
    pub stats_alive: Option<String>,
    pub stats_trimmed: Option<String>,
}

/// Does the work and prints the figures on standard output as JSON.
pub fn run(options: &Options, allocator: &Allocator) -> Result<(), Box<dyn Error>> {
    options.start_threads()?;
    let start = Instant::now();
    let corpus = Corpus::walk(&options.folder())?;
    let index = Index::build(&corpus, options.repeat.unwrap_or(1), &|| {});
    let indexed = start.elapsed();

    let totals = index.totals();
    let alive = resident("VmRSS:");
    let stats_alive = (allocator.stats)();

    let start = Instant::now();
    drop(index);
    let drop = start.elapsed();

    let dropped = resident("VmRSS:");
    light_activity(Duration::from_secs(options.settle.into()));
    let settled = resident("VmRSS:");
    (allocator.trim)();
    let measured = Measured {
        totals,
        index: indexed,
        drop,
        // The kernel counts in batches: the peak may lag a little behind.
        peak: resident("VmHWM:").max(alive),
        alive,
        dropped,
        settled,
        trimmed: resident("VmRSS:"),
        stats_alive,
        stats_trimmed: (allocator.stats)(),
    };
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

/// What a program does that has little to do: every 10 ms it takes and frees a few hundred chunks of mixed sizes.
/// An allocator without a helper thread gets its chances to give memory back here.
fn light_activity(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        let chunks: Vec<Vec<u8>> = (0..512).map(|i| Vec::with_capacity(16 << (i % 8))).collect();
        std::hint::black_box(&chunks);
        drop(chunks);
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A field of `/proc/self/status` in bytes. Not `getrusage`: its peak survives `exec`, so that a child would report
/// its parent's where that was higher.
fn resident(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
