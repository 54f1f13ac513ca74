//! Other threads of this process, stopped as a debugger stops them, and what they have in registers. Of a thread that waits, no file
//! tells more than what it gave the system.
//!
//! A thread can neither stop its fellows nor ask for their registers; a process can that has this one's memory. It is made for that
//! (LeakSanitizer stops the world in this way), waits for its parent's word when all stand still, lets them go, and ends. What a
//! thread waited for goes on afterwards, as it does under a debugger: but for some calls that then end early (`EINTR`),
//! `epoll_wait`, `sigtimedwait` and `semop` among them, and some that end with a part (`write` to a pipe).
//!
//! | word | who goes on | what is known |
//! |---|---|---|
//! | `MADE` | the child; the parent waits | nothing |
//! | `READY` | the parent; the child waits, for a while | the child will not outlive who made it |
//! | `ASKED` | the child; the parent waits | the same |
//! | `STILL` | the parent; the child waits | rows that are `TOLD` are those of stopped threads, with their registers |
//! | `DONE` | the child, which ends; the parent waits for that | |
//!
//! The child makes its calls of the system by itself: the C library would write `errno`, which is the parent's.
//!
//! Signals for who asks wait until all go on: a handler of the program's may wait for what another thread is to do.
//!
//! Invariant: threads are stopped only while there is a child, and there is one child at a time. Should either end untimely, the
//! system lets all go.

use super::linux::quietly;
use crate::sync::{AtomicU32, Ordering, Quiet};
use core::ffi::{c_int, c_long, c_void};
use core::ptr;

/// Words that the system writes of a thread's registers, and the place of the stack pointer among them.
const REGISTERS: usize = size_of::<libc::user_regs_struct>() / size_of::<usize>();
const STACK_POINTER: usize = core::mem::offset_of!(libc::user_regs_struct, rsp) / size_of::<usize>();
/// Words of a row: the thread's number, what is known, the signal that it is to have when it goes on, and its registers.
pub(crate) const TRACED: usize = 3 + REGISTERS;
/// Words of what the system writes of the registers for vectors, in which addresses are moved as well: up to those of AVX-512.
pub(crate) const VECTORS: usize = 512;
/// Words of memory that are needed beside the rows, the child's stack for the most.
pub(crate) const TRACER: usize = 2048;

const TOLD: usize = 1;

const MADE: u32 = 0;
const READY: u32 = 1;
const ASKED: u32 = 2;
const STILL: u32 = 3;
const DONE: u32 = 4;

/// Signals of what the thread itself does, which cannot wait.
const FAULTS: [c_int; 6] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS];

/// How long threads have to stop: those that nothing can interrupt do not.
const PATIENCE_NS: usize = 100_000_000;
/// How long the child waits until it is asked: one whose parent has ended before it was ready waits in vain.
const TRUST_NS: usize = 1_000_000_000;
/// How long the child rests before it looks again, and the parent before it looks whether there still is a child.
const MOMENT: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 20_000 };
const WHILE: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 200_000_000 };
static MOMENTS: [libc::timespec; 2] = [MOMENT, WHILE];

/// The system's requests, and what stopped a thread that was asked to: C libraries differ in their types.
const SEIZE: usize = 0x4206;
const INTERRUPT: usize = 0x4207;
const GETREGS: usize = 12;
const GETREGSET: usize = 0x4204;
const XSTATE: usize = 0x202;
const DETACH: usize = 17;
const EVENT_STOP: usize = 128;

/// The process in which a thread stops others: two would stop each other.
static STOPS: AtomicU32 = AtomicU32::new(0);

/// Whether a sandbox has ended a child for what it does.
static REFUSED: Quiet = Quiet::new();

/// What the child is told.
struct Ask {
    word: AtomicU32,
    rows: *mut [usize; TRACED],
    vectors: *mut [usize; VECTORS],
    count: usize,
}

const _: () = assert!(size_of::<Ask>() <= 64 && TRACER > 1024);

/// Threads that are stopped until [`go_on`](Self::go_on).
#[must_use = "they stand still"]
#[derive(Debug)]
pub(crate) struct Stopped {
    child: c_long,
    ask: *const Ask,
    /// Signals that are to be blocked again, and no others, when all go on.
    mask: u64,
}

/// A row for a thread.
pub(crate) fn row_of(thread: u32) -> [usize; TRACED] {
    let mut row = [0; TRACED];
    row[0] = thread as usize;
    row
}

/// The registers of a thread that is stopped, and its stack pointer.
pub(crate) fn told_by(row: &[usize; TRACED]) -> Option<(&[usize], usize)> {
    let registers = &row[3..];
    (row[1] == TOLD).then(|| (registers, registers[STACK_POINTER]))
}

