//! Leaks and other threads: what one has in a register and nowhere else is not lost, nor what they replace meanwhile; and what they wait
//! for goes on.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(millpond_forward)))]

mod common;

use common::block::take;
use common::child::Scenario;
use common::kernel::state_of;
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

/// Waits for a byte from a pipe, with what the first instructions have loaded from `INVERTED`, which `rsi` has the address of, in the
/// registers that are named last. How often it had to ask for the byte.
macro_rules! reads_with {
    ([$($load:literal)*] [$($after:literal)*] $pipe:expr, $($register:tt)*) => {{
        let (mut byte, mut calls) = (0u8, 0usize);
        // SAFETY: keeps what it must; reads the words of the array, and has the system write to the byte.
        unsafe {
            asm!(
                $($load,)*
                "mov rsi, rdx",
                "mov edx, 1",
                "2:",
                "inc r8",
                "xor eax, eax",
                "syscall",
                "cmp rax, 1",
                "jne 2b",
                $($after,)*
                in("rdi") $pipe,
                inout("rsi") INVERTED.as_ptr() => _,
                inout("rdx") &raw mut byte => _,
                inout("r8") calls,
                out("rax") _,
                out("rcx") _,
                out("r11") _,
                $(out($register) _,)*
            );
        }
        calls
    }};
}

/// Has the blocks' addresses in registers alone meanwhile.
fn has_in_registers_while_it_reads(pipe: i32) -> usize {
    reads_with!(
        [
            "push rbx"
            "push rbp"
            "mov rbx, [rsi]"
            "mov rbp, [rsi + 8]"
            "mov r12, [rsi + 16]"
            "mov r13, [rsi + 24]"
            "mov r14, [rsi + 32]"
            "mov r15, [rsi + 40]"
            "not rbx"
            "not rbp"
            "not r12"
            "not r13"
            "not r14"
            "not r15"
        ]
        ["pop rbp" "pop rbx"]
        pipe, "r12" "r13" "r14" "r15"
    )
}

/// The same in registers for vectors, two in each.
fn has_in_vectors_while_it_reads(pipe: i32) -> usize {
    reads_with!(
        [
            "pcmpeqd xmm15, xmm15"
            "movdqu xmm10, [rsi]"
            "movdqu xmm11, [rsi + 16]"
            "movdqu xmm12, [rsi + 32]"
            "pxor xmm10, xmm15"
            "pxor xmm11, xmm15"
            "pxor xmm12, xmm15"
        ]
        []
        pipe, "xmm10" "xmm11" "xmm12" "xmm15"
    )
}

fn announce() {
    // SAFETY: no preconditions.
    NUMBER.store(unsafe { libc::gettid() } as u32, Ordering::Release);
}

/// Returns once the thread that has announced itself is in this state.
fn wait_until_it_is(state: char) {
    while state_of(NUMBER.load(Ordering::Acquire)) != Some(state) {
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

fn is_held_by(test: &'static str, has: fn(i32) -> usize) {
    Scenario::new(test).passes(|| {
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
            has(reads)
        });
        wait_until_it_is('S');
        for _ in 0..5 {
            assert_eq!(lost(), 0, "the thread has them");
        }
        // SAFETY: one byte of a constant.
        assert_eq!(unsafe { libc::write(writes, c"".as_ptr().cast(), 1) }, 1);
        assert_eq!(waits.join().expect("no panic"), 1, "the call goes on that it waited in");
        assert_eq!(lost(), KEPT as u64, "nothing has them any more");
    });
}

#[test]
fn what_a_waiting_thread_has_in_registers_is_not_lost() {
    is_held_by("what_a_waiting_thread_has_in_registers_is_not_lost", has_in_registers_while_it_reads);
}

