//! A lock-free stack of nodes known by index (Treiber, *Systems programming: coping with parallelism*, IBM RJ 5118,
//! 1986): for magazines, for listed spans, and for free nodes of metadata.
//!
//! The head is a [`Tagged`] index. A node is in at most one stack, and whoever popped it owns it. Nodes are type-stable
//! (see [`slab`](crate::slab)): a pop that was overtaken may read the `next` of a node that another thread owns by now, but
//! that word is still an atomic of ours, and the tag makes the exchange fail.
//!
//! Invariant: following `next` from the head visits each node once and ends in [`NONE`].

use crate::log::lost_race;
use crate::sync::{AtomicU32, AtomicU64, Fault, Ordering, Point, planted, point};
use crate::tagged::{Index, NONE, Tagged};

/// Where a stack finds the links of its nodes.
pub(crate) trait Nodes {
    /// The link of the node `index`, which has been handed out before.
    fn link(&self, index: Index) -> &AtomicU32;
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Stack {
    head: AtomicU64,
}

impl Stack {
    const_fn! {
        pub(crate) const fn new() -> Self {
            Self { head: AtomicU64::new(Tagged::EMPTY.bits()) }
        }
    }

    /// Puts a node that the caller owns on top. O(1) but for lost races, each of which is another's success.
    #[inline(always)]
    pub(crate) fn push(&self, nodes: &impl Nodes, index: Index) {
        debug_assert!(index != NONE, "a node that is none");
        self.push_if(nodes.link(index), index, |_| true);
    }

    /// Puts a node that the caller owns, with this link, on top, if `agree` is content with the node that will lie below, which it
    /// is asked before each attempt. If the node is put there, that one was on top all the while, from before it was asked.
    #[inline(always)]
    pub(crate) fn push_if(&self, link: &AtomicU32, index: Index, mut agree: impl FnMut(Index) -> bool) -> bool {
        // ORDERING: Acquire pairs with the Release below: what was written in the node below before it was put there is visible.
        let mut head = Tagged::from_bits(self.head.load(Ordering::Acquire));
        loop {
            if !agree(head.index()) {
                return false;
            }
            // ORDERING: whoever pops the node gets its link by the exchange below. Release is for a walk that stands at the
            // node, found by an older head: it pairs with `walk`, and the node that the link names is made.
            link.store(head.index(), Ordering::Release);
            // Pops count the tag up, and that is enough: no node is on top again without having been popped.
            let changed = head.keep_tag(index);
            // ORDERING: Release pairs with the Acquire in `pop`: the link and what the node carries are visible to
            // whoever pops it. Later exchanges of the head are read-modify-writes and so carry the release on.
            let publish = if planted(Fault::StackPush) { Ordering::Relaxed } else { Ordering::Release };
            point(Point::Exchange);
            // Failure acquires as the first load does.
            match self.head.compare_exchange_weak(head.bits(), changed.bits(), publish, Ordering::Acquire) {
                Ok(_) => return true,
                Err(now) => {
                    lost_race();
                    head = Tagged::from_bits(now);
                }
            }
        }
    }

    /// Takes the top node, which the caller then owns.
    #[inline(always)]
    pub(crate) fn pop(&self, nodes: &impl Nodes) -> Option<Index> {
        // ORDERING: Acquire pairs with the Release in `push`: the node's link, and what it carries, are visible.
        let mut head = Tagged::from_bits(self.head.load(Ordering::Acquire));
        loop {
            if head.index() == NONE {
                return None;
            }
            // Relaxed: ordered by the load of the head; if the node has changed hands since, the exchange fails.
            let next = nodes.link(head.index()).load(Ordering::Relaxed);
            let changed = if planted(Fault::StackTag) { head.keep_tag(next) } else { head.change(next) };
            point(Point::Exchange);
            // ORDERING: success needs no Release, since nothing of ours is published, and no Acquire, since the head
            // was loaded with it. Failure acquires as the first load does.
            match self.head.compare_exchange_weak(head.bits(), changed.bits(), Ordering::Relaxed, Ordering::Acquire) {
                Ok(_) => return Some(head.index()),
                Err(now) => {
                    lost_race();
                    head = Tagged::from_bits(now);
                }
            }
        }
    }

    /// The top node, or none, at some moment of the call: it may be anywhere by then.
    pub(crate) fn top(&self) -> Index {
        // ORDERING: Acquire pairs with the Release in `push_if`: the node is made, and what it carried there visible.
        Tagged::from_bits(self.head.load(Ordering::Acquire)).index()
    }

    /// Calls `visit` for each node from the top; gives up after `limit` nodes and says whether the list ended before that.
    /// Exact while no other thread uses the stack; else each node that it visits is made, and may be anywhere by then.
    pub(crate) fn walk(&self, nodes: &impl Nodes, limit: usize, mut visit: impl FnMut(Index)) -> bool {
        // ORDERING: Acquire pairs with the Release in `push`.
        let mut at = Tagged::from_bits(self.head.load(Ordering::Acquire)).index();
        for _ in 0..limit {
            if at == NONE {
                return true;
            }
            visit(at);
            // ORDERING: Acquire pairs with `push`, and with all others who link nodes of this kind.
            at = nodes.link(at).load(Ordering::Acquire);
        }
        at == NONE
    }
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;
    use crate::log::{self, Log};
    use crate::os::{fake, thread_id};
    use crate::sync::stepped::interrupted;
    use std::format;
    use std::vec::Vec;

    struct Links([AtomicU32; 5]);

    impl Nodes for Links {
        fn link(&self, index: Index) -> &AtomicU32 {
            &self.0[index as usize]
        }
    }

    /// Another thread comes between the look at the head and the exchange, or before both: the exchange fails or it does not,
    /// which is told, and in the end both have done what they wanted.
    fn raced(step: u64, pops: bool) -> usize {
        let system = fake::System::fresh();
        let links = Links([const { AtomicU32::new(NONE) }; 5]);
        let stack = Stack::new();
        // The first weak exchange of a thread fails for no reason here, and the next six do not.
        [1, 2].iter().for_each(|index| stack.push(&links, *index));
        let line = format!("[{}] pool   an exchange failed, since another thread was first: tried again", thread_id());
        assert_eq!(system.said(), [line.as_str()]);
        let mut popped = None;
        let mut other = || stack.push(&links, 4);
        interrupted(step, &mut other, || if pops { popped = stack.pop(&links) } else { stack.push(&links, 3) });
        let mut left = Vec::new();
        assert!(stack.walk(&links, 9, |index| left.push(index)));
        let expected: &[Index] = if pops { &[2, 1] } else { &[3, 4, 2, 1] };
        assert_eq!((popped, left.as_slice()), (pops.then_some(4), expected));
        let told = system.said();
        assert!(told.iter().all(|said| *said == line), "{told:?}");
        told.len()
    }

    #[test]
    fn a_lost_exchange_is_told_and_tried_again() {
        log::set(Log::Pool);
        for (pops, step, lines) in
            [(false, 0, 0), (false, 1, 1), (false, 2, 1), (true, 0, 0), (true, 1, 1), (true, 2, 1)]
        {
            let told = std::thread::spawn(move || raced(step, pops)).join().expect("no panic");
            assert_eq!(told, lines, "at step {step}, pops: {pops}");
        }
        log::set(Log::Off);
    }
}
