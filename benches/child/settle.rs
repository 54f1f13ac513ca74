//! A second with little to do: what a program that has freed everything then still holds.
//!
//! Light activity is a few chunks of mixed sizes each 10 ms, allocated and freed: enough for an allocator that gives
//! memory back on the way, and nothing that needs much of it.

use super::measure::status_bytes;
use super::record::Settled;
use std::hint::black_box;
use std::time::{Duration, Instant};

const WHILE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);
const CHUNKS: usize = 256;

/// Takes a second, and says what is resident after it.
pub fn settle() -> Settled {
    let start = Instant::now();
    while start.elapsed() < WHILE {
        let chunks: Vec<Vec<u8>> = (0..CHUNKS).map(|nth| Vec::with_capacity(16 << (nth % 8))).collect();
        drop(black_box(chunks));
        std::thread::sleep(PAUSE);
    }
    Settled { settled_rss: status_bytes("VmRSS") }
}
