//! A program whose memory profile is known: each function allocates a known number of blocks of a known size, keeps some, and
//! prints what it did, as `name blocks bytes live_blocks live_bytes`.
//!
//! The first argument is a scenario; those that begin and end the profile themselves write it to the second.

use std::hint::black_box;
use std::io::Write as _;
use std::sync::mpsc;

use millpond::{Millpond, profile};

#[global_allocator]
static GLOBAL: Millpond = Millpond;

type Block = Box<[u8]>;

fn block(size: usize) -> Block {
    black_box(vec![1; size].into_boxed_slice())
}

fn say(name: &str, blocks: usize, size: usize, live: usize) {
    println!("{name} {blocks} {} {live} {}", blocks * size, live * size);
}

/// Small blocks, of which each fourth is kept.
#[inline(never)]
fn many_small(held: &mut Vec<Block>) {
    for at in 0..200_000 {
        let block = block(64);
        if at % 4 == 0 {
            held.push(block);
        }
    }
    say("many_small", 200_000, 64, 50_000);
}

/// Blocks of a few pages, of which all are kept.
#[inline(never)]
fn some_middling(held: &mut Vec<Block>) {
    (0..4000).for_each(|_| held.push(block(10_000)));
    say("some_middling", 4000, 10_000, 4000);
}

/// Blocks above all classes, which go at once.
#[inline(never)]
fn few_large() {
    (0..200).for_each(|_| drop(block(400_000)));
    say("few_large", 200, 400_000, 0);
}

/// A vector that grows: by the end, as large as what it holds, and all of its former selves are freed.
#[inline(never)]
fn one_that_grows() -> Vec<u64> {
    let mut grown = Vec::new();
    for at in 0..1 << 20 {
        grown.push(black_box(at));
    }
    say("one_that_grows", 0, 0, 0);
    grown
}

/// Zeroed blocks.
#[inline(never)]
fn zeroed(held: &mut Vec<Block>) {
    (0..20_000).for_each(|_| held.push(black_box(vec![0; 500].into_boxed_slice())));
    say("zeroed", 20_000, 500, 20_000);
}

/// What one thread makes another frees.
#[inline(never)]
fn handed_over() {
    let (send, receive) = mpsc::channel::<Vec<Block>>();
    let other = std::thread::spawn(move || receive.into_iter().map(|blocks| blocks.len()).sum::<usize>());
    for _ in 0..200 {
        let blocks: Vec<Block> = (0..100).map(|_| block(1000)).collect();
        send.send(blocks).expect("the other lives");
    }
    drop(send);
    assert_eq!(other.join().expect("it counts"), 20_000);
    say("handed_over", 20_000, 1000, 0);
}

fn all() {
    let mut held = Vec::with_capacity(100_000);
    many_small(&mut held);
    some_middling(&mut held);
    few_large();
    zeroed(&mut held);
    handed_over();
    let grown = one_that_grows();
    // Alive until the program's end.
    std::mem::forget((held, grown));
}

fn write(path: &str) {
    let mut file = std::fs::File::create(path).expect("a file");
    profile::write_pprof(|bytes| file.write_all(bytes)).expect("room on the disk");
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    println!("main {:#x}", main as fn() as usize);
    let scenario = arguments[1].as_str();
    match scenario {
        // Begun by the environment, written at the end.
        "all" => all(),
        "started" => {
            // A thread that is there before and joins later.
            let (send, receive) = mpsc::channel::<()>();
            let early = std::thread::spawn(move || {
                drop(block(100));
                receive.recv().expect("the main thread lives");
                // Until its bins miss it does not know.
                let joined = (0..10_000).any(|_| {
                    joins_late();
                    is_seen()
                });
                assert!(joined, "a thread that allocates joins");
            });
            profile::start_seeded(256, 3);
            assert!(profile::is_on());
            all();
            send.send(()).expect("it lives");
            early.join().expect("it joins");
            profile::stop();
            drop((0..100_000).map(|_| block(64)).collect::<Vec<_>>());
            write(&arguments[2]);
            profile::start(1 << 20);
            profile::stop();
            let mut stacks = 0;
            profile::visit(|_| stacks += 1);
            assert_eq!(stacks, 0, "a new profile knows nothing of the old one");
        }
        "collapsed" => {
            profile::start_seeded(256, 3);
            all();
            profile::stop();
            let mut text = String::new();
            let hex = |address: usize, out: &mut dyn std::fmt::Write| write!(out, "{address:#x}");
            profile::write_collapsed(profile::Value::LiveBytes, &mut text, hex).expect("text");
            std::fs::write(&arguments[2], text).expect("room on the disk");
        }
        _ => panic!("no scenario {scenario}"),
    }
}

#[inline(never)]
fn joins_late() {
    for size in 1..1000 {
        drop(block(size));
    }
    black_box(0);
}

/// Whether any stack has an address at the beginning of `joins_late`.
fn is_seen() -> bool {
    let start = joins_late as fn() as usize;
    let mut seen = false;
    profile::visit(|stack| seen |= stack.frames.iter().any(|address| (start..start + 400).contains(address)));
    seen
}
