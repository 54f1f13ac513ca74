//! C++'s `operator new` and `delete` in the shared library: `malloc` and `free` without the C++ runtime's two calls between.
//!
//! What a C++ program may do with these operators it still may. They are ours as long as nobody else wants to see their calls:
//!
//! | route | when | what the operators do |
//! |---|---|---|
//! | `OWN` | `malloc`, `free`, and the four operators without more arguments, are this library's in the process, and what comes next is a C++ runtime, or nobody | as `malloc` and `free` |
//! | `OTHERS` | the program, or a library before this one, has one of these; or a library behind has operators of its own | as those that come next; where there are none, as C++ says: `new[]` is `new`, sized `delete` and `delete[]` are `delete`, and these two `malloc` and `free`, each by its name in the process |
//!
//! Only the C++ runtime can ask the program's new-handler and throw its `bad_alloc`. So where there is no memory, `new` becomes a call
//! of the runtime's own, which comes back to `malloc`, in vain, and does the rest. The operators that are aligned or throw nothing
//! are left to the runtime; they come down to those here, and to `aligned_alloc`.
//!
//! The size with which `delete` is called is only looked at where there are records: in `fast` a wrong one does no harm.
//!
//! The route is chosen once: as this library is loaded, or by the first call if that comes before, or if the program has no C++ runtime
//! then. To choose takes the loader's lock only where there is a runtime, or somebody else's function.

use super::family;
use crate::os::{self, cxx};
use crate::sync::{AtomicPtr, AtomicU32, Ordering};
use core::ffi::{CStr, c_void};
use core::mem::transmute;
use core::ptr::null_mut;

type Memory = *mut u8;
type New = unsafe extern "C" fn(usize) -> Memory;
type Delete = unsafe extern "C" fn(Memory);
type DeleteSized = unsafe extern "C" fn(Memory, usize);

exported! {
    _Znwm(size: usize) -> Memory = new(Operator::New, size);
    _Znam(size: usize) -> Memory = new(Operator::NewArray, size);
    _ZdlPv(ptr: Memory) = delete(Operator::Delete, ptr);
    _ZdaPv(ptr: Memory) = delete(Operator::DeleteArray, ptr);
    _ZdlPvm(ptr: Memory, size: usize) = delete_sized(Operator::DeleteSized, ptr, size);
    _ZdaPvm(ptr: Memory, size: usize) = delete_sized(Operator::DeleteArraySized, ptr, size);
}

#[derive(Clone, Copy)]
enum Operator {
    New,
    NewArray,
    Delete,
    DeleteArray,
    DeleteSized,
    DeleteArraySized,
}

const NAMES: [&CStr; 6] = [c"_Znwm", c"_Znam", c"_ZdlPv", c"_ZdaPv", c"_ZdlPvm", c"_ZdaPvm"];

const OWN: u32 = 1;
const OTHERS: u32 = 2;

static ROUTE: AtomicU32 = AtomicU32::new(0);
/// What comes next under each name; null: nobody, or not looked for.
static NEXT: [AtomicPtr<c_void>; 6] = [const { AtomicPtr::new(null_mut()) }; 6];

#[inline(always)]
fn is_own() -> bool {
    // Relaxed: nothing else is read on this route.
    ROUTE.load(Ordering::Relaxed) == OWN
}

/// Chooses the route while the library is loaded, where that needs the loader.
pub(super) fn begin() {
    if cxx::has_runtime() {
        choose();
    }
}

/// Chooses the route, if that has not been done.
#[cold]
#[inline(never)]
fn choose() -> u32 {
    // ORDERING: Acquire pairs with the Release below: what comes next has been looked for.
    match ROUTE.load(Ordering::Acquire) {
        0 => {}
        route => return route,
    }
    let keep = |at: usize| {
        let next = cxx::next(NAMES[at]);
        NEXT[at].store(next.cast_mut(), Ordering::Relaxed);
        next
    };
    let mut own = cxx::basic_functions().iter().all(|code| cxx::is_within(*code));
    if cxx::has_runtime() {
        let next = keep(Operator::New as usize);
        own &= next.is_null() || cxx::is_of_runtime(next);
    }
    if !own {
        (0..NAMES.len()).for_each(|at| _ = keep(at));
    }
    let route = if own { OWN } else { OTHERS };
    // ORDERING: Release pairs with the Acquire above. Whoever chooses at the same time chooses the same.
    ROUTE.store(route, Ordering::Release);
    route
}

