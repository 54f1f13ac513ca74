//! The way of a chunk through all floors, told by the allocator itself on stderr, a line a step.
//!
//! ```sh
//! cargo run --example way_of_a_chunk
//! MILLPOND_LOG=pool some_program_on_millpond
//! ```

use std::alloc::Layout;

use millpond::{Heap, Log, set_log};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let heap = Heap::builder().ids(true).build()?;
    let layout = Layout::new::<[u8; 1024]>();

    set_log(Log::Cache);
    eprintln!("-- the first chunk comes all the way from the system");
    let first = heap.alloc(layout)?;
    eprintln!("-- the next ones come from the same span: few at first, and twice as many each time");
    let second = heap.alloc(layout)?;
    eprintln!("-- many more fill and empty magazines");
    let many: Vec<_> = (0..40).map(|_| heap.alloc(layout)).collect::<Result<_, _>>()?;
    eprintln!("-- what is freed stays in magazines: the thread's, then its spares, then the pool's");
    for chunk in many.into_iter().chain([first, second]) {
        // SAFETY: allocated above, freed once.
        unsafe { heap.free(chunk, layout) };
    }
    eprintln!("-- a trim gives all of it back");
    heap.trim();
    set_log(Log::Off);
    println!("{} bytes are live", heap.stats().live);
    Ok(())
}
