//! The spans of one class, a stack of those that are listed, and actors that go one step at a time.

use crate::arena::Density;
use crate::config::PAGE;
use crate::os::fake::System;
use crate::size_class::{Class, ClassInfo, INFO, at_place, place_of};
use crate::span::purge::InPlace;
use crate::span::{HELD, Pop, Restored, Span, Spans};
use crate::stack::Stack;
use crate::sync::Ordering;
use crate::tagged::Index;
use core::ptr;
use std::boxed::Box;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::vec::Vec;

pub(super) fn class_of(size: usize) -> Class {
    at_place(place_of(size, 1).unwrap())
}

/// What chunks out of their span are full of.
const USED: u8 = 0xee;

/// A thread in the middle of something.
#[derive(Debug)]
pub(super) enum Actor {
    /// About to pop a span, to carve from it.
    Pop {
        want: usize,
    },
    /// Has the node, and has not looked at it.
    Popped {
        index: Index,
        want: usize,
    },
    /// Holds the span, and has so many chunks to clear.
    Held {
        index: Index,
        taken: usize,
    },
    Cleared {
        index: Index,
    },
    /// Owns chunks, and is about to set their bits.
    Free {
        index: Index,
        chunks: Vec<usize>,
    },
    /// Has set the bits of so many, and not yet added to the count.
    Set {
        index: Index,
        count: usize,
    },
    /// About to hold a span in place.
    Visit {
        index: Index,
    },
    InPlace {
        index: Index,
        token: InPlace,
    },
    Swept {
        index: Index,
        token: InPlace,
        done: bool,
    },
    /// Has something left to do.
    Settle {
        index: Index,
        left: Restored,
    },
    Done,
}

impl Actor {
    /// Takes at most `count` chunks from those that the program has, to free them.
    pub(super) fn free(world: &mut World, index: Index, count: usize) -> Self {
        let owned = world.owned.entry(index).or_default();
        let chunks = owned.split_off(owned.len().saturating_sub(count));
        Self::Free { index, chunks }
    }
}

fn left(index: Index, left: Restored) -> Actor {
    if left == Restored::Done { Actor::Done } else { Actor::Settle { index, left } }
}

pub(super) struct World {
    pub(super) system: Arc<System>,
    pub(super) spans: Box<Spans>,
    pub(super) class: Class,
    pub(super) now: u32,
    stack: Stack,
    /// Per live span the chunks whose bits are not set.
    out: BTreeMap<Index, BTreeSet<usize>>,
    /// Of these, those that no actor has in hand.
    owned: BTreeMap<Index, Vec<usize>>,
}

impl World {
    pub(super) fn new(class: Class, os_page: usize) -> Self {
        let system = System::fresh();
        system.set_page_size(os_page);
        let (out, owned) = (BTreeMap::new(), BTreeMap::new());
        Self { system, spans: Box::new(Spans::new()), class, now: 0, stack: Stack::new(), out, owned }
    }

    /// The same spans, for another class; this one has none.
    pub(super) fn of_class(self, class: Class) -> Self {
        assert!(self.out.is_empty());
        Self { class, stack: Stack::new(), ..self }
    }

