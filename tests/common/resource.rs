//! What the C library's headers call a resource with a limit.

#[cfg(target_env = "gnu")]
pub type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
pub type Resource = std::ffi::c_int;
