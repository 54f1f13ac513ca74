//! C++'s `operator new` and `delete` in the shared library: `malloc` and `free` without the C++ runtime's two calls between.
//!
//! What a C++ program may do with these operators it still may. They are ours as long as nobody else wants to see their calls:
//!
//! | route | when | what the operators do |
//! |---|---|---|
//! | `OWN` | `malloc`, `free` and all operators are this library's in the process, and what comes next is a C++ runtime's, or nobody's | as `malloc`, `aligned_alloc` and `free` |
//! | `OTHERS` | the program, or a library before this one, has one of these; or a library behind has an operator of its own | become what comes next. Where there is none: what the caller's library has or needs, without this one; else, as C++ says, `new[]` is `new`, all come down to the simplest, and these to `malloc`, `aligned_alloc` and `free`, each by its name in the process. But what is ours is freed here where a `delete` with a size would go to another allocator's library: see [`neighbour`] |
//!
//! All operators or none: a library that a program in C loads may have all of its own, but is bound to ours where there are any. With
//! one missing, its own memory would come to our `delete`.
//!
//! Only the C++ runtime can ask the program's new-handler and throw its `bad_alloc`. So where there is no memory, `new` becomes a call
//! of the runtime's own, which comes back to `malloc`, in vain, and does the rest. There may be several runtimes that do not
//! understand each other: if the process as a whole has none, it is that of the caller's library.
//!
//! The size with which `delete` is called is only looked at where there are records: in `fast` a wrong one does no harm. No bytes
//! are any number: the runtime makes one byte of none. With an alignment it is not looked at, since the runtime rounds it up.
//!
//! The route is chosen once: as this library is loaded, or by the first call if that comes before. To choose takes the loader's lock
//! only where there is a runtime, or somebody else's function.

use super::{family, neighbour};
use crate::os::{self, cxx};
use crate::sync::{AtomicPtr, AtomicU32, Ordering};
use core::ffi::c_void;
use core::mem::transmute;
use core::ptr::{null, null_mut, with_exposed_provenance_mut};

type Memory = *mut u8;
/// The reference to `std::nothrow`, of which only the type counts.
type Tag = usize;
type New = unsafe extern "C" fn(usize) -> Memory;
type NewAligned = unsafe extern "C" fn(usize, usize) -> Memory;

exported! {
    _Znwm(size: usize) -> Memory = new(NEW, size);
    _Znam(size: usize) -> Memory = new(NEW_ARRAY, size);
    _ZnwmRKSt9nothrow_t(size: usize, tag: Tag) -> Memory = new_quiet(2, size, tag);
    _ZnamRKSt9nothrow_t(size: usize, tag: Tag) -> Memory = new_quiet(3, size, tag);
    _ZnwmSt11align_val_t(size: usize, align: usize) -> Memory = new_aligned(NEW_ALIGNED, size, align, 0);
    _ZnamSt11align_val_t(size: usize, align: usize) -> Memory = new_aligned(NEW_ARRAY_ALIGNED, size, align, 0);
    _ZnwmSt11align_val_tRKSt9nothrow_t(size: usize, align: usize, tag: Tag) -> Memory = new_aligned(6, size, align, tag);
    _ZnamSt11align_val_tRKSt9nothrow_t(size: usize, align: usize, tag: Tag) -> Memory = new_aligned(7, size, align, tag);
    _ZdlPv(ptr: Memory) = delete(DELETE, ptr, 0, 0);
    _ZdaPv(ptr: Memory) = delete(DELETE_ARRAY, ptr, 0, 0);
    _ZdlPvm(ptr: Memory, size: usize) = delete_sized(DELETE_SIZED, ptr, size);
    _ZdaPvm(ptr: Memory, size: usize) = delete_sized(DELETE_ARRAY_SIZED, ptr, size);
    _ZdlPvRKSt9nothrow_t(ptr: Memory, tag: Tag) = delete(12, ptr, tag, 0);
    _ZdaPvRKSt9nothrow_t(ptr: Memory, tag: Tag) = delete(13, ptr, tag, 0);
    _ZdlPvSt11align_val_t(ptr: Memory, align: usize) = delete(DELETE_ALIGNED, ptr, align, 0);
    _ZdaPvSt11align_val_t(ptr: Memory, align: usize) = delete(DELETE_ARRAY_ALIGNED, ptr, align, 0);
    _ZdlPvmSt11align_val_t(ptr: Memory, size: usize, align: usize) = delete(16, ptr, size, align);
    _ZdaPvmSt11align_val_t(ptr: Memory, size: usize, align: usize) = delete(17, ptr, size, align);
    _ZdlPvSt11align_val_tRKSt9nothrow_t(ptr: Memory, align: usize, tag: Tag) = delete(18, ptr, align, tag);
    _ZdaPvSt11align_val_tRKSt9nothrow_t(ptr: Memory, align: usize, tag: Tag) = delete(19, ptr, align, tag);
}

