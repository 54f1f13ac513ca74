//! A thread is stopped at hundreds of random points inside allocator calls. The others must finish their work
//! meanwhile, in no more memory: a lock anywhere, or a wait for another thread, hangs here, and the watchdog fails it.

mod common;

use common::block::{give, take};
use common::child::{Scenario, fail, unblock};
use common::random::Random;
use common::thread::Bare;
use common::{KIB, MIB, law, scaled};
use core::ffi::{c_int, c_void};
use core::ptr::null_mut;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use std::thread;

const WORKERS: usize = 3;

/// Of each class a thread holds at most this many chunks at a time; several magazines' worth.
const BURST: usize = 256;
const SIZES: [usize; 7] = [16, 48, 128, 512, 2 * KIB, 8 * KIB, 32 * KIB];

/// Two spans a class and thread, spans of 64 KiB for the four small sizes and of at most 1 MiB for the others; and a
/// large block for each thread.
const MAY_GROW: usize = (4 * 64 * KIB + 3 * MIB) * 2 * (WORKERS + 1) + 2 * MIB * (WORKERS + 1);

/// Chunks in transit between threads: whoever puts one here frees what was there.
static EXCHANGE: [[AtomicPtr<u64>; 32]; SIZES.len()] =
    [const { [const { AtomicPtr::new(null_mut()) }; 32] }; SIZES.len()];

/// Whether the stopped thread is inside the allocator, and what it does there.
static INSIDE: AtomicU32 = AtomicU32::new(OUTSIDE);
const OUTSIDE: u32 = 0;

/// 1 while whoever gets the signal must stay in its handler.
static HOLD: AtomicU32 = AtomicU32::new(0);
static PARKED: AtomicU32 = AtomicU32::new(0);
static PARKED_INSIDE: AtomicU32 = AtomicU32::new(OUTSIDE);
static STOP: AtomicBool = AtomicBool::new(false);

fn signal() -> c_int {
    libc::SIGRTMIN() + 3
}

extern "C" fn park(_: c_int) {
    // SAFETY: the thread's own `errno`, put back below; the futex word is static.
    unsafe {
        let errno = *libc::__errno_location();
        PARKED_INSIDE.store(INSIDE.load(Ordering::Relaxed), Ordering::Relaxed);
        PARKED.store(1, Ordering::Release);
        while HOLD.load(Ordering::Acquire) == 1 {
            libc::syscall(
                libc::SYS_futex,
                HOLD.as_ptr(),
                libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                1,
                core::ptr::null::<libc::timespec>(),
            );
        }
        PARKED.store(0, Ordering::Release);
        *libc::__errno_location() = errno;
    }
}

fn install() {
    // SAFETY: a valid action; the handler makes no call that a signal handler may not make.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_sigaction = park as extern "C" fn(c_int) as usize;
        action.sa_flags = libc::SA_RESTART;
        libc::sigemptyset(&mut action.sa_mask);
        assert_eq!(libc::sigaction(signal(), &action, null_mut()), 0);
    }
}

/// Runs an allocator call; a victim's are marked, so that the handler knows that it stopped one.
fn call<T>(marked: bool, what: u32, f: impl FnOnce() -> T) -> T {
    if marked {
        INSIDE.store(what, Ordering::Relaxed);
    }
    let result = f();
    if marked {
        INSIDE.store(OUTSIDE, Ordering::Relaxed);
    }
    result
}

/// One thread's work, the same for the victim and for the others.
struct Work {
    chunks: [[*mut u64; BURST]; SIZES.len()],
    random: Random,
    victim: bool,
}

impl Work {
    fn new(id: usize, victim: bool) -> Self {
        Self { chunks: [[null_mut(); BURST]; SIZES.len()], random: Random::new(id as u64), victim }
    }

    fn take(&self, class: usize) -> *mut u64 {
        let ptr = call(self.victim, 1, || take(SIZES[class], 8)).cast::<u64>();
        if ptr.is_null() {
            fail(format_args!("null for {}", SIZES[class]));
        }
        // SAFETY: at least two words, ours.
        unsafe {
            ptr.write(ptr as u64);
            ptr.add(1).write(class as u64);
        }
        ptr
    }

