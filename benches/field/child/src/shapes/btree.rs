//! A store in memory: an ordered map of names to values of mixed sizes, one for each thread, that is put into, looked at,
//! taken from and scanned.

use super::sizes::{skewed, total};
use crate::child::measure::measure;
use crate::child::workloads::{Crew, Outcome};
use fastrand::Rng;
use std::collections::BTreeMap;

const STEPS: u64 = 800_000;
/// Names that all threads together use.
const NAMES: u64 = 60_000;
const SCAN: usize = 16;

pub fn run(crew: &Crew) -> Outcome {
    let ops = crew.scaled(STEPS);
    let (sums, cost) = measure(|| {
        crew.each(|index| {
            let steps = Crew::part(ops, crew.threads, index);
            use_store(steps.end - steps.start, (NAMES / crew.threads as u64).max(1), index as u64)
        })
    });
    Outcome { ops, checksum: total(sums), cost }
}

fn use_store(steps: u64, names: u64, seed: u64) -> u64 {
    let mut rng = Rng::with_seed(seed);
    let mut store: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let (mut sum, mut stored) = (0u64, 0u64);
    for _ in 0..steps {
        let name = format!("store/{:08x}/entry", rng.u64(..names).wrapping_mul(2_654_435_761) as u32);
        match rng.u32(..10) {
            0..6 => {
                let len = skewed(&mut rng, 16, 1024);
                let old = store.insert(name, vec![len as u8; len]);
                stored = stored + len as u64 - old.map_or(0, |old| check(&old));
            }
            6..8 => stored -= store.remove(&name).map_or(0, |old| check(&old)),
            8 => sum = sum.wrapping_add(store.get(&name).map_or(1, |value| check(value))),
            _ => {
                let found: Vec<String> = store.range(name..).take(SCAN).map(|(name, _)| name.clone()).collect();
                sum = sum.wrapping_add(found.len() as u64);
            }
        }
    }
    assert_eq!(store.values().map(|value| check(value)).sum::<u64>(), stored, "a value was lost");
    sum.wrapping_add(stored)
}

/// The length, when the first and the last byte are as they were written.
fn check(value: &[u8]) -> u64 {
    let len = value.len() as u8;
    assert!(value.first() == Some(&len) && value.last() == Some(&len), "a value was damaged");
    value.len() as u64
}
