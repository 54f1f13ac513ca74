//! What each page of the heap is used for: a hundred thousand short strings and some long ones are read, most of them are dropped, and what is
//! left lies scattered. The map before, after, and after a trim; with the name of a file, that one as a picture.
//!
//! ```sh
//! cargo run --release --example heap_map -- heap.svg
//! ```

use millpond::Millpond;

#[global_allocator]
static GLOBAL: Millpond = Millpond;

fn main() -> std::io::Result<()> {
    let mut random = fastrand::Rng::with_seed(1);
    let mut text = |longest: usize| vec![b'a'; random.usize(1..longest)];
    let mut short: Vec<_> = (0..100_000).map(|_| text(200)).collect();
    let mut long: Vec<_> = (0..20).map(|_| text(2_000_000)).collect();
    println!("all are read: {}\n", millpond::map());

    // A third stays, in pieces of some thousands that were read together; of the rest one in a hundred.
    short = short
        .into_iter()
        .enumerate()
        .filter(|(at, _)| at / 5000 % 3 == 0 || at % 100 == 0)
        .map(|(_, text)| text)
        .collect();
    long.truncate(8);
    println!("most are dropped: {}\n", millpond::map());
    let picture = std::env::args_os().nth(1).map(|path| (path, millpond::map().svg().to_string()));

    millpond::trim();
    println!("after a trim: {}", millpond::map());
    if let Some((path, picture)) = picture {
        std::fs::write(&path, picture)?;
        println!("the second one as a picture: {}", path.to_string_lossy());
    }
    std::hint::black_box((short, long));
    Ok(())
}
