//! An arena against a plain model of its pages, and what `Arenas` adds: growth, small reservations, refusals.

mod apart;
mod holes;

use super::{Arena, Arenas, Books, Density, Fill, Run, Took, next_arena};
use crate::config::{ADDRESS_BITS, ARENA_MIN, ARENAS, PAGE, PAGE_SHIFT};
use crate::os::fake::{self, System};
use crate::report::Thp;
use crate::sync::stepped::interrupted;
use crate::sync::{AtomicUsize, Ordering};
use core::ptr;
use proptest::prelude::*;
use std::sync::Arc;
use std::vec::Vec;

/// Three words of the bitmaps and a part of a fourth.
const PAGES: usize = 205;
/// The arena begins this many pages behind an aligned address.
const OFFSET: usize = 3;

/// What the model knows of a page.
#[derive(Clone, Copy, Debug, Default)]
struct Page {
    /// What its owner wrote all over it; 0 if it has none.
    owner: u8,
    dirty: bool,
    touched: bool,
    aged: bool,
}

struct World {
    system: Arc<System>,
    arena: &'static Arena,
    books: Books,
    first_page: usize,
    model: Vec<Page>,
    runs: Vec<(Run, u8)>,
    stamp: u8,
}

fn memory(page: usize, pages: usize) -> &'static mut [u8] {
    // SAFETY: pages of the arena under test, of which one slice at a time is in use.
    unsafe { core::slice::from_raw_parts_mut(ptr::with_exposed_provenance_mut(page << PAGE_SHIFT), pages * PAGE) }
}

/// Compared in one go, so that it is fast without optimisation too.
fn all_are(bytes: &[u8], byte: u8) -> bool {
    bytes[0] == byte && bytes[1..] == bytes[..bytes.len() - 1]
}

/// Books of arenas that ask for no huge pages, so that there is no gap: first fit, as the models have it.
fn plain_books() -> Books {
    let books = Books::new();
    books.thp.store(Thp::Never as u32, Ordering::Relaxed);
    books
}

impl World {
    fn new() -> Self {
        let system = System::fresh();
        let start = fake::reserve(256 * PAGE, 128 * PAGE).unwrap();
        let first_page = (start >> PAGE_SHIFT) + OFFSET;
        let table = fake::metadata(Arena::table_bytes(PAGES)).unwrap();
        // SAFETY: fresh memory for the table, and fresh pages.
        let arena = unsafe { &*Arena::make(ptr::with_exposed_provenance_mut(table), first_page, PAGES, 0, false) };
        let books = plain_books();
        let model = std::vec![Page::default(); PAGES];
        Self { system, arena, books, first_page, model, runs: Vec::new(), stamp: 0 }
    }

    /// The lowest place where such a run fits.
    fn fit(&self, pages: usize, align: usize) -> Option<usize> {
        let free = |at: &usize| self.model[*at..*at + pages].iter().all(|page| page.owner == 0);
        (0..(PAGES + 1).saturating_sub(pages)).filter(|at| (self.first_page + at) % align == 0).find(free)
    }

    /// The pages of a run are its owner's from now on.
    fn own(&mut self, run: Run, fill: Fill, owner: u8) {
        let at = run.page - self.first_page;
        for (page, state) in (run.page..).zip(&mut self.model[at..at + run.pages]) {
            assert_eq!(state.owner, 0, "page {page:#x} has an owner already");
            if fill == Fill::Zero || !state.touched {
                assert!(all_are(memory(page, 1), 0), "page {page:#x} is not zero");
            }
            *state = Page { owner, dirty: true, touched: true, aged: false };
        }
        memory(run.page, run.pages).fill(owner);
    }

