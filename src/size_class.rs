//! Size classes: which chunk size serves a request.
//!
//! Classes go up by [`GRAIN`] to [`LINEAR_MAX`], then four to a doubling up to
//! [`CLASS_MAX`], so above 64 B less than 20 % of a chunk is lost to rounding at worst. All is
//! computed at compile time; a class is an index into the tables below. Four classes a doubling are jemalloc's spacing
//! (Evans, 2006 and later).
//!
//! Between these lie a few *odd* classes, [`ODD`], for what C programs ask for most: between 4 and 64 KiB a power of two plus a
//! header (a page and its descriptor, a block and its link), below 512 B objects whose sizes fall just past a class. They serve only
//! C's requests, and only those that name no alignment: see `c_class`. From 4 KiB on they are odd multiples of 16, so that their
//! chunks begin at 256 different offsets in an OS page. (If all began with the page, data read into them behind a header would lie a
//! few bytes after its source modulo 4096, and on some processors such a copy takes twice as long.) Where there is nobody but C, the
//! small ones take the places of classes that are no multiples of 16, [`LEFT_OUT`]; one of these is there for nobody.
//!
//! Alignment comes for free: a request is rounded up to a multiple of its alignment first, and the smallest class that
//! holds the result is then a multiple of that alignment itself, because between two powers of two the regular classes are
//! consecutive multiples of a quarter of the lower one. Spans start on a page, hence every alignment up to a page is
//! served by a class.

use crate::config::{
    BIN_BYTES, CLASS_MAX, DEEP_BYTES, DEEP_CHUNKS, GRAIN, LEFT_OUT, LINEAR_MAX, MAGAZINE_BYTES, MAGAZINE_SLOTS, ODD,
    PAGE, POOL_BYTES, SPAN_CHUNKS,
};

/// Index of a class: below [`CLASSES`].
pub(crate) type Class = usize;

const LINEAR: usize = LINEAR_MAX / GRAIN;
const LINEAR_LOG: u32 = LINEAR_MAX.ilog2();

const REGULAR: usize = LINEAR + 4 * (CLASS_MAX.ilog2() - LINEAR_LOG) as usize;

/// How many classes there are.
pub(crate) const CLASSES: usize = REGULAR - LEFT_OUT.len() + ODD.len();

/// Bytes of a chunk of each class, in order.
pub(crate) const SIZES: [usize; CLASSES] = {
    let mut sizes = [0; CLASSES];
    let (mut class, mut nth, mut odd) = (0, 0, 0);
    while nth < REGULAR {
        if odd < ODD.len() && ODD[odd] < regular_size(nth) {
            sizes[class] = ODD[odd];
            (class, odd) = (class + 1, odd + 1);
            continue;
        }
        if !has(LEFT_OUT, regular_size(nth)) {
            sizes[class] = regular_size(nth);
            class += 1;
        }
        nth += 1;
    }
    sizes
};

/// Sizes up to here are looked up in [`FINE`], the others in [`COARSE`].
pub(crate) const FINE_MAX: usize = if CLASS_MAX < 1024 { CLASS_MAX } else { 1024 };
/// Above [`FINE_MAX`] all classes are multiples of this.
pub(crate) const COARSE_GRAIN: usize = if CLASS_MAX < 1024 { CLASS_MAX } else { 256 };

/// The size of the nth regular class.
const fn regular_size(nth: usize) -> usize {
    if nth < LINEAR {
        return (nth + 1) * GRAIN;
    }
    let step = nth - LINEAR;
    (LINEAR_MAX / 4 * (5 + step % 4)) << (step / 4)
}

const fn has(sizes: &[usize], size: usize) -> bool {
    let mut at = 0;
    while at < sizes.len() && sizes[at] != size {
        at += 1;
    }
    at < sizes.len()
}

/// The regular class that serves `size`.
pub(crate) const fn compute(size: usize) -> Class {
    let mut class = compute_unaligned(size);
    while has(ODD, SIZES[class]) {
        class += 1;
    }
    class
}

/// The smallest class that serves `size` where no alignment is named: also an odd one.
pub(crate) const fn compute_unaligned(size: usize) -> Class {
    let mut class = 0;
    while SIZES[class] < size {
        class += 1;
    }
    class
}

