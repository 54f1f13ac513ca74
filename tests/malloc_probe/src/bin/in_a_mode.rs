//! Has chosen a mode, and Millpond as libc's malloc, which serves others before the program's first allocation. With a word it frees
//! something twice, in the way that the word says.

use millpond::{Millpond, Mode, WithMode};

#[global_allocator]
static GLOBAL: WithMode = Millpond::with_mode(Mode::Hardened).backtrace(4);

fn main() {
    let what = std::env::args().nth(1);
    let known = Box::new(7u64);
    let at = (&raw const *known).cast();
    let callers = millpond::id_of(at).map_or(0, |id| millpond::callers(id, &mut [0; 4]));
    if millpond::mode() != Mode::Hardened || callers == 0 {
        return println!("{:?}, {callers} callers", millpond::mode());
    }
    drop(known);
    // SAFETY: none: the second free is what the test is about.
    unsafe {
        match what.as_deref() {
            Some("rust") => {
                let twice = std::hint::black_box(Box::into_raw(Box::new([1u8; 40])));
                drop(Box::from_raw(twice));
                drop(Box::from_raw(twice));
            }
            Some("c") => {
                let twice = std::hint::black_box(libc::malloc(40));
                libc::free(twice);
                libc::free(twice);
            }
            _ => {}
        }
    }
    let words: Vec<String> = (0..10_000).map(|number| number.to_string()).collect();
    let threads: Vec<_> = (0..8).map(|_| std::thread::spawn(|| vec![1u8; 100_000].len())).collect();
    assert_eq!(threads.into_iter().map(|thread| thread.join().expect("no panic")).sum::<usize>(), 800_000);
    drop(words);
    millpond::check().expect("all is sound");
    println!("done");
}