// The operators by their number: their places in [`cxx::NAMES`].
const NEW: usize = 0;
const NEW_ARRAY: usize = 1;
const NEW_ALIGNED: usize = 4;
const NEW_ARRAY_ALIGNED: usize = 5;
const DELETE: usize = 8;
const DELETE_ARRAY: usize = 9;
const DELETE_SIZED: usize = 10;
const DELETE_ARRAY_SIZED: usize = 11;
const DELETE_ALIGNED: usize = 14;
const DELETE_ARRAY_ALIGNED: usize = 15;

const fn is_array(operator: usize) -> bool {
    operator % 2 == 1
}

const fn is_aligned(operator: usize) -> bool {
    (NEW_ALIGNED <= operator && operator < DELETE) || DELETE_ALIGNED <= operator
}

/// Whether it is a `delete` that is told the size.
const fn takes_size(operator: usize) -> bool {
    matches!(operator, DELETE_SIZED | DELETE_ARRAY_SIZED | 16 | 17)
}

/// Whether it says by null that there is no memory.
const fn is_quiet(operator: usize) -> bool {
    matches!(operator, 2 | 3 | 6 | 7)
}

const OWN: u32 = 1;
const OTHERS: u32 = 2;

static ROUTE: AtomicU32 = AtomicU32::new(0);
/// What comes next under each name; null: nobody, or not looked for.
static NEXT: [AtomicPtr<c_void>; cxx::OPERATORS] = [const { AtomicPtr::new(null_mut()) }; cxx::OPERATORS];

#[inline(always)]
fn is_own() -> bool {
    // Relaxed: nothing else is read on this route.
    ROUTE.load(Ordering::Relaxed) == OWN
}

/// Chooses the route, if that has not been done: while the library is loaded, so that no thread waits for the loader later.
#[cold]
#[inline(never)]
pub(super) fn choose() -> u32 {
    // ORDERING: Acquire pairs with the Release below: what comes next has been looked for.
    match ROUTE.load(Ordering::Acquire) {
        0 => {}
        route => return route,
    }
    let mut own = cxx::functions().iter().all(|code| cxx::is_within(*code));
    if cxx::has_runtime() || !own {
        let (is_ours, mut runtime) = (own, None);
        for (name, place) in cxx::NAMES.iter().zip(&NEXT) {
            // The program's own `malloc` may not be ready for what the loader does in vain.
            let next = if is_ours || cxx::is_elsewhere(name) { cxx::next(name) } else { null() };
            place.store(next.cast_mut(), Ordering::Relaxed);
            own &= next.is_null() || cxx::is_of_runtime(next, &mut runtime);
        }
    }
    let route = if own { OWN } else { OTHERS };
    // ORDERING: Release pairs with the Acquire above. Whoever chooses at the same time chooses the same.
    ROUTE.store(route, Ordering::Release);
    route
}

/// # Safety
/// As C++ says of the operator.
#[inline(always)]
unsafe fn new(operator: usize, size: usize) -> Memory {
    // The runtime's operator has one argument: the second tells which place has missed.
    // SAFETY: the caller's.
    let missed = |place| unsafe { cxx::or_else(size, place, 0, operator, attempt_at, elsewhere) };
    if is_own() {
        family::serve(size, missed)
    } else {
        // SAFETY: the caller's.
        unsafe { cxx::or_else(size, 0, 0, operator, attempt, elsewhere) }
    }
}

/// What missed on the route `OWN`.
unsafe extern "C" fn attempt_at(size: usize, place: usize, _: usize, frame: usize) -> Memory {
    family::attempt_at(frame, size, place)
}

/// # Safety
/// As C++ says of the operator.
#[inline(always)]
unsafe fn new_quiet(operator: usize, size: usize, tag: Tag) -> Memory {
    match if is_own() { family::at_hand(size) } else { None } {
        Some(chunk) => chunk.as_ptr(),
        // SAFETY: the caller's.
        None => unsafe { cxx::or_else(size, tag, 0, operator, attempt, elsewhere) },
    }
}

/// # Safety
/// As C++ says of the operator.
#[inline(always)]
unsafe fn new_aligned(operator: usize, size: usize, align: usize, third: usize) -> Memory {
    match if is_own() { family::at_hand_aligned(align, size) } else { None } {
        Some(chunk) => chunk.as_ptr(),
        // SAFETY: the caller's.
        None => unsafe { cxx::or_else(size, align, third, operator, attempt, elsewhere) },
    }
}

/// # Safety
/// As C++ says of the operator.
#[inline(always)]
unsafe fn delete(operator: usize, ptr: Memory, second: usize, third: usize) {
    // SAFETY: the caller's.
    unsafe {
        if is_own() {
            family::free(ptr)
        } else {
            cxx::or_else(ptr.expose_provenance(), second, third, operator, attempt, elsewhere);
        }
    }
}

