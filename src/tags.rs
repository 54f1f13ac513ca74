//! The tags of a thread that are in force: those that have begun and not ended. The latest is what its allocations are for.
//!
//! A tag is ended by the drop of a value, which the program may move and replace: so tags may end in any order. Each has a number
//! by which it is found among those in force, and those after it move up.
//!
//! | state of a place | owner |
//! |---|---|
//! | below the count: of a tag in force | the thread whose cache has the same index |
//! | from there on: free | nobody; what stands there is from before |
//!
//! The count is in the thread's cache, whose next owner begins with none. A tag for which there is no place is not entered: it
//! gives way to what was said before it.
//!
//! Invariant: `entered = ended + count`; the numbers of those in force rise.

use crate::slab::{Node, Slab};
use crate::sync::{AtomicU32, Counter, Ordering};
use crate::tagged::{Index, NONE};
use crate::thread_cache::{Text, ThreadCache};
use core::fmt::{self, Write as _};

/// How many tags of a thread can be in force and end in any order.
const MOST: usize = 32;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Tags {
    link: AtomicU32,
    /// The number of the latest that was entered.
    entered: Counter,
    /// What was said before the first of those in force.
    base: Text,
    places: [Entry; MOST],
}

#[derive(Debug)]
struct Entry {
    number: Counter,
    text: Text,
}

// SAFETY: zeros are a node without tags; the link is one word.
unsafe impl Node for Tags {
    fn stride(_: usize) -> usize {
        size_of::<Self>()
    }

    fn link(&self) -> &AtomicU32 {
        &self.link
    }

    unsafe fn make(at: *mut Self, _: usize) {
        let places = core::array::from_fn(|_| Entry { number: Counter::new(), text: Text::new() });
        let tags = Self { link: AtomicU32::new(NONE), entered: Counter::new(), base: Text::new(), places };
        // SAFETY: the caller gives the place.
        unsafe { at.write(tags) };
    }

    fn name(&self, _: Index) {}
}

impl Tags {
    /// Enters a tag of the thread with this cache, and returns its number. `None`: there is no place for it.
    fn enter(&self, own: &ThreadCache, tag: &'static str) -> Option<u64> {
        let count = own.tags.load(Ordering::Relaxed);
        let place = self.places.get(count as usize)?;
        if count == 0 {
            self.base.set(own.tag());
        }
        self.entered.add(1);
        place.number.set(self.entered.get());
        place.text.set(tag);
        own.tags.store(count + 1, Ordering::Relaxed);
        Some(self.entered.get())
    }

    /// Takes out the tag with this number and returns the latest of those that are left. `None`: it is not there.
    fn take_out(&self, own: &ThreadCache, number: u64) -> Option<&'static str> {
        let count = own.tags.load(Ordering::Relaxed) as usize;
        let at = self.places[..count].iter().rposition(|place| place.number.get() == number)?;
        for pair in self.places[at..count].windows(2) {
            pair[0].number.set(pair[1].number.get());
            pair[0].text.set(pair[1].text.get());
        }
        own.tags.store(count as u32 - 1, Ordering::Relaxed);
        Some(count.checked_sub(2).map_or(&self.base, |last| &self.places[last].text).get())
    }
}

/// A tag as it may stand in a line: what would end the line, or do something to a terminal, is written as in Rust's sources.
pub(crate) struct Shown(pub(crate) &'static str);

impl fmt::Display for Shown {
    #[unsafe(link_section = ".millpond_cold")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|letter| match letter.is_control() {
            true => write!(f, "{}", letter.escape_default()),
            false => f.write_char(letter),
        })
    }
}

/// Begins a tag of the thread with this cache, and returns what ends it: its number, zero if it could not be entered, and what was
/// said before.
#[cold]
#[unsafe(link_section = ".millpond_cold")]
pub(crate) fn begin(tags: &Slab<Tags>, own: &ThreadCache, tag: &'static str) -> (u64, &'static str) {
    let before = own.tag();
    let number = tags.reach(own.index()).and_then(|tags| tags.enter(own, tag));
    own.set_tag(tag);
    (number.unwrap_or(0), before)
}

/// Ends a tag of the thread with this cache.
#[cold]
#[unsafe(link_section = ".millpond_cold")]
pub(crate) fn end(tags: &Slab<Tags>, own: &ThreadCache, (number, before): (u64, &'static str)) {
    let left = tags.reached(own.index()).and_then(|tags| tags.take_out(own, number));
    own.set_tag(left.unwrap_or(before));
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn the_latest_in_force_counts_whatever_ends_first() {
        let (tags, own) = (Slab::new(), ThreadCache::new());
        Node::name(&own, 3);
        own.set_tag("base");
        let names = ["a", "b", "c", "d", "e"];
        // Each order of five ends, as the digits of a number.
        for order in 0..5 * 4 * 3 * 2 {
            let mut begun: Vec<_> = names.iter().map(|name| (*name, begin(&tags, &own, name))).collect();
            let mut rest = order;
            for left in (1..=names.len()).rev() {
                let (_, ended) = begun.remove(rest % left);
                rest /= left;
                end(&tags, &own, ended);
                assert_eq!(own.tag(), begun.last().map_or("base", |(name, _)| name));
            }
            assert_eq!(own.tags.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn without_a_place_a_tag_gives_way_to_the_one_before() {
        let (tags, own) = (Slab::new(), ThreadCache::new());
        Node::name(&own, 1);
        let begun: Vec<_> = (0..MOST).map(|_| begin(&tags, &own, "in")).collect();
        let beyond = begin(&tags, &own, "beyond");
        assert_eq!((beyond, own.tag()), ((0, "in"), "beyond"));
        end(&tags, &own, beyond);
        begun.into_iter().rev().for_each(|one| end(&tags, &own, one));
        assert_eq!(own.tag(), "");
    }
}
