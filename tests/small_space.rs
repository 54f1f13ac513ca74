//! A program with four threads in 48 MiB of address space.

mod common;

use common::child::Scenario;
use common::random::Random;
use common::{KIB, MIB, law, scaled};
use std::collections::BTreeMap;
use std::thread;

/// Up to about 1 MiB of strings in a tree, changing all the time.
fn program(id: usize) -> usize {
    let mut random = Random::new(id as u64);
    let mut tree: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut bytes = 0;
    for step in 0..scaled(40_000, 8_000) {
        let key = format!("{:05}", random.below(20_000));
        let value = vec![step as u8; random.size(1, 8 * KIB)];
        bytes += value.len();
        if let Some(old) = tree.insert(key, value) {
            bytes -= old.len();
            assert!(old.iter().all(|byte| *byte == old[0]));
        }
        while bytes > MIB {
            let (_, oldest) = tree.pop_first().expect("an entry");
            bytes -= oldest.len();
        }
    }
    tree.len()
}

#[test]
fn four_threads_in_48_mib() {
    Scenario::new("four_threads_in_48_mib").address_space(48 * MIB).passes(|| {
        let threads: Vec<_> = (0..4)
            .map(|id| thread::Builder::new().stack_size(128 * KIB).spawn(move || program(id)).expect("a thread"))
            .collect();
        for thread in threads {
            assert!(thread.join().expect("its work") > 100);
        }
        law::holds();
    });
}

#[test]
fn under_strict_accounting_reservations_are_modest() {
    // What is reserved and not used is nobody's memory, yet counts under `ulimit -v`.
    Scenario::new("under_strict_accounting_reservations_are_modest").address_space(48 * MIB).passes(|| {
        // Others than the allocator need room too.
        let reserved = law::holds().reserved;
        assert!(reserved <= 8 * MIB, "{} KiB reserved for next to nothing", reserved / KIB);
        // Half of all there is, in one piece, then in many.
        let one = vec![1_u8; 16 * MIB];
        assert!(one.iter().all(|byte| *byte == 1));
        drop(one);
        let many: Vec<Vec<u8>> = (0..16 * KIB).map(|item| vec![item as u8; KIB]).collect();
        assert!(many.iter().enumerate().all(|(item, held)| held[7] == item as u8));
    });
}

/// Each time that nothing more is to be had, and all is given back, must leave as much for the next time.
#[test]
fn address_space_can_be_used_up_any_number_of_times() {
    Scenario::new("address_space_can_be_used_up_any_number_of_times").address_space(28 * MIB).passes(|| {
        let most = |size: usize| {
            let mut all: Vec<Vec<u8>> = Vec::with_capacity(32 * MIB / size);
            while all.len() < all.capacity() {
                let mut one = Vec::new();
                if one.try_reserve_exact(size).is_err() {
                    break;
                }
                all.push(one);
            }
            let bytes = all.len() * size;
            drop(all);
            millpond::trim();
            bytes
        };
        let sizes = [2 * KIB, 40 * KIB, 400 * KIB];
        let first = sizes.map(most);
        (0..150).for_each(|time| _ = most(sizes[time % 3]));
        let last = sizes.map(most);
        println!("# {first:?}, at last {last:?} bytes");
        law::holds();
        for (first, last) in first.iter().zip(&last) {
            assert!(last + 2 * MIB >= *first, "{last} bytes to be had, where once there were {first}");
        }
    });
}
