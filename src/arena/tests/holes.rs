//! Arenas of many words: what fits is found, in few steps however many holes there are, and purges end.

use super::{Arena, Books, Density, Fill, OFFSET, Run, Took};
use crate::config::{PAGE, PAGE_SHIFT, PURGE_FAILURES};
use crate::os::fake::{self, System};
use crate::sync::stepped::interrupted;
use crate::sync::{AtomicUsize, Ordering};
use core::ptr;
use std::sync::Arc;
use std::vec::Vec;

/// An arena of many words, of which the model knows no more than who is free.
struct Plain {
    system: Arc<System>,
    arena: &'static Arena,
    books: Books,
    first_page: usize,
    used: Vec<bool>,
    runs: Vec<Run>,
}

impl Plain {
    fn new(pages: usize) -> Self {
        let system = System::fresh();
        let first_page = (fake::reserve((pages + OFFSET) * PAGE, 128 * PAGE).unwrap() >> PAGE_SHIFT) + OFFSET;
        let table = fake::metadata(Arena::table_bytes(pages)).unwrap();
        // SAFETY: fresh memory for the table, and fresh pages.
        let arena = unsafe { &*Arena::make(ptr::with_exposed_provenance_mut(table), first_page, pages, 0, false) };
        let books = super::plain_books();
        Self { system, arena, books, first_page, used: std::vec![false; pages], runs: Vec::new() }
    }

    /// Takes a run, if one is free. Returns in how many steps.
    fn take(&mut self, pages: usize, align: usize) -> u64 {
        let mut took = Took::Nothing;
        let steps = interrupted(u64::MAX, &mut || (), || {
            took = self.arena.take(pages, align, Fill::Any, Density::Sparse, false, &self.books);
        });
        if let Took::Run(run) = took {
            let at = run.page - self.first_page;
            assert!(run.pages == pages && run.page % align == 0);
            self.used[at..at + pages].iter_mut().for_each(|used| assert!(!core::mem::replace(used, true)));
            self.runs.push(run);
        } else {
            let mut free = 0;
            for (at, used) in self.used.iter().enumerate() {
                free = if *used { 0 } else { free + 1 };
                // The last place that this page allows.
                let fits = free >= pages && {
                    let first = self.first_page + at + 1 - free;
                    first.next_multiple_of(align) + pages <= self.first_page + at + 1
                };
                assert!(!fits, "{pages} pages aligned to {align} would fit below {at}");
            }
        }
        steps
    }

    fn give(&mut self, which: usize, from: usize, pages: usize) {
        let run = self.runs.swap_remove(which);
        let at = run.page + from - self.first_page;
        self.used[at..at + pages].fill(false);
        self.arena.give(run.page + from, pages, false);
        let rest = [Run { pages: from, ..run }, Run { page: run.page + from + pages, pages: run.pages - from - pages }];
        self.runs.extend(rest.into_iter().filter(|rest| rest.pages > 0));
    }

    fn extend(&mut self, which: usize, more: usize) {
        let run = self.runs[which];
        let end = run.page + run.pages - self.first_page;
        let free = end + more <= self.used.len() && self.used[end..end + more].iter().all(|used| !used);
        assert_eq!(self.arena.extend(run.page + run.pages, more, &self.books).is_some(), free);
        if free {
            self.used[end..end + more].fill(true);
            self.runs[which].pages += more;
        }
    }

    fn check(&self) {
        assert_eq!(self.arena.check(), Some(self.used.iter().filter(|used| **used).count()));
    }
}

/// Runs of all lengths and alignments, in arenas of some hundred words: whatever is asked for is found if it is there.
#[test]
fn what_fits_is_found() {
    for seed in 0..12 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut plain = Plain::new([9_000, 4_096, 700, 64][seed as usize % 4] - random.usize(..60));
        for round in 0..600 {
            let longest = [4, 40, 150, 1200][random.usize(..4)];
            let align = if random.u8(..4) == 0 { 1 << random.u32(..9) } else { 1 };
            match random.u8(..12) {
                0..6 => {
                    plain.take(random.usize(1..=longest), align);
                }
                6..9 if !plain.runs.is_empty() => {
                    let which = random.usize(..plain.runs.len());
                    let from = random.usize(..plain.runs[which].pages);
                    let pages = random.usize(1..=plain.runs[which].pages - from);
                    plain.give(which, from, pages);
                }
                9 if !plain.runs.is_empty() => plain.extend(random.usize(..plain.runs.len()), random.usize(1..100)),
                // Little, since the fake system writes all that is purged.
                10 => {
                    plain.arena.purge_some(true, random.usize(..4), 8 * PAGE, &plain.books);
                }
                _ => {}
            }
            if round % 16 == 0 {
                plain.check();
            }
        }
        plain.check();
    }
}

