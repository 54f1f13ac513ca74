//! An inverted index of many documents: each one's words are lowered and collected in a map, the maps merged shard by
//! shard, mostly by other threads, the most frequent words sorted, all dropped.

use super::{Crew, Outcome};
use crate::child::measure::measure;
use fastrand::Rng;
use rayon::prelude::*;
use std::collections::HashMap;

const DOCUMENTS: u64 = 512;
const WORDS_A_DOCUMENT: u32 = 2_000;
const VOCABULARY: usize = 40_000;
const SHARDS: usize = 64;
const TOP: usize = 100;

type Index = HashMap<String, Vec<u32>>;
/// The words of one document that belong to one shard, and their places.
type Part = Vec<(String, Vec<u32>)>;

pub fn run(crew: &Crew) -> Outcome {
    let documents = crew.scaled(DOCUMENTS);
    let (texts, distinct) = write(documents);
    let ((words, entries, checksum), cost) = measure(|| {
        crew.pool.install(|| {
            let documents = texts.par_iter().map(|text| parts(read(text)));
            let shards = gather(documents.collect());
            let shards: Vec<Index> = shards.into_par_iter().map(merge).collect();
            let words = shards.iter().flat_map(Index::values);
            let words = words.map(|places| places.len() as u64).sum::<u64>();
            let entries = shards.iter().map(Index::len).sum::<usize>();
            (words, entries, top(&shards))
        })
    });
    let ops = documents * u64::from(WORDS_A_DOCUMENT);
    assert_eq!(words, ops, "a word was lost");
    assert_eq!(entries, distinct, "an entry was lost or split");
    Outcome { ops, checksum, cost }
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
    const SYLLABLES: [&str; 16] =
        ["al", "Be", "cor", "du", "en", "fi", "gra", "ho", "il", "ja", "ke", "lun", "mo", "nes", "or", "pi"];
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

/// Shares out the words of a document among the shards.
fn parts(index: Index) -> Vec<Part> {
    let mut parts = vec![Part::new(); SHARDS];
    for (word, places) in index {
        let shard = word.bytes().map(usize::from).sum::<usize>() % SHARDS;
        parts[shard].push((word, places));
    }
    parts
}

/// Puts together what belongs to each shard.
fn gather(documents: Vec<Vec<Part>>) -> Vec<Vec<Part>> {
    let mut shards = vec![Vec::new(); SHARDS];
    for parts in documents {
        for (shard, part) in shards.iter_mut().zip(parts) {
            shard.push(part);
        }
    }
    shards
}

fn merge(parts: Vec<Part>) -> Index {
    let mut index = Index::new();
    for (word, places) in parts.into_iter().flatten() {
        index.entry(word).or_default().extend(places);
    }
    index
}

/// A checksum of the most frequent words with their places.
fn top(shards: &[Index]) -> u64 {
    let mut entries: Vec<_> = shards.iter().flatten().collect();
    entries.sort_unstable_by_key(|(word, places)| (std::cmp::Reverse(places.len()), *word));
    entries.iter().take(TOP).fold(0, |sum, (word, places)| {
        let places: u64 = places.iter().copied().map(u64::from).sum();
        sum ^ (places << 8) ^ word.len() as u64
    })
}
