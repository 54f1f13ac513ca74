//! No more address space: `null`, never a crash, and everything is usable after it.

mod common;

use common::block::{Block, all_zero, take};
use common::chain::Chain;
use common::child::Scenario;
use common::resource::Resource;
use common::thread::{Bare, Gate};
use common::{GLOBAL, KIB, LARGEST_CLASS, MIB, ensure, kernel, law};
use core::alloc::{GlobalAlloc, Layout};
use core::ffi::c_void;
use core::ptr::null_mut;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The address space of a child; what it must be able to allocate in it is the rest after its program, libraries
/// and stacks, a good deal less than half.
const SPACE: usize = 256 * MIB;
const AT_LEAST: usize = SPACE / 2;

/// Allocates one size until `null`, frees every second one, and gets as many again; then frees all.
fn exhaust(size: usize) {
    let mut chain = Chain::new(size);
    chain.push_up_to(usize::MAX);
    let (bytes, len) = (chain.bytes(), chain.len);
    ensure!(bytes >= AT_LEAST, "only {} MiB of {size}: {:?}", bytes / MIB, millpond::stats());
    // `null` was no accident, and asking again does no harm.
    chain.push_up_to(usize::MAX);
    ensure!(chain.len <= len + len / 50 + 4, "{len} of {size}, then {}", chain.len);
    let freed = chain.free_every_second();
    let held = chain.len;
    chain.push_up_to(held + freed);
    ensure!(
        chain.len >= held + freed - freed / 50,
        "{} of {freed} freed chunks of {size} came again: {:?}",
        chain.len - held,
        millpond::stats()
    );
    chain.free_all();
    law::holds();
}

#[test]
fn small_sizes() {
    Scenario::new("small_sizes").address_space(SPACE).passes(|| {
        // One after the other in one process: memory moves from class to class.
        for size in [16, 48, 1000, 4 * KIB, 32 * KIB, LARGEST_CLASS, 64] {
            exhaust(size);
        }
    });
}

#[test]
fn a_limit_below_what_is_reserved_already_leaves_what_is_free_usable() {
    for limited in [libc::RLIMIT_AS, libc::RLIMIT_DATA] {
        Scenario::new("a_limit_below_what_is_reserved_already_leaves_what_is_free_usable").passes(|| {
            // The first arena is there; from here on the system gives nothing.
            drop(vec![1_u8; 100 * KIB]);
            let limit = libc::rlimit { rlim_cur: MIB as u64, rlim_max: MIB as u64 };
            // SAFETY: changes no memory.
            ensure!(unsafe { libc::setrlimit(limited, &limit) } == 0, "no limit");
            for size in [48, 1000, 5 * KIB, 100 * KIB, 300 * KIB, MIB, 24] {
                let mut chain = Chain::new(size);
                chain.push_up_to(usize::MAX);
                ensure!(
                    chain.bytes() >= 40 * MIB,
                    "only {} MiB of {size}: {:?}",
                    chain.bytes() / MIB,
                    millpond::stats()
                );
                chain.free_all();
                law::holds();
            }
        });
    }
}

