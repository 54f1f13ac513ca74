//! What the C library needs of the process's C++: which functions it has under some names, and its runtime.
//!
//! A *name* is what the loader has bound it to for the whole process: the first library or program that has it. What comes *next*
//! is what the name would be without this library.

use super::objects::{Object, first_needed, first_object, object_at};
use core::ffi::{CStr, c_void};
use core::ptr::null;

/// A function of the process, or none: null.
pub(crate) type Code = *const c_void;

/// How many operators there are.
pub(crate) const OPERATORS: usize = 20;
/// Where [`functions`] has these, and the first operator.
pub(crate) const MALLOC: usize = 0;
pub(crate) const FREE: usize = 1;
pub(crate) const ALIGNED_ALLOC: usize = 2;
pub(crate) const FIRST: usize = 3;

/// What the names are in the process. By the names, which the compiler must not know for this library's own.
macro_rules! named {
    ($($name:literal)*; $($operator:literal)*) => {
        /// `operator new` and `new[]`: without more arguments, `nothrow`, aligned, and both; `operator delete` and `delete[]`: without
        /// more arguments, with the size, `nothrow`, aligned, with the size and aligned, and aligned and `nothrow`.
        pub(crate) const NAMES: [&CStr; OPERATORS] = [$({
            const NAME: &str = concat!($operator, "\0");
            match CStr::from_bytes_with_nul(NAME.as_bytes()) {
                Ok(name) => name,
                Err(_) => unreachable!(),
            }
        }),*];

        /// `malloc`, `free`, `aligned_alloc`, and all operators, as the process has them.
        pub(crate) fn functions() -> [Code; FIRST + OPERATORS] {
            [$(named!($name),)* $(named!($operator)),*]
        }
    };
    ($name:literal) => {{
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
    }};
}

named! {
    "malloc" "free" "aligned_alloc";
    "_Znwm" "_Znam" "_ZnwmRKSt9nothrow_t" "_ZnamRKSt9nothrow_t"
    "_ZnwmSt11align_val_t" "_ZnamSt11align_val_t" "_ZnwmSt11align_val_tRKSt9nothrow_t" "_ZnamSt11align_val_tRKSt9nothrow_t"
    "_ZdlPv" "_ZdaPv" "_ZdlPvm" "_ZdaPvm" "_ZdlPvRKSt9nothrow_t" "_ZdaPvRKSt9nothrow_t"
    "_ZdlPvSt11align_val_t" "_ZdaPvSt11align_val_t" "_ZdlPvmSt11align_val_t" "_ZdaPvmSt11align_val_t"
    "_ZdlPvSt11align_val_tRKSt9nothrow_t" "_ZdaPvSt11align_val_tRKSt9nothrow_t"
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

/// What a name is next. Where that is nobody's, the loader allocates and frees, to say so.
pub(crate) fn next(name: &CStr) -> Code {
    // SAFETY: asks for an address by a name that ends in zero. That there is none is not for the program to hear of.
    unsafe {
        let found = libc::dlsym(libc::RTLD_NEXT, name.as_ptr());
        if found.is_null() {
            libc::dlerror();
        }
        found
    }
}

/// Whether anybody but this library has a function under a name.
pub(crate) fn is_elsewhere(name: &CStr) -> bool {
    let has_it = |object: &Object| {
        let found = object.function(name);
        !found.is_null() && !is_within(found)
    };
    first_object(has_it).is_some()
}

/// Whether a function belongs to a C++ runtime, by the name of its file. `known` keeps the last one that does.
pub(crate) fn is_of_runtime(code: Code, known: &mut Option<(usize, usize)>) -> bool {
    let at = code.addr();
    if known.is_some_and(|(start, end)| (start..end).contains(&at)) {
        return true;
    }
    let Some((object, range)) = object_at(at) else { return false };
    let is_runtime = is_runtime_by_name(&object);
    if is_runtime {
        *known = Some(range);
    }
    is_runtime
}

fn is_runtime_by_name(object: &Object) -> bool {
    object.file().starts_with(b"libstdc++") || object.file().starts_with(b"libc++")
}

/// What a name would be for the object with an address if this library were not there, and the process as a whole had no such name:
/// what the object has, or needs. If `only_runtimes`, only a C++ runtime's counts, and otherwise any that is loaded. Null: nobody's.
pub(crate) fn without_us(name: &CStr, caller: usize, only_runtimes: bool) -> Code {
    let may_have = |object: &Object| {
        let found = object.function(name);
        let is_runtime = || is_runtime_by_name(object) || !object.function(c"__cxa_throw").is_null();
        let is_it = !found.is_null() && !is_within(found) && (!only_runtimes || is_runtime());
        if is_it { found } else { null() }
    };
    let is_it = |object: &Object| !may_have(object).is_null();
    let own = object_at(caller).and_then(|(object, _)| first_needed(object, is_it));
    let any = || first_object(|object| is_runtime_by_name(object) && is_it(object));
    own.or_else(any).map_or(null(), |object| may_have(&object))
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
    "push rsi",
    "push rdx",
    "push rcx",
    "push r9",
    "push r9",
    "mov rdx, rcx",
    "mov rcx, rbp",
    "call r8",
    "test rax, rax",
    "jz 2f",
    ".cfi_remember_state",
    "leave",
    ".cfi_def_cfa rsp, 8",
    "ret",
    ".cfi_restore_state",
    "2:",
    "mov rdi, qword ptr [rbp - 32]",
    "mov rsi, qword ptr [rbp + 8]",
    "call qword ptr [rbp - 40]",
    "mov rdi, qword ptr [rbp - 8]",
    "mov rsi, qword ptr [rbp - 16]",
    "mov rdx, qword ptr [rbp - 24]",
    "leave",
    ".cfi_def_cfa rsp, 8",
    "jmp rax",
    ".cfi_endproc",
    ".size millpond_or_else, . - millpond_or_else",
    ".popsection",
);

unsafe extern "C" {
    /// Returns what `attempt` does, which is given two of the arguments, `operator` and the frame of this. If that is null, becomes a
    /// call of the function that `other` returns, which is given `operator` and the address to which this returns, with the three
    /// arguments. That call is a jump: what it throws is never seen here.
    ///
    /// # Safety
    /// What `attempt` and the function that `other` returns ask for.
    #[link_name = "millpond_or_else"]
    pub(crate) fn or_else(
        first: usize,
        second: usize,
        third: usize,
        operator: usize,
        attempt: unsafe extern "C" fn(usize, usize, usize, usize) -> *mut u8,
        other: extern "C" fn(usize, usize) -> Code,
    ) -> *mut u8;
}
