//! Dense and sparse runs that lie apart, as in C.

use crate::arena::{Arena, Arenas, Density, Fill, Run};
use crate::config::{ARENA_ALIGN, GROWN, PAGE};
use crate::os::fake::System;
use crate::sync::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::vec::Vec;

/// Pages of a huge page, and of what dense runs use before any is asked for.
const BLOCK: usize = ARENA_ALIGN / PAGE;
const LITTLE: usize = GROWN / PAGE;

/// Arenas of which the first has been used so far that they lie apart, and its dense runs.
fn apart() -> (Arc<System>, Arenas, Vec<Run>) {
    let system = System::fresh();
    let arenas = Arenas::new();
    arenas.lie_apart();
    let runs = (0..LITTLE).map(|_| dense(&arenas, 1)).collect();
    (system, arenas, runs)
}

fn dense(arenas: &Arenas, pages: usize) -> Run {
    arenas.take_run(pages, 1, Fill::Any).expect("memory")
}

fn large(arenas: &Arenas, pages: usize) -> Run {
    arenas.take_large_run(pages, 1, Fill::Any).expect("memory")
}

fn first(arenas: &Arenas) -> &Arena {
    arenas.iter().next().expect("an arena")
}

/// The first page of those that are dense runs' alone.
fn split(arena: &Arena, arenas: &Arenas) -> usize {
    arena.first_page + arena.others(0, Density::Sparse, &arenas.books).start
}

fn give_all(arenas: &Arenas, runs: impl IntoIterator<Item = Run>) {
    runs.into_iter().for_each(|run| arenas.give_run(run.page, run.pages));
    assert_eq!(arenas.check(), Ok(0));
}

#[test]
fn each_kind_has_a_half_and_a_further_arena_before_the_others() {
    let (_system, arenas, mut runs) = apart();
    let (arena, middle) = (first(&arenas), split(first(&arenas), &arenas));
    let end = arena.first_page + arena.pages;
    let half = (arena.pages - LITTLE) / 2;
    assert!((half..half + BLOCK).contains(&(middle - arena.first_page - LITTLE)), "{middle:#x}");
    let (buffer, span) = (large(&arenas, 5), dense(&arenas, 1));
    assert!(buffer.page + 5 <= middle && span.page == middle, "{buffer:?} {span:?}");
    assert!(arenas.take_sparse_run(1).is_some_and(|run| {
        runs.push(run);
        run.page < middle
    }));
    while arenas.iter().count() == 1 {
        runs.push(large(&arenas, 7));
    }
    let last = *runs.last().expect("some");
    let second = arenas.iter().nth(1).expect("another");
    assert!(
        last.page == second.first_page
            && runs.iter().filter(|run| run.pages == 7).all(|run| run.page < middle || *run == last)
    );
    assert_eq!(split(second, &arenas), second.first_page + second.pages / 2, "its upper half is for dense runs");
    // Nor do dense ones lie below, though there is room: but for single pages, which are taken where there is memory.
    arenas.give_run(buffer.page, buffer.pages);
    for page in (middle + 1..end - 1).step_by(2) {
        let run = dense(&arenas, 2);
        assert_eq!(run.page, page);
        runs.push(run);
    }
    let over = dense(&arenas, 2);
    assert_eq!(over.page, split(second, &arenas));
    give_all(&arenas, runs.into_iter().chain([span, over]));
}

/// What has gone back has small pages from then on, but lies where it did.
#[test]
fn they_lie_apart_whatever_goes_back() {
    let (_system, arenas, runs) = apart();
    let middle = split(first(&arenas), &arenas);
    let (buffer, span) = (large(&arenas, BLOCK), dense(&arenas, BLOCK));
    [buffer, span].iter().for_each(|run| arenas.give_run(run.page, run.pages));
    assert!(arenas.purge() > 0);
    assert_eq!(split(first(&arenas), &arenas), middle);
    let (buffer, span) = (large(&arenas, BLOCK), dense(&arenas, BLOCK));
    assert!(buffer.page + BLOCK <= middle && span.page >= middle, "{buffer:?} {span:?}");
    give_all(&arenas, runs.into_iter().chain([buffer, span]));
}

#[test]
fn where_addresses_are_refused_each_takes_what_there_is() {
    let (system, arenas, mut runs) = apart();
    let (arena, middle) = (first(&arenas), split(first(&arenas), &arenas));
    let end = arena.first_page + arena.pages;
    system.set_room(0);
    let mut run = large(&arenas, 1);
    while run.page < middle {
        runs.push(run);
        run = large(&arenas, 1);
    }
    // It grows there, and is not copied back at each step.
    let more = arenas.extend_run(run.page, 1, 3).expect("room behind it");
    assert_eq!((more.page, more.pages), (run.page + 1, 2));
    runs.extend([run, more]);
    assert!((middle..end).contains(&run.page));
    // Addresses are not asked for again for order's sake, though there are some by now.
    system.set_room(usize::MAX);
    let next = large(&arenas, 1);
    assert!((middle..end).contains(&next.page) && arenas.iter().count() == 1, "{next:?}");
    runs.push(next);
    give_all(&arenas, runs);
}

/// No page has two owners, whatever comes and goes; each kind keeps to its own while there are addresses.
#[test]
fn runs_of_both_kinds_come_and_go() {
    let (_system, arenas, begun) = apart();
    let mut random = fastrand::Rng::with_seed(9);
    let mut live: BTreeMap<usize, (usize, bool)> = BTreeMap::new();
    for turn in 0..2500 {
        match random.u32(..10) {
            0..3 => {
                let pages = if random.bool() { 1 } else { random.usize(1..20) };
                let run = dense(&arenas, pages);
                live.insert(run.page, (pages, true));
            }
            3..6 => {
                let pages = random.usize(1..60);
                let align = 1 << random.usize(..6);
                let fill = if random.bool() { Fill::Zero } else { Fill::Any };
                let run = arenas.take_large_run(pages, align, fill).expect("memory");
                assert_eq!(run.page % align, 0);
                live.insert(run.page, (pages, false));
            }
            6 if turn % 7 == 0 => drop(arenas.purge()),
            6 => {
                let Some((&page, &(pages, false))) = live.range(random.usize(..)..).next() else { continue };
                if arenas.extend_run(page, pages, pages + 3).is_some() {
                    live.insert(page, (pages + 3, false));
                }
            }
            _ => {
                let Some(&page) = live.keys().nth(random.usize(..live.len().max(1))) else { continue };
                let (pages, _) = live.remove(&page).expect("live");
                arenas.give_run(page, pages);
            }
        }
        let taken = live.iter().zip(live.keys().skip(1));
        taken.for_each(|((page, (pages, _)), next)| assert!(page + pages <= *next, "two owners, turn {turn}"));
    }
    for (page, (pages, is_dense)) in &live {
        let arena = arenas.iter().find(|arena| arena.contains(*page)).expect("one of ours");
        // See above.
        let lies_above = *page >= split(arena, &arenas);
        assert!(*pages == 1 || lies_above == *is_dense || *page < arena.first_page + LITTLE, "{page:#x}: {pages}");
    }
    let live = live.into_iter().map(|(page, (pages, _))| Run { page, pages });
    give_all(&arenas, begun.into_iter().chain(live));
    arenas.purge();
    assert_eq!((arenas.check(), arenas.committed().load(Ordering::Relaxed)), (Ok(0), 0));
}
