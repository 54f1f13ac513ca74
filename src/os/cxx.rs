//! What the C library needs of the process's C++: which functions it has under some names, and its runtime.
//!
//! A *name* is what the loader has bound it to for the whole process: the first library or program that has it. What comes *next*
//! is what the name would be without this library.

use core::ffi::{CStr, c_void};

/// A function of the process, or none: null.
pub(crate) type Code = *const c_void;

/// What the names are in the process. By the names, which the compiler must not know for this library's own.
macro_rules! named {
    ($($name:literal)*) => {
        [$({
            let found: Code;
            // SAFETY: reads a word of the table of addresses, which the loader has filled in.
            unsafe {
                core::arch::asm!(
                    concat!("mov {}, qword ptr [rip + ", $name, "@GOTPCREL]"),
                    out(reg) found,
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
            found
        }),*]
    };
}

/// `malloc`, `free`, and `operator new`, `new[]`, `delete` and `delete[]` without more arguments.
pub(crate) fn basic_functions() -> [Code; 6] {
    named!("malloc" "free" "_Znwm" "_Znam" "_ZdlPv" "_ZdaPv")
}

/// Whether an address is in this library.
pub(crate) fn is_within(at: Code) -> bool {
    let (start, end): (Code, Code);
    // SAFETY: the linker has these two for each library.
    unsafe {
        core::arch::asm!(
            ".hidden __ehdr_start",
            ".hidden _end",
            "lea {}, [rip + __ehdr_start]",
            "lea {}, [rip + _end]",
            out(reg) start,
            out(reg) end,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    (start.addr()..end.addr()).contains(&at.addr())
}

/// Whether the program has been started with a C++ runtime.
pub(crate) fn has_runtime() -> bool {
    let found: Code;
    // SAFETY: as above; a weak name that nobody has is zero there.
    unsafe {
        core::arch::asm!(
            ".weak __cxa_throw",
            "mov {}, qword ptr [rip + __cxa_throw@GOTPCREL]",
            out(reg) found,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    !found.is_null()
}

/// What a name is next.
pub(crate) fn next(name: &CStr) -> Code {
    // SAFETY: asks for an address by a name that ends in zero.
    unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) }
}

/// Whether a function belongs to a C++ runtime, by the name of its file.
pub(crate) fn is_of_runtime(code: Code) -> bool {
    // SAFETY: zeros are a valid `Dl_info`, which the call fills in if it knows the address; a file's name ends in zero and stays as
    // long as the file is loaded.
    let path = unsafe {
        let mut info: libc::Dl_info = core::mem::zeroed();
        if libc::dladdr(code, &mut info) == 0 || info.dli_fname.is_null() {
            return false;
        }
        CStr::from_ptr(info.dli_fname)
    };
    let file = path.to_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    file.starts_with(b"libstdc++") || file.starts_with(b"libc++")
}

/// `operator new` of a C++ runtime that a library has brought along later, out of the process's sight.
pub(crate) fn new_of_later_runtime() -> Code {
    [c"libstdc++.so.6", c"libc++.so.1", c"libc++abi.so.1"].iter().fold(core::ptr::null(), |found, file| {
        if !found.is_null() {
            return found;
        }
        // SAFETY: finds what is loaded already, and asks it for an address by a name. The handle is kept, so it stays.
        unsafe {
            let runtime = libc::dlopen(file.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
            if runtime.is_null() { found } else { libc::dlsym(runtime, c"_Znwm".as_ptr()) }
        }
    })
}

core::arch::global_asm!(
    ".pushsection .text.millpond_or_else,\"ax\",@progbits",
    ".globl millpond_or_else",
    ".hidden millpond_or_else",
    ".type millpond_or_else, @function",
    "millpond_or_else:",
    ".cfi_startproc",
    "push rbp",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset rbp, -16",
    "mov rbp, rsp",
    ".cfi_def_cfa_register rbp",
    "push rdi",
    "push rcx",
    "mov rax, rdx",
    "mov rdx, rbp",
    "call rax",
    "test rax, rax",
    "jz 2f",
    ".cfi_remember_state",
    "leave",
    ".cfi_def_cfa rsp, 8",
    "ret",
    ".cfi_restore_state",
    "2:",
    "call qword ptr [rbp - 16]",
    "mov rdi, qword ptr [rbp - 8]",
    "leave",
    ".cfi_def_cfa rsp, 8",
    "jmp rax",
    ".cfi_endproc",
    ".size millpond_or_else, . - millpond_or_else",
    ".popsection",
);

unsafe extern "C" {
    /// Returns what `attempt` does, which is given `size`, `place` and the frame of this. If that is null, becomes a call of the
    /// function that `other` returns, with the `size`. That call is a jump: what it throws is never seen here.
    ///
    /// # Safety
    /// What the function that `other` returns asks for.
    #[link_name = "millpond_or_else"]
    pub(crate) fn or_else(
        size: usize,
        place: usize,
        attempt: extern "C" fn(usize, usize, usize) -> *mut u8,
        other: extern "C" fn() -> Code,
    ) -> *mut u8;
}
