//! What the C library needs of the system beyond the contract: `errno`, C's streams, and what a linker asks for.

use super::linux::set_errno;
use core::fmt;

/// What a function of C's says went wrong.
#[derive(Clone, Copy, Debug)]
#[repr(i32)]
pub(crate) enum Errno {
    NoMemory = libc::ENOMEM,
    Invalid = libc::EINVAL,
}

/// Sets `errno`.
#[cold]
pub(crate) fn fail(errno: Errno) {
    set_errno(errno as i32);
}

/// Sets `errno` to the system's reason.
#[cfg(feature = "prefixed")]
pub(crate) fn fail_as(super::Refused(errno): super::Refused) {
    set_errno(errno);
}

/// One of C's streams, a `FILE *` of somebody's.
#[derive(Debug)]
pub(crate) struct Stream(*mut File);

impl Stream {
    /// # Safety
    /// `file` is an open stream as long as this is used.
    pub(crate) unsafe fn new(file: *mut File) -> Self {
        Self(file)
    }

    /// The program's standard output.
    #[cfg(feature = "prefixed")]
    pub(crate) fn stdout() -> Self {
        unsafe extern "C" {
            static mut stdout: *mut File;
        }
        // SAFETY: libc has set it before anybody can call this.
        Self(unsafe { stdout })
    }
}

/// The flag of `dlopen` by which a library's names come before the process's.
#[cfg(millpond_shared)]
pub(crate) const DEEPBIND: core::ffi::c_int = libc::RTLD_DEEPBIND;

/// The `dlopen` that comes after this library's; null if there is none.
#[cfg(millpond_shared)]
pub(crate) fn next_dlopen() -> *mut core::ffi::c_void {
    // SAFETY: asks for an address by a name that ends in zero.
    unsafe { libc::dlsym(libc::RTLD_NEXT, c"dlopen".as_ptr()) }
}

/// The `free` that comes after this library's; `None` if that is libc's, or none.
#[cfg(millpond_shared)]
pub(crate) fn next_free() -> Option<*mut core::ffi::c_void> {
    let file_of = |at: *const core::ffi::c_void| {
        // SAFETY: zeros are a valid `Dl_info`, which the call fills in if it knows the address.
        unsafe {
            let mut info: libc::Dl_info = core::mem::zeroed();
            libc::dladdr(at, &mut info);
            info.dli_fbase
        }
    };
    // SAFETY: asks for an address by a name that ends in zero.
    let next = unsafe { libc::dlsym(libc::RTLD_NEXT, c"free".as_ptr()) };
    let of_libc: unsafe extern "C" fn() -> *mut libc::c_int = libc::__errno_location;
    (!next.is_null() && file_of(next) != file_of(of_libc as *const core::ffi::c_void)).then_some(next)
}

/// What `realloc` is in the process. By the name, which the compiler must not know for this library's own: where several names
/// have the same code, it takes any of them.
#[cfg(feature = "malloc")]
#[inline(always)]
pub(crate) fn realloc_by_name() -> unsafe extern "C" fn(*mut u8, usize) -> *mut u8 {
    let found;
    // SAFETY: reads a word of the table of addresses, which the loader has filled in; the family defines the name.
    unsafe {
        core::arch::asm!(
            "mov {}, qword ptr [rip + realloc@GOTPCREL]",
            out(reg) found,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    found
}

/// `FILE`.
pub(crate) type File = libc::FILE;

impl fmt::Write for Stream {
    /// Buffered by libc, which may allocate for that.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // SAFETY: an open stream, and text of that length.
        let written = unsafe { libc::fwrite(text.as_ptr().cast(), 1, text.len(), self.0) };
        if written == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

// Parts of Rust's own in the static library, arithmetic that a linker may take for other code in place of the compiler's, name the
// function that std has for what unwinds through Rust. In them nothing is to be done: whoever unwinds goes on (`_URC_CONTINUE_UNWIND`).
// Weak: a program that has std has std's.
#[cfg(all(millpond_library, not(millpond_shared)))]
core::arch::global_asm!(
    ".pushsection .text.rust_eh_personality,\"ax\",@progbits",
    ".weak rust_eh_personality",
    ".hidden rust_eh_personality",
    ".type rust_eh_personality, @function",
    "rust_eh_personality:",
    "mov eax, 8",
    "ret",
    ".size rust_eh_personality, . - rust_eh_personality",
    ".popsection",
);
