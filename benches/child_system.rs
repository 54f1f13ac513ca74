//! The workloads with the system's malloc as the program's allocator. `throughput` runs it.

mod child;

#[global_allocator]
static GLOBAL: std::alloc::System = std::alloc::System;

fn main() {
    child::main();
}