/// Stops the threads of the rows, as far as can be, with `memory` of zeros for the child, which stays where it is; what they have in
/// registers for vectors is in a row of `vectors` each, of zeros before. `None`: none
/// is stopped, since a sandbox or another debugger is before this, or another thread does the same.
#[unsafe(link_section = ".millpond_cold")]
pub(crate) fn stop(
    rows: &mut [[usize; TRACED]],
    vectors: &mut [[usize; VECTORS]],
    memory: &mut [[usize; 1]],
) -> Option<Stopped> {
    if memory.len() < TRACER || vectors.len() < rows.len() {
        return None;
    }
    let own = super::process_id();
    let other = STOPS.load(Ordering::Relaxed);
    // One of the process that this one was forked from is no more.
    // ORDERING: Acquire pairs with the Release of `leave`: what the one before did is done.
    let exchange = STOPS.compare_exchange(other, own, Ordering::Acquire, Ordering::Relaxed);
    if other == own || exchange.is_err() {
        return None;
    }
    if REFUSED.get() != 0 {
        leave();
        return None;
    }
    // In the child, which has this process's memory, no handler of the program's may run; and here none while the others stand still.
    let Some(mask) = set_mask(u64::MAX) else {
        leave();
        return None;
    };
    let stopped = ask(rows, vectors, memory, mask).or_else(|| {
        // Where a process may trace its descendants alone (Yama), it takes the traced one's leave; what leave the program has given
        // another is lost by this.
        let give = |leave: usize| {
            // SAFETY: says who may trace this process.
            quietly(|| unsafe { libc::prctl(libc::PR_SET_PTRACER, leave, 0, 0, 0) })
        };
        if give(usize::MAX) != 0 {
            return None;
        }
        let stopped = ask(rows, vectors, memory, mask);
        give(0);
        stopped
    });
    if stopped.is_some() {
        set_mask(mask | !FAULTS.iter().fold(0, |faults, fault| faults | 1 << (fault - 1)));
    } else {
        set_mask(mask);
        leave();
    }
    stopped
}

fn leave() {
    // ORDERING: as said in `stop`.
    STOPS.store(0, Ordering::Release);
}

/// Sets which signals the calling thread blocks, and returns which it did. `None`: the system refuses.
fn set_mask(mask: u64) -> Option<u64> {
    let mut was = 0u64;
    // A raw call: the C library leaves out what it sends itself.
    // SAFETY: reads and writes our own words, of 8 bytes.
    let set = quietly(|| unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const mask, &raw mut was, size_of::<u64>())
    });
    (set == 0).then_some(was)
}

/// Makes the child, and waits until it has stopped them. `None`: it has stopped none.
#[inline(never)]
#[unsafe(link_section = ".millpond_cold")]
fn ask(
    rows: &mut [[usize; TRACED]],
    vectors: &mut [[usize; VECTORS]],
    memory: &mut [[usize; 1]],
    mask: u64,
) -> Option<Stopped> {
    let range = memory.as_mut_ptr_range();
    let at = range.start.cast::<Ask>();
    // SAFETY: the caller's memory, aligned to a word, for as long as there is a child.
    unsafe {
        at.write(Ask {
            word: AtomicU32::new(MADE),
            rows: rows.as_mut_ptr(),
            vectors: vectors.as_mut_ptr(),
            count: rows.len(),
        })
    };
    let top = range.end.cast::<c_void>().map_addr(|end| end & !15);
    // Without a signal at its end, so that the program does not find a child that it has not made; with the same files, since copies
    // would keep open what another thread closes; and not followed by a debugger, which would take it for a thread.
    let flags = libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_UNTRACED;
    // SAFETY: the child has a stack of its own, and what it is given stays until it has ended.
    let child = quietly(|| unsafe { libc::clone(stops, top, flags, at.cast()) });
    if child <= 0 {
        return None;
    }
    let stopped = Stopped { child: child.into(), ask: at, mask };
    // SAFETY: written above.
    let word = unsafe { &(*at).word };
    for is in [MADE, ASKED] {
        // ORDERING: Acquire pairs with the Release of the child: the rows are written.
        while word.load(Ordering::Acquire) == is {
            wait(word, is);
            if word.load(Ordering::Relaxed) != is {
                continue;
            }
            let (is_over, status) = stopped.ended_as(libc::WNOHANG);
            if is_over {
                if libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS {
                    REFUSED.set(1);
                }
                return None;
            }
        }
        if is == MADE {
            tell(word, ASKED);
        }
    }
    if rows.iter().any(|row| row[1] == TOLD) {
        return Some(stopped);
    }
    stopped.end();
    None
}

/// Waits for a while, or until the word is another.
fn wait(word: &AtomicU32, is: u32) {
    let address = ptr::from_ref(word).expose_provenance();
    system(libc::SYS_futex, [address, libc::FUTEX_WAIT as usize, is as usize, (&raw const MOMENTS[1]).addr(), 0]);
}

fn tell(word: &AtomicU32, is: u32) {
    // ORDERING: Release: who finds it finds what was done before.
    word.store(is, Ordering::Release);
    system(libc::SYS_futex, [ptr::from_ref(word).addr(), libc::FUTEX_WAKE as usize, 1, 0, 0]);
}

