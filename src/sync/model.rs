//! The model's side of [`sync`](super): loom's atomics and cells, threads, and the fault that a twin plants.
//!
//! loom finds the interleavings that matter by remembering the last access to each atomic, but a thread's own load
//! hides another's before it: of `a: load` and `b: load, store` it never runs `b` first. Nor does it know that a plain
//! store comes after an exchange that did not read it. Hence each access here first takes *turns*, at atomics beside
//! its own: a load the one that belongs to its thread, everything else those of all threads. So all orders of a load
//! and a store, and of two stores, are explored; and the order in which stores run is the order of modification. What
//! else a load may read, of all that is not older than what its thread knows, is loom's to choose.
//!
//! An atomic is made by a plain write, which loom does not see: so each has a cell that is written when it is made and
//! read at each access, and whoever gets at an atomic without coming after its making fails the model.

use super::Fault;
use core::cell::{Cell, RefCell};
use loom::cell::UnsafeCell;
use loom::sync::atomic as loom_atomic;
pub(crate) use loom::sync::atomic::{Ordering, fence};
use std::vec::Vec;

/// Threads of a model, at most.
const THREADS: usize = 3;
/// Atomics that the threads of a model use while there is more than one, at most.
const CONTENDED: usize = 128;

std::thread_local! {
    // loom runs all threads of one model on one thread of the system.
    static PLANTED: Cell<Fault> = const { Cell::new(Fault::None) };
    /// Threads that have been spawned, and those of them that have been joined.
    static SPAWNED: Cell<usize> = const { Cell::new(0) };
    static JOINED: Cell<usize> = const { Cell::new(0) };
    /// The turns of all contended atomics, `THREADS` each.
    static TURNS: RefCell<Vec<loom_atomic::AtomicU32>> = const { RefCell::new(Vec::new()) };
    /// What is known of each atomic: here, since the threads' stacks are small.
    static MADE: RefCell<Vec<Made>> = const { RefCell::new(Vec::new()) };
    static CONTENDED_SO_FAR: Cell<usize> = const { Cell::new(0) };
    /// Whether a load has taken its turn and is about to run.
    static MIDWAY: Cell<bool> = const { Cell::new(false) };
}

loom::thread_local! {
    static ME: Cell<usize> = Cell::new(0);
}

/// Plants a fault for the models that this thread runs from now on.
pub(crate) fn plant(fault: Fault) {
    PLANTED.set(fault);
}

/// Whether a twin has planted this fault.
pub(crate) fn planted(fault: Fault) -> bool {
    PLANTED.get() == fault
}

/// Begins an execution of a model.
pub(crate) fn begin() {
    SPAWNED.set(0);
    JOINED.set(0);
    TURNS.take();
    MADE.take();
    CONTENDED_SO_FAR.set(0);
    MIDWAY.set(false);
}

/// A thread of a model.
pub(crate) struct Thread<R>(loom::thread::JoinHandle<R>);

/// Starts a thread of a model.
pub(crate) fn spawn<R: 'static>(run: impl FnOnce() -> R + 'static) -> Thread<R> {
    let me = SPAWNED.get() + 1;
    assert!(me < THREADS, "a model has at most {THREADS} threads");
    if me == 1 {
        TURNS.with_borrow_mut(|turns| turns.resize_with(THREADS * CONTENDED, || loom_atomic::AtomicU32::new(0)));
    }
    SPAWNED.set(me);
    Thread(loom::thread::spawn(move || {
        ME.with(|cell| cell.set(me));
        run()
    }))
}

impl<R> Thread<R> {
    /// Waits for the thread's end.
    pub(crate) fn join(self) -> R {
        let result = self.0.join().expect("a panic ends the process");
        JOINED.set(JOINED.get() + 1);
        result
    }
}

/// Orders the accesses to one atomic, and nothing else: by its number among all that were made.
#[derive(Debug)]
struct Turns(u32);

struct Made {
    /// Was written when the atomic was made.
    cell: UnsafeCell<()>,
    /// Where its turns are, once it is contended.
    at: Cell<u32>,
    /// Stores since it is contended, and how many of them each thread knows of.
    stores: Cell<u32>,
    known: [Cell<u32>; THREADS],
}

impl Turns {
    fn new() -> Self {
        let cell = UnsafeCell::new(());
        cell.with_mut(|_| ());
        let made = Made { cell, at: Cell::new(u32::MAX), stores: Cell::new(0), known: Default::default() };
        Self(MADE.with_borrow_mut(|all| {
            all.push(made);
            all.len() as u32 - 1
        }))
    }

    /// Looks at what is known of it. Other threads must not run in `look`: they may make more.
    fn made<R>(&self, look: impl FnOnce(&Made) -> R) -> R {
        MADE.with_borrow(|made| look(&made[self.0 as usize]))
    }

    /// Whether the calling thread is alone. If not, it must have come after the making.
    fn is_alone(&self) -> bool {
        let alone = SPAWNED.get() == JOINED.get();
        if !alone {
            self.made(|made| made.cell.with(|_| ()));
        }
        alone
    }

