//! The sampler: a site's frames are there for whoever finds it, a sample is ended by one only, and a new run leaves nothing of
//! the old one behind.

use super::spawn;
use crate::os::fake;
use crate::sampler::{Sampler, Totals};
use crate::sync::Slot;
use std::prelude::v1::*;
use std::rc::Rc;

fn sampler() -> Rc<Sampler> {
    let sampler = Rc::new(Sampler::new());
    sampler.restart(1, 1);
    sampler
}

/// Frames and live objects of each site.
fn seen(sampler: &Sampler) -> Vec<(Vec<usize>, u64)> {
    let mut seen = Vec::new();
    sampler.walk(|site, Totals { live_objects, .. }| {
        seen.push((site.frames().iter().map(Slot::get).collect(), live_objects));
    });
    seen
}

/// One samples an allocation that another, which has its address by chance, ends.
pub fn begin_against_end() {
    let sampler = sampler();
    // The tables are there already: what makes them would order too much.
    sampler.begin(128, 1 << 20, &[7, 8]);
    let other = spawn(&sampler, |sampler| sampler.begin(64, 1 << 20, &[7, 8]));
    let ended = sampler.end(64);
    other.join();
    assert_eq!(seen(&sampler), [(vec![7, 8], 1 + u64::from(!ended))], "it is live or ended");
    assert!(sampler.check(), "sums are those of the samples");
    assert!(ended || sampler.end(64), "it is found");
}

/// One walks over the sites while another adds one.
pub fn walk_against_begin() {
    let sampler = sampler();
    let other = spawn(&sampler, |sampler| sampler.begin(64, 1 << 20, &[7, 8]));
    let meanwhile = seen(&sampler);
    assert!(meanwhile.iter().all(|(frames, _)| frames[..] == [7, 8]), "frames are whole: {meanwhile:?}");
    other.join();
    assert_eq!(seen(&sampler), [(vec![7, 8], 1)], "it is there");
}

/// Two free the same allocation: a misuse, which must not harm the sampler.
pub fn two_end_a_sample() {
    let sampler = sampler();
    sampler.begin(64, 1 << 20, &[7]);
    let other = spawn(&sampler, |sampler| sampler.end(64));
    let mine = sampler.end(64);
    assert!(mine != other.join(), "one has ended it");
    assert!(sampler.check(), "sums are those of the samples");
    sampler.begin(64, 1 << 20, &[7]);
    sampler.begin(128, 1 << 20, &[7]);
    assert_eq!(seen(&sampler), [(vec![7], 2)], "each sample is given back once");
}

/// One frees what another has handed to it, while the profile begins anew.
pub fn end_against_restart() {
    let sampler = sampler();
    sampler.begin(64, 1 << 20, &[7]);
    let other = spawn(&sampler, |sampler| {
        sampler.end(64);
        sampler.begin(64, 1 << 20, &[7]);
        sampler.end(64);
    });
    sampler.restart(1, 2);
    other.join();
    assert!(!sampler.end(64), "nothing is left");
    sampler.begin(64, 1 << 20, &[7]);
    sampler.begin(128, 1 << 20, &[7]);
    assert!(sampler.end(64) && sampler.end(128), "each sample is given back once");
}

/// Two sample allocations at a time, which have the same place in the filter.
pub fn two_begin_samples() {
    let sampler = sampler();
    // The tables are there already, as above.
    sampler.begin(192, 1 << 20, &[7]);
    let other = spawn(&sampler, |sampler| sampler.begin(64, 1 << 20, &[7]));
    sampler.begin(128, 1 << 20, &[7]);
    other.join();
    assert!(sampler.check(), "sums are those of the samples");
    assert!([64, 128, 192].iter().all(|address| sampler.end(*address)), "each is found");
    assert_eq!(seen(&sampler), [(vec![7], 0)], "none is live");
}

/// One ends a sample while another samples, and may be given the very node.
pub fn end_against_begin() {
    let sampler = sampler();
    sampler.begin(64, 1 << 20, &[7]);
    let other = spawn(&sampler, |sampler| sampler.end(64));
    sampler.begin(128, 1 << 20, &[7]);
    assert!(other.join(), "it was live");
    assert!(sampler.check(), "sums are those of the samples");
    assert!(sampler.end(128), "it is found");
}

/// Two sample while the system refuses a table: one of them misses its sample, and the other's is its own.
fn two_begin_without(table: u32) {
    let sampler = sampler();
    // Those before it are there afterwards.
    fake::refuse_table(table);
    sampler.begin(192, 1 << 20, &[7]);
    fake::refuse_table(1);
    let other = spawn(&sampler, |sampler| sampler.begin(64, 1 << 20, &[8]));
    sampler.begin(128, 1 << 20, &[9]);
    other.join();
    assert_eq!(sampler.missed(), 2, "one is refused, and one is not");
    assert!(sampler.check(), "sums are those of the samples");
    let live = seen(&sampler).into_iter().filter(|(_, live)| *live == 1).count();
    assert_eq!(live, 1, "a site of its own");
    assert!(sampler.end(64) != sampler.end(128), "it is found");
}

/// The sites' index, which comes after the sites.
pub fn two_begin_without_sites() {
    two_begin_without(2);
}

/// The samples' index, which comes last.
pub fn two_begin_without_samples() {
    two_begin_without(4);
}
