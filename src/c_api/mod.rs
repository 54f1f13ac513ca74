//! The C library: the malloc family under libc's own names and under the prefix `mp_`.
//!
//! | file | what | names |
//! |---|---|---|
//! | `family` | what each function does, in plain Rust | none |
//! | `exports` | one line each, feature `malloc` | `malloc calloc realloc reallocarray free cfree aligned_alloc posix_memalign memalign valloc pvalloc malloc_usable_size malloc_trim mallinfo mallinfo2 malloc_stats malloc_info mallopt free_sized free_aligned_sized`, and `__libc_*` and `__posix_memalign` for those that glibc exports so |
//! | `prefixed` | the same, feature `prefixed` | as `include/millpond.h` declares them |
//! | `deepbind` | `dlopen`, so that whatever is loaded has the family as well; in the shared library alone | `dlopen` |
//! | `neighbour` | memory of another allocator that is in the process, in the shared library alone | none |
//! | `operators` | C++'s `new` and `delete`, in the shared library alone | `_Znwm`, `_ZdlPv` and the 18 other forms |
//! | `info` | what the family tells about itself, and what `mallopt` takes | none |
//! | `allocator` | heaps for C, feature `prefixed` | as `include/allocator.h` declares them, and `include/improved_allocator.h` without a prefix |
//! | `fast_allocator` | a small educational interface over the family, feature `prefixed` | as `include/fast_allocator.h` declares them |
//!
//! All names of the family or none: with one missing, memory from one allocator would be freed by another.
//!
//! Elsewhere than in the shared library, C++'s `operator new` and `delete` are left to the C++ runtime that the program brings. It calls
//! `malloc`, `aligned_alloc` and `free`.
//!
//! Nothing here is called before the loader has relocated the library, and nothing here relies on constructors: the
//! first call may come from anywhere.

/// Defines C functions, one a line: `name(argument: type, …) -> type = body;`.
macro_rules! exported {
    ($($name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)? = $body:expr;)*) => {
        $(
            // SAFETY: the name belongs to the C library, which is there once.
            #[unsafe(no_mangle)]
            #[allow(unused_unsafe)]
            unsafe extern "C" fn $name($($argument: $type),*) $(-> $result)? {
                // SAFETY: what the body asks of its caller is what C asks of ours.
                unsafe { $body }
            }
        )*
    };
}

mod family;
mod info;

/// In the static library the program's own names are ours, and no other's come behind them.
#[cfg(not(all(feature = "malloc", millpond_shared)))]
mod neighbour {
    pub(super) unsafe fn free(_ptr: *mut u8) -> bool {
        false
    }
}

#[cfg(feature = "prefixed")]
mod allocator;
#[cfg(all(feature = "malloc", millpond_shared))]
mod deepbind;
#[cfg(feature = "malloc")]
mod exports;
#[cfg(feature = "prefixed")]
mod fast_allocator;
#[cfg(all(feature = "malloc", millpond_shared))]
mod neighbour;
#[cfg(all(feature = "malloc", millpond_shared))]
mod operators;
#[cfg(feature = "prefixed")]
mod prefixed;

/// Reads the environment when the library is loaded: the loader may have allocated before libc knew of any.
// SAFETY: the section is an array of functions, which the loader calls once each; this one relies on no other.
#[unsafe(link_section = ".init_array")]
#[used]
static AT_START: extern "C" fn() = {
    extern "C" fn start() {
        crate::global::begin();
        #[cfg(all(feature = "malloc", millpond_shared))]
        operators::choose();
    }
    start
};