/// What is set aside for tables goes by the limit, of which `others` may have nearly all, and leave what `left` makes of all there is.
fn what_a_limit_leaves_is_had(limited: Resource, others: usize, left: fn(usize) -> usize) {
    drop(vec![1_u8; 100 * KIB]);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a fresh mapping touches nothing that exists.
    let others = unsafe { libc::mmap(null_mut(), others, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    ensure!(others != libc::MAP_FAILED, "no mapping");
    // A limit on data counts no code: it leaves a little more.
    let left = left(kernel::address_space());
    let limit = (kernel::address_space() + left) as u64;
    let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
    // SAFETY: changes no memory.
    ensure!(unsafe { libc::setrlimit(limited, &limit) } == 0, "no limit");
    let mut chain = Chain::new(KIB);
    chain.push_up_to(usize::MAX);
    // With the first arena, which was there before.
    let least = 60 * MIB + left / 10 * 7;
    ensure!(
        chain.bytes() >= least,
        "only {} MiB, {} were left: {:?}",
        chain.bytes() / MIB,
        left / MIB,
        millpond::stats()
    );
    chain.free_all();
    law::holds();
}

#[test]
fn what_a_limit_on_addresses_leaves_is_had() {
    Scenario::new("what_a_limit_on_addresses_leaves_is_had")
        .passes(|| what_a_limit_leaves_is_had(libc::RLIMIT_AS, 4096 * MIB, |_| 100 * MIB));
}

/// There is room for what is set aside, but then for little else.
#[test]
fn a_limit_leaves_more_than_what_is_set_aside() {
    Scenario::new("a_limit_leaves_more_than_what_is_set_aside")
        .passes(|| what_a_limit_leaves_is_had(libc::RLIMIT_AS, 1024 * MIB, |all| all / 14));
}

#[test]
fn what_a_limit_on_data_leaves_is_had() {
    Scenario::new("what_a_limit_on_data_leaves_is_had")
        .passes(|| what_a_limit_leaves_is_had(libc::RLIMIT_DATA, 4096 * MIB, |_| 100 * MIB));
}

/// A limit that comes late, below what there is: what is given up then cannot be had again.
#[test]
fn what_is_free_stays_where_a_limit_is_below_what_there_is() {
    Scenario::new("what_is_free_stays_where_a_limit_is_below_what_there_is").passes(|| {
        let size = 300 * KIB;
        Chain::new(size).push_up_to(200 * MIB / size).free_all();
        // Others have as much as the limit allows.
        let (rights, flags) = (libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a fresh mapping touches nothing that exists.
        ensure!(unsafe { libc::mmap(null_mut(), 400 * MIB, rights, flags, -1, 0) } != libc::MAP_FAILED, "no mapping");
        let limit = libc::rlimit { rlim_cur: 400 * MIB as u64, rlim_max: 400 * MIB as u64 };
        // SAFETY: changes no memory.
        ensure!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) } == 0, "no limit");
        let first = fill_and_free(size);
        ensure!(first * size >= 200 * MIB, "only {first} of {size}");
        millpond::trim();
        ensure!(take(380 * MIB, 8).is_null(), "it is more than there is");
        let last = fill_and_free(size);
        ensure!(last * 10 >= first * 9, "{first} of {size}, then {last}: {:?}", millpond::stats());
    });
}

/// In the mode `hardened`, what is freed has no access for a while, and what has none does not count under a limit on data: others may
/// have all of that when it is to serve again.
fn what_has_lost_access_serves_again(size: usize) {
    drop(vec![1_u8; 100 * KIB]);
    let limit = libc::rlimit { rlim_cur: 256 * MIB as u64, rlim_max: 256 * MIB as u64 };
    // SAFETY: changes no memory.
    ensure!(unsafe { libc::setrlimit(libc::RLIMIT_DATA, &limit) } == 0, "no limit");
    let fill = || fill_and_free(size);
    let first = (0..3).map(|_| fill()).min().unwrap_or(0);
    ensure!(first * size >= 64 * MIB, "only {first} of {size}");
    let last = (0..12).map(|_| fill()).min().unwrap_or(0);
    ensure!(last >= first * 3 / 4, "{first} of {size}, then {last}: {:?}", millpond::stats());
}

/// Nor does a limit, once it is met, have all that is reserved later open.
#[test]
fn what_was_never_used_has_no_access_whatever_was_refused() {
    Scenario::new("what_was_never_used_has_no_access_whatever_was_refused").passes(|| {
        let heap = millpond::Heap::builder().mode(millpond::Mode::Hardened).build().expect("memory");
        let block = || heap.alloc(Layout::new::<[u8; MIB]>());
        let set = |bytes: libc::rlim_t| {
            let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
            // SAFETY: changes no memory.
            ensure!(unsafe { libc::setrlimit(libc::RLIMIT_DATA, &limit) } == 0, "no limit");
        };
        let first = block().expect("memory").addr().get();
        set(16 * MIB as libc::rlim_t);
        while block().is_ok() {}
        set(libc::RLIM_INFINITY);
        // In another arena.
        let far = |at: usize| at.abs_diff(first) > 128 * MIB || at < first;
        let last = core::iter::repeat_with(|| block().expect("memory").addr().get()).take(400).find(|at| far(*at));
        let behind = last.expect("the first arena has 64 MiB") + 16 * MIB;
        let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux has this file");
        let rights = maps.lines().find_map(|line| {
            let (range, rest) = line.split_once(' ')?;
            let (start, end) = range.split_once('-')?;
            let number = |text| usize::from_str_radix(text, 16).expect("a number");
            (number(start)..number(end)).contains(&behind).then_some(&rest[..4])
        });
        assert_eq!(rights, Some("---p"), "16 MiB behind the first of an arena");
    });
}

