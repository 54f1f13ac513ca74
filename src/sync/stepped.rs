//! The unit tests' atomics: `core`'s, but each operation is a step, and before any one of them a thread can be
//! interrupted, to have another run in the middle of it, or vanish.
//!
//! Weak exchanges fail now and then for no reason, as they may.

pub(crate) use core::sync::atomic::Ordering;

use core::sync::atomic;
use std::boxed::Box;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Every so many weak exchanges of a thread, one fails.
const WEAK: u32 = 7;
const NEVER: u64 = u64::MAX;

std::thread_local! {
    static STEPS: Cell<u64> = const { Cell::new(0) };
    static LAST: Cell<u64> = const { Cell::new(NEVER) };
    static WHAT: Cell<Option<*mut dyn FnMut()>> = const { Cell::new(None) };
    static EXCHANGES: Cell<u32> = const { Cell::new(0) };
    static GONE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `run`, and `interrupt` before its step number `step`, counted from zero: a call or a panic within. Returns how
/// many steps `run` made by itself.
pub(crate) fn interrupted(step: u64, interrupt: &mut dyn FnMut(), run: impl FnOnce()) -> u64 {
    /// Ends the interruption, also if there is a panic.
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            LAST.set(NEVER);
            WHAT.set(None);
        }
    }
    let interrupt: *mut (dyn FnMut() + '_) = interrupt;
    // SAFETY: only the lifetime changes, and `End` forgets the pointer before it is over.
    WHAT.set(Some(unsafe { core::mem::transmute::<*mut (dyn FnMut() + '_), *mut (dyn FnMut() + 'static)>(interrupt) }));
    let end = End;
    STEPS.set(0);
    LAST.set(step);
    run();
    let steps = STEPS.get();
    drop(end);
    steps
}

/// Runs `run`, of which nothing is done from its step number `step` on: the thread vanishes there. Returns how many
/// steps it made if it came through.
pub(crate) fn vanishing(step: u64, run: impl FnOnce()) -> Option<u64> {
    struct Vanished;
    let mut vanish = || {
        // The stack is unwound, but guards on it are without effect.
        GONE.set(true);
        resume_unwind(Box::new(Vanished));
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| interrupted(step, &mut vanish, run)));
    GONE.set(false);
    match outcome {
        Ok(steps) => Some(steps),
        Err(cause) if cause.is::<Vanished>() => None,
        Err(cause) => resume_unwind(cause),
    }
}

/// Whether the thread has vanished: then it changes nothing.
fn gone() -> bool {
    GONE.get()
}

#[inline]
fn step() {
    let steps = STEPS.get();
    STEPS.set(steps + 1);
    if steps == LAST.get() {
        LAST.set(NEVER);
        if let Some(what) = WHAT.take() {
            // SAFETY: `interrupted` is under way on this thread, and its caller lends this until it returns.
            unsafe { (*what)() };
        }
        STEPS.set(steps + 1);
    }
}

/// Whether a weak exchange is to fail.
fn fails() -> bool {
    let exchanges = EXCHANGES.get();
    EXCHANGES.set((exchanges + 1) % WEAK);
    exchanges == 0
}

macro_rules! stepped {
    ($name:ident $(<$param:ident>)?, $word:ty) => {
        #[doc = concat!("[`", stringify!($name), "`](atomic::", stringify!($name), ") that counts its steps.")]
        #[repr(transparent)]
        #[derive(Debug)]
        pub(crate) struct $name $(<$param>)? (atomic::$name $(<$param>)?);

        impl $(<$param>)? $name $(<$param>)? {
            pub(crate) const fn new(value: $word) -> Self {
                Self(atomic::$name::new(value))
            }

            #[inline]
            pub(crate) fn load(&self, order: Ordering) -> $word {
                step();
                self.0.load(order)
            }

            #[inline]
            pub(crate) fn store(&self, value: $word, order: Ordering) {
                step();
                if !gone() {
                    self.0.store(value, order);
                }
            }

            #[inline]
            pub(crate) fn swap(&self, value: $word, order: Ordering) -> $word {
                step();
                if gone() { self.0.load(Ordering::Relaxed) } else { self.0.swap(value, order) }
            }

            #[inline]
            pub(crate) fn compare_exchange(
                &self,
                old: $word,
                new: $word,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$word, $word> {
                step();
                // As if another had been first.
                if gone() { Err(self.0.load(failure)) } else { self.0.compare_exchange(old, new, success, failure) }
            }

            #[inline]
            pub(crate) fn compare_exchange_weak(
                &self,
                old: $word,
                new: $word,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$word, $word> {
                step();
                assert!(!gone(), "a guard that would try for ever");
                if fails() { Err(self.0.load(failure)) } else { self.0.compare_exchange(old, new, success, failure) }
            }
        }
    };
}

macro_rules! counts {
    ($name:ident, $word:ty: $($method:ident)*) => {
        impl $name {
            $(
                #[inline]
                pub(crate) fn $method(&self, value: $word, order: Ordering) -> $word {
                    step();
                    if gone() { self.0.load(Ordering::Relaxed) } else { self.0.$method(value, order) }
                }
            )*
        }
    };
}

stepped!(AtomicPtr<T>, *mut T);
stepped!(AtomicU32, u32);
stepped!(AtomicU64, u64);
stepped!(AtomicUsize, usize);
counts!(AtomicU32, u32: fetch_add fetch_sub fetch_and fetch_or fetch_min fetch_max);
counts!(AtomicU64, u64: fetch_add fetch_sub fetch_and fetch_or fetch_min fetch_max);
counts!(AtomicUsize, usize: fetch_add fetch_sub fetch_and fetch_or fetch_min fetch_max);

#[test]
fn an_interruption_comes_before_its_step_and_once() {
    let word = AtomicU32::new(0);
    let add = || (0..5).map(|_| word.fetch_add(1, Ordering::Relaxed)).fold((), |(), _| ());
    for at in 0..7 {
        word.0.store(0, Ordering::Relaxed);
        let mut seen = std::vec::Vec::new();
        let mut interrupt = || {
            seen.push(word.0.load(Ordering::Relaxed));
            word.fetch_add(10, Ordering::Relaxed);
        };
        assert_eq!(interrupted(at, &mut interrupt, add), 5);
        assert!(seen.iter().copied().eq((0..5).filter(|step| *step as u64 == at)));
    }
}

#[test]
fn weak_exchanges_fail_now_and_then_without_a_change() {
    let word = AtomicU64::new(3);
    let exchange = |_: &u32| word.compare_exchange_weak(3, 3, Ordering::Relaxed, Ordering::Relaxed) == Err(3);
    assert_eq!((0..70).filter(exchange).count(), 10);
}

#[test]
fn who_has_vanished_changes_nothing() {
    struct Guard<'a>(&'a AtomicU32);
    impl Drop for Guard<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(100, Ordering::Relaxed);
            self.0.store(7, Ordering::Relaxed);
        }
    }
    let word = AtomicU32::new(0);
    let add = || {
        let _guard = Guard(&word);
        (0..5).for_each(|_| assert!(word.fetch_add(1, Ordering::Relaxed) < 5));
    };
    assert_eq!(vanishing(3, add), None);
    assert_eq!(word.swap(0, Ordering::Relaxed), 3);
    assert_eq!(vanishing(7, add), Some(7));
    assert_eq!(word.load(Ordering::Relaxed), 7);
}
