//! An inverted index of many documents: words are lowered and collected in maps, the maps merged across threads, the
//! most frequent words sorted, all dropped.

use super::{Crew, Outcome};
use crate::child::measure::measure;
use fastrand::Rng;
use rayon::prelude::*;
use std::collections::HashMap;

const DOCUMENTS: u64 = 256;
const WORDS_A_DOCUMENT: u32 = 8_000;
const VOCABULARY: usize = 40_000;
const TOP: usize = 100;

type Index = HashMap<String, Vec<u32>>;

pub fn run(crew: &Crew) -> Outcome {
    let documents = crew.scaled(DOCUMENTS);
    let (texts, distinct) = write(documents);
    let ((words, entries, checksum), cost) = measure(|| {
        crew.pool.install(|| {
            let index = texts
                .par_iter()
                .map(|text| read(text))
                .reduce(Index::new, merge);
            (words_in(&index), index.len(), top(&index))
        })
    });
    let ops = documents * u64::from(WORDS_A_DOCUMENT);
    assert_eq!(words, ops, "a word was lost");
    assert_eq!(entries, distinct, "an entry was lost or split");
    Outcome {
        ops,
        checksum,
        cost,
    }
}

/// Some documents of made-up words, the first of the vocabulary much more frequent than the last, and how many
/// different words occur.
fn write(documents: u64) -> (Vec<String>, usize) {
    let mut rng = Rng::with_seed(documents);
    let mut seen = vec![false; VOCABULARY];
    let mut document = || {
        let mut text = String::new();
        for _ in 0..WORDS_A_DOCUMENT {
            let rank = (VOCABULARY as f64 * rng.f64().powi(3)) as usize;
            seen[rank] = true;
            spell(rank, &mut text);
            text.push(if rng.u32(..12) == 0 { '\n' } else { ' ' });
        }
        text
    };
    let texts = (0..documents).map(|_| document()).collect();
    (texts, seen.into_iter().filter(|&seen| seen).count())
}

/// Writes the word of a rank: 6 to 22 letters, no two ranks the same.
fn spell(rank: usize, text: &mut String) {
    const SYLLABLES: [&str; 16] = [
        "al", "Be", "cor", "du", "en", "fi", "gra", "ho", "il", "ja", "ke", "lun", "mo", "nes",
        "or", "pi",
    ];
    // As many different endings as keep the digits in front of them unique.
    let ending = ["", "ing", "ness", "ation"][rank % 4];
    for digit in 0..4 {
        text.push_str(SYLLABLES[(rank >> (4 * digit)) % 16]);
    }
    text.push_str(ending);
}

fn read(text: &str) -> Index {
    let mut index = Index::new();
    for (place, word) in text.split_whitespace().enumerate() {
        let word = word.to_lowercase();
        index.entry(word).or_default().push(place as u32);
    }
    index
}

fn merge(mut into: Index, mut from: Index) -> Index {
    if into.len() < from.len() {
        std::mem::swap(&mut into, &mut from);
    }
    for (word, places) in from {
        into.entry(word).or_default().extend(places);
    }
    into
}

fn words_in(index: &Index) -> u64 {
    index.values().map(|places| places.len() as u64).sum()
}

/// A checksum of the most frequent words with their places.
fn top(index: &Index) -> u64 {
    let mut entries: Vec<_> = index.iter().collect();
    entries.sort_unstable_by_key(|(word, places)| (std::cmp::Reverse(places.len()), *word));
    entries.iter().take(TOP).fold(0, |sum, (word, places)| {
        let places: u64 = places.iter().copied().map(u64::from).sum();
        sum ^ (places << 8) ^ word.len() as u64
    })
}