#[test]
fn large_ones_that_have_lost_access_serve_again() {
    let test = Scenario::new("large_ones_that_have_lost_access_serve_again").variable("MILLPOND_MODE", "hardened");
    test.passes(|| what_has_lost_access_serves_again(3 * MIB));
}

#[test]
fn guarded_ones_that_have_lost_access_serve_again() {
    let test = Scenario::new("guarded_ones_that_have_lost_access_serve_again").variable("MILLPOND_MODE", "hardened");
    test.variable("MILLPOND_GUARD", "3").passes(|| what_has_lost_access_serves_again(3 * KIB));
}

/// Their tables are of what was set aside for all, and go back there.
#[test]
fn heaps_that_come_and_go_where_nothing_is_left_use_nothing_up() {
    Scenario::new("heaps_that_come_and_go_where_nothing_is_left_use_nothing_up").passes(|| {
        drop(vec![1_u8; 100 * KIB]);
        let limit = libc::rlimit { rlim_cur: MIB as u64, rlim_max: MIB as u64 };
        // SAFETY: changes no memory.
        ensure!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) } == 0, "no limit");
        for round in 0..100 {
            let Ok(heap) = millpond::Heap::new() else { panic!("no memory for heap {round}") };
            ensure!(heap.alloc(Layout::new::<u64>()).is_err(), "there is no memory for an arena");
        }
        let mut chain = Chain::new(48);
        chain.push_up_to(usize::MAX);
        ensure!(chain.bytes() >= 40 * MIB, "only {} MiB: {:?}", chain.bytes() / MIB, millpond::stats());
        chain.free_all();
        law::holds();
    });
}

/// Allocates one size until `null` and frees all. How many there were.
fn fill_and_free(size: usize) -> usize {
    let mut chain = Chain::new(size);
    chain.push_up_to(usize::MAX);
    let len = chain.len;
    chain.free_all();
    law::holds();
    len
}

/// With records the first that is refused may be memory for these: they serve wherever what they told of has ended. How many
/// allocations fit also goes by how tables and runs of pages come to lie, so half of them is enough.
fn records_serve_again() {
    let sizes = [24, 200, 2000, 64];
    let first = sizes.map(fill_and_free);
    for round in 0..2 {
        for (size, first) in sizes.into_iter().zip(first) {
            let now = fill_and_free(size);
            ensure!(now >= first / 2, "{first} of {size}, in round {round} {now}: {:?}", millpond::stats());
        }
        millpond::trim();
    }
    // Those of chunks in spans that are in use: every second one lives. There is room for others, but memory for their records is
    // refused.
    let mut room = Chain::new(MIB);
    room.push_up_to(8);
    let mut chain = Chain::new(24);
    chain.push_up_to(usize::MAX);
    let freed = chain.free_every_second();
    room.free_all();
    let mut others = Chain::new(100);
    others.push_up_to(freed);
    ensure!(others.len >= freed / 20, "{} for {freed} that were freed: {:?}", others.len, millpond::stats());
    others.free_all();
    chain.free_all();
    law::holds();
}

#[test]
fn records_serve_again_in_tracked() {
    let test = Scenario::new("records_serve_again_in_tracked").variable("MILLPOND_MODE", "tracked");
    test.address_space(SPACE).passes(records_serve_again);
}

#[test]
fn records_serve_again_in_hardened() {
    let test = Scenario::new("records_serve_again_in_hardened").variable("MILLPOND_MODE", "hardened");
    test.address_space(SPACE).passes(records_serve_again);
}

#[test]
fn runs_of_pages() {
    Scenario::new("runs_of_pages").address_space(SPACE).passes(|| {
        for size in [300 * KIB, MIB, 16, MIB] {
            exhaust(size);
        }
    });
}