    fn give(&self, class: usize, ptr: *mut u64) {
        // SAFETY: live; written by `take`, by whichever thread.
        unsafe {
            if ptr.read() != ptr as u64 || ptr.add(1).read() != class as u64 {
                fail(format_args!("{ptr:p} of class {class} was overwritten"));
            }
            ptr.write(0);
            call(self.victim, 2, || give(ptr.cast(), SIZES[class], 8));
        }
    }

    fn fill(&mut self, class: usize) {
        for at in 0..BURST {
            self.chunks[class][at] = self.take(class);
        }
    }

    fn empty(&mut self, class: usize) {
        let mut chunks = self.chunks[class];
        self.random.shuffle(&mut chunks);
        for ptr in chunks {
            if self.random.below(4) == 0 {
                let place = &EXCHANGE[class][self.random.below(32)];
                let other = place.swap(ptr, Ordering::AcqRel);
                if !other.is_null() {
                    self.give(class, other);
                }
            } else {
                self.give(class, ptr);
            }
        }
    }

    /// More than any two threads ever hold together: each class's burst at once.
    fn peak(&mut self, together: &Barrier) {
        (0..SIZES.len()).for_each(|class| self.fill(class));
        let large = take(2 * MIB, 8);
        together.wait();
        together.wait();
        // SAFETY: taken above.
        unsafe { give(large, 2 * MIB, 8) };
        (0..SIZES.len()).for_each(|class| self.empty(class));
    }

    /// A turn over all classes, with whatever else an allocator offers.
    fn turn(&mut self) {
        for class in 0..SIZES.len() {
            self.fill(class);
            self.empty(class);
        }
        match self.random.below(12) {
            0 => {
                call(self.victim, 3, millpond::trim);
            }
            1 => call(self.victim, 4, millpond::flush_thread),
            2 => {
                call(self.victim, 5, millpond::stats);
            }
            _ => {}
        }
        let size = self.random.size(300 * KIB, 2 * MIB);
        let ptr = call(self.victim, 6, || take(size, 8));
        if ptr.is_null() {
            fail(format_args!("null for {size}"));
        }
        // SAFETY: taken above.
        call(self.victim, 7, || unsafe { give(ptr, size, 8) });
    }
}

fn clear_exchange() {
    let work = Work::new(0, false);
    for (class, places) in EXCHANGE.iter().enumerate() {
        for place in places {
            let ptr = place.swap(null_mut(), Ordering::AcqRel);
            if !ptr.is_null() {
                work.give(class, ptr);
            }
        }
    }
}

/// Stops whoever `aim` hits, `points` times inside the allocator; each time the workers do a fixed amount of work.
fn suspend(points: usize, workers: &Barrier, most: usize, aim: impl Fn()) {
    let mut random = Random::new(99);
    let mut inside = 0;
    let mut kinds = [0_usize; 8];
    for number in 0.. {
        for _ in 0..random.below(40_000) {
            core::hint::spin_loop();
        }
        HOLD.store(1, Ordering::Release);
        aim();
        while PARKED.load(Ordering::Acquire) == 0 {
            thread::yield_now();
        }
        let what = PARKED_INSIDE.load(Ordering::Relaxed);
        kinds[what as usize] += 1;
        inside += usize::from(what != OUTSIDE);
        workers.wait();
        workers.wait();
        let committed = millpond::stats().committed;
        if committed > most {
            fail(format_args!("suspension {number}: {committed} committed, {most} allowed: {:?}", millpond::stats()));
        }
        HOLD.store(0, Ordering::Release);
        // SAFETY: wakes whoever waits on a static word.
        unsafe {
            libc::syscall(libc::SYS_futex, HOLD.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1);
        }
        while PARKED.load(Ordering::Acquire) == 1 {
            thread::yield_now();
        }
        if inside == points {
            break;
        }
    }
    println!("stopped outside, in alloc, dealloc, trim, flush, stats, large alloc, dealloc: {kinds:?}");
}

/// The workers: at each pair of meetings they do `turns`, and what `also` does; they leave when `STOP` is set.
fn worker(id: usize, meet: &Barrier, peak: Option<&Barrier>, turns: usize, also: fn()) {
    let mut work = Box::new(Work::new(id, false));
    if let Some(peak) = peak {
        work.peak(peak);
    }
    loop {
        meet.wait();
        if STOP.load(Ordering::Relaxed) {
            return;
        }
        (0..turns).for_each(|_| work.turn());
        also();
        meet.wait();
    }
}

