//! The workloads: small programs whose allocations all go to the global allocator.
//!
//! Each does an amount of work that does not depend on the number of threads, over a working set that does not either:
//! they share both. So throughputs at different numbers of threads compare, and more threads bring no cache misses of
//! their own. (Only the queues of `producer_consumer` are as many as the pairs of threads.) Each asserts its result,
//! which does not depend on the schedule, so a broken allocator is noticed.

pub mod block;
mod crew;
mod large;
mod larson;
mod pairs;
mod producer_consumer;
mod replace;
mod strings;
mod tree;
mod vectors;
mod zeroed;

use super::measure::Cost;
pub use crew::Crew;

/// What a workload did.
pub struct Outcome {
    /// Units of work, of the workload's own kind.
    pub ops: u64,
    pub checksum: u64,
    pub cost: Cost,
}

/// A workload and what it stands for.
pub struct Workload {
    pub name: &'static str,
    pub about: &'static str,
    pub run: fn(&Crew) -> Outcome,
}

/// All of them.
pub const ALL: &[Workload] = &[
    Workload { name: "pairs", about: "each block freed right after it was allocated, 8 B to 4 KiB", run: pairs::run },
    Workload { name: "replace_4k", about: "random replacement in 4 k slots, up to 1000 B", run: replace::small },
    Workload { name: "replace_256k", about: "random replacement in 256 k slots, up to 256 B", run: replace::big },
    Workload {
        name: "producer_consumer",
        about: "96 B messages, allocated by one thread and freed by another",
        run: producer_consumer::run,
    },
    Workload {
        name: "larson",
        about: "random replacement in sets of blocks that travel from thread to thread",
        run: larson::run,
    },
    Workload { name: "tree", about: "binary trees built, walked and felled in parallel", run: tree::run },
    Workload { name: "vectors", about: "vectors that grow by pushing, up to 512 KiB", run: vectors::run },
    Workload {
        name: "large",
        about: "random replacement of blocks of 256 KiB to 8 MiB, each page touched",
        run: large::run,
    },
    Workload { name: "zeroed", about: "zeroed buffers of 64 B to 1 MiB, sparsely used", run: zeroed::run },
    Workload {
        name: "strings",
        about: "an inverted index of words: HashMap<String, Vec<u32>>, merged across threads",
        run: strings::run,
    },
];
