//! What the fuzz targets have found, and some streams of chance beside it, played again without a fuzzer.

mod common;
mod streams;

use common::child::Scenario;
use common::random::Random;
use common::scaled;
use std::path::Path;
use std::sync::atomic::Ordering;

/// The streams of a target that are kept.
fn kept(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort_unstable();
    paths.iter().map(|path| std::fs::read(path).expect("a stream")).collect()
}

fn replay(target: &str, play: fn(&[u8])) {
    let kept = kept(target);
    assert!(kept.len() >= 8, "{} streams of {target}", kept.len());
    kept.iter().for_each(|stream| play(stream));
    let mut random = Random::new(11);
    for _ in 0..scaled(100, 20) {
        let length = random.size(16, 2048);
        let stream: Vec<u8> = (0..length).map(|_| random.word() as u8).collect();
        play(&stream);
    }
    let played = streams::OPERATIONS.load(Ordering::Relaxed);
    common::child::say(format_args!("# {} streams of {target} are kept; {played} operations\n", kept.len()));
}

#[test]
fn streams_over_the_global_allocator() {
    let name = "streams_over_the_global_allocator";
    Scenario::new(name).passes(|| replay("global", streams::global));
}

#[test]
fn streams_over_the_global_allocator_tracked() {
    let name = "streams_over_the_global_allocator_tracked";
    Scenario::new(name).variable("MILLPOND_MODE", "tracked").passes(|| replay("global", streams::global));
}

#[test]
fn streams_over_the_global_allocator_hardened() {
    let name = "streams_over_the_global_allocator_hardened";
    Scenario::new(name).variable("MILLPOND_MODE", "hardened").passes(|| replay("global", streams::global));
}

#[test]
fn streams_over_heaps() {
    Scenario::new("streams_over_heaps").passes(|| replay("heap", streams::heap));
}
