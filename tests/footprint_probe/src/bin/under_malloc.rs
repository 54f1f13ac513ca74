//! Under malloc.

fn main() {
    millpond_footprint_probe::run();
}
