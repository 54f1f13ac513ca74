//! The stock: bytes that two take at once, that one gives back and another takes, holes, and pieces that are added meanwhile.

use super::spawn;
use crate::os::fake;
use crate::os::stock::{HEADER, Stock};
use crate::sync::Slot;
use std::prelude::v1::*;
use std::rc::Rc;

const TABLE: usize = 64;

/// A stock, where its pieces lie, and what stands for the bytes of the first.
struct Store {
    stock: Stock,
    pieces: [usize; 2],
    bytes: [Slot; 3],
}

const LEN: usize = HEADER + 3 * TABLE;

impl Store {
    fn new() -> Self {
        let pieces = [LEN, LEN].map(|len| fake::metadata(len).expect("the fake system gives memory"));
        Self { stock: Stock::new(), pieces, bytes: [Slot::new(0), Slot::new(0), Slot::new(0)] }
    }

    fn add(&self, piece: usize) {
        // SAFETY: fresh memory of that length, which stays until the execution ends.
        unsafe { self.stock.add(self.pieces[piece], self.pieces[piece], LEN) };
    }

    /// Takes a table, and writes to it as its owner may.
    fn take(&self) -> Option<usize> {
        let at = self.stock.take(TABLE, TABLE)?;
        let offset = at.wrapping_sub(self.pieces[0] + HEADER);
        if let Some(bytes) = self.bytes.get(offset / TABLE) {
            bytes.set(at);
        }
        Some(at)
    }
}

/// Two threads take tables: no two of them overlap, and all there are can be had.
pub fn two_take() {
    let store = Rc::new(Store::new());
    store.add(0);
    let other = spawn(&store, |store| [store.take(), store.take()]);
    let mine = store.take();
    let [one, two] = other.join();
    let mut all = [mine, one, two].map(|at| at.expect("there are three") - store.pieces[0]);
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2].map(|table| HEADER + table * TABLE), "no two tables overlap");
    assert_eq!((store.take(), store.stock.left()), (None, 0));
}

/// A table that a thread gives back goes to another, or is lost; never to two.
pub fn take_against_give() {
    let store = Rc::new(Store::new());
    store.add(0);
    let other = spawn(&store, Store::take);
    let first = store.take().expect("there are three");
    store.stock.give(first, TABLE);
    let mine = store.take();
    let theirs = other.join().expect("there are three");
    assert_ne!(mine.expect("there are three"), theirs, "a table has two owners");
    assert_ne!(store.take(), Some(theirs), "a table that is taken is taken again");
}

/// The same where something was taken after it: it is a hole, and goes to one, or to whoever comes next.
pub fn take_against_hole() {
    let store = Rc::new(Store::new());
    store.add(0);
    let other = spawn(&store, Store::take);
    let [first, second] = [store.take(), store.take()].map(|at| at.expect("there are three"));
    store.stock.give(first, TABLE);
    let mine = store.take().expect("one came back");
    let theirs = other.join().expect("there are three");
    assert!(mine != theirs && second != theirs && mine != second, "a table has two owners");
    assert_eq!((store.take(), store.stock.left()), (None, 0));
    [mine, theirs, second].iter().for_each(|at| store.stock.give(*at, TABLE));
    assert_eq!(store.stock.left(), 3 * TABLE, "nothing is lost");
}

/// Two threads leave holes, which do not lie beside each other: both are known.
pub fn two_leave_holes() {
    let store = Rc::new(Store::new());
    store.add(0);
    store.add(1);
    let all = [(); 5].map(|()| store.take().expect("there are six"));
    let other = spawn(&store, move |store| store.stock.give(all[0], TABLE));
    store.stock.give(all[3], TABLE);
    other.join();
    assert_eq!(store.stock.left(), 3 * TABLE, "no hole is lost");
}

/// A thread adds a piece while another takes.
pub fn take_against_add() {
    let store = Rc::new(Store::new());
    let other = spawn(&store, |store| {
        store.add(1);
        store.take()
    });
    store.add(0);
    let mine = store.take();
    let theirs = other.join();
    assert_ne!(mine.expect("there is one"), theirs.expect("there is one"), "a table has two owners");
    assert_eq!(store.stock.left(), 4 * TABLE, "no piece is lost");
}
