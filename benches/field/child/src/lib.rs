//! The programs that allocators are measured by: those of the throughput bench and those of [`shapes`], under whatever
//! global allocator the executable has chosen, each in a process of its own.
//!
//! A program does a fixed amount of work for a number of threads and a scale, checks its own result, and prints one
//! [`Record`]. The executable is either plain, or its allocator is wrapped in [`Timed`], which is then all that its
//! record is good for.

#[path = "../../../child/mod.rs"]
mod child;
mod shapes;
mod timed;

pub use child::record::{Latency, Listed, Record, Settled};
pub use timed::Timed;

use child::Program;
use child::workloads::{ALL, Workload};

/// The workloads, in the order in which they are shown.
pub fn workloads() -> Vec<Listed> {
    all().map(|workload| Listed { name: workload.name.into(), about: workload.about.into() }).collect()
}

/// Does what the command line says: `list`, or `run --workload NAME --threads N [--scale S] [--settle]`.
///
/// `allocator` is the executable's own word on its global allocator, `timed` whether that is a [`Timed`] one.
pub fn main(allocator: String, timed: bool) {
    let workloads = all().collect();
    let program = if timed {
        Program { workloads, allocator, begin: timed::begin, end: timed::end }
    } else {
        Program { workloads, allocator, begin: || (), end: || None }
    };
    program.main();
}

fn all() -> impl Iterator<Item = &'static Workload> {
    ALL.iter().chain(shapes::ALL)
}
