//! The harness: threads that stop at named points inside an allocator, several at once, while others go on; and the child of a fork, in
//! which those threads are no more.
//!
//! The program says what it does and how often each point was hit; it leaves with 0 only if all others finished, all was
//! sound, and what was stranded was bounded and found again. `stopped` or `vanished`, its argument, says which of the two
//! is done; `tests/progress.rs` runs it.
#![cfg(millpond_points)]

use millpond::{Point, Stats};
use std::alloc::{Layout, alloc, dealloc};
use std::cell::Cell;
use std::fmt::{Arguments, Write as _};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;

/// The allocator on trial, which is the program's.
pub struct Subject {
    /// Gives back what is free.
    pub tidy: fn(),
    /// Where the bytes are, if it knows.
    pub stats: fn() -> Option<Stats>,
    /// Panics unless all is sound. For when no other thread is inside it.
    pub sound: fn(),
}

const POINTS: usize = Point::ALL.len();
const WORKERS: usize = 3;
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// Sizes of classes, so that what is live is what was asked for.
const SIZES: [usize; 6] = [16, 64, 512, 4 * KIB, 16 * KIB, 64 * KIB];
/// Several magazines' worth of each.
const BURST: [usize; 6] = [700, 700, 300, 40, 12, 6];
/// Longer than what one word of an arena's bitmap accounts for.
const LARGE: usize = 5 * MIB;
/// Uses up the arenas; a page of it is written to.
const LARGER: usize = 24 * MIB;
/// After so many turns a point should have been reached.
const TURNS: usize = 64;
/// A thread passes its point less often than this, at random, before it stops there.
const PASSES: u32 = 60;
/// What the statistics of others may be off by: their own threads' caches come and go.
const SLACK: usize = 8 * MIB;

/// What a thread that stops there can have in hand: a large run, or the pages of a word.
const fn in_hand(point: Point) -> usize {
    match point {
        Point::FirstUse => LARGER,
        _ => LARGE,
    }
}

thread_local! {
    /// Where the thread is to stop, and how often it passes before that.
    static AIM: Cell<Option<(Point, u32)>> = const { Cell::new(None) };
}

/// 1 while whoever reaches its point must stay there.
static HOLD: AtomicU32 = AtomicU32::new(0);
static STOPPED: AtomicU32 = AtomicU32::new(0);
static HITS: [AtomicUsize; POINTS] = [const { AtomicUsize::new(0) }; POINTS];
/// Bytes that those who stop have from the allocator.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// Threads that stand at their points.
pub fn stopped() -> u32 {
    STOPPED.load(Ordering::Acquire)
}

/// What the allocator calls at each point: stops whoever aims at it.
pub fn reach(point: Point) {
    match AIM.get() {
        Some((aim, 0)) if aim == point => AIM.set(None),
        Some((aim, left)) if aim == point => return AIM.set(Some((aim, left - 1))),
        _ => return,
    }
    HITS[point as usize].fetch_add(1, Ordering::Relaxed);
    STOPPED.fetch_add(1, Ordering::AcqRel);
    while HOLD.load(Ordering::Acquire) == 1 {
        // SAFETY: waits on a static word.
        unsafe {
            let forever = std::ptr::null::<libc::timespec>();
            libc::syscall(libc::SYS_futex, HOLD.as_ptr(), libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, 1, forever);
        }
    }
    STOPPED.fetch_sub(1, Ordering::AcqRel);
}

/// Writes a line to stderr and leaves, neither allocating nor locking.
pub fn fail(text: Arguments<'_>) -> ! {
    struct Stderr;
    impl std::fmt::Write for Stderr {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            // SAFETY: writes what is there.
            unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
            Ok(())
        }
    }
    let _ = writeln!(Stderr, "{text}");
    // SAFETY: leaves.
    unsafe { libc::_exit(3) }
}

/// A block, written to.
fn take(size: usize) -> *mut u8 {
    let layout = Layout::from_size_align(size, 8).expect("a layout");
    // SAFETY: the size is not zero.
    let block = unsafe { alloc(layout) };
    if block.is_null() {
        fail(format_args!("null for {size}"));
    }
    // SAFETY: at least eight bytes, ours.
    unsafe { block.cast::<u64>().write(block as u64) };
    block
}

fn give(block: *mut u8, size: usize) {
    // SAFETY: from `take`, of that size, given once.
    unsafe {
        if block.cast::<u64>().read() != block as u64 {
            fail(format_args!("{block:p} was overwritten"));
        }
        dealloc(block, Layout::from_size_align(size, 8).expect("a layout"));
    }
}

/// Something of everything, by one thread. What a thread that may stop has is counted.
struct Work {
    blocks: Vec<(*mut u8, usize)>,
    counted: bool,
}

impl Work {
    fn new(counted: bool) -> Self {
        Self { blocks: Vec::with_capacity(4096), counted }
    }

    fn take(&mut self, size: usize) {
        self.blocks.push((take(size), size));
        if self.counted {
            HELD.fetch_add(size, Ordering::Relaxed);
        }
    }

    /// In another order than they were taken.
    fn give_some(&mut self, step: usize) {
        for at in (0..self.blocks.len()).rev().step_by(step) {
            let (block, size) = self.blocks.swap_remove(at);
            if self.counted {
                // Before: a thread that stops within has it no more.
                HELD.fetch_sub(size, Ordering::Relaxed);
            }
            give(block, size);
        }
    }

