//! Runs: claimed by one, across words too, given back with all that was done to them, and purged only while nobody
//! has them.

use super::spawn;
use crate::arena::{Arena, Arenas, Budget, Fill, Passed, Run};
use crate::config::{PAGE, PAGE_SHIFT};
use crate::os::{self, Purged, fake};
use crate::page_map::PAGE_BYTES;
use crate::sync::{AtomicU32, Ordering};
use std::prelude::v1::*;
use std::rc::Rc;

/// Pages of the first arena: two words.
const PAGES: usize = 66;

/// Takes a run and writes to it, as its owner may.
fn take(arenas: &Arenas, pages: usize) -> Run {
    let run = arenas.take_run(pages, 1, Fill::Any).expect("the fake system gives memory");
    write(run);
    run
}

fn write(run: Run) {
    fake::touch(run.page << PAGE_SHIFT, run.pages * PAGE);
}

/// Gives a run back, written to right before.
fn give(arenas: &Arenas, run: Run) {
    write(run);
    arenas.give_run(run.page, run.pages);
}

/// Arenas with one whose last four pages, two of each word, are free and dirty. The caller has the rest.
fn arenas_with_four() -> (Rc<Arenas>, Run) {
    let arenas = Rc::new(Arenas::new());
    let Run { page, pages } = take(&arenas, PAGES);
    give(&arenas, Run { page: page + pages - 4, pages: 4 });
    (arenas, Run { page, pages: pages - 4 })
}

/// The runs that the threads have are distinct, and all bitmaps and counts agree with that.
fn check(arenas: &Arenas, held: &[Run]) {
    for (at, run) in held.iter().enumerate() {
        let apart = |other: &Run| other.page + other.pages <= run.page || run.page + run.pages <= other.page;
        assert!(held[..at].iter().all(apart), "a page has two owners: {held:?}");
    }
    let pages: usize = held.iter().map(|run| run.pages).sum();
    assert_eq!(arenas.check(), Ok(pages), "claims and counts agree");
    let committed = arenas.committed().load(Ordering::Relaxed);
    assert_eq!(committed, arenas.used_bytes() + arenas.dirty(), "the books are right");
    assert_eq!(arenas.reserved(), arenas.iter().map(Arena::bytes).sum::<usize>(), "what is reserved is the arenas'");
}

/// Two claims of which only one fits: one of them crosses words, and may find its second word taken.
pub fn claim_across_words() {
    let (arenas, rest) = arenas_with_four();
    let other = spawn(&arenas, |arenas| take(arenas, 2));
    let mine = take(&arenas, 3);
    check(&arenas, &[rest, mine, other.join()]);
    assert_eq!(arenas.reserved(), (PAGES + 4) * PAGE, "one arena had to be added");
}

/// Some pages are given back while another thread looks for as many, finds none, and lowers what the arena says of the words.
fn give_against_claim_of(first: usize, pages: usize) {
    let arenas = Rc::new(Arenas::new());
    let run = take(&arenas, PAGES);
    let some = Run { page: run.page + first, pages };
    let other = spawn(&arenas, move |arenas| give(arenas, some));
    let mine = arenas.take_large_run_there(pages, 1, Fill::Any);
    mine.iter().for_each(|run| write(*run));
    other.join();
    let before = Run { pages: first, ..run };
    let behind = Run { page: some.page + pages, pages: PAGES - first - pages };
    check(&arenas, &[before, behind].into_iter().chain(mine).collect::<Vec<_>>());
}

/// A run in two words is given back.
pub fn give_against_claim() {
    give_against_claim_of(PAGES - 3, 3);
}

/// A run in one word is given back, of which as much is said as can be, and beside which nobody need look.
pub fn give_in_a_word_against_claim() {
    give_against_claim_of(PAGES - 6, 2);
}

