//! Who called: a walk along the chain of frame pointers, for records and profiles.
//!
//! A function that was compiled with frame pointers begins by storing its caller's and pointing `rbp` to it; the address to
//! return to lies above. So the chain is followed without tables: two loads a frame. Code without frame pointers uses `rbp`
//! as it likes, which ends the walk at the latest in the code above it; what was found until then is right.
//!
//! | a step goes on as long as | since |
//! |---|---|
//! | the next frame lies above this one, aligned, at most [`STEP`] away | stacks grow down |
//! | it lies below the stack's end: the thread's control block, or what the kernel wrote above the first thread's stack | neither is inside a frame |
//! | its OS page can be read, as the kernel is asked where the stack is not known to reach so far | `rbp` may hold anything |
//!
//! Allocates nothing, takes no lock, keeps `errno`, never faults; from any thread and in a signal handler.
//!
//! Invariant: each page that is read is part of this thread's stack, or one the kernel has just said can be read.

use core::mem::MaybeUninit;
use core::ptr::with_exposed_provenance;

/// The largest frame, in bytes.
const STEP: usize = 1 << 20;
/// How far the kernel keeps other mappings from the first thread's stack, at least: what is nearer to its end is part of it.
const FIRST_GAP: usize = 64 << 20;
/// How far a thread's control block may lie above its frames.
const REACH: usize = 1 << 30;
const WORD: usize = size_of::<usize>();
/// The least that an OS page can have.
const PAGE: usize = 4096;

/// The frame of the function that this is inlined into: [`frames_from`] begins with the address to which that function
/// returns. Zero where there are no such frames.
///
/// The function must be `#[inline(never)]`. Compiled without frame pointers it still has one: a local that is aligned to
/// more than the stack makes the compiler keep it.
#[inline(always)]
pub(crate) fn frame() -> usize {
    #[repr(align(32))]
    struct Wide(#[allow(dead_code)] [u8; 32]);
    let mut wide = MaybeUninit::<Wide>::uninit();
    let frame: usize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: copies a register; the local's address is only there to make the compiler align it.
    unsafe {
        core::arch::asm!(
            "/* {wide} */",
            "mov {frame}, rbp",
            wide = in(reg) &raw mut wide,
            frame = lateout(reg) frame,
            options(nostack, preserves_flags)
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        frame = 0;
        let _ = &mut wide;
    }
    frame
}

/// The addresses to which the functions return from the one with this [`frame`] on, innermost first: how many were stored. The
/// frame may be that of a function further up, or anything. O(`out`).
#[unsafe(link_section = ".millpond_cold")]
pub(crate) fn frames_from(frame: usize, out: &mut [usize]) -> usize {
    let here = (&raw const frame).addr();
    let mut walk = Walk { known: here | (PAGE - 1), end: end_of_stack(here) };
    if walk.end.0 {
        walk.known = walk.end.1;
    }
    let mut at = frame;
    let mut below = here;
    let mut count = 0;
    while count < out.len() && at > below && at - below <= STEP && at % WORD == 0 && walk.may_read(at) {
        // SAFETY: both words can be read, as was seen just now.
        let (next, to) = unsafe {
            let words = with_exposed_provenance::<usize>(at);
            (words.read(), words.add(1).read())
        };
        // No code lies in the lowest page, nor where no program has addresses.
        if to < PAGE || to >> 47 != 0 {
            break;
        }
        out[count] = to;
        count += 1;
        (below, at) = (at, next);
    }
    count
}

struct Walk {
    /// The last address that is known to be readable.
    known: usize,
    /// Whether all up to the stack's end is, and the end.
    end: (bool, usize),
}

impl Walk {
    fn may_read(&mut self, at: usize) -> bool {
        let last = at + 2 * WORD - 1;
        if last >= self.end.1 {
            return false;
        }
        if last > self.known {
            let pages = [at, last].map(|address| address & !(PAGE - 1));
            if !pages.into_iter().all(can_read) {
                return false;
            }
            self.known = last | (PAGE - 1);
        }
        true
    }
}

/// Where the stack of the calling thread ends, and whether all between `here` and there is sure to be part of it.
fn end_of_stack(here: usize) -> (bool, usize) {
    // SAFETY: no preconditions. Sixteen bytes that the kernel put above the first thread's stack.
    let first = unsafe { libc::getauxval(libc::AT_RANDOM) } as usize;
    if here < first && first - here < FIRST_GAP {
        return (true, first);
    }
    let block = thread_block();
    if here < block && block - here < REACH { (false, block) } else { (false, usize::MAX) }
}

/// The address of the calling thread's control block, in which its C library keeps what it knows of it: on top of its stack,
/// but for the first thread's.
pub(crate) fn thread_block() -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        let block;
        // SAFETY: the ABI has the block's own address there.
        unsafe {
            core::arch::asm!("mov {}, fs:[0]", out(reg) block, options(nostack, preserves_flags, readonly, pure));
        }
        block
    }
    #[cfg(not(target_arch = "x86_64"))]
    0
}

