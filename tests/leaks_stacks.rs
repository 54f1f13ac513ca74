//! Leaks and stacks: of a mapping of the program's own, in which a thread has its stack, all is looked at. Not under musl, by whose
//! blocks the one cannot be told from the other.
#![cfg(target_env = "gnu")]

mod common;

use common::block::take;
use common::child::Scenario;
use common::kernel::state_of;
use common::{KIB, MIB};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

const SIZE: usize = 5 * KIB;
const STACK: usize = MIB;

static NUMBER: AtomicUsize = AtomicUsize::new(0);
static ENDS: AtomicBool = AtomicBool::new(false);

extern "C" fn waits(_: *mut c_void) -> *mut c_void {
    // SAFETY: no preconditions.
    NUMBER.store(unsafe { libc::gettid() } as usize, Ordering::Release);
    while !ENDS.load(Ordering::Acquire) {
        // SAFETY: a descriptor set of none, and a time of our own: returns after a while.
        unsafe { libc::poll(null_mut(), 0, 100) };
    }
    null_mut()
}

fn lost() -> u64 {
    let leaks = millpond::leaks().expect("the system tells");
    leaks.groups().iter().filter(|group| group.size == SIZE).map(|group| group.count).sum()
}

/// A mapping that begins with a page that nobody may touch, as stacks of the C library do, and has data below the stack.
#[test]
fn what_lies_below_a_stack_of_the_programs_own_is_looked_at() {
    Scenario::new("what_lies_below_a_stack_of_the_programs_own_is_looked_at").passes(|| {
        // SAFETY: a mapping of our own, of which the first page is closed, the next holds an address, and the end is a thread's
        // stack until it is joined.
        unsafe {
            let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            let at = libc::mmap(null_mut(), 2 * STACK, rights, flags, -1, 0).cast::<u8>();
            assert!(at.cast() != libc::MAP_FAILED && libc::mprotect(at.cast(), 4 * KIB, libc::PROT_NONE) == 0);
            let data = at.wrapping_add(8 * KIB) as usize;
            // By a thread that has ended: nothing of it is left on this one's stack.
            thread::spawn(move || (data as *mut *mut u8).write(take(SIZE, 8))).join().expect("no panic");
            let mut attributes: libc::pthread_attr_t = core::mem::zeroed();
            assert_eq!(libc::pthread_attr_init(&mut attributes), 0);
            assert_eq!(libc::pthread_attr_setstack(&mut attributes, at.add(STACK).cast(), STACK), 0);
            let mut thread: libc::pthread_t = core::mem::zeroed();
            assert_eq!(libc::pthread_create(&mut thread, &attributes, waits, null_mut()), 0);
            while state_of(NUMBER.load(Ordering::Acquire) as u32) != Some('S') {
                thread::yield_now();
            }
            assert_eq!(lost(), 0, "while the thread waits");
            ENDS.store(true, Ordering::Release);
            assert_eq!(libc::pthread_join(thread, null_mut()), 0);
            assert_eq!(lost(), 0, "after its end");
            (data as *mut *mut u8).write(null_mut());
            assert_eq!(lost(), 1, "nothing has it");
        }
    });
}
