//! libc's own names for the family: with these in a program, every allocation in its process is Millpond's.
//!
//! One line each; what they do is in `family` and `info`. The names in two underscores are those under which glibc exports
//! the same functions.

use super::{family, info};
use crate::os;
use core::ffi::c_int;

type Memory = *mut u8;

exported! {
    malloc(size: usize) -> Memory = family::malloc(size);
    calloc(count: usize, size: usize) -> Memory = family::calloc(count, size);
    realloc(ptr: Memory, size: usize) -> Memory = family::realloc(ptr, size);
    reallocarray(ptr: Memory, count: usize, size: usize) -> Memory = reallocarray_by_name(ptr, count, size);
    free(ptr: Memory) = family::free(ptr);
    cfree(ptr: Memory) = family::free(ptr);
    free_sized(ptr: Memory, size: usize) = family::free_sized(ptr, size);
    free_aligned_sized(ptr: Memory, align: usize, size: usize) = family::free_aligned_sized(ptr, align, size);
    aligned_alloc(align: usize, size: usize) -> Memory = family::aligned_alloc(align, size);
    memalign(align: usize, size: usize) -> Memory = family::memalign(align, size);
    posix_memalign(place: *mut Memory, align: usize, size: usize) -> c_int = family::posix_memalign(place, align, size);
    valloc(size: usize) -> Memory = family::aligned_alloc(family::page_size(), size);
    pvalloc(size: usize) -> Memory = family::pvalloc(size);
    malloc_usable_size(ptr: Memory) -> usize = family::usable_size(ptr);
    malloc_trim(_pad: usize) -> c_int = family::trim() as c_int;
    mallinfo() -> info::Mallinfo = info::mallinfo();
    mallinfo2() -> info::Mallinfo2 = info::mallinfo2();
    malloc_stats() = info::print();
    malloc_info(options: c_int, file: *mut os::File) -> c_int = info::malloc_info(options, file);
    mallopt(parameter: c_int, value: c_int) -> c_int = info::mallopt(parameter, value);

    __libc_malloc(size: usize) -> Memory = family::malloc(size);
    __libc_calloc(count: usize, size: usize) -> Memory = family::calloc(count, size);
    __libc_realloc(ptr: Memory, size: usize) -> Memory = family::realloc(ptr, size);
    __libc_reallocarray(ptr: Memory, count: usize, size: usize) -> Memory = reallocarray_by_name(ptr, count, size);
    __libc_free(ptr: Memory) = family::free(ptr);
    __libc_cfree(ptr: Memory) = family::free(ptr);
    __libc_memalign(align: usize, size: usize) -> Memory = family::memalign(align, size);
    __libc_valloc(size: usize) -> Memory = family::aligned_alloc(family::page_size(), size);
    __libc_pvalloc(size: usize) -> Memory = family::pvalloc(size);
    __posix_memalign(place: *mut Memory, align: usize, size: usize) -> c_int =
        family::posix_memalign(place, align, size);
    __libc_mallinfo() -> info::Mallinfo = info::mallinfo();
    __libc_mallopt(parameter: c_int, value: c_int) -> c_int = info::mallopt(parameter, value);
}

/// By way of the process's `realloc`, as glibc's: who takes `malloc`, `realloc` and `free` over, as valgrind and what counts
/// allocations do, need not know of this one.
///
/// # Safety
/// As C says.
unsafe fn reallocarray_by_name(ptr: Memory, count: usize, size: usize) -> Memory {
    let realloc = os::realloc_by_name();
    // SAFETY: the caller's.
    unsafe { family::reallocarray_by(ptr, count, size, |ptr, size| realloc(ptr, size)) }
}
