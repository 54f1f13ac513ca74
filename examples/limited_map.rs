//! A hash map in a heap of its own, which grows to the heap's limit: there it gets an error, and the program goes on.
//!
//! ```sh
//! cargo run --features allocator-api2 --example limited_map
//! ```

use hashbrown::{DefaultHashBuilder, HashMap};
use millpond::Heap;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let heap = Heap::builder().capacity(4 << 20).build()?;
    let mut squares = HashMap::with_hasher_in(DefaultHashBuilder::default(), &heap);
    let refused = loop {
        // Asked before it inserts, so that no entry is lost.
        if let Err(error) = squares.try_reserve(1) {
            break error;
        }
        let next = squares.len() as u64;
        squares.insert(next, next * next);
    };
    println!("{} entries, then: {refused:?}", squares.len());
    println!("all there: {}", squares.iter().all(|(root, square)| root * root == *square));
    let stats = heap.stats();
    println!("{} KiB live of {} KiB", stats.live >> 10, heap.capacity().unwrap_or(0) >> 10);
    drop(squares);
    println!("{} KiB live once it is dropped", heap.stats().live >> 10);
    Ok(())
}
