//! The shapes that the literature measures allocators by, and programs such as people write. All are of our own writing;
//! each file names the paper or the bench that the shape comes from.
//!
//! As in the throughput bench: the amount of work does not depend on the number of threads, nor the result on the
//! schedule, and each workload checks what it has written before it frees it.

mod btree;
mod drift;
mod glibc;
mod json;
mod lifetimes;
mod mstress;
mod pipeline;
mod regexes;
mod rptest;
mod server;
mod sharing;
mod short_threads;
mod sizes;
mod xmalloc;

use crate::child::workloads::Workload;

/// All of them.
pub const ALL: &[Workload] = &[
    Workload {
        name: "xmalloc",
        about: "half of the threads allocate, the others free, through one queue",
        run: xmalloc::run,
    },
    Workload {
        name: "mstress",
        about: "generations of threads that free at random and swap with each other",
        run: mstress::run,
    },
    Workload { name: "sh6", about: "batches of mixed sizes with short, medium and long lives", run: lifetimes::alone },
    Workload {
        name: "sh8",
        about: "the same, and the long-lived are freed by other threads",
        run: lifetimes::exchanged,
    },
    Workload {
        name: "cache_scratch",
        about: "words that one thread allocated, freed by those that wrote them",
        run: sharing::scratch,
    },
    Workload {
        name: "cache_thrash",
        about: "words that each thread allocates for itself and keeps writing",
        run: sharing::thrash,
    },
    Workload {
        name: "short_threads",
        about: "threads that allocate a little, leave half behind and end",
        run: short_threads::run,
    },
    Workload {
        name: "glibc_simple",
        about: "25 to 1600 blocks of a size, freed in order and in reverse",
        run: glibc::simple,
    },
    Workload {
        name: "glibc_thread",
        about: "random replacement, 4 B to 32 KiB, most of them small",
        run: glibc::thread,
    },
    Workload {
        name: "drift",
        about: "a server whose sizes drift from 24 B to 16 KiB and back, 64 MiB live",
        run: drift::run,
    },
    Workload { name: "rptest", about: "mixed sizes sent to threads at random, which free them", run: rptest::run },
    Workload { name: "json", about: "documents parsed by serde_json, changed and written", run: json::run },
    Workload { name: "regex", about: "expressions compiled, matches collected as strings", run: regexes::run },
    Workload {
        name: "btree",
        about: "a store: BTreeMap<String, Vec<u8>>, put, got, removed, scanned",
        run: btree::run,
    },
    Workload { name: "server", about: "tokio tasks that ask each other and move between threads", run: server::run },
    Workload { name: "pipeline", about: "lines sorted, compressed and read back, in parallel", run: pipeline::run },
];