/// Where the bins of the classes lie in a thread cache that serve sizes up to [`FINE_MAX`], a grain from each to the next. (Constants,
/// not statics: other crates inline the fast path, and a constant size must fold there.)
pub(crate) const FINE: [u16; FINE_MAX / GRAIN + 1] = {
    let mut table = [0; FINE_MAX / GRAIN + 1];
    let mut at = 0;
    while at < table.len() {
        table[at] = place(compute(at * GRAIN)) as u16;
        at += 1;
    }
    table
};
/// The same of all sizes, [`COARSE_GRAIN`] from each to the next.
const COARSE: Coarse = {
    let mut table = [0; CLASS_MAX / COARSE_GRAIN + 1];
    let mut at = 0;
    while at < table.len() {
        table[at] = place(compute(at * COARSE_GRAIN)) as u32;
        at += 1;
    }
    table
};
/// Wider than the other, so that compilers do not make one look-up of both, with table, sum and shift in registers: for small sizes,
/// which are the most, that is three instructions more, and in C eight.
pub(crate) type Coarse = [u32; CLASS_MAX / COARSE_GRAIN + 1];

/// What follows from a class.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClassInfo {
    /// Bytes of a chunk.
    pub(crate) size: usize,
    /// `ceil(2^40 / size)`: turns an offset into an index by multiplication.
    inverse: u64,
    /// Pages of a span.
    pub(crate) pages: usize,
    /// Chunks of a span.
    pub(crate) chunks: usize,
    /// Words of a span's bitmap.
    pub(crate) words: usize,
    /// Slots of a magazine that this class uses.
    pub(crate) slots: usize,
    /// Full magazines that a pool may hold, and that one may which serves many.
    pub(crate) pooled: u32,
    pub(crate) deep: u32,
}

const fn at_least_one(magazines: usize) -> u32 {
    if magazines < 1 { 1 } else { magazines as u32 }
}

impl ClassInfo {
    const fn new(class: Class) -> Self {
        let size = SIZES[class];
        let least = if size > 32 << 10 { SPAN_CHUNKS.1 } else { SPAN_CHUNKS.0 };
        let mut pages = (least * size).div_ceil(PAGE);
        // A longer span is taken only if it leaves less behind its last chunk.
        let mut candidate = pages;
        while candidate < 2 * ((least * size).div_ceil(PAGE)) {
            candidate += 1;
            let waste = (candidate * PAGE) % size * pages;
            if candidate * PAGE / size <= 8192 && size > PAGE / 16 && waste < (pages * PAGE) % size * candidate {
                pages = candidate;
            }
        }
        let chunks = pages * PAGE / size;
        let fit = MAGAZINE_BYTES / size;
        let slots = if fit > MAGAZINE_SLOTS {
            MAGAZINE_SLOTS
        } else if fit < 1 {
            1
        } else {
            fit
        };
        let pooled = at_least_one(POOL_BYTES / (slots * size));
        let most = DEEP_CHUNKS / slots;
        let fit = DEEP_BYTES / (slots * size);
        let fit = at_least_one(if fit > most { most } else { fit });
        let deep = if fit < pooled { pooled } else { fit };
        let inverse = (1u64 << 40).div_ceil(size as u64);
        Self { size, inverse, pages, chunks, words: chunks.div_ceil(64), slots, pooled, deep }
    }

    /// The index of the chunk in which `offset` lies, counted from the span's start. Of what lies in no span of the class, some index:
    /// who asks for any address may find a node that has become another span's meanwhile, and looks again.
    #[inline]
    pub(crate) const fn index(&self, offset: usize) -> usize {
        ((offset as u64).wrapping_mul(self.inverse) >> 40) as usize
    }

    /// Bytes behind a span's last chunk.
    pub(crate) const fn tail(&self) -> usize {
        self.pages * PAGE - self.chunks * self.size
    }

    /// Bytes that a full magazine of this class holds.
    pub(crate) const fn magazine_bytes(&self) -> usize {
        self.slots * self.size
    }
}

/// What follows from each class.
pub(crate) static INFO: [ClassInfo; CLASSES] = {
    let mut info = [ClassInfo::new(0); CLASSES];
    let mut class = 0;
    while class < CLASSES {
        info[class] = ClassInfo::new(class);
        class += 1;
    }
    info
};

/// The size to look up in order to serve `size` bytes aligned to `align` (a power of two): `size` rounded up to that, beyond the grain;
/// `None` above a page of alignment. `size + align` must not overflow, which `Layout` guarantees.
#[inline(always)]
pub(crate) fn rounded(size: usize, align: usize) -> Option<usize> {
    // The common case needs no rounding: each class is a multiple of the grain.
    if align <= GRAIN {
        Some(size)
    } else if align <= PAGE {
        Some((size + (align - 1)) & !(align - 1))
    } else {
        None
    }
}

