//! Registers of other threads, asked for as a debugger asks: of a thread that waits no file tells more than what it gave the system.
//!
//! A thread cannot ask for its fellows' registers, but another process can that has this one's memory (`vfork`'s child; LeakSanitizer
//! stops the world in this way). It stops each thread for some microseconds, has the system write the registers where its parent
//! finds them, and lets it go; the parent waits meanwhile. What a thread waited for goes on, as it does under a debugger: but for some
//! calls that then end early, `epoll_wait`, `sigtimedwait` and `semop` among them.
//!
//! | row of a thread | what it says |
//! |---|---|
//! | 0 | nothing is known: the thread has ended, a debugger has it, or the system or a sandbox refuses |
//! | `SEIZED` | it has been asked to stop, and has not yet |
//! | `TOLD` | its registers follow |
//!
//! Invariant: the child has ended when the parent goes on, and with it each thread's stop.

use super::linux::quietly;
use core::ffi::{c_int, c_long, c_void};
use core::ptr::{from_mut, null_mut};

/// Words that the system writes of a thread's registers.
const REGISTERS: usize = size_of::<libc::user_regs_struct>() / size_of::<usize>();
/// Words of memory for each thread: its number, what is known, and the registers.
pub(crate) const TRACED: usize = 2 + REGISTERS;
const SEIZED: usize = 1;
const TOLD: usize = 2;
/// Words of the child's stack: ample.
pub(crate) const TRACER: usize = 2048;
/// How long threads have to stop, in milliseconds: those that nothing can interrupt do not.
const PATIENCE_MS: i64 = 100;

/// The system's numbers of its requests, and of what stopped a thread that was asked to: C libraries differ in their types.
const SEIZE: c_long = 0x4206;
const INTERRUPT: c_long = 0x4207;
const GETREGS: c_long = 12;
const DETACH: c_long = 17;
const EVENT_STOP: c_int = 128;

/// Calls `visit` with each word that those of the `threads` have in registers of which the system tells; each has its number in the
/// first word of its row. `stack` is for the child.
#[unsafe(link_section = ".millpond_cold")]
pub(crate) fn registers_of(threads: &mut [[usize; TRACED]], stack: &mut [[usize; 1]], visit: &mut dyn FnMut(usize)) {
    if threads.is_empty() {
        return;
    }
    ask_by_child(threads, stack);
    let is_told = |row: &[usize; TRACED]| row[1] == TOLD;
    if !threads.iter().any(is_told) {
        // Where a process may trace its descendants alone (Yama), it takes the traced one's leave; what leave the program has given
        // another is lost by this.
        let any = |leave: usize| {
            // SAFETY: changes who may trace this process.
            quietly(|| unsafe { libc::prctl(libc::PR_SET_PTRACER, leave, 0, 0, 0) })
        };
        if any(usize::MAX) == 0 {
            ask_by_child(threads, stack);
            any(0);
        }
    }
    threads.iter().filter(|row| is_told(row)).flat_map(|row| &row[2..]).for_each(|word| visit(*word));
}

#[inline(never)]
#[unsafe(link_section = ".millpond_cold")]
fn ask_by_child(threads: &mut [[usize; TRACED]], stack: &mut [[usize; 1]]) {
    let mut asked = threads;
    quietly(|| {
        // In the child no handler of the program's may run: it has this process's memory.
        let (all, mut were) = (u64::MAX, 0u64);
        let mask = |mask: *const u64, old: *mut u64| {
            // SAFETY: sets the calling thread's mask, of 8 bytes.
            unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, mask, old, size_of::<u64>()) }
        };
        if mask(&raw const all, &raw mut were) != 0 {
            return;
        }
        let top = stack.as_mut_ptr_range().end.cast::<c_void>().map_addr(|end| end & !15);
        // Without a signal at its end, so that the program does not find a child that it has not made.
        // SAFETY: the child has a stack of its own and what is here, and has ended when the call returns.
        let child = unsafe { libc::clone(ask, top, libc::CLONE_VM | libc::CLONE_VFORK, (&raw mut asked).cast()) };
        if child > 0 {
            let mut status: c_int = 0;
            // SAFETY: waits for our own child.
            unsafe { libc::syscall(libc::SYS_wait4, child, &raw mut status, libc::__WALL, 0) };
        }
        mask(&raw const were, null_mut());
    });
}

/// A call of the system's `ptrace`. Nothing in the child calls the C library but for this door, which knows no cancellation.
fn trace(request: c_long, thread: usize, at: usize, data: usize) -> bool {
    // SAFETY: the callers' requests write to their own memory at most.
    unsafe { libc::syscall(libc::SYS_ptrace, request, thread, at, data) == 0 }
}

fn now_ms() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to our own time.
    unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.wrapping_mul(1000).wrapping_add(time.tv_nsec / 1_000_000)
}

/// What the child does.
#[unsafe(link_section = ".millpond_cold")]
extern "C" fn ask(threads: *mut c_void) -> c_int {
    // SAFETY: what the parent has given, which waits.
    let threads = unsafe { &mut *threads.cast::<&mut [[usize; TRACED]]>() };
    let mut left = 0;
    for [thread, state, ..] in threads.iter_mut() {
        *state = 0;
        if trace(SEIZE, *thread, 0, 0) && trace(INTERRUPT, *thread, 0, 0) {
            *state = SEIZED;
            left += 1;
        }
    }
    let end = now_ms().wrapping_add(PATIENCE_MS);
    while left > 0 {
        let mut status: c_int = 0;
        // SAFETY: the child's children are the threads that it traces.
        let thread = unsafe { libc::syscall(libc::SYS_wait4, -1, &raw mut status, libc::__WALL | libc::WNOHANG, 0) };
        if thread < 0 {
            break;
        }
        if thread == 0 {
            if now_ms() > end {
                // What is traced still is let go at the child's end.
                break;
            }
            let moment = libc::timespec { tv_sec: 0, tv_nsec: 20_000 };
            // SAFETY: reads our own time alone.
            unsafe { libc::syscall(libc::SYS_nanosleep, &raw const moment, 0) };
            continue;
        }
        left -= 1;
        if !libc::WIFSTOPPED(status) {
            // It has ended.
            continue;
        }
        let thread = thread as usize;
        if let Some([_, state, registers @ ..]) = threads.iter_mut().find(|row| row[0] == thread) {
            if trace(GETREGS, thread, 0, from_mut(registers).expose_provenance()) {
                *state = TOLD;
            }
        }
        // A signal that was to be delivered is, whatever stopped the thread.
        let signal = if status >> 16 == EVENT_STOP { 0 } else { libc::WSTOPSIG(status) };
        trace(DETACH, thread, 0, signal as usize);
    }
    0
}
