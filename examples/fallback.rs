//! A heap at its limit: requests fail, or go to another allocator, and the report says how many.
//!
//! ```sh
//! cargo run --example fallback
//! ```

use std::alloc::{Layout, System};

use millpond::Heap;

const KIB: Layout = Layout::new::<[u8; 1024]>();

/// Takes as many chunks of 1 KiB as it is given, 2000 at most.
fn fill(heap: &Heap) -> Vec<std::ptr::NonNull<u8>> {
    (0..2000).map_while(|_| heap.alloc(KIB).ok()).collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let strict = Heap::builder().capacity(1 << 20).build()?;
    let chunks = fill(&strict);
    println!("without a fallback: {} of 2000, then {}", chunks.len(), strict.alloc(KIB).unwrap_err());

    let told = |_: &Heap, used: usize| println!("the soft limit is passed: {} KiB in use", used >> 10);
    let lenient = Heap::builder().capacity(1 << 20).soft_limit(512 << 10, told).fallback(&System).build()?;
    let chunks = fill(&lenient);
    let stats = lenient.stats();
    println!(
        "with malloc behind it: {} of 2000, {} of them ({:.1} %) from malloc",
        chunks.len(),
        stats.fallbacks,
        stats.fallback_share() * 100.0
    );
    for chunk in chunks {
        // The heap knows its own chunks, and sends the others home.
        // SAFETY: allocated above, freed once.
        unsafe { lenient.free(chunk, KIB) };
    }
    println!("live at the end: {} bytes", lenient.stats().live);
    Ok(())
}