    fn take(&mut self, pages: usize, align: usize, fill: Fill) {
        match self.arena.take(pages, align, fill, Density::Sparse, false, &self.books) {
            Took::Run(run) => {
                assert_eq!(run.pages, pages);
                let at = run.page - self.first_page;
                assert!(run.page % align == 0 && at + pages <= PAGES);
                let dirty = self.model.iter().position(|page| page.owner == 0 && page.dirty);
                let expected = match dirty.filter(|_| pages == 1 && align == 1) {
                    Some(dirty) => Some(dirty),
                    None => self.fit(pages, align),
                };
                assert_eq!(Some(at), expected);
                self.stamp = self.stamp % 250 + 1;
                self.own(run, fill, self.stamp);
                self.runs.push((run, self.stamp));
            }
            Took::Nothing => assert_eq!(self.fit(pages, align), None, "{pages} pages aligned to {align} would fit"),
            Took::Refused => panic!("nobody refused"),
        }
    }

    fn take_refused(&mut self, pages: usize, align: usize, fill: Fill) {
        let failing = self.system.failing(0, u64::MAX);
        match self.arena.take(pages, align, fill, Density::Sparse, false, &self.books) {
            Took::Run(_) => panic!("the system refuses"),
            Took::Nothing => assert_eq!(self.fit(pages, align), None),
            Took::Refused => assert!(self.fit(pages, align).is_some()),
        }
        drop(failing);
    }

    /// Gives back what lies behind the first `keep` pages of a run.
    fn give(&mut self, which: usize, keep: usize, zero: bool) {
        if self.runs.is_empty() {
            return;
        }
        let which = which % self.runs.len();
        let (run, owner) = self.runs[which];
        let keep = keep.min(run.pages - 1);
        let (page, pages) = (run.page + keep, run.pages - keep);
        assert!(all_are(memory(run.page, run.pages), owner), "a run was written to by another");
        if zero {
            assert_eq!(fake::purge(page << PAGE_SHIFT, pages * PAGE), crate::os::Purged::Zero);
            self.books.committed.fetch_sub(pages * PAGE, Ordering::Relaxed);
        }
        let at = page - self.first_page;
        for state in &mut self.model[at..at + pages] {
            *state = Page { owner: 0, dirty: !zero, touched: !zero, aged: false };
        }
        self.arena.give(page, pages, zero);
        if keep == 0 {
            self.runs.swap_remove(which);
        } else {
            self.runs[which].0.pages = keep;
        }
    }

    fn extend(&mut self, which: usize, more: usize) {
        if self.runs.is_empty() {
            return;
        }
        let which = which % self.runs.len();
        let (run, owner) = self.runs[which];
        let end = run.page + run.pages - self.first_page;
        let free = end + more <= PAGES && self.model[end..end + more].iter().all(|page| page.owner == 0);
        let extended = self.arena.extend(run.page + run.pages, more, &self.books);
        assert_eq!(extended, free.then_some(Run { page: run.page + run.pages, pages: more }));
        if let Some(behind) = extended {
            self.own(behind, Fill::Any, owner);
            self.runs[which].0.pages += more;
        }
    }

    fn purge(&mut self, all: bool, junk: bool, refused: bool) {
        self.system.set_purges_to_junk(junk);
        let failing = refused.then(|| self.system.failing(0, u64::MAX));
        let mut expected = 0;
        for page in self.model.iter_mut().filter(|page| page.owner == 0 && page.dirty) {
            if !(all || page.aged) {
                page.aged = true;
            } else if !refused {
                expected += PAGE;
                *page = Page { owner: 0, dirty: false, touched: junk, aged: false };
            }
        }
        let purged = if all {
            self.arena.purge_all(&self.books)
        } else {
            self.arena.purge_some(false, usize::MAX, usize::MAX, &self.books).gone
        };
        assert_eq!(purged, expected);
        if refused {
            // A few refusals end a visit, and what it has not come to is no older for it.
            for (at, page) in self.model.iter_mut().enumerate() {
                page.aged = self.arena.aged()[at / 64].load(Ordering::Relaxed) >> (at % 64) & 1 == 1;
            }
        }
        drop(failing);
        self.system.set_purges_to_junk(false);
    }

    fn check(&self) {
        let count = |which: &dyn Fn(&Page) -> bool| self.model.iter().filter(|page| which(page)).count();
        let used = count(&|page| page.owner != 0);
        assert_eq!(self.arena.check(), Some(used));
        assert_eq!(self.arena.used_bytes(), used * PAGE);
        assert_eq!(self.arena.dirty_bytes(), count(&|page| page.owner == 0 && page.dirty) * PAGE);
        assert_eq!(self.books.committed.load(Ordering::Relaxed), count(&|page| page.dirty) * PAGE);
    }
}

