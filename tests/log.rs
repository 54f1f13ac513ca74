//! The log: what heaps tell, each at its own level or at the process's.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(millpond_forward)))]

mod common;

use common::child::Scenario;
use millpond::{Heap, Log, set_log};
use std::alloc::Layout;

/// A class that nothing else here uses.
const SIZE: usize = 14_336;

/// Uses a heap so that each floor has something to tell.
fn used(heap: &Heap) {
    let layout = Layout::from_size_align(SIZE, 8).expect("valid");
    let chunks: Vec<_> = (0..200).map(|_| heap.alloc(layout).expect("memory")).collect();
    // SAFETY: allocated above, each freed once.
    chunks.into_iter().for_each(|chunk| unsafe { heap.free(chunk, layout) });
    heap.trim();
}

/// Runs `body` in a child and returns the floors of which it tells something.
fn told(test: &'static str, body: impl FnOnce()) -> Option<Vec<String>> {
    let ended = Scenario::new(test).run(body)?;
    assert!(ended.status.success(), "{}", ended.stderr);
    let lines = ended.stderr.lines().filter(|line| line.starts_with("millpond: ["));
    let mut floors: Vec<String> =
        lines.filter_map(|line| Some(line.split_once("] ")?.1.split(' ').next()?.to_owned())).collect();
    floors.sort();
    floors.dedup();
    Some(floors)
}

#[test]
fn a_heap_tells_what_its_own_level_says() {
    let Some(floors) = told("a_heap_tells_what_its_own_level_says", || {
        used(&Heap::builder().log(Log::Cache).build().expect("memory"));
    }) else {
        return;
    };
    assert_eq!(floors, ["arena", "cache", "os", "pool", "span"]);
}

#[test]
fn a_lower_level_leaves_the_upper_floors_out() {
    let Some(floors) = told("a_lower_level_leaves_the_upper_floors_out", || {
        let [arena, none] = [Log::Arena, Log::Off].map(|level| Heap::builder().log(level).build().expect("memory"));
        [arena, none].iter().for_each(used);
        used(&Heap::new().expect("memory"));
    }) else {
        return;
    };
    assert_eq!(floors, ["arena", "os"]);
}

/// A level of its own counts, whether the process tells more or less.
#[test]
fn a_heap_that_is_to_be_quiet_is_quiet() {
    let Some(ended) = Scenario::new("a_heap_that_is_to_be_quiet_is_quiet").run(|| {
        let [quiet, follows] = [Some(Log::Off), None].map(|level| {
            let builder = Heap::builder();
            level.into_iter().fold(builder, |builder, level| builder.log(level)).build().expect("memory")
        });
        set_log(Log::Cache);
        used(&quiet);
        eprintln!("-- follows");
        used(&follows);
        set_log(Log::Off);
        eprintln!("-- off");
        used(&follows);
    }) else {
        return;
    };
    let (quiet, rest) = ended.stderr.split_once("-- follows").expect("told");
    let (follows, off) = rest.split_once("-- off").expect("told");
    let is_told = |text: &str| text.contains("14336 B");
    assert_eq!([quiet, follows, off].map(is_told), [false, true, false], "{}", ended.stderr);
}
