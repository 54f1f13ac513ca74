//! The workloads with Millpond as the program's allocator. `throughput` runs it.

mod child;

#[global_allocator]
static GLOBAL: millpond::Millpond = millpond::Millpond;

fn main() {
    child::main();
}
