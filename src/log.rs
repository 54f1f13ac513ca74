//! The log: what the slow paths do, one line a step, for whoever wants to see the machine work.
//!
//! Lines go to stderr by raw system calls, without allocating. Whether they are wanted is one word, looked at on slow paths
//! alone.

use crate::os;
use crate::sync::Quiet;
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

/// Sets how much is told from now on.
pub(crate) fn set(level: Log) {
    LEVEL.set(level as u32);
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
    os::say(format_args!("[{}] {floor} {step}", os::thread_id()));
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
