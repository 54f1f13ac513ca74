//! The arithmetic of sampling by bytes, in whole numbers.
//!
//! Sampling points lie on the line of all bytes ever asked for as the events of a Poisson process, `mean` bytes apart on
//! average: the gap between two is exponential, `-ln(u) mean`. An allocation of `size` bytes is sampled if a point falls into
//! it, which happens with the probability `1 - exp(-size / mean)`; counted with the inverse of that as its weight, sums over
//! samples have the expectation of sums over all allocations (Horvitz and Thompson, 1952).

/// The bits behind the point of a weight.
pub(crate) const WEIGHT_BITS: u32 = 20;
/// The largest mean, in bytes.
pub(crate) const MEAN_MAX: u64 = 1 << 40;

/// Bits behind the point of a logarithm.
const LOG_BITS: u32 = 48;
/// `ln 2`, 62 bits behind the point.
const LN_2: u128 = 0x2c5c_85fd_f473_de6a;
/// Bits behind the point of a share.
const SHARE_BITS: u32 = 62;
const ONE: u128 = 1 << SHARE_BITS;

/// A well mixed word from a counter (Steele, Lea and Flood's SplitMix, 2014).
pub(crate) fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// What the counter behind [`mix`] is advanced by: odd, the golden ratio's.
pub(crate) const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Bytes from one sampling point to the next, rounded up, from a uniform random word: at least 1. Some 100 ns.
pub(crate) fn gap(random: u64, mean: u64) -> u64 {
    let scaled = (minus_log2(random) as u128 * LN_2) >> 62;
    let gap = (scaled * mean as u128).div_ceil(1 << LOG_BITS);
    gap.max(1) as u64
}

/// `-log2((random + 1) / 2^64)`, with `LOG_BITS` behind the point: squares the mantissa, a bit each time.
fn minus_log2(random: u64) -> u64 {
    let whole = random as u128 + 1;
    let exponent = whole.ilog2();
    // In [1, 2), 63 bits behind the point.
    let mut mantissa = whole << 63 >> exponent;
    let mut log = (exponent as u64) << LOG_BITS;
    for bit in (0..LOG_BITS).rev() {
        mantissa = (mantissa * mantissa) >> 63;
        if mantissa >> 64 != 0 {
            mantissa >>= 1;
            log |= 1 << bit;
        }
    }
    (64 << LOG_BITS) - log
}

/// For how many allocations of `size` bytes a sampled one stands, with `WEIGHT_BITS` behind the point: at least one.
#[unsafe(link_section = ".millpond_cold")]
pub(crate) fn weight(size: u64, mean: u64) -> u64 {
    ((1 << (SHARE_BITS + WEIGHT_BITS)) / share(size, mean)) as u64
}

/// `1 - exp(-size / mean)`, with `SHARE_BITS` behind the point, never zero: by its series for `size / mean / 2^n < 1/2`, and
/// back by `1 - (1 - p)^2 = p (2 - p)`.
fn share(size: u64, mean: u64) -> u128 {
    if size / 64 >= mean {
        return ONE;
    }
    let mut halvings = 0;
    let mut x = ((size as u128) << SHARE_BITS) / mean as u128;
    while x >= ONE / 2 {
        x /= 2;
        halvings += 1;
    }
    // 1 - exp(-x) = x (1 - x/2 (1 - x/3 (1 - …))), from the inside.
    let series = (2..=20).rev().fold(ONE, |inner, term| ONE - ((x * inner) >> SHARE_BITS) / term);
    let mut share = (x * series) >> SHARE_BITS;
    for _ in 0..halvings {
        share = (share * (2 * ONE - share)) >> SHARE_BITS;
    }
    share.max(1)
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;
    use std::vec::Vec;

    const MEANS: [u64; 7] = [1, 2, 100, 4096, 512 << 10, 1 << 30, MEAN_MAX];

    /// Words of all magnitudes, and the extremes.
    fn words() -> impl Iterator<Item = u64> {
        let spread = (0..200_000).map(|at: u64| mix(at.wrapping_mul(STEP)));
        spread.chain((0..64).flat_map(|bit| [(1 << bit) - 1, 1 << bit, !(1 << bit)])).chain([u64::MAX, u64::MAX - 1])
    }

    #[test]
    fn gaps_are_those_of_the_exact_logarithm() {
        for mean in MEANS {
            for word in words() {
                // Close to 1 the difference from it is exact, and the logarithm of that.
                let below = (!word) as f64 / 2f64.powi(64);
                let exact = if below < 0.5 { -(-below).ln_1p() } else { -((word as f64 + 1.0) / 2f64.powi(64)).ln() };
                let gap = gap(word, mean) as f64;
                let error = mean as f64 * 2f64.powi(-40) + exact * mean as f64 * 1e-12;
                let exact = exact * mean as f64;
                assert!(
                    gap >= 1.0 && gap >= exact - error && gap <= exact + error + 1.0,
                    "{word} {mean} {gap} {exact}"
                );
            }
        }
    }

    #[test]
    fn weights_are_those_of_the_exact_probability() {
        for mean in MEANS {
            let sizes = (0..60).flat_map(|bit| [1u64 << bit, (1 << bit) + (1 << bit) / 3]);
            for size in sizes {
                let exact = -(-(size as f64) / mean as f64).exp_m1();
                let weight = weight(size, mean) as f64 / (1u64 << WEIGHT_BITS) as f64;
                let error = (weight * exact - 1.0).abs();
                assert!(error < 2e-6, "{size} of {mean}: {weight}, {}", 1.0 / exact);
                assert!(weight >= 1.0);
            }
        }
    }

    /// Kolmogorov and Smirnov's distance between what is drawn and the exact distribution.
    #[test]
    fn gaps_have_the_exact_distribution() {
        let mean = 512 << 10;
        let mut state = 1u64;
        let mut gaps: Vec<u64> = (0..1_000_000)
            .map(|_| {
                state = state.wrapping_add(STEP);
                gap(mix(state), mean)
            })
            .collect();
        gaps.sort_unstable();
        let count = gaps.len() as f64;
        let distance = gaps.iter().enumerate().map(|(at, gap)| {
            let exact = -(-(*gap as f64) / mean as f64).exp_m1();
            (exact - at as f64 / count).abs().max((exact - (at + 1) as f64 / count).abs())
        });
        let distance = distance.fold(0.0, f64::max);
        // A distance of 2 / sqrt(count) comes once in 1500 seeds; this one is always the same.
        assert!(distance < 2.0 / count.sqrt(), "{distance}");
        let sum: f64 = gaps.iter().map(|gap| *gap as f64 - 0.5).sum();
        assert!((sum / count / mean as f64 - 1.0).abs() < 0.004);
    }
}
