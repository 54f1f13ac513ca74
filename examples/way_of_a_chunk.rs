//! The way of a chunk through all floors of the allocator, in its own log on stderr, a line a step.
//!
//! ```sh
//! cargo run --example way_of_a_chunk
//! MILLPOND_LOG=pool some_program_on_millpond
//! ```

use std::alloc::Layout;
use std::ptr::NonNull;

use millpond::{Heap, Log};

const KIB: Layout = Layout::new::<[u8; 1024]>();

fn free(heap: &Heap, chunk: NonNull<u8>) {
    // SAFETY: each caller's own, from this heap, freed once.
    unsafe { heap.free(chunk, KIB) };
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // With IDs each call is logged, also where the thread's magazine serves it. Other heaps log nothing.
    let heap = Heap::builder().ids(true).log(Log::Cache).build()?;
    eprintln!("-- the first chunk comes all the way from the system");
    let first = heap.alloc(KIB)?;
    eprintln!("-- the next two come from the same span, and are carved together: the second is there already");
    // Now and then a call that could be a hit is made to miss, so that somebody looks at the clock.
    let [second, third] = [heap.alloc(KIB)?, heap.alloc(KIB)?];
    eprintln!("-- what is freed goes into the thread's magazine, and is the next to be handed out");
    free(&heap, third);
    let again = heap.alloc(KIB)?;
    eprintln!("-- what is freed last leaves the span wholly free, and a trim gives it back");
    [again, first, second].into_iter().for_each(|chunk| free(&heap, chunk));
    heap.trim();

    // Without IDs, what a magazine serves is not logged: that is the fast path, which knows of no log.
    let busy = Heap::builder().log(Log::Cache).build()?;
    eprintln!("-- many chunks: a few are carved at first, then twice as many each time, and spans are opened");
    let many = (0..300).map(|_| busy.alloc(KIB)).collect::<Result<Vec<_>, _>>()?;
    eprintln!("-- full magazines become the thread's spares, then the pool's, for all threads");
    many.into_iter().for_each(|chunk| free(&busy, chunk));
    eprintln!("-- another thread takes them from there, a magazine by one exchange");
    let taken = std::thread::scope(|scope| {
        let taker = scope.spawn(|| (0..2).filter_map(|_| busy.alloc(KIB).ok()).map(|chunk| free(&busy, chunk)).count());
        taker.join()
    });
    eprintln!("-- a trim gives all of it back");
    busy.trim();
    println!("{} chunks were taken by the other thread; {} bytes are live", taken.unwrap_or(0), busy.stats().live);
    Ok(())
}