#[test]
fn what_a_waiting_thread_has_in_registers_for_vectors_is_not_lost() {
    is_held_by("what_a_waiting_thread_has_in_registers_for_vectors_is_not_lost", has_in_vectors_while_it_reads);
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
        wait_until_it_is('S');
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

/// The first thread has ended before the others (`pthread_exit`), and is still listed: it can neither be stopped nor have anything.
#[test]
fn a_first_thread_that_has_ended_need_not_be_stopped() {
    Scenario::new("a_first_thread_that_has_ended_need_not_be_stopped").passes(|| {
        if !may_trace() {
            return println!("not tested: no process may trace another here");
        }
        lose();
        for others in 0..2 {
            // SAFETY: the child's first thread ends, and the one that it makes ends the child.
            unsafe {
                let child = libc::fork();
                if child == 0 {
                    (0..others).for_each(|_| _ = thread::spawn(|| thread::sleep(Duration::from_secs(1000))));
                    thread::spawn(|| {
                        NUMBER.store(libc::getpid() as u32, Ordering::Release);
                        wait_until_it_is('Z');
                        let leaks = millpond::leaks().expect("the system tells");
                        libc::_exit(if leaks.count() > 0 && leaks.is_certain() { 7 } else { 8 });
                    });
                    libc::syscall(libc::SYS_exit, 0);
                }
                let mut status = 0;
                assert_eq!(libc::waitpid(child, &mut status, 0), child);
                assert_eq!(libc::WEXITSTATUS(status), 7, "with {others} other threads");
            }
        }
    });
}

/// What is closed is closed, whatever the search has made: it keeps no file open.
#[test]
fn what_a_thread_closes_is_closed_at_once() {
    Scenario::new("what_a_thread_closes_is_closed_at_once").passes(|| {
        lose();
        let closes = thread::spawn(|| {
            let mut rounds = 0u64;
            while !ENDS.load(Ordering::Relaxed) {
                let mut pipe = [0; 2];
                // SAFETY: writes two descriptors; these are closed once each.
                unsafe {
                    assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
                    (0..200).for_each(|_| core::hint::spin_loop());
                    libc::close(pipe[1]);
                    let mut end = libc::pollfd { fd: pipe[0], events: libc::POLLIN, revents: 0 };
                    assert_eq!(libc::poll(&mut end, 1, 0), 1, "in round {rounds}: nobody can write any more");
                    libc::close(pipe[0]);
                }
                rounds += 1;
            }
        });
        for _ in 0..scaled(1500, 300) {
            _ = lost();
        }
        ENDS.store(true, Ordering::Relaxed);
        closes.join().expect("no panic");
    });
}

/// Whoever ends what has stopped the others has them go on: then what is told is not certain.
#[test]
fn where_they_go_on_untimely_that_is_said() {
    Scenario::new("where_they_go_on_untimely_that_is_said").passes(|| {
        if !may_trace() {
            return println!("not tested: no process may trace another here");
        }
        // A search takes long enough to be seen.
        let ballast: Vec<Box<[u8; 100]>> = (0..50_000).map(|_| Box::new([0; 100])).collect();
        lose();
        let rests = thread::spawn(|| {
            announce();
            thread::sleep(Duration::from_secs(1000));
        });
        wait_until_it_is('S');
        let resting = NUMBER.load(Ordering::Acquire);
        // SAFETY: no preconditions.
        let (parent, asking) = unsafe { (libc::getpid(), libc::gettid()) };
        // SAFETY: the child looks and sends signals until it is killed.
        let killer = unsafe { libc::fork() };
        if killer == 0 {
            let task = |thread, file| std::fs::read_to_string(format!("/proc/{parent}/task/{thread}/{file}"));
            loop {
                if task(resting as i32, "stat").is_ok_and(|stat| stat.contains(") t ")) {
                    let children = task(asking, "children").unwrap_or_default();
                    // SAFETY: no preconditions.
                    let own = unsafe { libc::getpid() };
                    let helpers = children.split_whitespace().filter_map(|child| child.parse().ok());
                    // SAFETY: a process that the parent has made beside this one.
                    helpers
                        .filter(|helper| *helper != own)
                        .for_each(|helper| unsafe { _ = libc::kill(helper, libc::SIGKILL) });
                }
            }
        }
        let uncertain =
            (0..scaled(200, 40)).filter(|_| !millpond::leaks().expect("the system tells").is_certain()).count();
        // SAFETY: our own child.
        unsafe {
            assert_eq!(libc::kill(killer, libc::SIGKILL), 0);
            assert_eq!(libc::waitpid(killer, core::ptr::null_mut(), 0), killer);
        }
        assert!(uncertain > 0, "it was killed, and that was not noticed");
        let leaks = millpond::leaks().expect("the system tells");
        assert!(leaks.is_certain(), "{leaks}");
        drop((ballast, rests));
    });
}

/// A handler may wait for what another thread is to do, and runs in none that has the others stand still.
#[test]
fn a_handler_that_waits_for_another_thread_does_not_wait_for_ever() {
    const SIGNAL: i32 = libc::SIGUSR1;
    static MOVES: AtomicUsize = AtomicUsize::new(0);
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    static STUCK: AtomicBool = AtomicBool::new(false);
    extern "C" fn waits(_: i32) {
        let (moves, begun) = (MOVES.load(Ordering::Relaxed), Instant::now());
        while MOVES.load(Ordering::Relaxed) == moves && !STUCK.load(Ordering::Relaxed) {
            STUCK.store(begun.elapsed() > Duration::from_secs(5), Ordering::Relaxed);
        }
        RUNS.fetch_add(1, Ordering::Relaxed);
    }
    Scenario::new("a_handler_that_waits_for_another_thread_does_not_wait_for_ever").passes(|| {
        lose();
        let moves = thread::spawn(|| {
            while !ENDS.load(Ordering::Relaxed) {
                MOVES.fetch_add(1, Ordering::Relaxed);
                thread::yield_now();
            }
        });
        // SAFETY: the handler is safe in a signal; the timer's signals go to this thread alone.
        unsafe {
            let mut action: libc::sigaction = core::mem::zeroed();
            action.sa_sigaction = waits as extern "C" fn(i32) as usize;
            action.sa_flags = libc::SA_RESTART;
            assert_eq!(libc::sigaction(SIGNAL, &action, core::ptr::null_mut()), 0);
            let mut event: libc::sigevent = core::mem::zeroed();
            (event.sigev_notify, event.sigev_signo) = (libc::SIGEV_THREAD_ID, SIGNAL);
            event.sigev_notify_thread_id = libc::gettid();
            let mut timer: libc::timer_t = core::mem::zeroed();
            assert_eq!(libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer), 0);
            let often = libc::timespec { tv_sec: 0, tv_nsec: 300_000 };
            let often = libc::itimerspec { it_interval: often, it_value: often };
            assert_eq!(libc::timer_settime(timer, 0, &often, core::ptr::null_mut()), 0);
            for _ in 0..scaled(300, 60) {
                assert!(lost() > 0, "what is found makes the others stand still");
                assert!(!STUCK.load(Ordering::Relaxed), "it has waited for a thread that stood still");
            }
            assert_eq!(libc::timer_delete(timer), 0);
            let mut mask: libc::sigset_t = core::mem::zeroed();
            assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, core::ptr::null(), &mut mask), 0);
            assert_eq!(libc::sigismember(&mask, SIGNAL), 0, "what is blocked meanwhile is not so afterwards");
        }
        assert!(RUNS.load(Ordering::Relaxed) > 0, "no signal came");
        ENDS.store(true, Ordering::Relaxed);
        moves.join().expect("no panic");
    });
}