    fn take(&self, thread: usize) {
        let at = self.made(|made| {
            if made.at.get() == u32::MAX {
                let next = CONTENDED_SO_FAR.get();
                assert!(next < CONTENDED, "more than {CONTENDED} atomics are contended");
                CONTENDED_SO_FAR.set(next + 1);
                made.at.set(next as u32);
            }
            made.at.get() as usize
        });
        let turn: *const loom_atomic::AtomicU32 = TURNS.with_borrow(|turns| &raw const turns[at * THREADS + thread]);
        skip_if_midway();
        // SAFETY: the turns stay until the next execution begins. Not borrowed meanwhile: other threads run here.
        unsafe { &*turn }.fetch_add(1, Ordering::Relaxed);
        skip_if_midway();
    }

    /// An access that stores, or at least knows the newest store: it can end in one way only.
    fn store<R>(&self, access: impl FnOnce() -> R) -> R {
        if self.is_alone() {
            return access();
        }
        self.take(0);
        // What comes now belongs to the turn: loom need not look for other orders.
        loom::stop_exploring();
        (1..THREADS).for_each(|thread| self.take(thread));
        let result = access();
        loom::explore();
        let me = ME.with(Cell::get);
        self.made(|made| {
            made.stores.set(made.stores.get() + 1);
            made.known[me].set(made.stores.get());
        });
        result
    }

    /// A load, which may read an older store than the newest.
    fn load<R>(&self, access: impl FnOnce() -> R) -> R {
        if self.is_alone() {
            return access();
        }
        let me = ME.with(Cell::get);
        self.take(me);
        if self.made(|made| made.known[me].get() == made.stores.get()) {
            loom::stop_exploring();
            let result = access();
            loom::explore();
            return result;
        }
        MIDWAY.set(true);
        let result = access();
        MIDWAY.set(false);
        result
    }
}

/// Ends the exploration of an execution in which another thread runs between a load's turn and the load: there is one
/// in which it runs before the turn.
fn skip_if_midway() {
    if MIDWAY.get() {
        loom::skip_branch();
    }
}

/// Has the calling thread know the newest store, without ordering: an exchange that fails.
macro_rules! look {
    ($word:expr, $never:expr) => {
        assert!($word.compare_exchange($never, $never, Ordering::Relaxed, Ordering::Relaxed).is_err())
    };
}

macro_rules! atomic {
    ($name:ident [$($generic:ident)?], $value:ty, $never:expr) => {
        #[derive(Debug)]
        pub(crate) struct $name $(<$generic>)? {
            turns: Turns,
            word: loom_atomic::$name $(<$generic>)?,
        }

        impl $(<$generic>)? $name $(<$generic>)? {
            pub(crate) fn new(value: $value) -> Self {
                Self { turns: Turns::new(), word: loom_atomic::$name::new(value) }
            }

            pub(crate) fn load(&self, order: Ordering) -> $value {
                self.turns.load(|| self.word.load(order))
            }

            pub(crate) fn store(&self, value: $value, order: Ordering) {
                self.turns.store(|| {
                    look!(self.word, $never);
                    self.word.store(value, order);
                });
            }

            pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                self.turns.store(|| self.word.swap(value, order))
            }

            pub(crate) fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.turns.store(|| self.word.compare_exchange(current, new, success, failure))
            }

            /// Never fails without a reason here: the retry is the same as after a lost race.
            pub(crate) fn compare_exchange_weak(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(current, new, success, failure)
            }
        }
    };
}

macro_rules! arithmetic {
    ($name:ident, $value:ty, $($method:ident)*) => {
        impl $name {
            $(
                pub(crate) fn $method(&self, value: $value, order: Ordering) -> $value {
                    self.turns.store(|| self.word.$method(value, order))
                }
            )*
        }
    };
}

atomic!(AtomicU32 [], u32, 0xdead_dead);
atomic!(AtomicU64 [], u64, 0xdead_dead_dead_dead);
atomic!(AtomicUsize [], usize, 0xdead_dead_dead_dead);
atomic!(AtomicPtr[T], *mut T, core::ptr::without_provenance_mut(0xdead_dead_dead_dead));
arithmetic!(AtomicU32, u32, fetch_add fetch_sub fetch_and fetch_or fetch_min fetch_max);
arithmetic!(AtomicU64, u64, fetch_add fetch_sub fetch_and fetch_or fetch_min);
arithmetic!(AtomicUsize, usize, fetch_add fetch_sub fetch_and fetch_or fetch_min fetch_max);

/// A word that belongs to whoever holds its node. See the module's documentation.
#[derive(Debug)]
pub(crate) struct Slot {
    word: Cell<usize>,
    access: UnsafeCell<()>,
}

impl Slot {
    pub(crate) fn new(value: usize) -> Self {
        Self { word: Cell::new(value), access: UnsafeCell::new(()) }
    }

    /// Fails the model if another thread may write at the same time.
    pub(crate) fn get(&self) -> usize {
        self.access.with(|_| self.word.get())
    }

    /// Fails the model if another thread may access it at the same time.
    pub(crate) fn set(&self, value: usize) {
        self.access.with_mut(|_| self.word.set(value));
    }

    /// What it may hold, for statistics: anybody may, at any time.
    pub(crate) fn peek(&self) -> usize {
        self.word.get()
    }
}
