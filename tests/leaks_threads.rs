//! Leaks and other threads: what one has in a register and nowhere else is not lost, nor what they replace meanwhile; and what they wait
//! for goes on.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(millpond_forward)))]

mod common;

use common::block::take;
use common::child::Scenario;
use common::{KIB, scaled};
use core::arch::asm;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const SIZE: usize = 5 * KIB;
/// Registers that a call keeps.
const KEPT: usize = 6;

/// Addresses of blocks that a thread has lost which has ended, each bit the other way round: a search does not find them here.
static INVERTED: [AtomicUsize; KEPT] = [const { AtomicUsize::new(0) }; KEPT];
static NUMBER: AtomicU32 = AtomicU32::new(0);
static ENDS: AtomicBool = AtomicBool::new(false);

fn lose() {
    let lose = || INVERTED.iter().for_each(|place| place.store(!(take(SIZE, 8) as usize), Ordering::Relaxed));
    thread::spawn(lose).join().expect("no panic");
}

fn lost() -> u64 {
    let leaks = millpond::leaks().expect("the system tells");
    leaks.groups().iter().filter(|group| group.size == SIZE).map(|group| group.count).sum()
}

/// Has the blocks' addresses in registers alone while it waits for a byte. How often it had to ask for that.
fn has_in_registers_while_it_reads(pipe: i32) -> usize {
    let (mut byte, mut calls) = (0u8, 0usize);
    // SAFETY: keeps what it must; reads the words of the array, and has the system write to the byte.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "mov rbx, [rsi]",
            "mov rbp, [rsi + 8]",
            "mov r12, [rsi + 16]",
            "mov r13, [rsi + 24]",
            "mov r14, [rsi + 32]",
            "mov r15, [rsi + 40]",
            "not rbx",
            "not rbp",
            "not r12",
            "not r13",
            "not r14",
            "not r15",
            "mov rsi, rdx",
            "mov edx, 1",
            "2:",
            "inc r8",
            "xor eax, eax",
            "syscall",
            "cmp rax, 1",
            "jne 2b",
            "pop rbp",
            "pop rbx",
            in("rdi") pipe,
            inout("rsi") INVERTED.as_ptr() => _,
            inout("rdx") &raw mut byte => _,
            inout("r8") calls,
            out("rax") _,
            out("rcx") _,
            out("r11") _,
            out("r12") _,
            out("r13") _,
            out("r14") _,
            out("r15") _,
        );
    }
    calls
}

fn announce() {
    // SAFETY: no preconditions.
    NUMBER.store(unsafe { libc::gettid() } as u32, Ordering::Release);
}

/// Returns once the thread that has announced itself waits in the system.
fn wait_until_it_waits() {
    let state = || {
        let number = NUMBER.load(Ordering::Acquire);
        std::fs::read_to_string(format!("/proc/self/task/{number}/stat")).unwrap_or_default()
    };
    while !state().rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('S')) {
        thread::yield_now();
    }
}

/// Whether a process may trace its parent here, as a debugger does.
fn may_trace() -> bool {
    const SEIZE: i64 = 0x4206;
    // SAFETY: the child asks the system, and ends: with it what it traces is let go.
    unsafe {
        let parent = libc::getpid();
        let child = libc::fork();
        if child == 0 {
            libc::_exit((libc::syscall(libc::SYS_ptrace, SEIZE, parent, 0, 0) != 0).into());
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        libc::WEXITSTATUS(status) == 0
    }
}

#[test]
fn what_a_waiting_thread_has_in_registers_is_not_lost() {
    Scenario::new("what_a_waiting_thread_has_in_registers_is_not_lost").passes(|| {
        if !may_trace() {
            return println!("not tested: no process may trace another here");
        }
        lose();
        assert_eq!(lost(), KEPT as u64, "nothing has them");
        let mut pipe = [0; 2];
        // SAFETY: writes two descriptors.
        assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
        let [reads, writes] = pipe;
        let waits = thread::spawn(move || {
            announce();
            has_in_registers_while_it_reads(reads)
        });
        wait_until_it_waits();
        for _ in 0..5 {
            assert_eq!(lost(), 0, "the thread has them");
        }
        // SAFETY: one byte of a constant.
        assert_eq!(unsafe { libc::write(writes, c"".as_ptr().cast(), 1) }, 1);
        assert_eq!(waits.join().expect("no panic"), 1, "the call goes on that it waited in");
        assert_eq!(lost(), KEPT as u64, "nothing has them any more");
    });
}

/// A wait of a certain time is as long as it was to be, however often others search meanwhile; and the program finds no child that it
/// has not made.
#[test]
fn who_waits_waits_as_long_as_it_was_to() {
    Scenario::new("who_waits_waits_as_long_as_it_was_to").passes(|| {
        const WAIT: Duration = Duration::from_millis(300);
        let begun = Instant::now();
        let rested = thread::spawn(|| {
            announce();
            let time = libc::timespec { tv_sec: 0, tv_nsec: WAIT.as_nanos() as i64 };
            // SAFETY: reads our own time.
            let result = unsafe { libc::nanosleep(&time, core::ptr::null_mut()) };
            ENDS.store(true, Ordering::Release);
            result
        });
        wait_until_it_waits();
        while !ENDS.load(Ordering::Acquire) {
            _ = lost();
            // SAFETY: no preconditions.
            let child = unsafe { libc::waitpid(-1, core::ptr::null_mut(), libc::WNOHANG) };
            assert_eq!((child, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::ECHILD)));
        }
        assert_eq!(rested.join().expect("no panic"), 0, "it was not cut short");
        assert!(begun.elapsed() >= WAIT);
    });
}

