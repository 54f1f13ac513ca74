//! What is noticed of bad use ends the process: one line on stderr that names the error and the address, then abort.

mod common;

use common::block::take;
use common::child::{Scenario, say};
use common::{GLOBAL, KIB, MIB};
use core::alloc::{GlobalAlloc, Layout};
use std::thread;

/// Frees whatever it is told to, as what it is told.
fn free(ptr: *mut u8, size: usize, align: usize) {
    let layout = Layout::from_size_align(size, align).expect("valid");
    // SAFETY: none: this is the misuse under test, in a process that must not survive it.
    unsafe { GLOBAL.dealloc(ptr, layout) }
}

/// Names the address that the message must name.
fn about(ptr: *mut u8) -> *mut u8 {
    assert!(!ptr.is_null());
    say(format_args!("about {:#x}\n", ptr as usize));
    ptr
}

/// Sends what is cached back to where it came from: nothing stays unnoticed beyond this.
fn settle() {
    millpond::flush_thread();
    millpond::trim();
}

/// Resizes whatever it is told to, as what it is told.
fn resize(ptr: *mut u8, size: usize, to: usize) {
    let layout = Layout::from_size_align(size, 8).expect("valid");
    // SAFETY: none: this is the misuse under test.
    unsafe { GLOBAL.realloc(ptr, layout, to) };
}

/// Runs the misuse in a child, which must abort with one line about the right address.
fn aborts(test: &'static str, misuse: impl FnOnce()) {
    let Some(ended) = Scenario::new(test).run(|| {
        misuse();
        settle();
        say(format_args!("survived\n"));
    }) else {
        return;
    };
    let stderr = &ended.stderr;
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&ended.status),
        Some(libc::SIGABRT),
        "{test} {}\n{}\n{stderr}",
        ended.how(),
        ended.stdout
    );
    let address = ended.stdout.lines().find_map(|line| line.split("about 0x").nth(1)).expect("an address");
    assert!(stderr.starts_with("millpond: ") && stderr.ends_with('\n'), "{stderr:?}");
    assert_eq!(stderr.lines().count(), 1, "{stderr:?}");
    let message = stderr.to_lowercase();
    assert!(
        message.contains(&format!("0x{address}")) || message.contains(&format!("0x{address:0>16}")),
        "{stderr:?} does not name 0x{address}"
    );
    // Whoever resizes is told of that.
    assert_eq!(message.starts_with("millpond: realloc of 0x"), test.starts_with("realloc_"), "{stderr:?}");
    // Words, not an address alone.
    let words = message.trim_start_matches("millpond: ").split(' ');
    assert!(
        words.filter(|word| word.len() > 1 && word.chars().all(char::is_alphabetic)).count() >= 2,
        "{stderr:?} names no error"
    );
}

macro_rules! misuses {
    ($($name:ident: $body:expr;)*) => {
        $(
            #[test]
            fn $name() {
                aborts(stringify!($name), || $body);
            }
        )*
    };
}

