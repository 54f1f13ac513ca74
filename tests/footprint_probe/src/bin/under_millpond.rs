//! Under Millpond.

#[global_allocator]
static GLOBAL: millpond::Millpond = millpond::Millpond;

fn main() {
    millpond_footprint_probe::run();
}
