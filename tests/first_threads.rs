//! Threads that no Rust code has made are the first to allocate, at the same time: in the mode that the program has chosen each
//! allocation has its record, whoever of them has taken the mode over.
//!
//! One of the two is held up in the middle of that, as long as the other allocates: the log's file is a pipe, which opens once
//! somebody reads it. All of it happens before `main`, since Rust's own start allocates too.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(millpond_forward)))]

use core::ffi::{CStr, c_void};
use core::ptr::{null, null_mut};
use millpond::{Millpond, Mode, WithMode};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

#[global_allocator]
static GLOBAL: WithMode = Millpond::with_mode(Mode::Tracked);

const PIPE: &CStr = c"FIRST_THREADS_PIPE";
/// Longer than any class: its free looks for the record even where the thread still has its own cache.
const BYTES: usize = 1 << 20;

/// How many threads have allocated; and whether they are to free.
static ALLOCATED: AtomicU32 = AtomicU32::new(0);
static FREES: AtomicU32 = AtomicU32::new(0);

fn wait_for(word: &AtomicU32, value: u32) {
    while word.load(Ordering::Acquire) < value {
        std::thread::yield_now();
    }
}

extern "C" fn run(_: *mut c_void) -> *mut c_void {
    let block = std::hint::black_box(Vec::<u8>::with_capacity(BYTES));
    ALLOCATED.fetch_add(1, Ordering::AcqRel);
    wait_for(&FREES, 1);
    drop(block);
    null_mut()
}

extern "C" fn before_main() {
    // SAFETY: plain calls of libc's, which allocate nothing of Millpond's.
    unsafe {
        let pipe = libc::getenv(PIPE.as_ptr());
        if pipe.is_null() {
            return;
        }
        libc::alarm(120);
        let mut threads: [libc::pthread_t; 2] = core::mem::zeroed();
        for thread in &mut threads {
            assert_eq!(libc::pthread_create(thread, null(), run, null_mut()), 0);
        }
        wait_for(&ALLOCATED, 1);
        assert!(libc::open(pipe, libc::O_RDONLY | libc::O_NONBLOCK) >= 0);
        wait_for(&ALLOCATED, 2);
        FREES.store(1, Ordering::Release);
        for thread in threads {
            assert_eq!(libc::pthread_join(thread, null_mut()), 0);
        }
        libc::_exit(0);
    }
}

#[used]
// SAFETY: a function of the type that the loader calls before `main`.
#[unsafe(link_section = ".init_array.00101")]
static BEFORE_MAIN: extern "C" fn() = before_main;

#[test]
fn two_first_threads_allocate_in_the_mode_that_was_chosen() {
    let pipe = std::env::temp_dir().join(format!("millpond-first-threads-{}", std::process::id()));
    let path = std::ffi::CString::new(pipe.to_str().expect("text")).expect("no zero");
    // SAFETY: a path that ends.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    let child = Command::new(std::env::current_exe().expect("known"))
        .env(PIPE.to_str().expect("text"), &pipe)
        .env("MILLPOND_LOG", format!("os,file={}", pipe.display()))
        .env_remove("MILLPOND_MODE")
        .output()
        .expect("runs");
    std::fs::remove_file(&pipe).expect("there");
    assert!(child.status.success(), "{:?}: {}", child.status, String::from_utf8_lossy(&child.stderr));
}
