//! Misuse, caught: each kind in a process of its own, which ends with one line that says what is known.
//!
//! ```sh
//! cargo run --example double_free
//! ```

use std::alloc::Layout;
use std::env;
use std::process::Command;

use millpond::{Heap, Mode};

const KINDS: [&str; 5] =
    ["a double free", "a wrong size", "an address inside", "a write past the end", "a write after a free"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if let Some(kind) = env::args().nth(1) {
        return misuse(&kind);
    }
    for kind in KINDS {
        let output = Command::new(env::current_exe()?).arg(kind).output()?;
        println!("{kind}: {}\n    {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(())
}

fn misuse(kind: &str) -> Result<(), Box<dyn std::error::Error>> {
    let heap = Heap::builder().mode(Mode::Hardened).build()?;
    let layout = Layout::from_size_align(100, 8)?;
    let _tag = millpond::tag("the example");
    let block = heap.alloc(layout)?;
    // SAFETY: none: this is what the heap is to catch.
    unsafe {
        match kind {
            "a double free" => heap.free(block, layout),
            "a wrong size" => heap.free(block, Layout::from_size_align(50, 8)?),
            "an address inside" => heap.free(block.add(8), layout),
            "a write past the end" => block.add(100).write(1),
            _ => {}
        }
        heap.free(block, layout);
        if kind == "a write after a free" {
            block.write(1);
            heap.trim();
        }
    }
    Ok(())
}
