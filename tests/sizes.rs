//! What a size becomes: rounding, natural alignment, `usable_size` and `owns`, sizes that overflow.

mod common;

use common::block::{Block, give, take};
use common::{GLOBAL, KIB, LARGEST_CLASS, MIB};
use core::alloc::{GlobalAlloc, Layout};

fn usable(size: usize) -> usize {
    let ptr = take(size, 1);
    let usable = millpond::usable_size(ptr).expect("a live chunk");
    // SAFETY: taken above.
    unsafe { give(ptr, size, 1) };
    usable
}

#[test]
fn rounding_loses_a_fifth_at_worst_and_a_tenth_on_average() {
    let mut lost = 0.0;
    let mut before = usable(128);
    for size in 129..=LARGEST_CLASS {
        let usable = usable(size);
        assert!(usable >= size && usable >= before, "{size} becomes {usable}");
        let loss = (usable - size) as f64 / usable as f64;
        assert!(loss <= 0.2, "{size} becomes {usable}: {loss} lost");
        // Weighed so that each doubling counts the same.
        lost += loss / size as f64;
        before = usable;
    }
    let weights: f64 = (129..=LARGEST_CLASS).map(|size| 1.0 / size as f64).sum();
    assert!(lost / weights <= 0.1, "{} lost on average", lost / weights);
}

#[test]
fn small_sizes_are_rounded_little() {
    for size in 1..=128 {
        let usable = usable(size);
        assert!((size..=(size + 15).max(8)).contains(&usable), "{size} becomes {usable}");
    }
}

#[test]
fn powers_of_two_are_naturally_aligned() {
    for shift in 3..=12 {
        let size = 1 << shift;
        let chunks: Vec<*mut u8> = (0..100).map(|_| take(size, 1)).collect();
        for ptr in chunks {
            assert_eq!(ptr as usize % size, 0, "{ptr:p} of {size}");
            // SAFETY: taken above.
            unsafe { give(ptr, size, 1) };
        }
    }
}

/// Each size of interest: every kind of allocation and the borders between them.
const KINDS: [usize; 12] =
    [1, 8, 48, 129, 1000, 4 * KIB, 100 * KIB, LARGEST_CLASS, LARGEST_CLASS + 1, 3 * MIB, 32 * MIB, 70 * MIB];

#[test]
fn live_memory_is_known_and_its_inside_is_no_chunk() {
    for size in KINDS {
        for align in [1, 64, 64 * KIB, 4 * MIB] {
            let block = Block::new(size, align, 1).expect("memory");
            let usable = millpond::usable_size(block.ptr).expect("a live block");
            assert!(usable >= size);
            for offset in [0, 1, size / 2, size - 1] {
                assert!(millpond::owns(block.ptr.wrapping_add(offset)), "{offset} inside {block:?}");
            }
            // Not where an aligned block may have been cut from a bigger chunk: only its own start is the user's.
            for offset in [1, 8, 16, size / 2, size - 1, 4 * KIB, MIB] {
                if offset > 0 && offset < size {
                    let inside = millpond::usable_size(block.ptr.wrapping_add(offset));
                    assert_eq!(inside, None, "{offset} inside {block:?}");
                }
            }
            block.free();
        }
    }
}

#[test]
fn foreign_addresses_are_recognised() {
    static STATIC: u64 = 0;
    let local = 0_u64;
    // With the feature `malloc` libc's is this crate's. SAFETY: asks libc for memory of its own; freed below.
    let malloced = if cfg!(feature = "malloc") { core::ptr::null_mut() } else { unsafe { libc::malloc(100) } };
    let foreign = [
        core::ptr::null::<u8>(),
        core::ptr::dangling(),
        (&raw const STATIC).cast(),
        (&raw const local).cast(),
        malloced.cast_const().cast(),
        (foreign_addresses_are_recognised as fn()) as *const u8,
        0x1000 as *const u8,
        0x7fff_ffff_f000 as *const u8,
        0x7fff_ffff_ffff as *const u8,
        0x8000_0000_0000 as *const u8,
        0xffff_8000_0000_0000_u64 as *const u8,
        0xffff_ffff_ffff_fff8_u64 as *const u8,
        usize::MAX as *const u8,
    ];
    for ptr in foreign {
        assert!(!millpond::owns(ptr), "{ptr:p} is not ours");
        assert_eq!(millpond::usable_size(ptr), None, "{ptr:p} is no chunk");
    }
    // SAFETY: allocated above.
    unsafe { libc::free(malloced) };
}

/// All three ways to ask for this layout say `null`, and the block that should have grown is whole.
fn refused(layout: Layout) {
    // SAFETY: a valid layout, not of size 0; should memory come after all, it is only looked at.
    unsafe {
        let ptr = GLOBAL.alloc(layout);
        assert!(ptr.is_null(), "{layout:?} gave {ptr:p}");
        let ptr = GLOBAL.alloc_zeroed(layout);
        assert!(ptr.is_null(), "{layout:?} zeroed gave {ptr:p}");
    }
    if [1, 4 * KIB, 4 * MIB].contains(&layout.align()) {
        for size in [1, 1000, LARGEST_CLASS, MIB, 40 * MIB] {
            let block = Block::new(size, layout.align(), 9).expect("memory");
            let block = block.resize(layout.size()).expect_err("null");
            block.free();
        }
    }
}

#[test]
fn sizes_that_overflow_give_null() {
    for shift in 0..=62 {
        let align = 1_usize << shift;
        let most = isize::MAX as usize - (align - 1);
        for size in [
            most,
            most - 1,
            isize::MAX as usize / 2,
            isize::MAX as usize / 4 + 1,
            1 << 62,
            1 << 60,
            1 << 56,
            1 << 52,
            (1 << 48) + 1,
        ] {
            if let Ok(layout) = Layout::from_size_align(size.max(1), align) {
                refused(layout);
            }
        }
    }
    let mut vector = vec![1_u8, 2, 3];
    assert!(vector.try_reserve_exact(isize::MAX as usize - 3).is_err());
    assert_eq!(vector, [1, 2, 3]);
}

#[test]
fn alignments_beyond_the_address_space_give_null() {
    for shift in 48..=62 {
        for size in [1, 100, 5 * KIB, MIB] {
            refused(Layout::from_size_align(size, 1 << shift).expect("valid"));
        }
    }
    // What may succeed must then be right.
    for shift in 23..48 {
        for size in [1, MIB] {
            if let Some(block) = Block::new(size, 1 << shift, 2) {
                block.free();
            }
        }
    }
}

/// What carries a panic: std asks for an alignment of 8, and unwinders write there by instructions that need 16.
#[test]
fn what_carries_a_panic_is_aligned_as_by_malloc() {
    let chunks: Vec<*mut u8> = (0..1000).map(|_| take(56, 8)).collect();
    for ptr in chunks {
        assert_eq!(ptr as usize % 16, 0, "{ptr:p}");
        // SAFETY: taken above.
        unsafe { give(ptr, 56, 8) };
    }
}