    fn turn(&mut self, subject: &Subject) {
        for (size, count) in SIZES.into_iter().zip(BURST) {
            (0..count).for_each(|_| self.take(size));
        }
        self.take(LARGE);
        self.give_some(3);
        (subject.tidy)();
        self.take(LARGE);
        for (size, count) in SIZES.into_iter().zip(BURST) {
            (0..count / 2).for_each(|_| self.take(size));
        }
        self.give_some(1);
    }

    /// Until the thread's own point is hit.
    fn until_hit(&mut self, point: Point, passes: u32, subject: &Subject) {
        for _ in 0..TURNS {
            if AIM.get().is_none() {
                return;
            }
            match point {
                // What is there already is not made anew: more of everything is needed.
                Point::FirstUse if passes % 2 == 0 => self.take(LARGER),
                Point::FirstUse => (0..256).for_each(|_| self.take(64 * KIB)),
                _ => self.turn(subject),
            }
        }
        if AIM.get().is_some() {
            fail(format_args!("{point:?} is not reached"));
        }
    }
}

/// Threads that go on: they do what they have to do, and a young one does, too.
fn others_go_on(subject: &'static Subject) {
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            thread::spawn(|| {
                let mut work = Work::new(false);
                (0..3).for_each(|_| work.turn(subject));
                thread::spawn(|| Work::new(false).turn(subject)).join().expect("its work");
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().expect("its work"));
}

/// What is committed after a trim, and what of it is live and stranded.
fn measured(subject: &Subject) -> (usize, usize, usize) {
    (subject.tidy)();
    (subject.stats)().map_or((0, 0, 0), |stats| (stats.committed, stats.live, stats.stranded))
}

/// Stops a thread at each of these points, has others go on, or the child of a fork, and lets them go.
fn round(subject: &'static Subject, points: &[Point], passes: &mut impl FnMut() -> u32, vanish: bool) {
    others_go_on(subject);
    let before = measured(subject);
    let in_hand: usize = points.iter().map(|point| in_hand(*point)).sum();
    HOLD.store(1, Ordering::Release);
    let stoppers: Vec<_> = points
        .iter()
        .map(|point| {
            let (point, passes) = (*point, passes());
            thread::spawn(move || {
                let mut work = Work::new(true);
                AIM.set(Some((point, if point == Point::FirstUse { 0 } else { passes })));
                work.until_hit(point, passes, subject);
                work.give_some(1);
            })
        })
        .collect();
    while stopped() < points.len() as u32 {
        thread::yield_now();
    }
    if vanish {
        child(|| {
            others_go_on(subject);
            let (committed, live, stranded) = measured(subject);
            (subject.sound)();
            // Chunks in registers count as live, and so does what those threads had.
            let may = HELD.load(Ordering::Relaxed) + in_hand + SLACK;
            assert_eq!(stranded, 0, "not found again, {points:?}");
            assert!(live <= before.1 + may && committed <= before.0 + may, "{before:?}, then {committed}, {live}");
        });
    } else {
        others_go_on(subject);
        let (committed, live, stranded) = measured(subject);
        let may = HELD.load(Ordering::Relaxed) + in_hand + SLACK;
        assert!(stranded <= in_hand, "{stranded} stranded at {points:?}");
        assert!(live <= before.1 + may && committed <= before.0 + may, "{before:?}, then {committed}, {live}");
    }
    HOLD.store(0, Ordering::Release);
    // SAFETY: wakes all who wait on a static word.
    unsafe { libc::syscall(libc::SYS_futex, HOLD.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, i32::MAX) };
    stoppers.into_iter().for_each(|stopper| stopper.join().expect("its work"));
    let (committed, live, stranded) = measured(subject);
    (subject.sound)();
    assert_eq!(stranded, 0, "after {points:?}");
    assert!(live <= before.1 + SLACK && committed <= before.0 + SLACK, "{before:?}, then {committed}, {live}");
}

/// Runs `body` in the child of a fork, which must leave with 0.
fn child(body: impl FnOnce()) {
    // SAFETY: the child runs `body` alone, and what it waits for is its own.
    match unsafe { libc::fork() } {
        -1 => panic!("fork"),
        0 => {
            body();
            // SAFETY: leaves.
            unsafe { libc::_exit(0) }
        }
        child => {
            let mut status = 0;
            // SAFETY: waits for our own child.
            while unsafe { libc::waitpid(child, &mut status, 0) } != child {}
            if status != 0 {
                fail(format_args!("the child ended with status {status:#x}"));
            }
        }
    }
}

/// Each point by itself, twice at once; then all at once, once and twice. The arguments: how, and a seed other than 0.
pub fn main(subject: &'static Subject) {
    let vanish = match std::env::args().nth(1).as_deref() {
        Some("stopped") => false,
        Some("vanished") => true,
        _ => fail(format_args!("`stopped` or `vanished`")),
    };
    // Whatever hangs is killed: nothing handles this signal.
    // SAFETY: no preconditions.
    unsafe { libc::alarm(120) };
    let leave = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        leave(info);
        // SAFETY: leaves; in a child nobody else would.
        unsafe { libc::_exit(101) };
    }));
    let mut state: u32 = std::env::args().nth(2).and_then(|seed| seed.parse().ok()).unwrap_or(1);
    // Xorshift (Marsaglia 2003).
    let mut passes = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state % PASSES
    };
    for point in Point::ALL {
        round(subject, &[point, point], &mut passes, vanish);
    }
    round(subject, &Point::ALL, &mut passes, vanish);
    round(subject, &[Point::ALL, Point::ALL].concat(), &mut passes, vanish);
    for point in Point::ALL {
        let hits = HITS[point as usize].load(Ordering::Relaxed);
        println!("{point:?} {hits}");
        assert!(hits > 0, "{point:?} was never hit");
    }
}
