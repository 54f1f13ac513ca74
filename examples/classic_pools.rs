//! A heap of eight pools, as a textbook draws it, and its report.
//!
//! ```sh
//! cargo run --example classic_pools
//! ```

use std::alloc::Layout;

use millpond::{Heap, PoolTable};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let heap = Heap::builder().pools(PoolTable::Classic).capacity(16 << 20).bits(64).build()?;

    // Each size goes to the smallest pool that holds it.
    for size in [24, 60, 100, 1000, 3000, 20_000] {
        let layout = Layout::from_size_align(size, 8)?;
        let block = heap.alloc(layout)?;
        let chunk = heap.usable_size(block.as_ptr()).expect("it is live");
        println!("{size:>6} bytes: a chunk of {chunk}");
        // SAFETY: allocated just now, with this layout.
        unsafe { heap.free(block, layout) };
    }

    // A chunk that was freed is the next to be handed out: the thread keeps it in its magazine.
    let layout = Layout::new::<[u64; 8]>();
    let first = heap.alloc(layout)?;
    // SAFETY: as above.
    unsafe { heap.free(first, layout) };
    let second = heap.alloc(layout)?;
    println!("the same chunk again: {}", first == second);
    // SAFETY: as above.
    unsafe { heap.free(second, layout) };

    // A thousand chunks at once, half of them given back.
    let chunks: Vec<_> = (0..1000).map(|_| heap.alloc(layout)).collect::<Result<_, _>>()?;
    for chunk in chunks.iter().step_by(2) {
        // SAFETY: as above.
        unsafe { heap.free(*chunk, layout) };
    }

    // Bits to learn with: the same words and masks by which a span knows its free chunks.
    heap.set_bit(42, true)?;
    println!("bit 42: {}, bit 43: {}", heap.get_bit(42)?, heap.get_bit(43)?);
    println!("bit 64: {}", heap.get_bit(64).unwrap_err());

    println!("\n{}", heap.stats());
    let trimmed = heap.trim();
    println!("\ntrimmed: {} bytes went back", trimmed.returned);
    Ok(())
    // Dropped here, with 500 chunks live: all of its memory goes back at once.
}