/// Whether the page of an address can be read, by a call that fails either way, and differently: what was asked for is no
/// way to change the signal mask (the trick is Abseil's). Not for address zero, which is no set.
pub(super) fn can_read(at: usize) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let mut result = libc::SYS_rt_sigprocmask;
        // SAFETY: the kernel reads the set before it refuses what to do with it, and changes nothing. A raw call keeps
        // `errno`.
        unsafe {
            core::arch::asm!(
                "syscall",
                inlateout("rax") result,
                in("rdi") -1_isize,
                in("rsi") at,
                in("rdx") 0,
                in("r10") 8,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack, readonly)
            );
        }
        result != -(libc::EFAULT as libc::c_long)
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;

    /// A stack's worth of frames, made by hand: each names the next, and where it returns to.
    fn chain(words: &mut [usize], steps: usize) {
        let start = words.as_ptr().addr();
        for at in 0..steps {
            words[4 * at] = start + 4 * (at + 1) * WORD;
            words[4 * at + 1] = 0x40_0000 + at;
        }
    }

    #[test]
    fn a_chain_is_followed_to_its_end() {
        let mut words = [0_usize; 64];
        chain(&mut words, 10);
        let start = words.as_ptr().expose_provenance();
        // A step below the frames, as all that walks is.
        let walk = |len: usize| {
            let mut out = [0; 32];
            let count = below(|| frames_from(start, &mut out[..len]));
            assert!(out[..count].iter().enumerate().all(|(at, to)| *to == 0x40_0000 + at), "{out:x?}");
            count
        };
        assert_eq!([0, 1, 5, 10, 32].map(walk), [0, 1, 5, 10, 10]);
    }

    #[inline(never)]
    fn below<T>(body: impl FnOnce() -> T) -> T {
        body()
    }

    #[test]
    fn whatever_the_register_holds_nothing_faults() {
        let mut words = [0_usize; 8];
        let mine = words.as_ptr().addr();
        // Down, to itself, unaligned, far up, to a page that is not there, to where no addresses are.
        for next in [0, 1, mine - 64, mine, mine + 33, mine + 2 * STEP, mine + STEP, 1 << 40, 1 << 47, usize::MAX - 7] {
            words[0] = next;
            words[1] = 0x40_0000;
            let mut out = [0; 8];
            let count = below(|| frames_from(words.as_ptr().expose_provenance(), &mut out));
            assert!(count >= 1 && out[0] == 0x40_0000, "{next:#x}: {count} {out:x?}");
            below(|| frames_from(next, &mut out));
        }
        assert!(can_read(mine) && !can_read(PAGE) && !can_read(1 << 46));
    }

    #[inline(never)]
    fn walk(out: &mut [usize]) -> usize {
        frames_from(frame(), out)
    }

    #[inline(never)]
    fn calls() -> (usize, [usize; 4]) {
        let mut out = [0; 4];
        (walk(&mut out), out)
    }

    #[test]
    fn the_caller_is_the_first() {
        for in_thread in [false, true] {
            let (count, out) = if in_thread { std::thread::spawn(calls).join().unwrap() } else { calls() };
            assert!(count >= 1, "nobody called");
            let start = (calls as fn() -> _) as usize;
            assert!((start..start + 400).contains(&out[0]), "{:#x} is not in {start:#x}", out[0]);
        }
    }
}
