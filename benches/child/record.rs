//! What a child tells its driver: one line of JSON.

use serde::{Deserialize, Serialize};

/// One run of one workload. Times, faults and switches are those of the measured part alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub workload: String,
    pub threads: usize,
    pub ops: u64,
    /// What the workload computed: the same whatever the allocator.
    pub checksum: u64,
    pub wall_ns: u64,
    pub cpu_ns: u64,
    pub minor_faults: u64,
    pub context_switches: u64,
    /// Peak resident bytes of the process.
    pub peak_rss: u64,
    /// Resident bytes right after the workload has freed everything.
    pub final_rss: u64,
}

/// A workload that the child knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listed {
    pub name: String,
    pub about: String,
}