misuses! {
    double_free_ten_thousand_times: {
        let ptr = about(take(64, 8));
        (0..10_000).for_each(|_| free(ptr, 64, 8));
    };
    double_free_twice_in_a_row: {
        let ptr = about(take(64, 8));
        free(ptr, 64, 8);
        free(ptr, 64, 8);
    };
    double_free_after_a_flush: {
        let ptr = about(take(1000, 8));
        free(ptr, 1000, 8);
        settle();
        free(ptr, 1000, 8);
    };
    double_free_with_others_in_between: {
        let ptr = about(take(48, 8));
        let others: [*mut u8; 500] = core::array::from_fn(|_| take(48, 8));
        free(ptr, 48, 8);
        others.into_iter().for_each(|other| free(other, 48, 8));
        free(ptr, 48, 8);
    };
    double_free_by_two_threads: {
        let ptr = about(take(200, 8));
        let address = ptr as usize;
        thread::spawn(move || free(address as *mut u8, 200, 8)).join().expect("noticed later");
        free(ptr, 200, 8);
    };
    double_free_of_the_largest_class: {
        let ptr = about(take(256 * KIB, 8));
        free(ptr, 256 * KIB, 8);
        free(ptr, 256 * KIB, 8);
    };
    double_free_of_a_large_block: {
        let ptr = about(take(MIB, 8));
        free(ptr, MIB, 8);
        free(ptr, MIB, 8);
    };
    double_free_of_a_huge_block: {
        let ptr = about(take(64 * MIB, 8));
        free(ptr, 64 * MIB, 8);
        free(ptr, 64 * MIB, 8);
    };
    on_the_stack: {
        let mut local = [0_u64; 16];
        free(about(local.as_mut_ptr().cast()), 64, 8);
    };
    on_the_stack_as_a_large_block: {
        let mut local = [0_u64; 16];
        free(about(local.as_mut_ptr().cast()), MIB, 8);
    };
    a_static: {
        static mut STATIC: [u64; 16] = [0; 16];
        free(about((&raw mut STATIC).cast()), 64, 8);
    };
    a_static_as_a_huge_block: {
        static mut STATIC: [u64; 16] = [0; 16];
        free(about((&raw mut STATIC).cast()), 100 * MIB, 8);
    };
    of_another_allocator: {
        // SAFETY: asks libc for memory of its own.
        let ptr = unsafe { libc::malloc(64) };
        free(about(ptr.cast()), 64, 8);
    };
    off_by_eight_in_a_chunk: {
        free(about(take(64, 8).wrapping_add(8)), 64, 8);
    };
    off_by_one_in_a_chunk: {
        free(about(take(8, 8).wrapping_add(1)), 8, 1);
    };
    off_by_a_page_in_a_big_chunk: {
        free(about(take(100 * KIB, 8).wrapping_add(4 * KIB)), 100 * KIB, 8);
    };
    in_the_middle_of_a_large_block: {
        free(about(take(8 * MIB, 8).wrapping_add(4 * MIB)), 64, 8);
    };
    in_the_middle_of_a_large_block_as_large: {
        free(about(take(8 * MIB, 8).wrapping_add(4 * MIB)), 4 * MIB, 8);
    };
    in_the_middle_of_a_huge_block: {
        free(about(take(80 * MIB, 8).wrapping_add(40 * MIB)), 64, 8);
    };
    in_the_middle_of_a_huge_block_as_huge: {
        free(about(take(80 * MIB, 8).wrapping_add(40 * MIB)), 40 * MIB, 8);
    };
    a_small_chunk_as_a_large_block: {
        free(about(take(64, 8)), MIB, 8);
    };
    a_large_block_as_a_small_chunk: {
        free(about(take(MIB, 8)), 64, 8);
    };
    never_mapped: {
        free(about(0x10_0000 as *mut u8), 64, 8);
    };
    above_user_space: {
        free(about(0xffff_8000_0000_1000_u64 as *mut u8), 64, 8);
    };
    above_user_space_as_large: {
        free(about(0xffff_8000_0000_0000_u64 as *mut u8), MIB, 8);
    };
    the_last_address: {
        free(about(usize::MAX as *mut u8), 64, 1);
    };
    realloc_of_a_foreign_large_block: {
        let mut local = [0_u64; 16];
        resize(about(local.as_mut_ptr().cast()), MIB, 2 * MIB);
    };
    realloc_of_a_foreign_huge_block: {
        let mut local = [0_u64; 16];
        resize(about(local.as_mut_ptr().cast()), 64 * MIB, 2 * MIB);
    };
    realloc_in_the_middle_of_a_large_block: {
        resize(about(take(MIB, 8).wrapping_add(64 * KIB)), MIB, 2 * MIB);
    };
    realloc_in_the_middle_of_a_huge_block: {
        resize(about(take(80 * MIB, 8).wrapping_add(40 * MIB)), 40 * MIB, 300 * KIB);
    };
    realloc_of_a_chunk_as_a_large_block: {
        resize(about(take(64, 8)), MIB, 2 * MIB);
    };
    realloc_of_a_freed_large_block: {
        let ptr = about(take(MIB, 8));
        free(ptr, MIB, 8);
        resize(ptr, MIB, 2 * MIB);
    };
    realloc_in_the_middle_of_a_chunk_of_a_heap: {
        let heap = millpond::Heap::new().expect("memory");
        let layout = Layout::new::<[u64; 8]>();
        let inside = about(heap.alloc(layout).expect("memory").as_ptr().wrapping_add(8));
        // SAFETY: none: this is the misuse under test.
        let _ = unsafe { heap.realloc(core::ptr::NonNull::new(inside).expect("an address"), layout, MIB) };
    };
    realloc_of_a_freed_huge_block: {
        let ptr = about(take(64 * MIB, 8));
        free(ptr, 64 * MIB, 8);
        resize(ptr, 64 * MIB, 96 * MIB);
    };
}

/// Noticed by whichever thread happens to hand the chunk back, at its exit too.
#[test]
fn at_the_exit_of_a_thread() {
    aborts("at_the_exit_of_a_thread", || {
        let address = about(take(64, 8)) as usize;
        let _ = thread::spawn(move || {
            free(address as *mut u8, 64, 8);
            free(address as *mut u8, 64, 8);
        })
        .join();
    });
}

/// No misuse: all these pass the same checks and survive.
#[test]
fn proper_use_is_not_misuse() {
    Scenario::new("proper_use_is_not_misuse").passes(|| {
        for size in [1, 8, 64, 1000, 256 * KIB, MIB, 64 * MIB] {
            for _ in 0..100 {
                let ptr = take(size, 8);
                free(ptr, size, 8);
                settle();
            }
        }
    });
}