/// Thousands of holes of one page, and hundreds of three: a search for more that has been in vain before costs a few steps
/// for all of them together, and so does one that finds what it wants behind them.
#[test]
fn holes_that_are_too_short_are_passed_over() {
    const WORDS: usize = 640;
    const STEPS: u64 = 60;
    let mut plain = Plain::new(WORDS * 64);
    plain.take(WORDS * 64, 1);
    let first = plain.first_page;
    let give = |plain: &mut Plain, at: usize, pages: usize| {
        plain.arena.give(first + at, pages, false);
        plain.used[at..at + pages].fill(false);
    };
    for word in 0..WORDS - 1 {
        give(&mut plain, word * 64, 3);
        (4..64).step_by(2).for_each(|bit| give(&mut plain, word * 64 + bit, 1));
    }
    for pages in [4, 5, 64, 100, 1000] {
        // The first lowers what is said of words, the second what is said of groups of them.
        plain.take(pages, 1);
        plain.take(pages, 1);
        let steps = plain.take(pages, 1);
        assert!(steps <= STEPS, "{pages} pages: {steps} steps in vain");
    }
    let last = (WORDS - 1) * 64;
    for round in 0..10 {
        give(&mut plain, last, 6);
        let steps = plain.take(5 + round % 2, 1);
        assert_eq!(plain.runs.last().map(|run| run.page), Some(first + last));
        assert!(steps <= STEPS, "{steps} steps to what is there");
        give(&mut plain, last, 5 + round % 2);
        plain.check();
        let steps = plain.take(6, 1);
        assert!(steps <= STEPS, "{steps} steps to what was given back");
    }
    // Elsewhere holes come and go: they are looked at once each at most.
    let steps: u64 = (0..100)
        .map(|word| {
            give(&mut plain, word * 64 + 3, 1);
            plain.take(6, 1)
        })
        .sum();
    assert!(steps <= 100 * STEPS, "{steps} steps while holes grow");
    plain.check();
}

/// Another gives back, takes or purges in the middle of a search, a return or a purge, at each of its steps: afterwards
/// what is said of the words holds, and what is free is found.
#[test]
fn what_is_said_of_words_survives_interruption() {
    let act = |plain: &Plain, which: usize, at: usize| match which {
        0 => plain.arena.give(plain.first_page + at, 3, false),
        1 => drop(plain.arena.take(4, 1, Fill::Any, Density::Sparse, false, &plain.books)),
        _ => {
            plain.arena.purge_all(&plain.books);
        }
    };
    for (outer, inner) in (0..3).flat_map(|outer| (0..3).map(move |inner| (outer, inner))) {
        for step in 0.. {
            let mut plain = Plain::new(200);
            plain.take(200, 1);
            // Three free pages at the end of each word, and two others.
            for at in [61, 125, 20, 22] {
                plain.arena.give(plain.first_page + at, if at > 60 { 3 } else { 1 }, false);
            }
            let mut interrupted_at = false;
            let mut meanwhile = || {
                interrupted_at = true;
                act(&plain, inner, 128);
            };
            interrupted(step, &mut meanwhile, || act(&plain, outer, 64));
            assert!(plain.arena.check().is_some(), "{outer} interrupted by {inner} at step {step}");
            if !interrupted_at {
                break;
            }
        }
    }
}

/// Where the system refuses to take memory back, no visit goes on and on, and none is stuck at one place.
#[test]
fn refusals_end_a_visit() {
    let mut plain = Plain::new(40 * 64);
    plain.take(40 * 64, 1);
    (0..40 * 64).step_by(2).for_each(|at| plain.arena.give(plain.first_page + at, 1, false));
    let calls = plain.system.failing(0, u64::MAX);
    for round in 1..=5 {
        let purge = plain.arena.purge_some(true, usize::MAX, usize::MAX, &plain.books);
        assert_eq!((purge.gone, purge.tried), (0, PURGE_FAILURES as usize * PAGE));
        assert_eq!(calls.seen(), round * PURGE_FAILURES as u64);
        assert!(plain.arena.check().is_some());
    }
    drop(calls);
    // What is tried counts: half of it succeeds, or none.
    let calls = plain.system.failing(0, 2);
    let purge = plain.arena.purge_some(true, 1, 4 * PAGE, &plain.books);
    assert_eq!((purge.gone, purge.tried, calls.seen()), (30 * PAGE, 32 * PAGE, 32), "a word is purged whole");
    drop(calls);
    let all: usize = 20 * 64 - 30;
    assert_eq!(plain.arena.purge_all(&plain.books), all * PAGE, "wherever others have left off");
}

/// A purge of all misses nothing, though another takes a part of the words meanwhile.
#[test]
fn a_purge_of_all_is_not_misled() {
    for step in 0.. {
        let mut plain = Plain::new(300);
        plain.take(300, 1);
        (0..300).step_by(7).for_each(|at| plain.arena.give(plain.first_page + at, 3, false));
        let mut came = false;
        let mut tick = || {
            came = true;
            plain.arena.purge_some(false, 3, usize::MAX, &plain.books);
        };
        interrupted(step, &mut tick, || {
            plain.arena.purge_all(&plain.books);
        });
        assert_eq!(plain.arena.dirty_bytes(), 0, "interrupted at step {step}");
        if !came {
            break;
        }
    }
}