    pub(super) fn info(&self) -> &'static ClassInfo {
        &INFO[self.class]
    }

    pub(super) fn span(&self, index: Index) -> &'static Span {
        // SAFETY: nodes stay as long as the fake system does, which the world keeps.
        unsafe { &*ptr::from_ref(self.spans.nodes(self.class).get(index)) }
    }

    fn chunk(&self, span: &Span, chunk: usize) -> &'static mut [u8] {
        let size = self.info().size;
        let at = span.head.start() + chunk * size;
        // SAFETY: a chunk of a live span; one slice of it at a time is in use.
        unsafe { core::slice::from_raw_parts_mut(ptr::with_exposed_provenance_mut(at), size) }
    }

    pub(super) fn live(&self) -> Vec<Index> {
        self.out.keys().copied().collect()
    }

    /// The nodes in the stack, from its top.
    pub(super) fn listed(&self) -> Vec<Index> {
        let mut listed = Vec::new();
        assert!(self.stack.walk(self.spans.nodes(self.class), 1000, |index| listed.push(index)));
        listed
    }

    pub(super) fn used_pages(&self) -> usize {
        self.spans.arenas.check().unwrap()
    }

    /// Opens a span of which so many chunks are taken at once, as `Pool::carve` does.
    pub(super) fn open(&mut self, taken: usize) -> Index {
        let span = self.spans.open(self.class, taken, Density::Dense, self.now).unwrap();
        let (index, span) = (span.head.index(), self.span(span.head.index()));
        assert!(span.is_held() && span.count() == self.info().chunks - taken);
        assert_eq!(self.out.insert(index, (0..taken).collect()), None);
        (0..taken).for_each(|chunk| self.chunk(span, chunk).fill(USED));
        self.owned.insert(index, (0..taken).collect());
        self.run(Actor::Settle { index, left: span.unhold() });
        index
    }

    /// Frees all of the program's chunks of a span but one.
    pub(super) fn keep_only(&mut self, index: Index, chunk: usize) {
        let owned = self.owned.insert(index, [chunk].into()).unwrap();
        let chunks = owned.into_iter().filter(|other| *other != chunk).collect();
        self.run(Actor::Free { index, chunks });
    }

    pub(super) fn committed(&self) -> usize {
        self.spans.arenas.committed().load(Ordering::Relaxed)
    }

    /// Frees at most `count` of the program's chunks.
    pub(super) fn free(&mut self, index: Index, count: usize) {
        let actor = Actor::free(self, index, count);
        self.run(actor);
    }

    /// Lets an actor go on to its end.
    pub(super) fn run(&mut self, mut actor: Actor) {
        while !matches!(actor, Actor::Done) {
            actor = self.step(actor);
        }
    }

    /// One atomic step, and what is done before the next.
    pub(super) fn step(&mut self, actor: Actor) -> Actor {
        let nodes = self.spans.nodes(self.class);
        match actor {
            Actor::Pop { want } => match self.stack.pop(nodes) {
                Some(index) => Actor::Popped { index, want },
                None => Actor::Done,
            },
            Actor::Popped { index, want } => match self.span(index).hold_popped(want, self.now) {
                Pop::Held(taken) => Actor::Held { index, taken },
                Pop::Busy => Actor::Done,
                Pop::Tombstone => {
                    nodes.give(index);
                    Actor::Done
                }
            },
            Actor::Held { index, taken } => {
                self.clear(index, taken);
                Actor::Cleared { index }
            }
            Actor::Cleared { index } => left(index, self.span(index).unhold()),
            Actor::Free { chunks, .. } if chunks.is_empty() => Actor::Done,
            Actor::Free { index, chunks } => {
                self.set(index, &chunks);
                Actor::Set { index, count: chunks.len() }
            }
            Actor::Set { index, count } => left(index, self.span(index).add(count, self.now)),
            Actor::Visit { index } => match self.span(index).hold_in_place(|_| true) {
                Some(token) => Actor::InPlace { index, token },
                None => Actor::Done,
            },
            Actor::InPlace { index, token } => {
                let (purged, done) = self.span(index).purge_units();
                self.spans.arenas.committed().fetch_sub(purged, Ordering::Relaxed);
                Actor::Swept { index, token, done }
            }
            Actor::Swept { index, token, done } => left(index, self.span(index).unhold_in_place(token, done)),
            Actor::Done | Actor::Settle { left: Restored::Done, .. } => Actor::Done,
            Actor::Settle { index, left: Restored::List } => {
                self.stack.push(nodes, index);
                Actor::Done
            }
            Actor::Settle { index, left: Restored::Retire } => {
                let out = self.out.remove(&index).expect("a span that is live is retired");
                assert!(out.is_empty(), "retired while chunks are out");
                self.spans.retire(self.span(index), self.class);
                Actor::Done
            }
        }
    }

    fn clear(&mut self, index: Index, taken: usize) {
        let span = self.span(index);
        let (mut again, mut got) = (0, Vec::new());
        span.clear(taken, false, |run| {
            again += span.unpurge(run.clone());
            got.extend(run);
        });
        self.spans.arenas.committed().fetch_add(again, Ordering::Relaxed);
        assert_eq!(got.len(), taken);
        for chunk in got {
            assert!(self.out.get_mut(&index).unwrap().insert(chunk), "chunk {chunk} is out already");
            self.chunk(span, chunk).fill(USED);
            self.owned.entry(index).or_default().push(chunk);
        }
    }

    fn set(&mut self, index: Index, chunks: &[usize]) {
        let span = self.span(index);
        for chunk in chunks {
            let bytes = self.chunk(span, *chunk);
            assert!(bytes[0] == USED && bytes[1..] == bytes[..bytes.len() - 1], "a chunk in use was written to");
            assert!(self.out.get_mut(&index).unwrap().remove(chunk));
        }
        for word in 0..self.info().words {
            let bits =
                chunks.iter().filter(|chunk| *chunk / 64 == word).fold(0, |mask, chunk| mask | 1 << (chunk % 64));
            assert_eq!(span.set_bits(word, bits), Ok(()));
        }
    }

    /// What holds between any two steps.
    pub(super) fn check(&self, actors: &[Actor]) {
        let mut retiring = 0;
        for (index, out) in &self.out {
            let span = self.span(*index);
            let is_free = |chunk: &usize| span.is_free(span.info(), *chunk);
            assert!(span.is_live() || span.state().is(HELD));
            assert_eq!((0..self.info().chunks).filter(is_free).count(), self.info().chunks - out.len());
            assert!(!out.iter().any(is_free));
            let mut count = self.info().chunks - out.len();
            let mut is_retiring = false;
            for actor in actors {
                match actor {
                    Actor::Held { index: at, taken } if at == index => count -= taken,
                    Actor::Set { index: at, count: set } if at == index => count -= set,
                    Actor::Settle { index: at, left: Restored::Retire } if at == index => is_retiring = true,
                    _ => {}
                }
            }
            if is_retiring {
                retiring += 1;
            } else {
                assert_eq!(span.count(), count);
            }
            self.check_units(span, out);
        }
        assert_eq!(self.spans.live().count() + retiring, self.out.len());
        if actors.is_empty() {
            self.live().iter().for_each(|index| assert!(self.span(*index).check()));
            let listed = self.listed();
            for index in self.live() {
                let times = listed.iter().filter(|other| **other == index).count();
                assert_eq!(times, (self.span(index).count() > 0) as usize, "span {index} is listed {times} times");
            }
        }
        self.check_books();
    }

    /// A noted unit is wholly free.
    fn check_units(&self, span: &Span, out: &BTreeSet<usize>) {
        let unit = super::super::purge::unit(self.info());
        let noted = span.purged.get();
        for chunk in out {
            let units = chunk * self.info().size / unit..=((chunk + 1) * self.info().size - 1) / unit;
            assert!(units.into_iter().all(|at| noted >> at & 1 == 0), "chunk {chunk} is in use in a purged unit");
        }
    }

    /// Committed is what is used or dirty, without what is purged.
    fn check_books(&self) {
        let purged: usize = self.out.keys().map(|index| self.span(*index).purged_bytes()).map(|(a, b)| a + b).sum();
        let arenas = &self.spans.arenas;
        let held = self.used_pages() * PAGE + arenas.dirty();
        assert_eq!(arenas.committed().load(Ordering::Relaxed), held - purged);
    }

    /// Frees all that the program has. Then no span is left.
    pub(super) fn empty(&mut self) {
        self.live().into_iter().for_each(|index| self.free(index, usize::MAX));
        // What was carved and never used is listed still.
        while !self.listed().is_empty() {
            self.run(Actor::Pop { want: 0 });
        }
        self.check(&[]);
        assert_eq!((self.live(), self.used_pages()), (Vec::new(), 0));
        let nodes = self.spans.nodes(self.class);
        assert_eq!(nodes.free_nodes(), Some(nodes.made() as usize), "each node is back");
    }

    /// The same, and then nothing is left of any span.
    pub(super) fn finish(&mut self) {
        self.empty();
        self.system.set_purges_to_junk(false);
        self.spans.arenas.purge();
        assert_eq!(self.spans.arenas.committed().load(Ordering::Relaxed), 0);
        for arena in self.spans.arenas.iter() {
            for page in (arena.start()..arena.start() + arena.bytes()).step_by(PAGE) {
                assert!(self.spans.page_map.get(page).is_none(), "the page map names a span that is gone");
            }
        }
    }
}