/// What comes next under an operator's name, as a function of type `F`, once the route is chosen.
fn next<F>(operator: Operator) -> Option<F> {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    let next = NEXT[operator as usize].load(Ordering::Relaxed);
    // SAFETY: a function of the operator's type, as each caller asks for it.
    (!next.is_null()).then(|| unsafe { core::mem::transmute_copy(&next) })
}

/// # Safety
/// As C++ says of the operator.
#[inline(always)]
unsafe fn new(operator: Operator, size: usize) -> Memory {
    if !is_own() {
        // SAFETY: the caller's.
        return unsafe { new_elsewhere(size, operator) };
    }
    family::serve(size, |place| new_missed(size, place))
}

#[cold]
#[inline(always)]
fn new_missed(size: usize, place: usize) -> Memory {
    extern "C" fn attempt(size: usize, place: usize, frame: usize) -> Memory {
        family::attempt(frame, size, place)
    }
    // SAFETY: a C++ runtime's `operator new`, called for a program's call of it.
    unsafe { cxx::or_else(size, place, attempt, new_of_runtime) }
}

/// The C++ runtime's `operator new`, for which there is no memory: it is to say so.
extern "C" fn new_of_runtime() -> cxx::Code {
    let place = &NEXT[Operator::New as usize];
    let mut found = place.load(Ordering::Relaxed).cast_const();
    if found.is_null() {
        found = cxx::next(NAMES[Operator::New as usize]);
        if found.is_null() {
            found = cxx::new_of_later_runtime();
        }
    }
    if found.is_null() {
        os::die(format_args!("no memory for operator new, and no C++ runtime that could tell the program"))
    }
    found
}

#[cold]
#[inline(never)]
unsafe fn new_elsewhere(size: usize, operator: Operator) -> Memory {
    if choose() == OWN {
        return family::serve(size, |place| new_missed(size, place));
    }
    // SAFETY: as C++ says; the functions are of these types.
    unsafe {
        if let Some(next) = next::<New>(operator) {
            return next(size);
        }
        let [malloc, _, new, ..] = cxx::basic_functions();
        if let Operator::NewArray = operator {
            return transmute::<cxx::Code, New>(new)(size);
        }
        let at = transmute::<cxx::Code, New>(malloc)(size.max(1));
        if at.is_null() { transmute::<cxx::Code, New>(new_of_runtime())(size) } else { at }
    }
}

/// # Safety
/// As C++ says of the operator.
#[inline(always)]
unsafe fn delete(operator: Operator, ptr: Memory) {
    // SAFETY: the caller's.
    unsafe { if is_own() { family::free(ptr) } else { delete_elsewhere(ptr, operator) } }
}

#[cold]
#[inline(never)]
unsafe fn delete_elsewhere(ptr: Memory, operator: Operator) {
    // SAFETY: as C++ says; the functions are of these types.
    unsafe {
        if choose() == OWN {
            return family::free(ptr);
        }
        if let Some(next) = next::<Delete>(operator) {
            return next(ptr);
        }
        let [_, free, _, _, delete, _] = cxx::basic_functions();
        let by_name = if let Operator::DeleteArray = operator { delete } else { free };
        transmute::<cxx::Code, Delete>(by_name)(ptr)
    }
}

/// # Safety
/// As C++ says of the operator.
#[inline(always)]
unsafe fn delete_sized(operator: Operator, ptr: Memory, size: usize) {
    // SAFETY: the caller's.
    unsafe { if is_own() { family::free_as(ptr, size) } else { delete_sized_elsewhere(ptr, size, operator) } }
}

#[cold]
#[inline(never)]
unsafe fn delete_sized_elsewhere(ptr: Memory, size: usize, operator: Operator) {
    // SAFETY: as C++ says; the functions are of these types.
    unsafe {
        if choose() == OWN {
            return family::free_as(ptr, size);
        }
        if let Some(next) = next::<DeleteSized>(operator) {
            return next(ptr, size);
        }
        let [.., delete, delete_array] = cxx::basic_functions();
        let by_name = if let Operator::DeleteArraySized = operator { delete_array } else { delete };
        transmute::<cxx::Code, Delete>(by_name)(ptr)
    }
}