/// A page goes from one owner to the next, or to one who purges it and then to that.
fn pass_a_page(between: fn(&Arenas)) {
    let arenas = Rc::new(Arenas::new());
    let run = take(&arenas, 4);
    let last = Run { page: run.page + 3, pages: 1 };
    let other = spawn(&arenas, move |arenas| {
        give(arenas, last);
        between(arenas);
    });
    // The shortest way to a claim: without a search.
    let mine = arenas.extend_run(run.page, 3, 4);
    mine.iter().for_each(|run| write(*run));
    other.join();
    check(&arenas, &[Run { pages: 3, ..run }].into_iter().chain(mine).collect::<Vec<_>>());
}

/// A page is given back while another thread has its run grow into it.
pub fn give_a_page_against_claim() {
    pass_a_page(|_| ());
}

/// And then purged.
pub fn purge_a_page_against_claim() {
    pass_a_page(|arenas| _ = arenas.purge());
}

/// Two runs on both sides of a word's end are given back, and neither thread has more than its own: but what is said of
/// the first word is that both are free.
pub fn two_give_neighbours() {
    let arenas = Rc::new(Arenas::new());
    let Run { page, .. } = take(&arenas, PAGES);
    give(&arenas, Run { page, pages: 1 });
    give(&arenas, Run { page: page + 10, pages: 1 });
    // In vain: so that it is known that no two pages of the first arena are free.
    let elsewhere = take(&arenas, 2);
    let other = spawn(&arenas, move |arenas| give(arenas, Run { page: page + 63, pages: 1 }));
    give(&arenas, Run { page: page + 64, pages: 2 });
    other.join();
    let held = [Run { page: page + 1, pages: 9 }, Run { page: page + 11, pages: 52 }, elsewhere];
    check(&arenas, &held);
    let reserved = arenas.reserved();
    let mine = take(&arenas, 3);
    check(&arenas, &[held[0], held[1], held[2], mine]);
    assert_eq!(arenas.reserved(), reserved, "there is room in the first arena");
}

/// Two threads claim, and the system refuses one of them memory: its pages are free again, for the other too.
pub fn refused_against_claim() {
    let (arenas, rest) = arenas_with_four();
    fake::refuse_commit();
    let claim = |arenas: &Arenas| {
        let run = arenas.take_large_run_there(2, 1, Fill::Any);
        run.iter().for_each(|run| write(*run));
        run
    };
    let other = spawn(&arenas, claim);
    let mine = claim(&arenas);
    let held: Vec<Run> = [rest].into_iter().chain(mine).chain(other.join()).collect();
    check(&arenas, &held);
    assert_eq!(held.len(), 2, "one is refused, and one is not");
}

/// Free pages are purged while another thread claims them.
pub fn purge_against_claim() {
    let (arenas, rest) = arenas_with_four();
    let other = spawn(&arenas, Arenas::purge);
    let mine = take(&arenas, 2);
    other.join();
    check(&arenas, &[rest, mine]);
}

/// Visits all free pages, and writes to them as to one's own.
fn visit(arenas: &Arenas) {
    arenas.visit_free(|page| write(Run { page, pages: 1 }));
}

/// Free pages are visited while another thread claims some: what is visited is nobody's.
pub fn visit_against_claim() {
    let (arenas, rest) = arenas_with_four();
    let other = spawn(&arenas, visit);
    let mine = take(&arenas, 2);
    other.join();
    check(&arenas, &[rest, mine]);
}

/// Free pages are visited while another thread gives one back.
pub fn visit_against_give() {
    let (arenas, rest) = arenas_with_four();
    let rest = Run { pages: rest.pages - 1, ..rest };
    let other = spawn(&arenas, visit);
    give(&arenas, Run { page: rest.page + rest.pages, pages: 1 });
    other.join();
    check(&arenas, &[rest]);
}

/// Two threads purge at a time, one of them what it has just given back.
pub fn purge_against_purge() {
    let arenas = Rc::new(Arenas::new());
    let run = take(&arenas, 4);
    give(&arenas, Run { pages: 2, ..run });
    let other = spawn(&arenas, Arenas::purge);
    give(&arenas, Run { page: run.page + 2, pages: 1 });
    arenas.relieve(4 * PAGE);
    other.join();
    check(&arenas, &[Run { page: run.page + 3, pages: 1 }]);
}