#[test]
fn large_blocks() {
    Scenario::new("large_blocks").address_space(SPACE).passes(|| {
        let mut chain = Chain::new(12 * MIB);
        chain.push_up_to(usize::MAX);
        ensure!(chain.bytes() >= SPACE / 4, "{} blocks", chain.len);
        let freed = chain.free_every_second();
        let held = chain.len;
        chain.push_up_to(held + freed);
        ensure!(chain.len == held + freed, "{} of {freed} came again", chain.len - held);
        chain.free_all();
        law::holds();
    });
}

#[test]
fn huge_mappings() {
    Scenario::new("huge_mappings").address_space(SPACE).passes(|| {
        let mut chain = Chain::new(40 * MIB);
        chain.push_up_to(usize::MAX);
        ensure!(chain.len >= 3, "{} blocks", chain.len);
        let freed = chain.free_every_second();
        let held = chain.len;
        chain.push_up_to(held + freed);
        ensure!(chain.len == held + freed, "{} of {freed} came again", chain.len - held);
        // Small ones still come, or say null; then they surely do.
        let mut small = Chain::new(48);
        small.push_up_to(100_000);
        chain.free_all();
        small.push_up_to(200_000);
        ensure!(small.len == 200_000, "{} small ones", small.len);
        small.free_all();
        law::holds();
    });
}

#[test]
fn a_failed_realloc_leaves_the_old_block() {
    Scenario::new("a_failed_realloc_leaves_the_old_block").address_space(SPACE).passes(|| {
        let sizes = [8, 100, 5000, 100 * KIB, LARGEST_CLASS, MIB, 5 * MIB, 40 * MIB];
        let mut blocks = sizes.map(|size| Block::new(size, 8, size as u64));
        let too_much = [SPACE, 300 * MIB, 1 << 40];
        for place in &mut blocks {
            let mut block = place.take().expect("a block");
            for size in too_much {
                block = block.resize(size).expect_err("null");
                assert!(block.intact());
            }
            *place = Some(block);
        }
        // Once more with nothing left at all, not even for a slightly bigger one.
        let mut rest = Chain::new(LARGEST_CLASS);
        rest.push_up_to(usize::MAX);
        let mut crumbs = Chain::new(64);
        crumbs.push_up_to(usize::MAX);
        let mut refused = 0;
        for place in &mut blocks {
            let block = place.take().expect("a block");
            let size = block.size * 2;
            let block = block.resize(size).unwrap_or_else(|whole| {
                refused += 1;
                whole
            });
            assert!(block.intact());
            *place = Some(block);
        }
        assert!(refused > 0);
        crumbs.free_all();
        rest.free_all();
        blocks.into_iter().flatten().for_each(Block::free);
        law::holds();
    });
}

#[test]
fn zeroed_memory_under_pressure_is_zero_or_null() {
    Scenario::new("zeroed_memory_under_pressure_is_zero_or_null").address_space(SPACE).passes(|| {
        for size in [200, 10 * KIB, 400 * KIB, 3 * MIB] {
            // All there is becomes dirty, and half of it free.
            let mut blocks = Chain::new(size);
            while blocks.push() {
                blocks.dirty_last();
            }
            let freed = blocks.free_every_second();
            let layout = Layout::from_size_align(size, 8).expect("valid");
            for _ in 0..freed {
                // SAFETY: the layout is not empty; the bytes are initialised, and freed with it.
                unsafe {
                    let ptr = GLOBAL.alloc_zeroed(layout);
                    if !ptr.is_null() {
                        assert!(all_zero(core::slice::from_raw_parts(ptr, size)));
                        ptr.write_bytes(0xff, size);
                        GLOBAL.dealloc(ptr, layout);
                    }
                }
            }
            blocks.free_all();
        }
        law::holds();
    });
}

static START: Gate = Gate::new();
static SERVED: AtomicUsize = AtomicUsize::new(0);

/// Its first allocation comes when there is nothing left.
extern "C" fn born_under_pressure(_: *mut c_void) -> *mut c_void {
    START.wait();
    for size in [16, 64, 500, 4 * KIB, 300 * KIB, 40 * MIB, 16] {
        let ptr = take(size, 8);
        if !ptr.is_null() {
            SERVED.fetch_add(1, Ordering::Relaxed);
            // SAFETY: a live allocation, freed once.
            unsafe {
                ptr.write_bytes(1, size.min(4 * KIB));
                common::block::give(ptr, size, 8);
            }
        }
    }
    null_mut()
}

