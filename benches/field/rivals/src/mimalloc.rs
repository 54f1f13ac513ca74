//! mimalloc, version 3 or, by its crate's feature, 2.

pub use mimalloc::MiMalloc as Allocator;

pub const ALLOCATOR: Allocator = Allocator;

/// What the library says of itself: two digits for the patch, two for the minor version.
pub fn version() -> String {
    // SAFETY: asks for a number.
    let number = unsafe { libmimalloc_sys::mi_version() };
    // Older ones have one digit a part: 321 is 3.2.1, 30301 is 3.3.1.
    if number < 10_000 {
        format!("{}.{}.{}", number / 100, number / 10 % 10, number % 10)
    } else {
        format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100)
    }
}
