//! The log: what the slow paths do, one line a step, for whoever wants to see the machine work.
//!
//! Lines go to stderr, or to the end of a file, by raw system calls, without allocating. Whether they are wanted is one word, which
//! slow paths alone look at.

use crate::os;
use crate::sync::{Counter, Quiet};
use core::ffi::CStr;
use core::fmt::{self, Arguments};

/// How much is logged; each level includes those before it. For all heaps by [`set_log`](crate::set_log), for one by
/// [`HeapBuilder::log`](crate::HeapBuilder::log).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Log {
    /// Nothing.
    #[default]
    Off,
    /// What is asked of the system: address space reserved, memory given back.
    Os,
    /// Runs of pages, taken, committed and given back.
    Arena,
    /// Spans, opened and retired.
    Span,
    /// Magazines and chunks that go between threads, pools and spans; exchanges that failed because another thread was first.
    Pool,
    /// Each miss of a thread's cache; where records are kept, also each hit, allocation and free.
    Cache,
}

/// The most that anybody wants told: the first look, on slow paths, is at this word alone.
static MOST: Quiet = Quiet::new();
/// What the process wants told, of all heaps that say nothing of their own; and the most that any heap wanted.
static LEVEL: Quiet = Quiet::new();
static HEAPS: Quiet = Quiet::new();
/// Where the path of the file is, which stays; zero: stderr. Set before there is a second thread.
static PATH: Counter = Counter::new();
/// Not zero: that the file has not taken a line has been told.
static REFUSED: Quiet = Quiet::new();

/// Sets how much is told from now on.
pub(crate) fn set(level: Log) {
    LEVEL.set(level as u32);
    MOST.set(level as u32);
    // Behind it: what a heap has raised meanwhile is not lost.
    MOST.raise(HEAPS.get());
}

/// How much one heap tells: as the process has it, or a level of its own. Zeros: as the process has it.
#[derive(Debug)]
pub(crate) struct Voice(Quiet);

impl Voice {
    pub(crate) const fn new() -> Self {
        Self(Quiet::new())
    }

    /// Gives the heap a level of its own.
    #[allow(dead_code, reason = "heaps of one's own alone have one")]
    pub(crate) fn set(&self, level: Log) {
        self.0.set(level as u32 + 1);
        // By exchange: other heaps are made at the same time.
        HEAPS.raise(level as u32);
        MOST.raise(level as u32);
    }

    fn wants(&self, level: Log) -> bool {
        let own = self.0.get();
        level as u32 <= if own == 0 { LEVEL.get() } else { own - 1 }
    }
}

/// Has lines go to a file: the path in memory that stays, with its zero. Or why it cannot be opened; then nothing has
/// changed.
pub(crate) fn set_file(path: usize) -> Result<(), os::Refused> {
    // SAFETY: the caller's word.
    os::try_append(unsafe { CStr::from_ptr(core::ptr::with_exposed_provenance(path)) })?;
    PATH.set(path as u64);
    Ok(())
}

/// Whether a step of this level may be to be told.
#[inline]
pub(crate) fn wants(level: Log) -> bool {
    MOST.get() >= level as u32
}

/// Tells a step of a heap, if that wants it told.
#[cold]
#[inline(never)]
#[unsafe(link_section = ".millpond_cold")]
pub(crate) fn line(voice: &Voice, level: Log, step: Arguments<'_>) {
    if voice.wants(level) {
        line_of(level, step);
    }
}

#[unsafe(link_section = ".millpond_cold")]
fn line_of(level: Log, step: Arguments<'_>) {
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
    let said = os::say_in(path, format_args!("[{}] {floor} {step}", os::thread_id()));
    if let Err(refused) = said {
        if REFUSED.raise(1) == 0 {
            let path = path.to_bytes().escape_ascii();
            os::say(format_args!(
                "the log's file {path} has not taken a line, {refused}: that is lost, and others may be"
            ));
        }
    }
}

/// Tells, where anybody wants that told, that an exchange failed.
#[cold]
#[inline(never)]
pub(crate) fn lost_race() {
    if wants(Log::Pool) {
        // Which heap it was is not known there.
        line_of(Log::Pool, format_args!("an exchange failed, since another thread was first: tried again"));
    }
}

/// So many of something.
pub(crate) struct Count(pub(crate) usize, pub(crate) &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.0, self.1, if self.0 == 1 { "" } else { "s" })
    }
}

/// Bytes, in the largest unit of which they are whole.
pub(crate) struct Bytes(pub(crate) usize);

impl fmt::Display for Bytes {
    #[unsafe(link_section = ".millpond_cold")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0 B"),
            bytes if bytes % (1 << 20) == 0 => write!(f, "{} MiB", bytes >> 20),
            bytes if bytes % (1 << 10) == 0 => write!(f, "{} KiB", bytes >> 10),
            bytes => write!(f, "{bytes} B"),
        }
    }
}

/// Tells a step of a heap with a voice, of a level of [`Log`], if it is wanted.
macro_rules! tell {
    ($voice:expr, $level:ident, $($step:tt)+) => {
        if $crate::log::wants($crate::log::Log::$level) {
            $crate::log::line($voice, $crate::log::Log::$level, format_args!($($step)+));
        }
    };
}
pub(crate) use tell;