/// A run of zeros is given back while another thread takes the pages behind it for the first time.
pub fn give_zeros_against_claim() {
    let arenas = Rc::new(Arenas::new());
    let run = take(&arenas, 2);
    let last = Run { page: run.page + 1, pages: 1 };
    let other = spawn(&arenas, move |arenas| {
        // As whoever retires a span that was purged.
        assert!(os::purge(last.page << PAGE_SHIFT, PAGE) == Purged::Zero, "the fake system purges");
        arenas.committed().fetch_sub(PAGE, Ordering::Relaxed);
        arenas.give_zero_run(last.page, last.pages);
    });
    let mine = take(&arenas, 2);
    other.join();
    check(&arenas, &[Run { pages: 1, ..run }, mine]);
}

/// A page is purged while another thread takes pages beside it for the first time: what is said of these stays.
pub fn purge_against_first_claim() {
    let arenas = Rc::new(Arenas::new());
    let run = take(&arenas, 2);
    give(&arenas, Run { page: run.page + 1, pages: 1 });
    let other = spawn(&arenas, Arenas::purge);
    let mine = take(&arenas, 2);
    other.join();
    check(&arenas, &[Run { pages: 1, ..run }, mine]);
}

/// A run grows in place while another thread looks for pages.
pub fn extend_against_claim() {
    let (arenas, rest) = arenas_with_four();
    let other = spawn(&arenas, |arenas| take(arenas, 2));
    let more = arenas.extend_run(rest.page, rest.pages, rest.pages + 3);
    more.iter().for_each(|run| write(*run));
    let mut held: Vec<Run> = more.into_iter().collect();
    held.extend([rest, other.join()]);
    check(&arenas, &held);
}

/// The address space of a free arena is given up while another thread looks for pages.
pub fn abandon_against_claim() {
    let arenas = Rc::new(Arenas::new());
    let run = take(&arenas, 2);
    give(&arenas, run);
    let other = spawn(&arenas, Arenas::abandon_free);
    let mine = take(&arenas, 2);
    other.join();
    check(&arenas, &[mine]);
    assert!(arenas.reserved() <= 2 * 4 * PAGE, "what was abandoned is off the books");
}

/// The system does not take a free arena back while another thread looks for pages: it stays as it is, and who finds some has them.
pub fn abandon_in_vain_against_claim() {
    let arenas = Rc::new(Arenas::new());
    let run = take(&arenas, 2);
    give(&arenas, run);
    fake::refuse_purges();
    let other = spawn(&arenas, Arenas::abandon_free);
    let mine = arenas.take_large_run_there(2, 1, Fill::Any);
    mine.iter().for_each(|run| write(*run));
    other.join();
    let held: Vec<Run> = mine.into_iter().collect();
    check(&arenas, &held);
}

/// Two threads would have an abandoned arena again: one has it, and the other waits for nobody.
pub fn two_revive_an_arena() {
    let arenas = Rc::new(Arenas::new());
    let run = take(&arenas, 2);
    give(&arenas, run);
    arenas.abandon_free();
    let other = spawn(&arenas, |arenas| arenas.revive(PAGE, PAGE * 4));
    let mine = arenas.revive(PAGE, PAGE * 4);
    assert!(mine != other.join(), "one has it again");
    check(&arenas, &[]);
}

/// An abandoned arena is had again while another thread looks for pages: if it finds some, they are known and counted.
pub fn revive_against_take() {
    let arenas = Rc::new(Arenas::new());
    let run = take(&arenas, 2);
    give(&arenas, run);
    arenas.abandon_free();
    let other = spawn(&arenas, |arenas| {
        if let Some(run) = arenas.take_large_run_there(1, 1, Fill::Any) {
            give(arenas, run);
        }
    });
    assert!(arenas.revive(PAGE, PAGE * 4), "nobody else has the addresses");
    other.join();
    check(&arenas, &[]);
}

/// Two threads find no arena and add one each; one of these stays.
pub fn two_add_an_arena() {
    let arenas = Rc::new(Arenas::new());
    let other = spawn(&arenas, |arenas| take(arenas, 1));
    let mine = take(&arenas, 2);
    check(&arenas, &[mine, other.join()]);
    assert_eq!(arenas.reserved(), 4 * PAGE, "one arena is enough");
}

