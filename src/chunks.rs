//! A walk over all that a heap has given out, with records or without.
//!
//! A chunk is given out if neither its span nor a magazine has it. Magazines are looked at before the spans, and once more after
//! them. What a magazine had before was free then, and is left out. What a magazine has after was freed meanwhile, or was about
//! to be taken: *maybe*. What lives throughout is in neither look, so it is visited for sure. Where each allocation has a
//! record, that decides.
//!
//! The heap is asked for no memory, and whatever `visit` does to it changes no list.
//!
//! Invariant, at rest: what is visited is what the statistics call live.

use crate::global::{self, HEAP, TRACKER};
use crate::heap::Heap;
use crate::listed::{List, cached};
use crate::modes::Tracker;
use crate::report::{Mode, Record};

/// One allocation, as a walk over a heap finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Chunk {
    /// Where it begins.
    pub address: usize,
    /// The bytes that it takes: its class's, or whole pages.
    pub size: usize,
    /// Whether it may be no allocation, since it was freed or allocated during the walk. Never true of what lives throughout.
    pub maybe: bool,
    /// What is known of it, where there are records.
    pub record: Option<Record>,
}

/// Calls `visit` with each allocation of a heap, and returns how many there were. `None`: there is no memory for the lists.
pub(crate) fn walk(heap: &Heap, tracker: &Tracker, mode: Mode, visit: &mut dyn FnMut(Chunk)) -> Option<usize> {
    let mut before = cached(heap)?;
    let mut count = 0;
    heap.walk_blocks(&mut |found| count += found.count);
    // Where it begins, its bytes, and whether it has pages of its own.
    let mut taken = List::<3>::new(count)?;
    let mut fits = true;
    heap.walk_blocks(&mut |found| {
        for word in 0..found.count.div_ceil(64) {
            let mut bits = found.taken(word);
            while bits != 0 {
                let at = found.start + (64 * word + bits.trailing_zeros() as usize) * found.size;
                bits &= bits - 1;
                if before.table.all().binary_search(&[at]).is_err() {
                    fits &= taken.table.push([at, found.size, usize::from(found.class().is_none())]);
                }
            }
        }
    });
    let mut behind = cached(heap)?;
    if !fits {
        return None;
    }
    let (mut told, mut last) = (0, 0);
    taken.table.all().sort_unstable();
    let mut rest = taken.table.all().iter().copied().peekable();
    while let Some([address, size, is_alone]) = rest.next() {
        // Where one has gone and another come meanwhile, that one is told that is there now, or else the last.
        let is_one_of_two = rest.peek().is_some_and(|[next, ..]| *next == address);
        if last == address || is_one_of_two && heap.usable_size(address) != Some(size) {
            continue;
        }
        last = address;
        let chunk = Chunk { address, size, maybe: behind.table.all().binary_search(&[address]).is_ok(), record: None };
        let chunk = if mode == Mode::Fast { Some(chunk) } else { recorded(heap, tracker, chunk, is_alone != 0) };
        if let Some(chunk) = chunk {
            told += 1;
            visit(chunk);
        }
    }
    Some(told)
}

/// The same with its record. `None`: it is none of the program's any more.
fn recorded(heap: &Heap, tracker: &Tracker, chunk: Chunk, is_alone: bool) -> Option<Chunk> {
    let place = heap.place(chunk.address);
    let seen = if is_alone { tracker.find_beside(place) } else { tracker.find(place) };
    let ends = chunk.address + chunk.size;
    match seen.filter(|seen| seen.is_live && (chunk.address..ends).contains(&seen.address)) {
        Some(seen) => Some(Chunk { address: seen.address, maybe: false, record: Some(tracker.public(seen)), ..chunk }),
        // It may be from before there were records; but one that was kept back has had one.
        None if !tracker.knows_all() && seen.is_none() => Some(chunk),
        None => None,
    }
}

/// Calls `visit` with each allocation of the global heap, in every mode, and returns how many there were. `None`: there is no
/// memory for the lists, or other threads allocate faster than these are made.
///
/// Other threads go on meanwhile. Each allocation that lives throughout is visited once, and not as [`maybe`](Chunk::maybe). One that
/// comes or goes meanwhile may be visited, and is marked so if a magazine had it; a chunk that another thread is just moving
/// between a magazine and a span may be visited unmarked. Where each allocation has a record, all that is visited was live.
///
/// O(n log n) for n chunks, used or not. `visit` may allocate and free.
///
/// ```
/// # #[global_allocator]
/// # static GLOBAL: millpond::Millpond = millpond::Millpond;
/// let text = vec![0u8; 1000];
/// let mut found = 0;
/// let count =
///     millpond::walk_chunks(|chunk| found += usize::from(chunk.address == text.as_ptr() as usize && chunk.size == 1024));
/// assert!(found == 1 && count > Some(0));
/// ```
pub fn walk_chunks(mut visit: impl FnMut(Chunk)) -> Option<usize> {
    walk(&HEAP, &TRACKER, global::mode(), &mut visit)
}