/// # Safety
/// As C++ says of the operator.
#[inline(always)]
unsafe fn delete_sized(operator: usize, ptr: Memory, size: usize) {
    // SAFETY: the caller's.
    unsafe {
        if is_own() {
            family::free_as(ptr, size)
        } else {
            cxx::or_else(ptr.expose_provenance(), size, 0, operator, attempt, elsewhere);
        }
    }
}

/// What an operator does on the route `OWN`, and a `delete` with a size of what no other library may have; for the caller of a
/// [`frame`](os::frame). Null: it was not done.
unsafe extern "C" fn attempt(first: usize, second: usize, operator: usize, frame: usize) -> Memory {
    if !is_own() && choose() != OWN {
        let ptr = with_exposed_provenance_mut(first);
        if !takes_size(operator) || !family::is_here(ptr) || !neighbour::is_there() {
            return null_mut();
        }
        // SAFETY: the operator's caller's.
        unsafe { family::free(ptr) };
        return core::ptr::dangling_mut();
    }
    if operator < DELETE {
        return family::attempt(frame, first, if is_aligned(operator) { second } else { 1 });
    }
    let ptr = with_exposed_provenance_mut(first);
    // SAFETY: the operator's caller's.
    unsafe {
        match operator {
            DELETE_SIZED | DELETE_ARRAY_SIZED => family::free_as(ptr, second),
            _ => family::free(ptr),
        }
    }
    core::ptr::dangling_mut()
}

/// What an operator becomes that could not be done here, by the address to which it returns.
extern "C" fn elsewhere(operator: usize, caller: usize) -> cxx::Code {
    let next = NEXT[operator].load(Ordering::Relaxed).cast_const();
    if !next.is_null() {
        return next;
    }
    let found = cxx::without_us(cxx::NAMES[operator], caller, is_own());
    if !found.is_null() {
        return found;
    }
    if is_own() {
        return if is_quiet(operator) { nothing as cxx::Code } else { no_runtime() };
    }
    let named = |operator: usize| cxx::functions()[cxx::FIRST + operator];
    // What allocates without a word about memory that is not there comes down to others' operators alone: ours would say it.
    let theirs = |operators: [usize; 2]| operators.into_iter().map(named).find(|code| !cxx::is_within(*code));
    match operator {
        NEW => by_malloc_or_end as cxx::Code,
        NEW_ARRAY => named(NEW),
        NEW_ALIGNED => by_aligned_alloc_or_end as cxx::Code,
        NEW_ARRAY_ALIGNED => named(NEW_ALIGNED),
        NEW..DELETE if is_aligned(operator) => {
            let simple = if is_array(operator) { NEW_ARRAY_ALIGNED } else { NEW_ALIGNED };
            theirs([simple, NEW_ALIGNED]).unwrap_or(by_aligned_alloc as cxx::Code)
        }
        NEW..DELETE => {
            let simple = if is_array(operator) { NEW_ARRAY } else { NEW };
            theirs([simple, NEW]).unwrap_or(by_malloc as cxx::Code)
        }
        DELETE | DELETE_ALIGNED => cxx::functions()[cxx::FREE],
        DELETE_ARRAY | DELETE_SIZED | 12 => named(DELETE),
        DELETE_ARRAY_SIZED | 13 => named(DELETE_ARRAY),
        17 | 19 => named(DELETE_ARRAY_ALIGNED),
        _ => named(DELETE_ALIGNED),
    }
}

extern "C" fn nothing() -> Memory {
    null_mut()
}

fn no_runtime() -> ! {
    os::die(format_args!("no memory for operator new, and no C++ runtime that could tell the program"))
}

extern "C" fn by_malloc(size: usize) -> Memory {
    // SAFETY: the process's `malloc`.
    unsafe { transmute::<cxx::Code, New>(cxx::functions()[cxx::MALLOC])(size.max(1)) }
}

extern "C" fn by_malloc_or_end(size: usize) -> Memory {
    let at = by_malloc(size);
    if at.is_null() { no_runtime() } else { at }
}

extern "C" fn by_aligned_alloc_or_end(size: usize, align: usize) -> Memory {
    let at = by_aligned_alloc(size, align);
    if at.is_null() { no_runtime() } else { at }
}

extern "C" fn by_aligned_alloc(size: usize, align: usize) -> Memory {
    let align = align.max(size_of::<Memory>());
    let Some(size) = size.max(1).checked_next_multiple_of(align) else { return null_mut() };
    // SAFETY: the process's `aligned_alloc`.
    unsafe { transmute::<cxx::Code, NewAligned>(cxx::functions()[cxx::ALIGNED_ALLOC])(align, size) }
}