/// What an allocation that lies in no chunk must be aligned to, for who takes more for granted than is asked for: see [`LEFT_OUT`].
#[inline]
pub(crate) fn alignment(size: usize, align: usize) -> usize {
    if has(LEFT_OUT, size) { align.max(2 * GRAIN) } else { align }
}

/// Has compilers lay out what follows elsewhere, so that small sizes meet no jump.
#[cold]
#[inline(always)]
pub(crate) const fn is_seldom() {}

/// The place of the bin, in bytes from the first, of the class that serves a rounded size; `None` above [`CLASS_MAX`].
#[inline(always)]
pub(crate) fn place_of_rounded(rounded: usize) -> Option<usize> {
    // Sums and shifts: from `div_ceil` older compilers make more instructions, and a bound to check.
    if rounded <= FINE_MAX {
        Some(FINE[(rounded + (GRAIN - 1)) >> GRAIN.ilog2()] as usize)
    } else {
        is_seldom();
        if rounded <= CLASS_MAX {
            Some(COARSE[(rounded + (COARSE_GRAIN - 1)) >> COARSE_GRAIN.ilog2()] as usize)
        } else {
            None
        }
    }
}

/// The place of the bin, in bytes from the first, of the class that serves `size` bytes aligned to `align` (a power of
/// two); `None` above [`CLASS_MAX`] or a page of alignment. `size + align` must not overflow, which `Layout` guarantees.
#[inline(always)]
pub(crate) fn place_of(size: usize, align: usize) -> Option<usize> {
    place_of_rounded(rounded(size, align)?)
}

/// Where a class's bin lies, in bytes from the first.
#[inline(always)]
pub(crate) const fn place(class: Class) -> usize {
    class * BIN_BYTES
}

/// The class whose bin lies at a place.
pub(crate) const fn at_place(place: usize) -> Class {
    place / BIN_BYTES
}

const _: () = {
    let (mut class, mut odd) = (0, 0);
    while class < CLASSES {
        let info = ClassInfo::new(class);
        assert!(class + 1 == CLASSES || info.size < SIZES[class + 1]);
        if odd < ODD.len() && info.size == ODD[odd] {
            assert!(compute(info.size) == class + 1 && compute_unaligned(info.size) == class);
            odd += 1;
        } else {
            assert!(compute(info.size) == class && compute_unaligned(info.size) == class);
            assert!(info.size <= FINE_MAX || info.size % COARSE_GRAIN == 0);
        }
        assert!(info.chunks >= 1 && info.chunks <= 1 << 15);
        assert!(info.tail() < info.size || info.size <= 64);
        class += 1;
    }
    assert!(SIZES[CLASSES - 1] == CLASS_MAX && odd == ODD.len());
};

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;

    fn of(size: usize, align: usize) -> Option<Class> {
        place_of(size, align).map(at_place)
    }

    #[test]
    fn every_size_and_alignment_gets_an_aligned_class_that_is_the_smallest() {
        for align in (0..=16).map(|log| 1usize << log) {
            for size in (1..=CLASS_MAX).filter(|size| *size < 5000 || size % 257 < 3) {
                let Some(class) = of(size, align) else {
                    assert!(size.next_multiple_of(align) > CLASS_MAX);
                    continue;
                };
                let info = &INFO[class];
                assert!(info.size >= size && info.size % align == 0, "{size} {align} {info:?}");
                let regular = INFO.iter().filter(|info| !ODD.contains(&info.size));
                let better = regular.clone().find(|other| other.size >= size && other.size % align == 0).unwrap();
                assert_eq!(better.size, info.size, "{size} {align}");
            }
        }
    }

    #[test]
    fn rounding_loses_less_than_a_fifth_above_128() {
        let mut lost = 0.0;
        for size in 129..=CLASS_MAX {
            let share = 1.0 - size as f64 / INFO[of(size, 1).unwrap()].size as f64;
            assert!(share < 0.2, "{size} loses {share}");
            lost += share;
        }
        assert!(lost / ((CLASS_MAX - 128) as f64) < 0.10);
    }

    #[test]
    fn offsets_become_indices() {
        for info in &INFO {
            for offset in (0..info.pages * PAGE).step_by(7).chain((0..info.chunks).map(|i| i * info.size)) {
                assert_eq!(info.index(offset), offset / info.size);
            }
            // An address and a node that belong together no more: some index, which is looked at again.
            assert!([1 << 40, 1 << 46, usize::MAX].iter().all(|offset| info.index(*offset) < 1 << 24));
        }
    }
}
