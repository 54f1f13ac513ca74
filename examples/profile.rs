//! Where memory comes from: this program takes a profile of itself, by samples.
//!
//! Stacks follow frame pointers, so build with them:
//!
//! ```sh
//! cargo rustc --release --example profile -- -C force-frame-pointers=yes
//! target/release/examples/profile heap.pb
//! pprof -top heap.pb        # or: go tool pprof
//! ```
//!
//! To profile a program without changing it: `MILLPOND_PROFILE=heap.%p.pb program` (a Rust program needs the feature `reports`).

use std::collections::HashMap;
use std::io::Write as _;

use millpond::Millpond;
use millpond::profile::{self, Value};

#[global_allocator]
static GLOBAL: Millpond = Millpond;

/// Builds an index, which the program keeps.
#[inline(never)]
fn index(words: &[String]) -> HashMap<String, usize> {
    words.iter().enumerate().map(|(at, word)| (word.clone(), at)).collect()
}

/// Makes text only to count it.
#[inline(never)]
fn count(words: &[String]) -> usize {
    words.iter().map(|word| word.repeat(20)).map(|text| text.len()).sum()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A sample each 4 KiB: many, for a small program. The default is one each 512 KiB.
    profile::start_seeded(4 << 10, 1);
    let words: Vec<String> = (0..100_000).map(|number| format!("word number {number}")).collect();
    let index = index(&words);
    let bytes = count(&words);
    drop(words);
    profile::stop();
    println!("{} words, {bytes} bytes of text", index.len());

    let mut sum = [0; 2];
    let mut stacks = 0;
    profile::visit(|stack| {
        stacks += 1;
        sum = [sum[0] + stack.allocated_bytes, sum[1] + stack.live_bytes];
    });
    println!("{stacks} stacks, some {} MiB allocated, {} MiB live", sum[0] >> 20, sum[1] >> 20);

    // A line a stack, as flame graphs are drawn from.
    let mut text = String::new();
    profile::write_collapsed(Value::LiveBytes, &mut text, profile::loader_name)?;
    let live = |line: &&str| line.rsplit(' ').next().and_then(|bytes| bytes.parse::<u64>().ok());
    if let Some((stack, bytes)) = text.lines().max_by_key(live).and_then(|line| line.rsplit_once(' ')) {
        println!("most is live from {stack}: {bytes} bytes");
        if !stack.contains(';') {
            println!("(a stack of one: who called is known with frame pointers alone)");
        }
    }

    if let Some(path) = std::env::args().nth(1) {
        let mut file = std::fs::File::create(&path)?;
        profile::write_pprof(|bytes| file.write_all(bytes))?;
        println!("{path} is for pprof");
    }
    Ok(())
}
