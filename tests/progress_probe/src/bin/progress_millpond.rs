//! The harness over Millpond: all must finish, and what is stranded is found.

#[cfg(millpond_points)]
#[global_allocator]
static GLOBAL: millpond::Millpond = millpond::Millpond;

#[cfg(millpond_points)]
fn main() {
    use millpond_progress_probe::{Subject, main, reach};
    millpond::watch(reach);
    main(&Subject {
        tidy: || {
            millpond::trim();
        },
        stats: || Some(millpond::stats()),
        sound: || {
            millpond::check().unwrap_or_else(|error| panic!("{error}: {:?}", millpond::stats()));
        },
    });
}

#[cfg(not(millpond_points))]
fn main() {}
