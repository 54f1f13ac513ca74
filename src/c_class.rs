//! Size classes for C: which chunk serves a request that names no alignment.
//!
//! Memory must suit every type there that fits into it. So a request of more than 8 bytes gets a class that is a multiple of 16,
//! and a smaller one the smallest class, which is aligned to 8. The odd classes are for such requests alone.

use crate::config::{CLASS_MAX, GRAIN};
use crate::size_class::{
    self, CLASSES, COARSE_GRAIN, Coarse, FINE_MAX, SIZES, at_place, compute_unaligned, is_seldom, place,
};

/// The alignment of C's `max_align_t`.
pub(crate) const C_ALIGN: usize = 16;

/// As the table for sizes up to [`FINE_MAX`], without the classes that are no multiples of 16, and with the odd ones.
const FINE: [u16; FINE_MAX / GRAIN + 1] = {
    let mut table = size_class::FINE;
    let mut at = 2;
    while at < table.len() {
        table[at] = place(compute_unaligned((at * GRAIN).next_multiple_of(C_ALIGN))) as u16;
        at += 1;
    }
    table
};

/// As the table for sizes above, with the odd classes.
const COARSE: Coarse = {
    let mut table = [0; CLASS_MAX / COARSE_GRAIN + 1];
    let mut at = 0;
    while at < table.len() {
        table[at] = place(compute_unaligned(at * COARSE_GRAIN)) as u32;
        at += 1;
    }
    table
};

/// The place of the bin of the class that serves C's `malloc(size)`; `None` above [`CLASS_MAX`].
#[inline(always)]
pub(crate) const fn place_in_c(size: usize) -> Option<usize> {
    // Sums and shifts, as in `place_of`.
    if size <= FINE_MAX {
        Some(FINE[(size + (GRAIN - 1)) >> GRAIN.ilog2()] as usize)
    } else {
        is_seldom();
        if size <= CLASS_MAX {
            Some(COARSE[(size + (COARSE_GRAIN - 1)) >> COARSE_GRAIN.ilog2()] as usize)
        } else {
            None
        }
    }
}

/// Each class's size, and one byte more, gets the smallest class that suits: in the table of each build.
const _: () = {
    let mut at = 0;
    while at < 2 * CLASSES {
        let size = SIZES[at / 2] + at % 2;
        at += 1;
        if size > CLASS_MAX {
            break;
        }
        let Some(place) = place_in_c(size) else { panic!() };
        let class = at_place(place);
        assert!(SIZES[class] >= size && (size <= GRAIN || SIZES[class] % C_ALIGN == 0));
        let least = if size <= FINE_MAX { size } else { size.next_multiple_of(COARSE_GRAIN) };
        let mut smaller = 0;
        while smaller < class {
            assert!(SIZES[smaller] < least || SIZES[smaller] % C_ALIGN != 0);
            smaller += 1;
        }
    }
};

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;
    use crate::size_class::INFO;

    #[test]
    fn classes_for_c_suit_every_type_and_are_the_smallest_that_do() {
        for size in 0..=CLASS_MAX {
            let info = &INFO[at_place(place_in_c(size).unwrap())];
            let align = if size <= 8 { 8 } else { C_ALIGN };
            assert!(info.size >= size && info.size % align == 0, "{size} {info:?}");
            // Sizes above the finer table are looked up a grain at a time.
            let least = if size <= FINE_MAX { size } else { size.next_multiple_of(COARSE_GRAIN) };
            let better = INFO.iter().find(|other| other.size >= least && other.size % align == 0).unwrap();
            assert_eq!(better.size, info.size, "{size}");
        }
        assert_eq!(place_in_c(CLASS_MAX + 1), None);
    }
}
