//! A heap whose allocations have IDs: they are found by ID and by address, and tagged; those that should be gone are listed.
//!
//! ```sh
//! cargo run --example ids_and_leaks
//! ```

use std::alloc::Layout;

use millpond::Heap;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let heap = Heap::builder().ids(true).build()?;
    let layout = Layout::from_size_align(100, 8)?;

    let block = heap.alloc(layout)?;
    let id = heap.id_of(block.as_ptr()).expect("live");
    println!("the block has ID {id}, and ID {id} is the block: {}", heap.ptr_of(id) == Some(block));
    println!("{:?}", heap.record(id).expect("live"));
    // SAFETY: allocated above, freed once.
    unsafe { heap.free(block, layout) };
    println!("freed: {:?}, {:?}", heap.id_of(block.as_ptr()), heap.record(id));

    // What is allocated during a request and still live at its end has leaked.
    let mark = heap.snapshot();
    for request in 0..10 {
        let _request = millpond::tag("request");
        let scratch = heap.alloc(layout)?;
        if request % 4 == 0 {
            let _parser = millpond::tag("parser");
            heap.alloc(Layout::from_size_align(24, 8)?)?; // Never freed.
        }
        // SAFETY: as above.
        unsafe { heap.free(scratch, layout) };
    }
    let leaked = heap.live_since(mark)?;
    println!("{leaked}");
    println!("{}", leaked.json());
    Ok(())
}
