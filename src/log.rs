//! The log: what the slow paths do, one line a step, for whoever wants to see the machine work.
//!
//! Lines go to stderr, or to the end of a file, by raw system calls, without allocating. Whether they are wanted is one word, looked at on slow paths
//! alone.

use crate::os;
use crate::sync::{Counter, Quiet};
use core::ffi::CStr;
use core::fmt::Arguments;

/// How much is told: each level also tells what those before it do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Log {
    /// Nothing.
    #[default]
    Off,
    /// What is asked of the system: address space, purges.
    Os,
    /// Runs of pages, taken and given back.
    Arena,
    /// Spans, opened and retired.
    Span,
    /// Magazines and chunks that go between threads, pools and spans.
    Pool,
    /// Each miss of a thread's cache; where records are kept, each allocation and free.
    Cache,
}

static LEVEL: Quiet = Quiet::new();
/// Where the path of the file is, which stays; zero: stderr. Set before there is a second thread.
static PATH: Counter = Counter::new();

/// Sets how much is told from now on.
pub(crate) fn set(level: Log) {
    LEVEL.set(level as u32);
}

/// Has lines go to a file: the path in memory that stays, with its zero.
pub(crate) fn set_file(path: usize) {
    PATH.set(path as u64);
}

/// Whether a step of this level is to be told.
#[inline]
pub(crate) fn wants(level: Log) -> bool {
    LEVEL.get() >= level as u32
}

/// Tells a step.
#[cold]
#[inline(never)]
pub(crate) fn line(level: Log, step: Arguments<'_>) {
    let floor = match level {
        Log::Off => "",
        Log::Os => "os    ",
        Log::Arena => "arena ",
        Log::Span => "span  ",
        Log::Pool => "pool  ",
        Log::Cache => "cache ",
    };
    let path = PATH.get() as usize;
    if path == 0 {
        return os::say(format_args!("[{}] {floor} {step}", os::thread_id()));
    }
    // SAFETY: as `set_file` was told.
    let path = unsafe { CStr::from_ptr(core::ptr::with_exposed_provenance(path)) };
    os::say_in(path, format_args!("[{}] {floor} {step}", os::thread_id()));
}

/// Tells a step of a level of [`Log`], if it is wanted.
macro_rules! tell {
    ($level:ident, $($step:tt)+) => {
        if $crate::log::wants($crate::log::Log::$level) {
            $crate::log::line($crate::log::Log::$level, format_args!($($step)+));
        }
    };
}
pub(crate) use tell;