/// Processes that search, killed at any moment: whatever they had made ends with them.
#[test]
fn who_is_killed_in_a_search_leaves_no_process_behind() {
    Scenario::new("who_is_killed_in_a_search_leaves_no_process_behind").passes(|| {
        lose();
        // SAFETY: no preconditions. From now on what a child leaves behind is this process's child.
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) }, 0);
        for round in 0..scaled(400, 200) {
            // SAFETY: the child searches beside a thread of its own until it is killed.
            let child = unsafe { libc::fork() };
            if child == 0 {
                thread::spawn(|| thread::sleep(Duration::from_secs(1000)));
                loop {
                    _ = millpond::leaks();
                }
            }
            thread::sleep(Duration::from_micros(5000 + round as u64 * 7919 % 6000));
            let begun = Instant::now();
            // SAFETY: our own child, and whatever it has left.
            unsafe {
                assert_eq!(libc::kill(child, libc::SIGKILL), 0);
                while libc::waitpid(-1, core::ptr::null_mut(), libc::__WALL | libc::WNOHANG) != -1 {
                    assert!(begun.elapsed() < Duration::from_secs(20), "a process is left, in round {round}");
                    thread::yield_now();
                }
            }
        }
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
        // Not to be interrupted.
        wait_until_it_is('D');
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