/// Two threads find no arena, and no arena has room for both: each adds one.
pub fn two_add_two_arenas() {
    let arenas = Rc::new(Arenas::new());
    let other = spawn(&arenas, |arenas| take(arenas, 3));
    let mine = take(&arenas, 3);
    check(&arenas, &[mine, other.join()]);
    let tables = |arena: &Arena| Arena::table_bytes(arena.bytes() / PAGE) + arena.bytes() / PAGE * PAGE_BYTES;
    let tables: Vec<usize> = arenas.iter().map(tables).collect();
    assert_eq!((tables.len(), tables.iter().sum()), (2, arenas.metadata()), "each one's tables are counted");
}

/// Whether the caller is to say that a soft limit was passed.
fn is_told(budget: &Budget) -> bool {
    budget.take_passed() == Some(Passed::First)
}

/// Two charge a budget that has room for one of them and a half.
pub fn two_charge_a_budget() {
    let budget = Rc::new(Budget::new());
    budget.set(3, 1);
    let other = spawn(&budget, |budget| (budget.charge(2), is_told(budget)));
    let mine = (budget.charge(2), is_told(&budget));
    let theirs = other.join();
    let charged = 2 * (mine.0 as usize + theirs.0 as usize);
    assert_eq!(charged, 2, "no more than the limit, and no less than one of them");
    assert_eq!(budget.used_bytes(), charged * PAGE, "what was charged is used");
    assert!(mine.1 != theirs.1 || is_told(&budget), "one is told");
    budget.discharge(2);
    assert_eq!(budget.used_bytes(), 0, "all is given back");
}

/// One charges a budget beyond its soft limit, while another takes back what could not be had.
pub fn take_back_against_charge() {
    let budget = Rc::new(Budget::new());
    budget.set(4, 1);
    let other = spawn(&budget, |budget| {
        assert!(budget.charge(2), "there is room for both");
        budget.take_back(2);
    });
    assert!(budget.charge(2), "there is room for both");
    other.join();
    assert_eq!(budget.used_bytes(), 2 * PAGE, "what was charged is used");
    assert!(is_told(&budget) && !is_told(&budget), "it is told, once");
    budget.discharge(2);
    assert!(budget.charge(2), "it is passed again");
    budget.take_back(2);
    assert!(!is_told(&budget), "what could not be had is not told");
}

/// Two put something back while a third looks for it, and notes that there was no more.
pub fn return_against_reclaim() {
    let place = Rc::new((Budget::new(), [AtomicU32::new(0), AtomicU32::new(0)]));
    let (budget, returned) = &*place;
    budget.set(1, 0);
    let put = |at: usize| {
        spawn(&place, move |(budget, returned)| {
            returned[at].store(1, Ordering::Relaxed);
            budget.count_change();
        })
    };
    let others = [put(0), put(1)];
    let count = budget.changes();
    let found: u32 = returned.iter().map(|one| one.load(Ordering::Relaxed)).sum();
    budget.note_vain(count);
    others.into_iter().for_each(|other| other.join());
    assert!(found == 2 || !budget.is_vain(), "what was not found was counted");
}

/// One is refused while another has charged what it takes back, in a heap that was full before.
pub fn charge_against_refusal() {
    let budget = Rc::new(Budget::new());
    budget.set(1, 0);
    budget.note_vain(budget.changes());
    let other = spawn(&budget, |budget| {
        if budget.charge(1) {
            budget.take_back(1);
        }
    });
    let charged = budget.charge(1);
    assert!(charged || !budget.is_vain(), "who is refused sees that it may change");
    other.join();
}

/// One charges a budget while another discharges it.
pub fn charge_against_discharge() {
    let budget = Rc::new(Budget::new());
    budget.set(3, 0);
    assert!(budget.charge(2), "there is room for two");
    let other = spawn(&budget, |budget| budget.discharge(2));
    assert!(budget.charge(1), "there is room for one more");
    other.join();
    assert_eq!(budget.used_bytes(), PAGE, "what was charged is used");
}
