//! The inverted index: for each word, the documents it stands in and where.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use unicode_segmentation::UnicodeSegmentation;

use crate::corpus::{self, Content, Corpus};

/// One document that a word stands in, and its places there, counted in words.
pub struct Posting {
    pub document: usize,
    pub positions: Vec<u32>,
}

/// Word → postings, and what was read to make it.
#[derive(Default)]
pub struct Index {
    pub terms: HashMap<String, Vec<Posting>>,
    totals: Totals,
}

/// Sums that do not depend on the order of the work: both allocators must come to the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub documents: u64,
    pub bytes: u64,
    pub words: u64,
    pub terms: u64,
    pub postings: u64,
    pub digest: u64,
    pub binary: u64,
    pub unreadable: u64,
}

impl Index {
    /// Reads and indexes `repeat` copies of the corpus on all of rayon's threads; `done` is called after each file.
    pub fn build(corpus: &Corpus, repeat: u32, done: &(dyn Fn() + Sync)) -> Index {
        let files = corpus.files.len();
        let mut index = (0..files * repeat as usize)
            .into_par_iter()
            .fold(Index::default, |mut index, document| {
                match corpus::read(&corpus.files[document % files]) {
                    Content::Text(text) => index.add(document, &text),
                    Content::Binary => index.totals.binary += 1,
                    Content::Unreadable => index.totals.unreadable += 1,
                }
                done();
                index
            })
            .reduce(Index::default, Index::merge);
        index.totals.unreadable += corpus.unlisted as u64 * u64::from(repeat);
        index
    }

    fn add(&mut self, document: usize, text: &str) {
        let mut words: HashMap<String, Vec<u32>> = HashMap::new();
        let mut count = 0;
        for word in text.unicode_words() {
            words.entry(word.to_lowercase()).or_default().push(count);
            count += 1;
        }
        for (word, positions) in words {
            self.terms.entry(word).or_default().push(Posting { document, positions });
        }
        self.totals.documents += 1;
        self.totals.bytes += text.len() as u64;
        self.totals.words += u64::from(count);
    }

    /// One index of two: the smaller moves into the larger.
    fn merge(mut self, mut other: Index) -> Index {
        if self.terms.len() < other.terms.len() {
            std::mem::swap(&mut self, &mut other);
        }
        for (word, mut postings) in other.terms {
            match self.terms.entry(word) {
                Entry::Vacant(place) => {
                    place.insert(postings);
                }
                Entry::Occupied(mut place) => place.get_mut().append(&mut postings),
            }
        }
        self.totals.documents += other.totals.documents;
        self.totals.bytes += other.totals.bytes;
        self.totals.words += other.totals.words;
        self.totals.binary += other.totals.binary;
        self.totals.unreadable += other.totals.unreadable;
        self
    }

    /// The totals, with what only the finished index can tell.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals { terms: self.terms.len() as u64, ..self.totals };
        for posting in self.terms.values().flatten() {
            let places: u64 = posting.positions.iter().map(|&position| u64::from(position) + 1).sum();
            totals.postings += 1;
            totals.digest = totals.digest.wrapping_add((posting.document as u64 + 1).wrapping_mul(places));
        }
        totals
    }
}