/// Chains of blocks, each in a slot until another takes its place: what is freed and allocated again while others are looked at is the
/// same chunk, and not lost.
#[test]
fn what_threads_replace_all_the_time_is_not_lost() {
    struct Node {
        next: Option<Box<Node>>,
        _pad: [u8; 200],
    }
    const SLOTS: usize = 64;
    static CHAINS: [AtomicPtr<Node>; SLOTS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; SLOTS];
    Scenario::new("what_threads_replace_all_the_time_is_not_lost").passes(|| {
        if !may_trace() {
            return println!("not tested: no process may trace another here");
        }
        // A search takes as long as all slots do.
        let ballast: Vec<Box<[u8; 100]>> = (0..50_000).map(|_| Box::new([0; 100])).collect();
        let replace = |thread: usize| {
            for round in thread * 7.. {
                let mut new = None;
                for _ in 0..3 {
                    new = Some(Box::new(Node { next: new, _pad: [0; 200] }));
                }
                let new = new.map_or(core::ptr::null_mut(), Box::into_raw);
                let old = CHAINS[round * 31 % SLOTS].swap(new, Ordering::AcqRel);
                if !old.is_null() {
                    // SAFETY: from `into_raw`, and taken out of the slot by this thread.
                    let node = unsafe { Box::from_raw(old) };
                    assert!(node.next.is_some());
                }
                if ENDS.load(Ordering::Relaxed) {
                    break;
                }
                thread::sleep(Duration::from_micros(50));
            }
        };
        thread::scope(|scope| {
            (0..2).for_each(|thread| _ = scope.spawn(move || replace(thread)));
            for _ in 0..scaled(100, 60) {
                let leaks = millpond::leaks().expect("the system tells");
                assert_eq!(leaks.count(), 0, "{leaks}");
            }
            ENDS.store(true, Ordering::Relaxed);
        });
        drop(ballast);
    });
}

/// A thread that nothing can interrupt: it waits for a process that it has made and that has its memory, until that ends.
#[test]
fn where_one_cannot_be_stopped_that_is_said() {
    extern "C" fn waits(pipe: *mut libc::c_void) -> libc::c_int {
        let mut byte = 0u8;
        // SAFETY: has the system write to our own byte.
        unsafe { libc::syscall(libc::SYS_read, *pipe.cast::<i32>(), &raw mut byte, 1) };
        0
    }
    Scenario::new("where_one_cannot_be_stopped_that_is_said").passes(|| {
        lose();
        let mut pipe = [0; 2];
        // SAFETY: writes two descriptors.
        assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
        let [mut reads, writes] = pipe;
        let waiting = thread::spawn(move || {
            announce();
            let mut stack = vec![0u128; 1024];
            let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
            // SAFETY: the child has a stack of its own, and this thread waits until it has ended.
            unsafe {
                let child = libc::clone(waits, stack.as_mut_ptr_range().end.cast(), flags, (&raw mut reads).cast());
                assert_eq!(libc::waitpid(child, core::ptr::null_mut(), 0), child);
            }
        });
        let is_stuck = || {
            let number = NUMBER.load(Ordering::Acquire);
            let state = std::fs::read_to_string(format!("/proc/self/task/{number}/stat")).unwrap_or_default();
            state.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('D'))
        };
        while !is_stuck() {
            thread::yield_now();
        }
        let leaks = millpond::leaks().expect("the system tells");
        assert!(leaks.count() == KEPT as u64 && !leaks.is_certain(), "{leaks}");
        assert!(leaks.to_string().contains("other threads could not be stopped"), "{leaks}");
        assert!(leaks.json().to_string().contains("\"certain\":false"), "{}", leaks.json());
        // SAFETY: one byte of a constant.
        assert_eq!(unsafe { libc::write(writes, c"".as_ptr().cast(), 1) }, 1);
        waiting.join().expect("no panic");
        let leaks = millpond::leaks().expect("the system tells");
        assert!(leaks.count() == KEPT as u64 && (leaks.is_certain() || !may_trace()), "{leaks}");
    });
}
