//! The switches of the mutants: this file and calls of what it declares are put into a copy of the sources, which is
//! then built once. Which mutant the models meet is said when they are run.
//!
//! * `MILLPOND_MUTANT=7` switches mutant 7 on; without it the code is as it ships.
//! * `MILLPOND_REACHED=1` prints `reached 7` when the place of mutant 7 is first passed.

#![allow(dead_code)] // What no site needs.

use super::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::string::ToString;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::{env, println};

const MOST: usize = 4096;

/// The mutant that is on, and whether to say which are passed.
struct Switches {
    on: u32,
    tell: bool,
    passed: [AtomicBool; MOST],
}

fn switches() -> &'static Switches {
    static SWITCHES: OnceLock<Switches> = OnceLock::new();
    SWITCHES.get_or_init(|| Switches {
        on: env::var("MILLPOND_MUTANT").map_or(0, |id| id.parse().expect("a mutant is a number")),
        tell: env::var_os("MILLPOND_REACHED").is_some(),
        passed: [const { AtomicBool::new(false) }; MOST],
    })
}

/// Whether a mutant is on.
pub(crate) fn on(mutant: u32) -> bool {
    let switches = switches();
    if switches.tell && !switches.passed[mutant as usize].swap(true, Relaxed) {
        println!("{}", ["reached", &mutant.to_string()].join(" "));
    }
    switches.on == mutant
}

/// An ordering, or what the mutants from `first` on have in its place.
pub(crate) fn weakened(first: u32, shipped: Ordering, weaker: &[Ordering]) -> Ordering {
    let mut order = shipped;
    for (mutant, weak) in (first..).zip(weaker) {
        if on(mutant) {
            order = *weak;
        }
    }
    order
}

/// What of an exchange's ordering its load and its store would have.
fn halves(order: Ordering) -> (Ordering, Ordering) {
    match order {
        Ordering::AcqRel => (Ordering::Acquire, Ordering::Release),
        Ordering::Acquire => (Ordering::Acquire, Ordering::Relaxed),
        Ordering::Release => (Ordering::Relaxed, Ordering::Release),
        order => (order, order),
    }
}

/// Read-modify-writes that a mutant makes a load and a store.
macro_rules! split {
    ($name:ident [$($generic:ident)?], $value:ty) => {
        impl $(<$generic>)? $name $(<$generic>)? {
            pub(crate) fn split_compare_exchange(
                &self,
                mutant: u32,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                if !on(mutant) {
                    return self.compare_exchange(current, new, success, failure);
                }
                let (acquire, release) = halves(success);
                let seen = self.load(acquire);
                if seen != current {
                    return Err(seen);
                }
                self.store(new, release);
                Ok(seen)
            }

            pub(crate) fn split_swap(&self, mutant: u32, new: $value, order: Ordering) -> $value {
                if !on(mutant) {
                    return self.swap(new, order);
                }
                let (acquire, release) = halves(order);
                let seen = self.load(acquire);
                self.store(new, release);
                seen
            }
        }
    };
}

macro_rules! split_arithmetic {
    ($name:ident, $value:ty, $($split:ident $method:ident $change:expr;)*) => {
        impl $name {
            $(
                pub(crate) fn $split(&self, mutant: u32, value: $value, order: Ordering) -> $value {
                    if !on(mutant) {
                        return self.$method(value, order);
                    }
                    let (acquire, release) = halves(order);
                    let seen = self.load(acquire);
                    let change: fn($value, $value) -> $value = $change;
                    self.store(change(seen, value), release);
                    seen
                }
            )*
        }
    };
}

macro_rules! split_all {
    ($($name:ident $value:ty;)*) => {
        $(
            split!($name [], $value);
            split_arithmetic!($name, $value,
                split_fetch_add fetch_add |a, b| a.wrapping_add(b);
                split_fetch_sub fetch_sub |a, b| a.wrapping_sub(b);
                split_fetch_and fetch_and |a, b| a & b;
                split_fetch_or fetch_or |a, b| a | b;
                split_fetch_min fetch_min |a, b| a.min(b);
            );
        )*
    };
}

split!(AtomicPtr[T], *mut T);
split_all!(AtomicU32 u32; AtomicU64 u64; AtomicUsize usize;);
