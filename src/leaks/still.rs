//! A moment at which all other threads stand still: a search during it makes nothing up.
//!
//! Without it, what is looked at first may have changed when the rest is: an allocation that moves from one place to another may be
//! seen at neither, and a chunk that is freed and handed out again is taken for the same.
//!
//! Invariant: between `begin` and `go_on`, the rows are those of all other threads that have not ended, each stopped.

use super::table::{Memory, Table};
use crate::os::{self, Stopped, TRACED, TRACER, VECTORS};

/// Threads that may have come since they were counted.
const MORE: usize = 64;
/// How often it is begun anew, since there was another thread when all were stopped that had been told of.
const TRIES: usize = 4;

/// Whether a thread is the first, which is listed as long as there are others, and has ended.
pub(super) fn has_ended(thread: u32) -> bool {
    thread == os::process_id() && os::waiting_at(thread, &mut |_| {}) == Some(0)
}

/// Why not all stand still: one that there is cannot be stopped, or one has come meanwhile.
#[derive(Clone, Copy, Debug)]
enum Refused {
    Stays,
    Came,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Still {
    memory: Memory,
    rows: Table<TRACED>,
    /// For each row, what is in registers for vectors.
    vectors: Table<VECTORS>,
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
        for _ in 0..TRIES {
            match Self::try_once() {
                Err(Refused::Came) => {}
                other => return other.ok(),
            }
        }
        None
    }

    fn try_once() -> Result<Self, Refused> {
        let mut count = MORE;
        os::threads(&mut |_| count += 1);
        let mut memory = Memory::new(count * (TRACED + VECTORS) + TRACER).ok_or(Refused::Stays)?;
        let (mut rows, mut vectors, mut rest) = (memory.cut(count), memory.zeros(count), memory.zeros(TRACER));
        let asking = os::thread_id();
        let mut others = true;
        let told =
            os::threads(&mut |thread| others &= thread == asking || has_ended(thread) || rows.push(os::row_of(thread)));
        let stopped = if told && others { os::stop(rows.all(), vectors.all(), rest.all()) } else { None };
        let Some(stopped) = stopped else {
            memory.release();
            return Err(Refused::Stays);
        };
        let still = Self { memory, rows, vectors, stopped };
        match still.are_all() {
            Ok(()) => Ok(still),
            Err(refused) => {
                still.go_on();
                Err(refused)
            }
        }
    }

    /// Whether each other thread that there is has been stopped.
    fn are_all(&self) -> Result<(), Refused> {
        let asking = os::thread_id();
        let (mut all, mut listed) = (Ok(()), false);
        let told = os::threads(&mut |thread| {
            listed |= thread == asking;
            if thread == asking || self.registers(thread, &mut |_| {}).is_some() || has_ended(thread) {
                return;
            }
            let was_asked = self.row(thread).is_some();
            all = match (was_asked, all) {
                (true, _) | (_, Err(Refused::Stays)) => Err(Refused::Stays),
                (false, _) => Err(Refused::Came),
            };
        });
        // A list that a thread ends while it is told may be short.
        if told && listed { all } else { Err(Refused::Came) }
    }

    fn row(&self, thread: u32) -> Option<(usize, &[usize; TRACED])> {
        let mut rows = (0..self.rows.len()).filter_map(|at| Some((at, self.rows.look_at(at)?)));
        rows.find(|(_, row)| row[0] == thread as usize)
    }

    /// Calls `visit` with each word that a thread has in registers, and returns its stack pointer.
    pub(super) fn registers(&self, thread: u32, visit: &mut dyn FnMut(usize)) -> Option<usize> {
        let (at, row) = self.row(thread)?;
        let (registers, stack) = os::told_by(row)?;
        registers.iter().for_each(|word| visit(*word));
        if let Some(vectors) = self.vectors.look_at(at) {
            vectors.iter().for_each(|word| visit(*word));
        }
        Some(stack)
    }

    /// Lets all go. Whether they have stood still until now.
    pub(super) fn go_on(self) -> bool {
        let stood = self.stopped.go_on();
        self.memory.release();
        stood
    }
}
