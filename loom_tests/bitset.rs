//! Bitsets: no bit is lost to a neighbour in the same word, and a bit guards what the program has.

use super::spawn;
use crate::bitset::{BitRangeError, Bitset};
use crate::sync::Slot;
use std::rc::Rc;

struct World {
    bits: Bitset,
    guarded: Slot,
}

impl World {
    fn new() -> Rc<Self> {
        Rc::new(Self { bits: Bitset::new(3).expect("the fake system gives memory"), guarded: Slot::new(0) })
    }

    /// Writes to what a bit guards and sets it: says what it was.
    fn write_and_set(&self) -> Result<bool, BitRangeError> {
        self.guarded.set(7);
        self.bits.set(1, true)
    }
}

/// One thread writes to what a bit guards and sets it; the other sets another bit of the word, and reads if it finds the
/// first.
pub fn two_set_bits_of_a_word() {
    let world = World::new();
    let other = spawn(&world, World::write_and_set);
    assert_eq!(world.bits.set(2, true), Ok(false), "the bit was clear");
    if world.bits.get(1) == Ok(true) {
        assert_eq!(world.guarded.get(), 7, "what the bit guards is there");
    }
    assert_eq!(other.join(), Ok(false), "the bit was clear");
    assert_eq!((0..3).map(|bit| world.bits.get(bit)).filter(|bit| *bit == Ok(true)).count(), 2, "both are set");
    assert!(world.bits.get(3).is_err(), "there is no such bit");
}

/// Two threads clear two bits of a word.
pub fn two_clear_bits_of_a_word() {
    let bits = Rc::new(Bitset::new(3).expect("the fake system gives memory"));
    assert!((0..3).all(|bit| bits.set(bit, true) == Ok(false)), "the bits were clear");
    let other = spawn(&bits, |bits| bits.set(1, false));
    assert_eq!(bits.set(2, false), Ok(true), "the bit was set");
    assert_eq!(other.join(), Ok(true), "the bit was set");
    assert_eq!((0..3).map(|bit| bits.get(bit)).filter(|bit| *bit == Ok(true)).count(), 1, "one is set");
}

/// Whoever sets a bit that was set already has what it guards.
pub fn two_set_the_same_bit() {
    let world = World::new();
    let other = spawn(&world, World::write_and_set);
    let mine = world.bits.set(1, true);
    if mine == Ok(true) {
        assert_eq!(world.guarded.get(), 7, "what the bit guards is there");
    }
    assert!(mine != other.join(), "one has set it");
}
