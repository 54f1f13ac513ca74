//! Another allocator in the process, whose names come behind ours: memory that is none of ours may be its own.
//!
//! A library that a program is linked with may bring a `new` with memory of its own and a `delete` that calls `free`:
//! libjemalloc does. That `free` is ours, once this library is preloaded. So what lies in no page of ours goes to the `free`
//! that comes next, unless that is libc's: libc's `malloc` has given nothing out, since each of its names is ours.
//!
//! Its `new` may also take from ours, by `aligned_alloc`, which its `delete` with a size would take for its own without a look. So what lies
//! in a page of ours does not go to such a `delete`.

use crate::os;
use crate::sync::{AtomicPtr, Ordering};
use core::ffi::c_void;
use core::mem::transmute;
use core::ptr::{null_mut, without_provenance_mut};

type Free = unsafe extern "C" fn(*mut u8);

/// The other's `free`, once it has been looked for; [`NOBODY`] if there is none.
static NEXT: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
const NOBODY: *mut c_void = without_provenance_mut(1);

/// Gives an address in no page of ours to the other allocator; `false`: there is none.
///
/// # Safety
/// As C's `free`.
#[cold]
#[inline(never)]
pub(super) unsafe fn free(ptr: *mut u8) -> bool {
    let Some(next) = next() else { return false };
    // SAFETY: a function of this type, in a library that the program is linked with; the caller's address.
    unsafe { transmute::<*mut c_void, Free>(next)(ptr) };
    true
}

/// Whether there is one.
pub(super) fn is_there() -> bool {
    next().is_some()
}

fn next() -> Option<*mut c_void> {
    // Relaxed: whoever looks for it finds the same function, which was there before.
    let mut next = NEXT.load(Ordering::Relaxed);
    if next.is_null() {
        next = os::next_free().unwrap_or(NOBODY);
        NEXT.store(next, Ordering::Relaxed);
    }
    (next != NOBODY).then_some(next)
}
