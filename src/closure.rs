//! A closure of the program's, kept in place: without an allocation, and without a type that whoever keeps it must know.
//!
//! | state | owner |
//! |---|---|
//! | made | whoever has the value: it may be moved and cloned |
//! | called | any number of threads at a time, and from inside a call: what is captured is shared, and nothing is locked |
//! | dropped | nobody: what was captured has been dropped |
//!
//! What a call has captured lies in the value itself, so a value that is called must stay where it is until the call returns.
//!
//! Invariant: the words hold what the closure has captured, which is `Send` and `Sync`; it is dropped once.

use crate::sync::Raw;

/// Words that a closure may capture.
pub(crate) const WORDS: usize = 8;

/// See the module's documentation. `Call` is a function that takes the address of what was captured, and the arguments.
pub(crate) struct Closure<Call> {
    captured: Raw<WORDS>,
    call: Call,
    kind: &'static Kind,
}

/// What can be done to what a closure has captured.
struct Kind {
    /// Makes another of what lies at the first address, at the second.
    clone: unsafe fn(*const (), *mut ()),
    drop: unsafe fn(*mut ()),
}

/// The same for a type.
trait Captured: Clone {
    const KIND: Kind = Kind { clone: clone::<Self>, drop: drop::<Self> };
}

impl<F: Clone> Captured for F {}

// SAFETY: `new` takes only what is `Send`; the rest are functions.
unsafe impl<Call: Send> Send for Closure<Call> {}
// SAFETY: the same for `Sync`.
unsafe impl<Call: Sync> Sync for Closure<Call> {}

impl<Call: Copy> Closure<Call> {
    /// Keeps a closure, which `call` calls.
    ///
    /// # Safety
    /// `call` may be called from any thread with the address of an `F`, which it only shares.
    pub(crate) unsafe fn new<F: Clone + Send + Sync + 'static>(closure: F, call: Call) -> Self {
        const {
            assert!(
                size_of::<F>() <= size_of::<[usize; WORDS]>(),
                "a closure may capture 8 words: capture an `Arc` of more"
            );
            assert!(align_of::<F>() <= align_of::<Raw<WORDS>>(), "what a closure captures may be aligned to 16 bytes");
        }
        let captured = Raw::new();
        // SAFETY: there is room for it, as was just asserted.
        unsafe { captured.at().cast::<F>().write(closure) };
        Self { captured, call, kind: &<F as Captured>::KIND }
    }

    /// What calls it, and with which address: valid as long as the value stays where it is.
    pub(crate) fn parts(&self) -> (Call, *const ()) {
        (self.call, self.captured.at())
    }
}

impl<Call: Copy> Clone for Closure<Call> {
    fn clone(&self) -> Self {
        let captured = Raw::new();
        // SAFETY: what is captured is of that kind, and shared; there is room for another. Should its `clone` panic, there is none.
        unsafe { (self.kind.clone)(self.captured.at(), captured.at()) };
        Self { captured, call: self.call, kind: self.kind }
    }
}

impl<Call> Drop for Closure<Call> {
    fn drop(&mut self) {
        // SAFETY: what is captured is of that kind, and nobody has it any more.
        unsafe { (self.kind.drop)(self.captured.at()) };
    }
}

/// # Safety
/// An `F` lies at `from`, and there is room for one at `to`.
unsafe fn clone<F: Clone>(from: *const (), to: *mut ()) {
    // SAFETY: the caller's word.
    unsafe { to.cast::<F>().write((*from.cast::<F>()).clone()) };
}

/// # Safety
/// An `F` lies there, and is not used any more.
unsafe fn drop<F>(at: *mut ()) {
    // SAFETY: the caller's word.
    unsafe { at.cast::<F>().drop_in_place() };
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::string::String;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    type Add = unsafe fn(*const (), usize) -> usize;

    fn keep<F: Fn(usize) -> usize + Clone + Send + Sync + 'static>(closure: F) -> Closure<Add> {
        unsafe fn call<F: Fn(usize) -> usize>(at: *const (), more: usize) -> usize {
            // SAFETY: as in `keep`.
            unsafe { (*at.cast::<F>())(more) }
        }
        // SAFETY: the function only shares the closure, which is `Sync`.
        unsafe { Closure::new(closure, call::<F> as Add) }
    }

    fn call(closure: &Closure<Add>, more: usize) -> usize {
        let (call, at) = closure.parts();
        // SAFETY: the closure is there until the call returns.
        unsafe { call(at, more) }
    }

    #[test]
    fn what_is_captured_is_cloned_with_it_and_dropped_once() {
        let held = Arc::new(AtomicUsize::new(0));
        let (inside, name) = (held.clone(), String::from("eight words"));
        let first = keep(move |more| inside.fetch_add(more, Relaxed) + name.len());
        let second = first.clone();
        assert_eq!(Arc::strong_count(&held), 3);
        assert_eq!((call(&first, 5), call(&second, 7)), (11, 16));
        std::mem::drop(first);
        assert_eq!(Arc::strong_count(&held), 2);
        // Moved, it is the same.
        let moved = std::boxed::Box::new(second);
        assert_eq!((call(&moved, 0), Arc::strong_count(&held)), (23, 2));
        std::mem::drop(moved);
        assert_eq!((Arc::strong_count(&held), held.load(Relaxed)), (1, 12));
    }

    #[test]
    fn captures_of_any_size_change_behind_a_shared_reference() {
        /// Counts inside of itself.
        #[derive(Default)]
        struct Count(AtomicUsize);
        impl Clone for Count {
            fn clone(&self) -> Self {
                Self(AtomicUsize::new(self.0.load(Relaxed)))
            }
        }
        let count = Count::default();
        let inside = keep(move |more| {
            let count = &count;
            count.0.fetch_add(more, Relaxed)
        });
        assert_eq!((call(&inside, 1), call(&inside, 1), call(&inside.clone(), 1), call(&inside, 1)), (0, 1, 2, 2));
        let nothing = keep(|more| more + 1);
        let (all, wide) = ([3usize; WORDS], 5u128);
        assert_eq!(call(&nothing, 1) + call(&keep(move |at| all[at]), 7) + call(&keep(move |_| wide as usize), 0), 10);
    }

    #[test]
    fn a_clone_that_panics_leaves_nothing() {
        std::thread_local!(static DROPS: Cell<usize> = const { Cell::new(0) });
        struct Once;
        impl Clone for Once {
            fn clone(&self) -> Self {
                panic!("once")
            }
        }
        impl Drop for Once {
            fn drop(&mut self) {
                DROPS.set(DROPS.get() + 1);
            }
        }
        let once = Once;
        let kept = keep(move |more| {
            let _held = &once;
            more
        });
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| std::mem::drop(kept.clone()))).is_err());
        assert_eq!(DROPS.get(), 0);
        std::mem::drop(kept);
        assert_eq!(DROPS.get(), 1);
    }
}
