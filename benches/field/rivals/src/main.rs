//! One program under one allocator: that of the feature which is on, malloc's if none is.

#[cfg(feature = "millpond")]
#[path = "millpond.rs"]
mod rival;
#[cfg(feature = "mimalloc3")]
#[path = "mimalloc.rs"]
mod rival;
#[cfg(feature = "mimalloc2")]
#[path = "mimalloc.rs"]
mod rival;
#[cfg(feature = "jemalloc")]
#[path = "jemalloc.rs"]
mod rival;
#[cfg(feature = "snmalloc")]
#[path = "snmalloc.rs"]
mod rival;
#[cfg(feature = "rpmalloc")]
#[path = "rpmalloc.rs"]
mod rival;
#[cfg(feature = "tcmalloc")]
#[path = "tcmalloc.rs"]
mod rival;
#[cfg(feature = "rusty_alloc")]
#[path = "rusty_alloc.rs"]
mod rival;
#[cfg(not(any(
    feature = "millpond",
    feature = "mimalloc3",
    feature = "mimalloc2",
    feature = "jemalloc",
    feature = "snmalloc",
    feature = "rpmalloc",
    feature = "tcmalloc",
    feature = "rusty_alloc"
)))]
#[path = "system.rs"]
mod rival;

#[cfg(not(feature = "timed"))]
#[global_allocator]
static GLOBAL: rival::Allocator = rival::ALLOCATOR;

#[cfg(feature = "timed")]
#[global_allocator]
static GLOBAL: millpond_field_child::Timed<rival::Allocator> = millpond_field_child::Timed(rival::ALLOCATOR);

fn main() {
    millpond_field_child::main(rival::version(), cfg!(feature = "timed"));
}
