//! How many operations were played, said when the fuzzer ends.

use crate::streams::OPERATIONS;
use std::sync::atomic::Ordering;

extern "C" fn tell() {
    eprintln!("operations: {}", OPERATIONS.load(Ordering::Relaxed));
}

pub fn operations_at_the_end() {
    // SAFETY: a function of this program.
    unsafe { libc::atexit(tell) };
}
