//! What the kernel counts for a process or for its children.

/// The counts of `RUSAGE_SELF` or `RUSAGE_CHILDREN`.
pub fn usage(who: libc::c_int) -> libc::rusage {
    let mut usage = std::mem::MaybeUninit::uninit();
    // SAFETY: `usage` has room for the rusage that the call writes.
    let status = unsafe { libc::getrusage(who, usage.as_mut_ptr()) };
    assert_eq!(status, 0, "no resource usage");
    // SAFETY: the call succeeded, so it has filled the whole struct.
    unsafe { usage.assume_init() }
}
