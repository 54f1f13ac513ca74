//! The C library's malloc.

pub use std::alloc::System as Allocator;

pub const ALLOCATOR: Allocator = Allocator;

/// The C library's version, where it is glibc.
pub fn version() -> String {
    glibc().unwrap_or_default()
}

#[cfg(target_env = "gnu")]
fn glibc() -> Option<String> {
    // SAFETY: returns a constant string.
    let text = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) };
    Some(format!("glibc {}", text.to_string_lossy()))
}

#[cfg(not(target_env = "gnu"))]
fn glibc() -> Option<String> {
    None
}
