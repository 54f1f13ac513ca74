//! A pipeline over files of lines, in parallel: split, sorted, without their doubles, joined, compressed, and read back to
//! see that nothing was lost.

use super::sizes::total;
use crate::child::measure::measure;
use crate::child::workloads::{Crew, Outcome};
use fastrand::Rng;
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use rayon::prelude::*;
use std::io::{Read, Write};

const FILES: u64 = 800;
/// Different ones.
const TEMPLATES: u64 = 8;
const LINES: usize = 1500;

pub fn run(crew: &Crew) -> Outcome {
    let ops = crew.scaled(FILES);
    let texts: Vec<String> = (0..TEMPLATES).map(write).collect();
    let (sums, cost) = measure(|| {
        crew.pool.install(|| {
            let files = (0..ops).into_par_iter();
            files.map(|nth| process(&texts[(nth % TEMPLATES) as usize])).collect::<Vec<u64>>()
        })
    });
    Outcome { ops, checksum: total(sums), cost }
}

fn process(text: &str) -> u64 {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines.dedup();
    let joined = lines.join("\n");
    drop(lines);
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(joined.as_bytes()).expect("memory takes all");
    let compressed = encoder.finish().expect("memory takes all");
    let mut again = String::new();
    DeflateDecoder::new(compressed.as_slice()).read_to_string(&mut again).expect("what was compressed");
    assert_eq!(again, joined, "a file was damaged");
    (joined.len() as u64) << 32 | compressed.len() as u64
}

fn write(seed: u64) -> String {
    let mut rng = Rng::with_seed(seed);
    let mut text = String::new();
    for _ in 0..LINES {
        for _ in 0..rng.usize(2..9) {
            // Few different words, so that they compress and some lines are the same.
            let letter = rng.u8(b'a'..b'k') as char;
            let len = 2 + letter as usize % 7;
            text.extend(std::iter::repeat_n(letter, len));
            text.push(' ');
        }
        text.push('\n');
    }
    text
}
