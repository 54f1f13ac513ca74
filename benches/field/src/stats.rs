//! Medians of pairs and geometric means, each with an interval of 95 %.
//!
//! A pair is what a rival and the subject took in the same round, one shortly after the other, so that what disturbs the
//! machine for longer than that cancels out in their ratio. Intervals are percentiles of the bootstrap (Efron, 1979):
//! rounds are drawn again and again, with replacement, and the figure is made anew of each drawing. The drawing starts
//! from a fixed seed: the same rounds make the same figures.

use fastrand::Rng;
use serde::Serialize;

const DRAWINGS: usize = 1000;
const SEED: u64 = 0x5eed;

/// A figure, and where it lies with 95 % confidence; the ends are the figure itself where there was one round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

impl Estimate {
    /// How far the further end is away.
    pub fn reach(&self) -> f64 {
        (self.high - self.value).max(self.value - self.low)
    }
}

/// The ratios of the rounds that both have, `rival / subject`.
pub fn pairs(rival: &[Option<f64>], subject: &[Option<f64>]) -> Vec<f64> {
    let both = rival.iter().zip(subject).filter_map(|(rival, subject)| Some((*rival)? / (*subject)?));
    both.filter(|ratio| ratio.is_finite() && *ratio > 0.0).collect()
}

/// The middle of what there is.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => None,
        len if len % 2 == 1 => Some(values[len / 2]),
        len => Some((values[len / 2 - 1] + values[len / 2]) / 2.0),
    }
}

/// The median with its interval.
pub fn estimate(values: &[f64]) -> Option<Estimate> {
    mean_of_medians(&[values])
}

/// The geometric mean of the medians of several sets of ratios; sets that are empty do not count.
pub fn mean_of_medians(sets: &[&[f64]]) -> Option<Estimate> {
    let sets: Vec<&[f64]> = sets.iter().copied().filter(|set| !set.is_empty()).collect();
    let mean = |medians: &mut dyn Iterator<Item = f64>| {
        let (sum, count) = medians.fold((0.0, 0usize), |(sum, count), median| (sum + median.ln(), count + 1));
        (count > 0).then(|| (sum / count as f64).exp())
    };
    let value = mean(&mut sets.iter().filter_map(|set| median(set)))?;
    let mut rng = Rng::with_seed(SEED);
    let mut drawn = Vec::new();
    let mut means: Vec<f64> = (0..DRAWINGS)
        .filter_map(|_| {
            mean(&mut sets.iter().filter_map(|set| {
                drawn.clear();
                drawn.extend((0..set.len()).map(|_| set[rng.usize(..set.len())]));
                median(&drawn)
            }))
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let at = |share: f64| means[((DRAWINGS - 1) as f64 * share).round() as usize];
    Some(Estimate { value, low: at(0.025), high: at(0.975) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(value: f64, expected: f64) -> bool {
        (value / expected - 1.0).abs() < 1e-9
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
    }

    #[test]
    fn pairs_are_those_of_rounds_that_both_have() {
        let rival = [Some(2.0), None, Some(6.0), Some(1.0), Some(5.0)];
        let subject = [Some(1.0), Some(1.0), Some(2.0), None, Some(0.0)];
        assert_eq!(pairs(&rival, &subject), [2.0, 3.0]);
        assert_eq!(pairs(&rival[..1], &subject), [2.0]);
    }

    #[test]
    fn what_does_not_vary_has_no_width() {
        let same = estimate(&[1.5; 7]).unwrap();
        assert!(near(same.value, 1.5) && near(same.low, 1.5) && near(same.high, 1.5), "{same:?}");
        assert_eq!(estimate(&[]), None);
    }

    #[test]
    fn intervals_hold_the_figure_and_narrow_with_rounds() {
        let few: Vec<f64> = (0..5).map(|nth| 1.0 + f64::from(nth) / 10.0).collect();
        let many: Vec<f64> = (0..200).map(|nth| 1.0 + f64::from(nth % 5) / 10.0).collect();
        let (few, many) = (estimate(&few).unwrap(), estimate(&many).unwrap());
        for one in [few, many] {
            assert!(near(one.value, 1.2), "{one:?}");
            assert!(one.low <= one.value && one.value <= one.high, "{one:?}");
        }
        assert!(few.low >= 1.0 && few.high <= 1.4 + 1e-9 && few.reach() > 0.1, "{few:?}");
        assert!(many.reach() < few.reach(), "{many:?} {few:?}");
        // The bootstrap of 5 different values covers the outer ones: 5 draws with their middle at an end are 1 in 17.
        assert!(few.low < 1.1 + 1e-9 && few.high > 1.3 - 1e-9, "{few:?}");
    }

    #[test]
    fn means_are_geometric_and_skip_what_is_empty() {
        let mean = mean_of_medians(&[&[2.0, 2.0], &[], &[8.0]]).unwrap();
        assert!(near(mean.value, 4.0) && near(mean.low, 4.0) && near(mean.high, 4.0), "{mean:?}");
        assert_eq!(mean_of_medians(&[&[]]), None);
        let noisy = mean_of_medians(&[&[1.0, 2.0, 4.0], &[1.0, 0.5, 0.25]]).unwrap();
        assert!(near(noisy.value, 1.0) && noisy.low < 0.9 && noisy.high > 1.1, "{noisy:?}");
    }

    #[test]
    fn the_same_rounds_make_the_same_figures() {
        let values = [1.0, 1.3, 0.9, 1.1, 1.7, 1.2];
        assert_eq!(estimate(&values), estimate(&values));
    }
}
