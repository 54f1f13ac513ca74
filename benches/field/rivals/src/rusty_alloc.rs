//! rusty_alloc, in Rust alone.

pub use rusty_alloc_api::RustyAlloc as Allocator;

pub const ALLOCATOR: Allocator = Allocator;

/// Its version is its crate's.
pub fn version() -> String {
    String::new()
}
