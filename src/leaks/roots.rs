//! Roots: the memory outside of allocations in which the program may keep addresses. That is its data, the stacks and the
//! registers of its threads, and whatever else is mapped for it alone.
//!
//! Who uses a mapping is not known. So each is a root that is private to this process and that it has written to, but for the
//! heaps' own. Of stacks only a part is in use:
//!
//! | stack | what of it is a root |
//! |---|---|
//! | of the thread that asks | from where it asks |
//! | of one that waits in the system, which then says where its stack ends | from there, and the red zone below |
//! | of one that runs | all of it |
//! | of one that has ended, kept by the C library for the next | that library's block |
//! | of the first, which has ended before the others | all of it |
//!
//! The C library keeps such a block at the top of each stack that it has made. It begins with its own address, twice, and
//! has the thread's number in it, which is no thread's any more once that has ended; where in it, the asking thread's own block
//! shows. It also has the address at which the mapping was made, where the pages below the stack begin that nobody may touch. A
//! mapping that does not look so is not taken for a stack: a thread may have been given its stack in one of the program's own, with
//! anything below it.

use super::LeaksUnknown;
use super::reach::{Reach, is_twice_itself};
use super::still::{Still, has_ended};
use super::table::{Memory, Table};
use crate::os::{self, Mapping, Registers};
use core::ops::Range;

/// Bytes below the end of a stack that a function may use.
const RED_ZONE: usize = 128;
const WORD: usize = size_of::<usize>();
/// How often threads are listed until who asks is among them.
const LISTS: usize = 16;
/// Words of the block that are looked at, for the thread's number and where its stack was made.
const BLOCK: usize = 256;

/// The threads that there are.
#[derive(Debug)]
struct Threads {
    numbers: Table<1>,
    /// Whether there are others than the one that asks.
    others: bool,
    /// Where stacks of those that wait, and of the one that asks, end.
    ends: Table<1>,
    /// Where in its block a thread's number is.
    number_at: Option<usize>,
}

impl Threads {
    /// Lists the threads, and has `reach` reach what is in registers. Whether the system tells which there are: the stack of one
    /// that is not listed would be taken for that of one that has ended. A list that a thread ends while it is told may be short.
    fn list(&mut self, reach: &mut Reach<'_>, own: &Registers, still: Option<&Still>) -> bool {
        (0..LISTS).any(|_| self.list_once(reach, own, still))
    }

    fn list_once(&mut self, reach: &mut Reach<'_>, own: &Registers, still: Option<&Still>) -> bool {
        self.numbers.truncate(0);
        self.ends.truncate(0);
        own.kept.into_iter().for_each(|word| reach.reach(word));
        self.ends.push([own.stack]);
        let asking = os::thread_id();
        let told = os::threads(&mut |thread| {
            self.numbers.push([thread as usize]);
            if thread != asking {
                self.others |= !has_ended(thread);
                let mut reach = |word| reach.reach(word);
                let end = match still {
                    Some(still) => still.registers(thread, &mut reach),
                    None => os::waiting_at(thread, &mut reach),
                };
                // Of one that runs, all of the stack is in use.
                if let Some(end) = end {
                    self.ends.push([end.saturating_sub(RED_ZONE)]);
                }
            }
        });
        told && self.numbers.all().contains(&[asking as usize])
    }

    /// Where in a mapping the part of a stack begins that is in use, if it is that of a thread whose stack's end is known; `guard` is
    /// what lies before it that nobody may touch.
    fn used(&mut self, mapping: &Mapping<'_>, guard: &Range<usize>, reach: &mut Reach<'_>) -> Option<usize> {
        let ends = self.ends.all().as_flattened().iter();
        let end = ends.copied().filter(|end| mapping.contains(*end)).min()?;
        // The first thread's has no block in it. Where blocks do not look so, what lies behind a guard is taken for a stack.
        let is_stack =
            mapping.name == b"[stack]" || self.number_at.is_none() || block_in(mapping, guard, reach).is_some();
        is_stack.then_some(end)
    }

    /// The block behind the stack at the start of a mapping, if its thread has ended.
    fn block_of_ended(&mut self, mapping: &Mapping<'_>, guard: &Range<usize>, reach: &mut Reach<'_>) -> Option<usize> {
        let number_at = self.number_at?;
        let block = block_in(mapping, guard, reach)?;
        let mut number = [0];
        os::read_memory(block + number_at / WORD * WORD, &mut number);
        let number = number[0] >> (8 * (number_at % WORD)) & u32::MAX as usize;
        let lives = number != 0 && self.numbers.all().contains(&[number]);
        (!lives).then_some(block)
    }
}

/// The block behind a stack that the C library has made, with `guard` below.
fn block_in(mapping: &Mapping<'_>, guard: &Range<usize>, reach: &mut Reach<'_>) -> Option<usize> {
    let block = reach.find_itself(mapping.start..mapping.end)?;
    let mut words = [0; BLOCK];
    let read = os::read_memory(block, &mut words);
    words.iter().take(read).any(|word| guard.contains(word)).then_some(block)
}

/// Where in its block the asking thread's number is, if that is sure.
fn number_in_block() -> Option<usize> {
    let block = os::thread_block();
    if !is_twice_itself(block) {
        return None;
    }
    let mut words = [0; BLOCK];
    os::read_memory(block, &mut words);
    let number = os::thread_id();
    let at = words.iter().position(|word| *word as u32 == number || (*word >> 32) as u32 == number)?;
    let is_low = words.get(at).is_some_and(|word| *word as u32 == number);
    Some(at * WORD + if is_low { 0 } else { WORD / 2 })
}

/// Has `reach` reach what roots have the addresses of. Whether there are other threads.
#[inline(never)]
pub(super) fn visit(reach: &mut Reach<'_>, own: &Registers, still: Option<&Still>) -> Result<bool, LeaksUnknown> {
    let mut count = 64;
    let _ = os::threads(&mut |_| count += 1);
    let mut memory = Memory::new(2 * count).ok_or(LeaksUnknown::Memory)?;
    let (numbers, ends) = (memory.cut(count), memory.cut(count));
    let mut threads = Threads { numbers, others: false, ends, number_at: number_in_block() };
    if !threads.list(reach, own, still) {
        memory.release();
        return Err(LeaksUnknown::System);
    }
    let known = reach.knows_pages();
    // The guard before the next mapping.
    let mut guard = 0..0;
    let told = os::mappings(&mut |mapping| {
        if mapping.is_guard() {
            guard = mapping.start..mapping.end;
            return true;
        }
        // What has become read-only may have been written to before: that is seen where pages tell.
        let is_root = mapping.is_readable() && mapping.is_private() && (mapping.is_writable() || known);
        if is_root && !mapping.name.starts_with(b"[v") {
            let from = match guard.end == mapping.start || mapping.name == b"[stack]" {
                true => {
                    let used = threads.used(mapping, &guard, reach);
                    used.or_else(|| threads.block_of_ended(mapping, &guard, reach))
                }
                false => None,
            };
            reach.root(from.unwrap_or(mapping.start)..mapping.end);
        }
        true
    });
    memory.release();
    if told { Ok(threads.others) } else { Err(LeaksUnknown::System) }
}
