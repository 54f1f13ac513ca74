//! What a child tells its driver: one line of JSON.

use serde::{Deserialize, Serialize};

/// One run of one workload. Times, faults and switches are those of the measured part alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub workload: String,
    /// Threads that shared the work.
    pub threads: usize,
    /// The allocator with its version, where the child knows it.
    #[serde(default)]
    pub allocator: String,
    /// Units of work, of the workload's own kind.
    pub ops: u64,
    /// What the workload computed: the same whatever the allocator.
    pub checksum: u64,
    /// Nanoseconds by the clock.
    pub wall_ns: u64,
    /// Nanoseconds of processor time, of all threads together.
    pub cpu_ns: u64,
    /// Page faults that read nothing from a disk.
    pub minor_faults: u64,
    /// Voluntary and other.
    pub context_switches: u64,
    /// Peak resident bytes of the process.
    pub peak_rss: u64,
    /// Resident bytes right after the workload has freed everything.
    pub final_rss: u64,
    /// In a run that measures nothing else.
    #[serde(default)]
    pub latency: Option<Latency>,
}

/// How long batches of successive calls of the allocator took a thread, in nanoseconds with the clock's own.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Calls that are a batch.
    pub calls: u32,
    /// How many there were.
    pub batches: u64,
    /// The time that half of the batches took at most.
    pub p50: u64,
    /// The same for 99 in 100.
    pub p99: u64,
    /// The same for 999 in 1000.
    pub p999: u64,
    /// The longest.
    pub max: u64,
}

/// What is left after a while of light activity.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[allow(dead_code, reason = "for benches that let memory settle")]
pub struct Settled {
    /// Resident bytes.
    pub settled_rss: u64,
}

/// A workload that the child knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listed {
    /// What it is called by.
    pub name: String,
    /// What it does, in a few words.
    pub about: String,
}
