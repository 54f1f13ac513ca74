//! A moment at which all other threads stand still: a search during it makes nothing up.
//!
//! Without it, what is looked at first may have changed when the rest is: an allocation that moves from one place to another may be
//! seen at neither, and a chunk that is freed and handed out again is taken for the same.
//!
//! Invariant: between `begin` and `go_on`, the rows are those of all other threads that have not ended, each stopped.

use super::table::{Memory, Table};
use crate::os::{self, Stopped, TRACED, TRACER};

/// Threads that may have come since they were counted.
const MORE: usize = 64;
/// How often it is begun anew, since there was another thread when all were stopped that had been told of.
const TRIES: usize = 4;

/// Whether a thread is the first, which is listed as long as there are others, and has ended.
pub(super) fn has_ended(thread: u32) -> bool {
    thread == os::process_id() && os::waiting_at(thread, &mut |_| {}) == Some(0)
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Still {
    memory: Memory,
    rows: Table<TRACED>,
    stopped: Stopped,
}

impl Still {
    /// `None`: not all can be stopped, since a debugger has them, a sandbox refuses, or the system cannot interrupt one.
    #[inline(never)]
    pub(super) fn begin() -> Option<Self> {
        // Valgrind ends a program that makes a process with its own memory.
        if !os::mappings(&mut |mapping| !mapping.name.windows(10).any(|part| part == b"vgpreload_")) {
            return None;
        }
        (0..TRIES).find_map(|_| Self::try_once())
    }

    fn try_once() -> Option<Self> {
        let mut count = MORE;
        os::threads(&mut |_| count += 1);
        let mut memory = Memory::new(count * TRACED + TRACER)?;
        let (mut rows, mut rest) = (memory.cut(count), memory.zeros(TRACER));
        let asking = os::thread_id();
        let mut others = true;
        let told =
            os::threads(&mut |thread| others &= thread == asking || has_ended(thread) || rows.push(os::row_of(thread)));
        let stopped = if told && others { os::stop(rows.all(), rest.all()) } else { None };
        let Some(stopped) = stopped else {
            memory.release();
            return None;
        };
        let mut still = Self { memory, rows, stopped };
        if still.are_all() {
            return Some(still);
        }
        still.go_on();
        None
    }

    /// Whether each other thread that there is has been stopped.
    fn are_all(&mut self) -> bool {
        let asking = os::thread_id();
        let (mut all, mut listed) = (true, false);
        let told = os::threads(&mut |thread| {
            listed |= thread == asking;
            all &= thread == asking || self.registers(thread, &mut |_| {}).is_some() || has_ended(thread);
        });
        told && listed && all
    }

    /// Calls `visit` with each word that a thread has in registers, and returns its stack pointer.
    pub(super) fn registers(&self, thread: u32, visit: &mut dyn FnMut(usize)) -> Option<usize> {
        let rows = (0..self.rows.len()).filter_map(|at| self.rows.get(at));
        let row = rows.into_iter().find(|row| row[0] == thread as usize)?;
        let (registers, stack) = os::told_by(&row)?;
        registers.iter().for_each(|word| visit(*word));
        Some(stack)
    }

    /// Lets all go. Whether they have stood still until now.
    pub(super) fn go_on(self) -> bool {
        let stood = self.stopped.go_on();
        self.memory.release();
        stood
    }
}