extern "C" fn born_after(_: *mut c_void) -> *mut c_void {
    let mut chain = Chain::new(100);
    chain.push_up_to(10_000);
    ensure!(chain.len == 10_000, "{} came", chain.len);
    chain.free_all();
    null_mut()
}

#[test]
fn threads_born_under_pressure() {
    Scenario::new("threads_born_under_pressure").address_space(SPACE).passes(|| {
        let threads: [Bare; 64] = core::array::from_fn(|_| Bare::spawn(64 * KIB, born_under_pressure, null_mut()));
        let mut chains = [LARGEST_CLASS, 4 * KIB, 500, 64, 16].map(Chain::new);
        for chain in &mut chains {
            chain.push_up_to(usize::MAX);
        }
        START.open();
        for thread in threads {
            thread.join();
        }
        println!("{} of 448 were served", SERVED.load(Ordering::Relaxed));
        for chain in &mut chains {
            chain.free_all();
        }
        let threads: [Bare; 8] = core::array::from_fn(|_| Bare::spawn(64 * KIB, born_after, null_mut()));
        for thread in threads {
            thread.join();
        }
        assert_eq!(law::holds().stranded, 0);
    });
}

/// More than there are caches in the first segment of their slab.
const MANY: usize = 80;
static ALL_BORN: Barrier = Barrier::new(MANY);

extern "C" fn born_without_a_page(_: *mut c_void) -> *mut c_void {
    START.wait();
    let ptr = take(64, 8);
    // None ends, and leaves its cache to another, before all have asked for one.
    ALL_BORN.wait();
    if !ptr.is_null() {
        // SAFETY: a live allocation, freed once.
        unsafe { common::block::give(ptr, 64, 8) };
    }
    null_mut()
}

/// Not a page more from the system: what was set aside for tables must do for the caches of new threads.
#[test]
fn threads_born_without_a_page() {
    Scenario::new("threads_born_without_a_page").address_space(SPACE).passes(|| {
        let threads: [Bare; MANY] = core::array::from_fn(|_| Bare::spawn(64 * KIB, born_without_a_page, null_mut()));
        limit_address_space(4 * KIB);
        START.open();
        for thread in threads {
            thread.join();
        }
        limit_address_space(SPACE);
        Bare::spawn(64 * KIB, born_after, null_mut()).join();
        assert_eq!(law::holds().stranded, 0);
    });
}

/// What is mapped already stays.
fn limit_address_space(bytes: usize) {
    let limit = libc::rlimit { rlim_cur: bytes as u64, rlim_max: SPACE as u64 };
    // SAFETY: a valid limit.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
}

static GOT: AtomicUsize = AtomicUsize::new(0);

extern "C" fn greedy(size: *mut c_void) -> *mut c_void {
    START.wait();
    let mut chain = Chain::new(size as usize);
    chain.push_up_to(usize::MAX);
    GOT.fetch_add(chain.bytes(), Ordering::Relaxed);
    chain.free_every_second();
    chain.push_up_to(usize::MAX);
    chain.free_all();
    null_mut()
}

#[test]
fn four_threads_run_out_together() {
    Scenario::new("four_threads_run_out_together").address_space(SPACE).passes(|| {
        let threads = [64, 3000, 64, 100 * KIB].map(|size: usize| Bare::spawn(64 * KIB, greedy, size as *mut c_void));
        START.open();
        for thread in threads {
            thread.join();
        }
        assert!(GOT.load(Ordering::Relaxed) >= AT_LEAST);
        law::holds();
        exhaust(64);
        exhaust(MIB);
    });
}

/// Each takes records from places that the others have just freed.
#[test]
fn four_threads_run_out_of_records_together() {
    let test = Scenario::new("four_threads_run_out_of_records_together").variable("MILLPOND_MODE", "tracked");
    test.address_space(SPACE).passes(|| {
        let threads = [24, 500, 40, 24].map(|size: usize| Bare::spawn(64 * KIB, greedy, size as *mut c_void));
        START.open();
        for thread in threads {
            thread.join();
        }
        assert!(GOT.load(Ordering::Relaxed) >= 16 * MIB, "only {} bytes", GOT.load(Ordering::Relaxed));
        law::holds();
        let first = fill_and_free(24);
        ensure!(fill_and_free(60) >= first / 2, "after {first}: {:?}", millpond::stats());
    });
}
