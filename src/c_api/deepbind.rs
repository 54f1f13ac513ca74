//! `dlopen` without `RTLD_DEEPBIND`, under which a library's `malloc` and `free` would be libc's again, while all the rest of
//! the process has ours: what one hands the other is then freed by who did not allocate it. PHP loads its modules so.
//!
//! With the flag, a library's own names and those of what it needs come before the process's. Without it they come behind, as
//! for all other libraries; only a library that has a name in common with the program, and wants its own, sees that.
//!
//! libc's `dlopen` looks at who calls, for the search path of that one, so it is *jumped* to: its caller is ours. The compiler
//! makes a jump of a call in the last place where it optimises; elsewhere the search path would be this library's, which has
//! none. A test has a library loaded by the search path of its caller.

use crate::os;
use crate::sync::{AtomicPtr, Ordering};
use core::ffi::{c_char, c_int, c_void};
use core::mem::transmute;
use core::ptr::null_mut;

exported! {
    dlopen(path: *const c_char, flags: c_int) -> *mut c_void = open(path, flags);
}

type Open = unsafe extern "C" fn(*const c_char, c_int) -> *mut c_void;

/// libc's `dlopen`, once it has been looked for.
static NEXT: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

/// # Safety
/// As `dlopen`.
#[inline(always)]
unsafe fn open(path: *const c_char, flags: c_int) -> *mut c_void {
    // Relaxed: whoever looks for it finds the same function, which was there before.
    let mut next = NEXT.load(Ordering::Relaxed);
    if next.is_null() {
        next = find();
        if next.is_null() {
            return null_mut();
        }
    }
    // SAFETY: a function of this type, which stays: libc is never unloaded.
    let next = unsafe { transmute::<*mut c_void, Open>(next) };
    // SAFETY: the caller's.
    unsafe { next(path, flags & !os::DEEPBIND) }
}

#[cold]
#[inline(never)]
fn find() -> *mut c_void {
    let next = os::next_dlopen();
    NEXT.store(next, Ordering::Relaxed);
    next
}
