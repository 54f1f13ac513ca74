//! Transparent huge pages are a setting: asked for where a heap grows and they come fast, everywhere, or nowhere, or left to the
//! system.

mod common;

use common::block::Block;
use common::child::Scenario;
use common::{KIB, MIB, kernel, law};
use millpond::Thp;

/// Whether the system gives huge pages to whoever asks.
fn offered() -> bool {
    std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").is_ok_and(|modes| !modes.contains("[never]"))
}

/// Whether the system gives them to nobody else.
fn only_if_asked() -> bool {
    std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
        .is_ok_and(|modes| !modes.contains("[always]"))
}

/// Fills 64 MiB in small chunks and 64 MiB in large blocks, and says how much of it lies in huge pages.
fn in_huge_pages() -> usize {
    let mut blocks: Vec<Block> =
        (0..64 * MIB / (4 * KIB)).map(|seed| Block::new(4 * KIB, 8, seed as u64).expect("memory")).collect();
    blocks.extend((0..8).map(|seed| Block::new(8 * MIB, 8, seed).expect("memory")));
    let huge = kernel::huge_pages();
    blocks.into_iter().for_each(Block::free);
    law::holds();
    huge
}

#[test]
fn asked_for_by_the_environment() {
    Scenario::new("asked_for_by_the_environment").variable("MILLPOND_THP", "always").passes(|| {
        let huge = in_huge_pages();
        assert!(huge >= 32 * MIB || !offered(), "{} MiB in huge pages", huge / MIB);
    });
}

#[test]
fn refused_by_the_environment() {
    Scenario::new("refused_by_the_environment").variable("MILLPOND_THP", "never").passes(|| {
        assert_eq!(in_huge_pages(), 0);
    });
}

#[test]
fn set_by_the_program() {
    Scenario::new("set_by_the_program").variable("MILLPOND_THP", "default").passes(|| {
        millpond::set_thp(Thp::Always);
        let huge = in_huge_pages();
        assert!(huge >= 32 * MIB || !offered(), "{} MiB in huge pages", huge / MIB);
        millpond::trim();
        millpond::set_thp(Thp::Never);
        assert_eq!(in_huge_pages(), 0);
        millpond::set_thp(Thp::Default);
        in_huge_pages();
    });
}

#[test]
fn a_heap_that_grows_has_them_and_one_that_has_ebbed_does_not() {
    Scenario::new("a_heap_that_grows_has_them_and_one_that_has_ebbed_does_not").passes(|| {
        let fill = |bytes: usize| -> Vec<Block> {
            (0..bytes / KIB).map(|seed| Block::new(KIB, 8, seed as u64).expect("memory")).collect()
        };
        let little = fill(256 * KIB);
        assert!(kernel::huge_pages() == 0 || !only_if_asked(), "a small heap has huge pages");
        let much = fill(64 * MIB);
        let huge = kernel::huge_pages();
        // Refused from the first on that was slow, which stays: by a clock of its own, `growth` has a test of that.
        let last = much.last().expect("many").address();
        let slow = huge > 0 && kernel::huge_advice(last) == Some("nh");
        assert!(huge >= 32 * MIB || slow || !offered(), "{} MiB in huge pages", huge / MIB);
        little.into_iter().chain(much).for_each(Block::free);
        millpond::trim();
        assert_eq!(kernel::huge_pages(), 0, "after a trim");
        let again = fill(32 * MIB);
        assert_eq!(kernel::huge_pages(), 0, "where memory had gone back");
        again.into_iter().for_each(Block::free);
        law::holds();
    });
}

/// Also where the system gives huge pages to all: a program that allocates little would pay 2 MiB for each table.
#[test]
fn a_small_heap_and_its_tables_have_small_pages() {
    Scenario::new("a_small_heap_and_its_tables_have_small_pages").passes(|| {
        let blocks: Vec<Block> =
            (0..256).map(|seed| Block::new(16 + seed as usize * 8, 8, seed).expect("memory")).collect();
        let stack = &raw const blocks as usize;
        let all = kernel::advice_for_long_mappings();
        let others: Vec<_> = all.iter().filter(|(range, _)| !range.contains(&stack)).collect();
        assert!(others.iter().any(|(range, _)| range.contains(&blocks[0].address())), "{all:x?}");
        assert!(others.iter().all(|(_, advice)| *advice == Some("nh")) || !offered(), "{all:x?}");
        blocks.into_iter().for_each(Block::free);
        law::holds();
    });
}

/// A block with a mapping of its own that is about to be filled; of a zeroed one much may never be touched.
#[test]
fn asked_for_where_a_huge_block_is_to_be_filled() {
    Scenario::new("asked_for_where_a_huge_block_is_to_be_filled").variable("MILLPOND_THP", "default").passes(|| {
        for (zeroed, asked) in [(false, true), (true, false)] {
            let make = if zeroed { Block::zeroed } else { Block::new };
            let block = make(64 * MIB, 8, 1).expect("memory");
            // Refused where the first was slow to come.
            assert!(kernel::huge_advice(block.address()).is_some() == asked || !offered(), "zeroed: {zeroed}");
            block.free();
            millpond::trim();
        }
        law::holds();
    });
}

/// Fills 64 MiB with blocks of a size and frees all but one of so many: where these were, no huge page is made again.
fn refused_where_memory_has_gone_back(size: usize, kept: impl Fn(usize) -> bool) {
    millpond::trim();
    let mut blocks: Vec<Option<Block>> = Vec::with_capacity(64 * MIB / size);
    blocks.extend((0..blocks.capacity()).map(|seed| Block::new(size, 8, seed as u64)));
    let at = blocks[blocks.len() / 4 * 3].as_ref().expect("memory").address();
    // Where the first was slow to come, that one stays.
    let asked = kernel::huge_advice(at) == Some("hg") || kernel::huge_pages() > 0;
    assert!(asked || !offered(), "nothing advised while it grows");
    for (place, block) in blocks.iter_mut().enumerate() {
        if !kept(place) {
            block.take().expect("not freed yet").free();
        }
    }
    millpond::trim();
    assert!(kernel::huge_advice(at) == Some("nh") || !offered(), "{:?} afterwards", kernel::huge_advice(at));
    blocks.into_iter().flatten().for_each(Block::free);
    law::holds();
}

#[test]
fn refused_where_runs_have_gone_back() {
    Scenario::new("refused_where_runs_have_gone_back").passes(|| refused_where_memory_has_gone_back(MIB, |_| false));
}

#[test]
fn refused_where_parts_of_spans_have_gone_back() {
    Scenario::new("refused_where_parts_of_spans_have_gone_back")
        .passes(|| refused_where_memory_has_gone_back(4 * KIB, |place| place % 8 == 0));
}

#[test]
fn left_to_the_system() {
    Scenario::new("left_to_the_system").variable("MILLPOND_THP", "system").passes(|| {
        assert!(in_huge_pages() == 0 || !only_if_asked());
    });
}

#[test]
fn a_value_that_means_nothing_does_no_harm() {
    Scenario::new("a_value_that_means_nothing_does_no_harm").variable("MILLPOND_THP", "sometimes, maybe").passes(
        || {
            in_huge_pages();
        },
    );
}