impl Stopped {
    /// Whether the child has ended, or somebody else has heard of that, and how it ended: zero, if of itself or nobody knows.
    fn ended_as(&self, options: c_int) -> (bool, c_int) {
        let options = (libc::__WALL | options) as usize;
        let mut status = 0;
        let at = (&raw mut status).expose_provenance();
        loop {
            let child = system(libc::SYS_wait4, [self.child as usize, at, options, 0, 0]);
            if child != -(libc::EINTR as isize) {
                return (child != 0, status);
            }
        }
    }

    fn end(self) -> bool {
        // SAFETY: stays until the child has ended.
        tell(unsafe { &(*self.ask).word }, DONE);
        self.ended_as(0).1 == 0
    }

    /// Lets all go. Whether they have stood still until now: not if somebody has killed the child.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn go_on(self) -> bool {
        let mask = self.mask;
        let stood = self.end();
        leave();
        set_mask(mask);
        stood
    }
}

/// A call of the system, without the C library.
fn system(number: c_long, [a, b, c, d, e]: [usize; 5]) -> isize {
    let result;
    // SAFETY: what the calls write to is their callers'.
    unsafe {
        core::arch::asm!(
            "syscall",
            inout("rax") number as isize => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            in("r8") e,
            out("rcx") _,
            out("r11") _,
            options(nostack)
        );
    }
    result
}

fn trace(request: usize, thread: usize, data: usize) -> bool {
    system(libc::SYS_ptrace, [request, thread, 0, data, 0]) == 0
}

fn now_ns() -> usize {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let at = (&raw mut time).expose_provenance();
    system(libc::SYS_clock_gettime, [libc::CLOCK_MONOTONIC as usize, at, 0, 0, 0]);
    (time.tv_sec as usize).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as usize)
}

/// What the child does.
#[unsafe(link_section = ".millpond_cold")]
extern "C" fn stops(ask: *mut c_void) -> c_int {
    // SAFETY: what the parent has given, which stays until this has ended.
    let Ask { word, rows, vectors, count } = unsafe { &*ask.cast::<Ask>() };
    // SAFETY: the parent looks at the rows again when it is told.
    let (rows, vectors) =
        unsafe { (core::slice::from_raw_parts_mut(*rows, *count), core::slice::from_raw_parts_mut(*vectors, *count)) };
    if system(libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize, 0, 0, 0]) != 0 {
        return 0;
    }
    tell(word, READY);
    let begun = now_ns();
    // Who made this may have ended before that call, and does not ask any more.
    while word.load(Ordering::Relaxed) == READY {
        wait(word, READY);
        if now_ns().wrapping_sub(begun) > TRUST_NS {
            return 0;
        }
    }
    let mut left = 0;
    for [thread, state, ..] in rows.iter_mut() {
        *state = 0;
        if trace(SEIZE, *thread, 0) && trace(INTERRUPT, *thread, 0) {
            left += 1;
        }
    }
    let begun = now_ns();
    while left > 0 && now_ns().wrapping_sub(begun) < PATIENCE_NS {
        let mut status = 0usize;
        let at = (&raw mut status).expose_provenance();
        let options = (libc::__WALL | libc::WNOHANG) as usize;
        let thread = system(libc::SYS_wait4, [usize::MAX, at, options, 0, 0]);
        if thread == 0 {
            system(libc::SYS_nanosleep, [(&raw const MOMENTS[0]).addr(), 0, 0, 0, 0]);
            continue;
        }
        if thread < 0 {
            break;
        }
        left -= 1;
        // The low byte of what has not ended, but stopped; then the signal, and what else it was.
        if status & 0xff != 0x7f {
            continue;
        }
        let mut both = rows.iter_mut().zip(vectors.iter_mut());
        if let Some(([_, state, signal, registers @ ..], vectors)) = both.find(|(row, _)| row[0] == thread as usize) {
            // A signal that was to be delivered will be, whatever stopped the thread.
            *signal = if status >> 16 == EVENT_STOP { 0 } else { status >> 8 & 0xff };
            let mut to = [ptr::from_mut(vectors).expose_provenance(), size_of_val(vectors)];
            let to = (&raw mut to).expose_provenance();
            // An older processor, or a sandbox, may have none.
            system(libc::SYS_ptrace, [GETREGSET, thread as usize, XSTATE, to, 0]);
            if trace(GETREGS, thread as usize, ptr::from_mut(registers).expose_provenance()) {
                *state = TOLD;
            }
        }
    }
    tell(word, STILL);
    // ORDERING: Acquire, as in the parent.
    while word.load(Ordering::Acquire) == STILL {
        wait(word, STILL);
    }
    // What is traced and not told is let go at the child's end.
    for [thread, state, signal, ..] in rows {
        if *state == TOLD {
            trace(DETACH, *thread, *signal);
        }
    }
    0
}
