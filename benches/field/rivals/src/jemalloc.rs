//! jemalloc.

pub use tikv_jemallocator::Jemalloc as Allocator;

pub const ALLOCATOR: Allocator = Allocator;

/// What the library says of itself, without the commit.
pub fn version() -> String {
    let mut text: *const libc::c_char = std::ptr::null();
    let mut size = size_of_val(&text);
    // SAFETY: the name ends with a null, `text` has room for the pointer that is asked for, and nothing is written there.
    let status = unsafe {
        tikv_jemalloc_sys::mallctl(c"version".as_ptr(), (&raw mut text).cast(), &mut size, std::ptr::null_mut(), 0)
    };
    if status != 0 || text.is_null() {
        return String::new();
    }
    // SAFETY: the version is a constant of the library's.
    let text = unsafe { std::ffi::CStr::from_ptr(text) }.to_string_lossy();
    text.split('-').next().unwrap_or_default().into()
}
