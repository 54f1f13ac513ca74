//! The one word of thread-local storage, and the call at a thread's end.
//!
//! The word is the address of the thread's cache. `thread_local!` would cost a call per access in a shared library, so
//! the word is declared in assembly in the initial-exec model: two moves read it, in executables and in libraries that
//! are there from the start. Its first value is the address of the *unborn* cache, so reading it needs no test.
//! With the feature `local_dynamic_tls` the model is local-dynamic: a call instead of the two moves, for libraries that are
//! loaded where no room for static thread-local storage is left. Elsewhere, and under `--cfg millpond_portable_tls`,
//! `pthread_getspecific` holds the word; there, null is unborn.
//!
//! The word changes only by [`set`] on the same thread. Its symbol is that of the *unborn* cache with a suffix, and the compiler
//! names that differently in each build of the crate: two builds in one process share the word only where the linker has them
//! share the cache, the heap and all else too.

use crate::config::BIN_BYTES;
use crate::sync::{AtomicU32, Ordering};
use crate::thread_cache::ThreadCache;
use core::ffi::c_void;

/// What a thread's word points to before its first call.
pub(crate) static UNBORN: InOnePage = InOnePage(ThreadCache::new());
/// What a thread's word points to once its own cache has been given back, at its end.
pub(crate) static DEAD: ThreadCache = ThreadCache::new();

/// A cache that is only ever read, in one OS page.
#[derive(Debug)]
#[repr(C, align(4096))]
pub(crate) struct InOnePage(pub(crate) ThreadCache);

const _: () = assert!(ThreadCache::LAYOUT.0 == 0 && ThreadCache::LAYOUT.1 == BIN_BYTES);

#[cfg(all(target_arch = "x86_64", not(millpond_portable_tls)))]
mod imp {
    use super::{ThreadCache, UNBORN};

    macro_rules! symbol {
        () => {
            "{unborn}.slot"
        };
    }

    core::arch::global_asm!(
        ".pushsection .tdata,\"awT\",@progbits",
        ".balign 8",
        concat!(".globl ", symbol!()),
        concat!(".type ", symbol!(), ", @object"),
        concat!(".size ", symbol!(), ", 8"),
        concat!(symbol!(), ":"),
        ".quad {unborn}",
        ".popsection",
        unborn = sym UNBORN,
    );

    #[cfg(feature = "local_dynamic_tls")]
    pub(crate) use dynamic::{get, set};
    #[cfg(not(feature = "local_dynamic_tls"))]
    pub(crate) use fixed::{get, set};

    #[cfg(feature = "local_dynamic_tls")]
    mod dynamic {
        use super::{ThreadCache, UNBORN};

        /// The address of the thread's own word.
        #[inline(always)]
        fn word() -> *mut *const ThreadCache {
            let word;
            // SAFETY: calls the loader's function as its contract says, in the very instructions that linkers know; the
            // stack is aligned, and all that a call may change is declared.
            unsafe {
                core::arch::asm!(
                    concat!("lea rdi, [rip + ", symbol!(), "@TLSLD]"),
                    "call __tls_get_addr@PLT",
                    concat!("lea rax, [rax + ", symbol!(), "@DTPOFF]"),
                    unborn = sym UNBORN,
                    out("rax") word,
                    clobber_abi("C")
                );
            }
            word
        }

        #[inline(always)]
        pub(crate) fn get() -> *const ThreadCache {
            // SAFETY: the thread's own word, which the loader has set up.
            unsafe { word().read() }
        }

        pub(crate) fn set(cache: *const ThreadCache) -> bool {
            // SAFETY: as in `get`.
            unsafe { word().write(cache) };
            true
        }
    }

    #[cfg(not(feature = "local_dynamic_tls"))]
    mod fixed {
        use super::{ThreadCache, UNBORN};

        #[inline(always)]
        pub(crate) fn get() -> *const ThreadCache {
            let word: *const ThreadCache;
            // SAFETY: reads the thread's own word, which the loader has set up; memory is only read.
            unsafe {
                core::arch::asm!(
                    concat!("mov {word}, qword ptr [rip + ", symbol!(), "@GOTTPOFF]"),
                    "mov {word}, qword ptr fs:[{word}]",
                    unborn = sym UNBORN,
                    word = out(reg) word,
                    options(nostack, preserves_flags, readonly, pure)
                );
            }
            word
        }

        pub(crate) fn set(cache: *const ThreadCache) -> bool {
            // SAFETY: writes the thread's own word.
            unsafe {
                core::arch::asm!(
                    concat!("mov {offset}, qword ptr [rip + ", symbol!(), "@GOTTPOFF]"),
                    "mov qword ptr fs:[{offset}], {word}",
                    unborn = sym UNBORN,
                    offset = out(reg) _,
                    word = in(reg) cache,
                    options(nostack, preserves_flags)
                );
            }
            true
        }
    }
}

#[cfg(not(all(target_arch = "x86_64", not(millpond_portable_tls))))]
mod imp {
    use super::key;
    use super::{AtomicU32, ThreadCache, UNBORN, c_void};

    fn word() -> Option<libc::pthread_key_t> {
        static KEY: AtomicU32 = AtomicU32::new(0);
        key(&KEY, keep)
    }

    /// Each round of a thread's destructors clears all words first. One that is dead must stay so: nobody would empty a
    /// cache made after it.
    unsafe extern "C" fn keep(word: *mut c_void) {
        set(word.cast_const().cast());
    }

    #[inline]
    pub(crate) fn get() -> *const ThreadCache {
        let Some(key) = word() else { return &raw const UNBORN.0 };
        // SAFETY: the key exists.
        match unsafe { libc::pthread_getspecific(key) } {
            word if word.is_null() => &raw const UNBORN.0,
            word => word.cast(),
        }
    }

    pub(crate) fn set(cache: *const ThreadCache) -> bool {
        // SAFETY: the key exists.
        word().is_some_and(|key| unsafe { libc::pthread_setspecific(key, cache.cast()) } == 0)
    }
}

pub(crate) use imp::{get, set};

/// The key kept in `place`, made at first use. The loser of a race to make it deletes its own.
fn key(place: &AtomicU32, at_exit: unsafe extern "C" fn(*mut c_void)) -> Option<libc::pthread_key_t> {
    // ORDERING: Acquire pairs with the exchange below: the key is made.
    let known = place.load(Ordering::Acquire);
    if known != 0 {
        return Some(known - 1);
    }
    let mut key: libc::pthread_key_t = 0;
    // SAFETY: `key` is ours to write.
    if unsafe { libc::pthread_key_create(&mut key, Some(at_exit)) } != 0 {
        return None;
    }
    // ORDERING: AcqRel publishes our key, or shows us that of the winner.
    match place.compare_exchange(0, key + 1, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Some(key),
        Err(winner) => {
            // SAFETY: made just now, known to nobody else.
            unsafe { libc::pthread_key_delete(key) };
            Some(winner - 1)
        }
    }
}

/// Has `at_exit` called with `value` when the calling thread ends; always the same function, whose key is kept in `place`, zero at
/// first. `false` if the system refuses. May call `calloc` (glibc, for keys from 32 on), so the slot must be set before.
pub(crate) fn at_thread_exit(
    place: &AtomicU32,
    at_exit: unsafe extern "C" fn(*mut c_void),
    value: *const c_void,
) -> bool {
    // SAFETY: the key exists.
    key(place, at_exit).is_some_and(|key| unsafe { libc::pthread_setspecific(key, value) } == 0)
}
