//! The tools themselves: what must be found is found. Here a twin forbids an outcome that some execution has, and so
//! fails if loom and the turns that `sync` takes explore what they should.

use super::spawn;
use crate::sync::{AtomicU32, Fault, Ordering, planted};
use std::rc::Rc;

/// Two atomics, zero at first.
struct Pair {
    x: AtomicU32,
    y: AtomicU32,
}

fn pair() -> Rc<Pair> {
    Rc::new(Pair { x: AtomicU32::new(0), y: AtomicU32::new(0) })
}

/// Fails a twin that gets here.
fn found(outcome: bool) {
    assert!(!(outcome && planted(Fault::Outcome)), "the outcome is found");
}

/// A thread's own load hides nothing: the other may do all that it does before this thread's first access.
pub fn load_against_load_and_store() {
    let pair = pair();
    let other = spawn(&pair, |pair| {
        let seen = pair.x.load(Ordering::Relaxed);
        pair.x.store(seen + 1, Ordering::Relaxed);
    });
    let seen = pair.x.load(Ordering::Relaxed);
    other.join();
    found(seen == 1);
}

/// Of two exchanges the one that runs last finds the other's.
pub fn exchange_against_exchange() {
    let count = |pair: &Pair| {
        let seen = pair.x.load(Ordering::Relaxed);
        let done = pair.x.compare_exchange(seen, seen + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        (seen, done)
    };
    let pair = pair();
    let other = spawn(&pair, count);
    let mine = count(&pair);
    let theirs = other.join();
    assert!(mine.1 || theirs.1, "one exchange of two at a time succeeds");
    found(mine == (1, true) && theirs == (0, true));
}

/// Two threads store and then load what the other stores: each may miss the other's.
pub fn store_buffers() {
    let pair = pair();
    let other = spawn(&pair, |pair| {
        pair.x.store(1, Ordering::Release);
        pair.y.load(Ordering::Acquire)
    });
    pair.y.store(1, Ordering::Release);
    let mine = pair.x.load(Ordering::Acquire);
    found(mine == 0 && other.join() == 0);
}

/// What is published with release is there for whoever acquires it; relaxed, it may not be.
pub fn message_passes() {
    let (publish, receive) = match planted(Fault::Outcome) {
        true => (Ordering::Relaxed, Ordering::Relaxed),
        false => (Ordering::Release, Ordering::Acquire),
    };
    let pair = pair();
    let other = spawn(&pair, move |pair| {
        pair.x.store(1, Ordering::Relaxed);
        pair.y.store(1, publish);
    });
    if pair.y.load(receive) == 1 {
        assert_eq!(pair.x.load(Ordering::Relaxed), 1, "the outcome is found");
    }
    other.join();
}