static PEAK: Barrier = Barrier::new(WORKERS + 2);
static TURNS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn victim(_: *mut c_void) -> *mut c_void {
    let mut work = Box::new(Work::new(77, true));
    work.peak(&PEAK);
    unblock(signal());
    while !STOP.load(Ordering::Relaxed) {
        work.turn();
        TURNS.fetch_add(1, Ordering::Relaxed);
    }
    common::child::block(signal());
    null_mut()
}

/// What is committed while all of them hold all that they ever hold.
fn at_the_peak() -> usize {
    PEAK.wait();
    let committed = millpond::stats().committed;
    PEAK.wait();
    committed
}

fn at_the_end() {
    clear_exchange();
    law::holds();
    millpond::trim();
    assert_eq!(law::holds().stranded, 0);
}

#[test]
fn a_stopped_thread_holds_up_nobody() {
    Scenario::new("a_stopped_thread_holds_up_nobody").blocked(signal()).watchdog(240).passes(|| {
        install();
        let meet = Barrier::new(WORKERS + 1);
        let victim = Bare::spawn(256 * KIB, victim, null_mut());
        thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS)
                .map(|id| {
                    let meet = &meet;
                    scope.spawn(move || worker(id, meet, Some(&PEAK), scaled(8, 2), || {}))
                })
                .collect();
            let most = at_the_peak() + MAY_GROW;
            suspend(scaled(500, 300), &meet, most, || {
                // SAFETY: the victim lives until it is joined below.
                unsafe { libc::pthread_kill(victim.id(), signal()) };
            });
            STOP.store(true, Ordering::Relaxed);
            meet.wait();
            for worker in workers {
                worker.join().expect("its work");
            }
        });
        victim.join();
        at_the_end();
    });
}

/// A thread of a few operations: its first call, a little more, its end.
extern "C" fn short_life(seed: *mut c_void) -> *mut c_void {
    let work = Work::new(seed as usize, false);
    let mut random = work.random;
    for _ in 0..8 {
        let class = random.below(SIZES.len());
        let chunks: [*mut u64; 70] = core::array::from_fn(|_| work.take(class));
        for ptr in chunks {
            work.give(class, ptr);
        }
    }
    null_mut()
}

/// The same, and it may be stopped.
extern "C" fn short_victim(seed: *mut c_void) -> *mut c_void {
    INSIDE.store(1, Ordering::Relaxed);
    unblock(signal());
    short_life(seed)
}

/// A birth and a death while another thread is stopped in its own.
fn another_short_life() {
    Bare::spawn(128 * KIB, short_life, null_mut()).join();
}

extern "C" fn spawner(_: *mut c_void) -> *mut c_void {
    let mut seed = 0;
    while !STOP.load(Ordering::Relaxed) {
        seed += 1;
        Bare::spawn(128 * KIB, short_victim, seed as *mut c_void).join();
    }
    null_mut()
}

/// The stopped threads are young ones: at their birth, at work, or in the destructor that tears their cache down.
#[test]
fn a_thread_stopped_at_birth_or_death_holds_up_nobody() {
    Scenario::new("a_thread_stopped_at_birth_or_death_holds_up_nobody").blocked(signal()).watchdog(240).passes(|| {
        install();
        let meet = Barrier::new(WORKERS + 1);
        let peak = Barrier::new(WORKERS + 1);
        thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS)
                .map(|id| {
                    let (meet, peak) = (&meet, &peak);
                    scope.spawn(move || worker(id, meet, Some(peak), scaled(8, 2), another_short_life))
                })
                .collect();
            peak.wait();
            let most = millpond::stats().committed + MAY_GROW;
            peak.wait();
            let spawner = Bare::spawn(128 * KIB, spawner, null_mut());
            suspend(scaled(300, 200), &meet, most, || {
                // To the process: the short threads alone do not block it.
                // SAFETY: a signal that has a handler.
                unsafe { libc::kill(libc::getpid(), signal()) };
            });
            STOP.store(true, Ordering::Relaxed);
            meet.wait();
            spawner.join();
            for worker in workers {
                worker.join().expect("its work");
            }
        });
        at_the_end();
    });
}