#[derive(Clone, Debug)]
enum Op {
    Take { pages: usize, align: u32, zero: bool },
    Refused { pages: usize, align: u32, zero: bool },
    Give { which: usize, keep: usize, zero: bool },
    Extend { which: usize, more: usize },
    Purge { all: bool, junk: bool, refused: bool },
}

/// Mostly short runs, but also such as cross words and such as are zeroed by a purge.
fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 1usize..4, 4 => 1usize..40, 2 => 60usize..140, 1 => Just(PAGES)]
}

fn ops() -> impl Strategy<Value = Op> {
    let request = || (lengths(), prop_oneof![3 => Just(0u32), 1 => 1u32..7], any::<bool>());
    prop_oneof![
        8 => request().prop_map(|(pages, align, zero)| Op::Take { pages, align, zero }),
        1 => request().prop_map(|(pages, align, zero)| Op::Refused { pages, align, zero }),
        5 => (any::<usize>(), prop_oneof![3 => Just(0usize), 1 => 1usize..70], any::<bool>())
            .prop_map(|(which, keep, zero)| Op::Give { which, keep, zero }),
        2 => (any::<usize>(), 1usize..80).prop_map(|(which, more)| Op::Extend { which, more }),
        3 => (any::<bool>(), any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(all, junk, refused)| Op::Purge { all, junk, refused }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_arena_does_what_its_model_does(ops in prop::collection::vec(ops(), 1..80)) {
        let mut world = World::new();
        for op in ops {
            let fill = |zero| if zero { Fill::Zero } else { Fill::Any };
            match op {
                Op::Take { pages, align, zero } => world.take(pages, 1 << align, fill(zero)),
                Op::Refused { pages, align, zero } => world.take_refused(pages, 1 << align, fill(zero)),
                Op::Give { which, keep, zero } => world.give(which, keep, zero),
                Op::Extend { which, more } => world.extend(which, more),
                Op::Purge { all, junk, refused } => world.purge(all, junk, refused),
            }
            world.check();
        }
        while !world.runs.is_empty() {
            world.give(0, 0, false);
        }
        world.purge(true, false, false);
        world.check();
        prop_assert_eq!(world.books.committed.load(Ordering::Relaxed), 0);
        world.take(PAGES, 1, Fill::Any);
    }
}

#[test]
fn a_run_in_the_way_is_rolled_back() {
    let mut world = World::new();
    world.take(130, 1, Fill::Any);
    world.take(1, 1, Fill::Any);
    world.give(0, 0, false);
    // From word 0 into word 2, where one page is in use.
    assert_eq!(world.arena.claim(10, 125, &world.books), Err(130));
    world.check();
    world.take(130, 1, Fill::Any);
    world.check();
}

#[test]
fn dirty_pages_that_were_held_for_a_visit_are_found_again() {
    let World { arena, books, first_page: first, .. } = &half_dirty();
    let mut meanwhile = None;
    arena.visit_free(books, |page| {
        if page == *first {
            meanwhile = Some(take_one(arena, books));
        }
    });
    assert_eq!(meanwhile, Some(first + 130), "the first word's are held");
    assert_eq!(take_one(arena, books), first + 32, "not one that is clean");
}

#[test]
fn dirty_pages_that_a_claim_in_vain_has_held_are_found_again() {
    let tried = |step| {
        let World { arena, books, first_page: first, .. } = &half_dirty();
        let mut meanwhile = || _ = take_one(arena, books);
        // Into word 1, which is in use.
        let steps = interrupted(step, &mut meanwhile, || assert!(arena.claim(32, 40, books).is_err()));
        let taken = take_one(arena, books) - first;
        assert!((32..64).contains(&taken), "not one that is clean; before step {step}");
        assert!(arena.check().is_some());
        steps
    };
    let steps = tried(u64::MAX);
    (0..steps).for_each(|step| _ = tried(step));
}

/// All pages are in use but for the first 64, of which the second half is dirty, and one dirty one in word 2.
fn half_dirty() -> World {
    let world = World::new();
    let World { arena, books, first_page: first, .. } = &world;
    assert!(matches!(arena.take(PAGES, 1, Fill::Any, Density::Sparse, false, books), Took::Run(_)));
    arena.give(*first, 32, false);
    arena.purge_all(books);
    arena.give(first + 32, 32, false);
    arena.give(first + 130, 1, false);
    world
}

fn take_one(arena: &Arena, books: &Books) -> usize {
    match arena.take(1, 1, Fill::Any, Density::Sparse, false, books) {
        Took::Run(run) => run.page,
        _ => panic!("there is room"),
    }
}

#[test]
#[should_panic(expected = "pages given back twice")]
fn pages_are_given_back_once() {
    let world = World::new();
    let Took::Run(run) = world.arena.take(70, 1, Fill::Any, Density::Sparse, false, &world.books) else { panic!() };
    world.arena.give(run.page, run.pages, false);
    world.arena.give(run.page + 65, 1, false);
}

#[test]
#[should_panic(expected = "a run outside all arenas")]
fn a_foreign_run_is_refused() {
    System::fresh();
    let arenas = Arenas::new();
    let run = arenas.take_run(1, 1, Fill::Any).unwrap();
    arenas.give_run(run.page - 1, 1);
}

#[test]
fn arenas_are_added_when_none_has_room_and_stay() {
    let system = System::fresh();
    let arenas = Arenas::new();
    let whole = ARENA_MIN / PAGE;
    let mut runs = Vec::new();
    for (at, pages) in [whole, whole - 1, 1, 2, 3 * whole, 64].into_iter().enumerate() {
        let run = arenas.take_run(pages, 1 << at, Fill::Any).unwrap();
        assert!(run.pages == pages && run.page % (1 << at) == 0);
        assert!(runs.iter().all(|(other, _): &(Run, _)| {
            run.page + run.pages <= other.page || other.page + other.pages <= run.page
        }));
        runs.push((run, at));
        assert_eq!(arenas.reserved(), system.reserved_bytes());
    }
    let (arenas_then, reserved) = (arenas.iter().count(), arenas.reserved());
    assert!(arenas_then >= 3);
    let used: usize = runs.iter().map(|(run, _)| run.pages).sum();
    assert_eq!(arenas.check(), Ok(used));
    assert_eq!(arenas.committed().load(Ordering::Relaxed), used * PAGE);
    runs.iter().for_each(|(run, _)| arenas.give_run(run.page, run.pages));
    assert_eq!(arenas.dirty(), used * PAGE);
    assert_eq!(arenas.purge(), used * PAGE);
    for (run, at) in &runs {
        arenas.take_run(run.pages, 1 << at, Fill::Any).unwrap();
    }
    assert_eq!((arenas.iter().count(), arenas.reserved()), (arenas_then, reserved), "the old ones had room");
}

#[test]
fn where_much_is_refused_less_is_reserved() {
    let system = System::fresh();
    let arenas = Arenas::new();
    let failing = system.failing(0, 4);
    let run = arenas.take_run(3, 1, Fill::Any).unwrap();
    drop(failing);
    assert_eq!(arenas.reserved(), ARENA_MIN >> 4);
    arenas.give_run(run.page, run.pages);

    // Each of the calls that this makes may be refused; then nothing is kept.
    let mut refused = 0;
    loop {
        let (reserved, metadata) = (system.reserved_bytes(), arenas.metadata());
        let failing = system.failing(refused, u64::MAX);
        if arenas.take_run(ARENA_MIN / PAGE, 1, Fill::Any).is_some() {
            break;
        }
        // An arena may stay: it was the pages that were refused.
        drop(failing);
        assert_eq!(arenas.reserved(), system.reserved_bytes());
        assert!(arenas.reserved() > reserved || arenas.metadata() == metadata);
        assert_eq!((arenas.check(), arenas.committed().load(Ordering::Relaxed)), (Ok(0), 3 * PAGE));
        refused += 1;
    }
    assert!(refused >= 2, "reservation and table at least");
}

/// Where mappings are used up, say, the system takes no part of one back.
#[test]
fn an_arena_that_the_system_does_not_take_back_stays() {
    let system = System::fresh();
    let arenas = Arenas::new();
    let run = arenas.take_run(3, 1, Fill::Any).expect("memory");
    arenas.give_run(run.page, run.pages);
    let before = (arenas.reserved(), arenas.committed().load(Ordering::Relaxed), arenas.dirty());
    let failing = system.failing(0, u64::MAX);
    arenas.abandon_free();
    assert_eq!(failing.seen(), 1);
    assert_eq!((arenas.reserved(), arenas.committed().load(Ordering::Relaxed), arenas.dirty()), before);
    drop(failing);
    assert_eq!(arenas.take_run(3, 1, Fill::Any), Some(run));
    arenas.give_run(run.page, run.pages);
    assert_eq!(arenas.check(), Ok(0));
    arenas.abandon_free();
    assert_eq!((arenas.reserved(), arenas.committed().load(Ordering::Relaxed)), (0, 0));
}

#[test]
fn free_arenas_are_given_up_and_made_anew() {
    let system = System::fresh();
    let arenas = Arenas::new();
    let whole = ARENA_MIN / PAGE;
    let (first, second) =
        (arenas.take_run(whole, 1, Fill::Any).unwrap(), arenas.take_run(whole, 1, Fill::Any).unwrap());
    assert_eq!(arenas.iter().count(), 2);
    arenas.give_run(first.page, whole);
    arenas.give_run(second.page + 1, whole - 1);
    arenas.abandon_free();
    assert_eq!((arenas.iter().count(), arenas.reserved(), system.reserved_bytes()), (1, ARENA_MIN, ARENA_MIN));
    assert_eq!(arenas.committed().load(Ordering::Relaxed), ARENA_MIN);
    assert_eq!(arenas.check(), Ok(1));
    arenas.give_run(second.page, 1);
    arenas.abandon_free();
    arenas.abandon_free();
    assert_eq!((arenas.iter().count(), arenas.reserved(), system.reserved_bytes()), (0, 0, 0));
    assert_eq!((arenas.committed().load(Ordering::Relaxed), arenas.dirty(), arenas.check()), (0, 0, Ok(0)));
    // What was given up is not handed out again, but what the system gives is.
    for _ in 0..3 {
        let run = arenas.take_run(whole, 1, Fill::Zero).unwrap();
        assert!(all_are(memory(run.page, 1), 0));
        memory(run.page, run.pages).fill(1);
    }
    assert_eq!(arenas.check(), Ok(3 * whole));
}

#[test]
fn an_arena_is_had_again_with_its_tables() {
    let system = System::fresh();
    system.set_keeps(true);
    let arenas = Arenas::new();
    let pages = ARENA_MIN / PAGE;
    let mut known = None;
    for times in 0..5 {
        let first = arenas.take_run(pages, 1, Fill::Zero).unwrap();
        let second = arenas.take_run(pages / 2, 1, Fill::Any).unwrap();
        assert!(all_are(memory(first.page, pages), 0), "what was there is gone");
        memory(first.page, pages).fill(7);
        assert_eq!((arenas.check(), arenas.dirty()), (Ok(pages + pages / 2), 0));
        assert_eq!(arenas.committed().load(Ordering::Relaxed), arenas.used_bytes());
        arenas.give_run(first.page, pages);
        arenas.give_run(second.page, pages / 2);
        arenas.abandon_free();
        assert_eq!((arenas.reserved(), system.reserved_bytes()), (0, 0));
        assert_eq!(
            *known.get_or_insert(arenas.metadata()),
            arenas.metadata(),
            "tables were made anew, the {times}th time"
        );
    }
}

/// However often memory has been short: afterwards there are arenas.
#[test]
fn arenas_can_be_given_up_any_number_of_times() {
    let system = System::fresh();
    let arenas = Arenas::new();
    system.set_room(2 * ARENA_MIN);
    for times in 0..2 * ARENAS {
        let run = arenas.take_run(3, 1, Fill::Any).unwrap_or_else(|| panic!("no arena after {times} times"));
        arenas.give_run(run.page, run.pages);
        arenas.abandon_free();
        assert!(arenas.reserved() == system.reserved_bytes() && arenas.reserved() <= ARENA_MIN);
    }
}

/// However little at a time the system has given for however long: what it gives later has a place.
#[test]
fn small_arenas_leave_room_for_further_ones() {
    let system = System::fresh();
    let arenas = Arenas::new();
    let mut taken = 0;
    for step in 1..4 * ARENAS {
        system.set_room(step * (PAGE + fake::page_size()));
        while arenas.take_run(1, 1, Fill::Any).is_some() {
            taken += 1;
        }
    }
    assert!(arenas.iter().count() < ARENAS && taken > 2 * ARENAS, "{taken} pages in {}", arenas.iter().count());
    system.set_room(usize::MAX);
    assert!(arenas.take_run(1, 1, Fill::Any).is_some());
    assert!(arenas.reserved() > ARENA_MIN, "it is as large as others");
    assert_eq!(arenas.check(), Ok(taken + 1));
}

#[test]
fn sizes_that_overflow_are_refused() {
    System::fresh();
    let arenas = Arenas::new();
    assert_eq!(arenas.take_run(usize::MAX / PAGE, 2, Fill::Any), None);
    assert_eq!(arenas.take_run(usize::MAX, 1 << 63, Fill::Any), None);
    assert_eq!(arenas.take_run(1, 1 << 60, Fill::Any), None);
    assert_eq!(arenas.reserved(), 0);
}

/// Threads take, write, verify and give back at once, and purge under each other's hands. They hold so much that runs
/// are hard to find.
#[test]
fn threads_share_arenas() {
    let system = System::fresh();
    let arenas = &Arenas::new();
    std::thread::scope(|scope| {
        for thread in 1..=3u8 {
            let system = &system;
            scope.spawn(move || {
                system.enter();
                let mut random = fastrand::Rng::with_seed(thread as u64);
                let mut mine: Vec<Run> = Vec::new();
                for _ in 0..1500 {
                    match random.u8(..10) {
                        0..5 if mine.iter().map(|run| run.pages).sum::<usize>() < 300 => {
                            let fill = if random.bool() { Fill::Zero } else { Fill::Any };
                            let align = 1 << random.usize(..4);
                            let run = arenas.take_run(random.usize(1..90), align, fill).unwrap();
                            assert_eq!(run.page % align, 0);
                            for page in run.page..run.page + run.pages {
                                let bytes = memory(page, 1);
                                assert!(fill == Fill::Any || bytes[0] == 0 && bytes[PAGE - 1] == 0);
                                bytes[0] = thread;
                                bytes[PAGE - 1] = thread;
                            }
                            mine.push(run);
                        }
                        0..9 if !mine.is_empty() => {
                            let run = mine.swap_remove(random.usize(..mine.len()));
                            for page in run.page..run.page + run.pages {
                                let bytes = memory(page, 1);
                                assert!(bytes[0] == thread && bytes[PAGE - 1] == thread);
                            }
                            arenas.give_run(run.page, run.pages);
                        }
                        _ => {
                            if random.bool() {
                                arenas.purge()
                            } else {
                                arenas.purge_aged(1, usize::MAX)
                            };
                        }
                    }
                }
                mine.iter().for_each(|run| arenas.give_run(run.page, run.pages));
            });
        }
    });
    assert_eq!(arenas.check(), Ok(0));
    assert_eq!(arenas.dirty(), arenas.committed().load(Ordering::Relaxed));
    arenas.purge();
    assert_eq!(arenas.committed().load(Ordering::Relaxed), 0);
    assert_eq!(system.resident_bytes(), 0);
}

#[test]
fn the_table_reaches_as_far_as_the_addresses_do() {
    let all = (0..ARENAS).try_fold(0usize, |reserved, _| {
        let next = next_arena(reserved);
        assert!(next <= reserved.max(ARENA_MIN), "{next} after {reserved}");
        reserved.checked_add(next).filter(|all| *all < 1 << ADDRESS_BITS)
    });
    assert_eq!(all, None, "full before all addresses are had");
}
