//! The most frequent terms of an index.

use std::cmp::Reverse;
use std::path::Path;

use crate::corpus::Corpus;
use crate::index::{Index, Posting};

/// A term with how often and in how many files it stands, and the file that has it most.
pub struct Top<'a> {
    pub term: &'a str,
    pub words: usize,
    pub files: usize,
    pub most_in: &'a Path,
}

/// The `count` most frequent terms of an index of one copy of `corpus`, most frequent first.
pub fn top<'a>(index: &'a Index, corpus: &'a Corpus, count: usize) -> Vec<Top<'a>> {
    let mut terms: Vec<(usize, &str, &[Posting])> = index
        .terms
        .iter()
        .map(|(term, postings)| (postings.iter().map(uses).sum(), term.as_str(), postings.as_slice()))
        .collect();
    terms.sort_unstable_by_key(|&(words, term, _)| (Reverse(words), term));
    terms.truncate(count);
    let top = |(words, term, postings): (usize, &'a str, &'a [Posting])| {
        // Postings come in the order in which threads merged them: the lower document wins a tie.
        let most = postings.iter().max_by_key(|posting| (uses(posting), Reverse(posting.document)))?;
        Some(Top { term, words, files: postings.len(), most_in: &corpus.files[most.document] })
    };
    terms.into_iter().filter_map(top).collect()
}

fn uses(posting: &Posting) -> usize {
    posting.positions.len()
}
