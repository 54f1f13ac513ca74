//! Asks whether memory of libc's, of Rust's standard library, and of `malloc` itself is Millpond's.

use millpond as _;

fn main() {
    // SAFETY: a string that is copied, and memory that is freed once, by its own allocator's functions.
    unsafe {
        let copied = libc::strdup(c"copied by libc".as_ptr());
        assert!(millpond::owns(copied.cast()), "libc allocates elsewhere");
        libc::free(copied.cast());
        let own = libc::malloc(100);
        assert!(millpond::owns(own.cast()) && libc::malloc_usable_size(own) == 112, "malloc is not Millpond's");
        libc::free(own);
    }
    let words: Vec<String> = (0..10_000).map(|number| number.to_string()).collect();
    assert!(millpond::owns(words.as_ptr().cast()), "std allocates elsewhere");
    let threads: Vec<_> = (0..8).map(|_| std::thread::spawn(|| vec![1u8; 100_000].len())).collect();
    assert_eq!(threads.into_iter().map(|thread| thread.join().expect("no panic")).sum::<usize>(), 800_000);
    drop(words);
    let stats = millpond::check().expect("all is sound");
    println!("done, {} bytes live", stats.live);
}
