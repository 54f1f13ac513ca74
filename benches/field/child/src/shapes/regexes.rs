//! Regular expressions over a log: compiled anew for each part of it, their matches collected as strings in a map.

use super::sizes::total;
use crate::child::measure::measure;
use crate::child::workloads::{Crew, Outcome};
use fastrand::Rng;
use regex::Regex;
use std::collections::HashMap;
use std::fmt::Write;

const PARTS: u64 = 480;
/// Different ones.
const TEMPLATES: u64 = 8;
const LINES: u64 = 400;
const EXPRESSIONS: [&str; 3] = [
    r"(?P<user>[a-z]+)@(?P<host>[a-z]+\.(?:org|net))",
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d)",
    r#"GET "(/[a-z0-9/]+)" (\d{3})"#,
];

pub fn run(crew: &Crew) -> Outcome {
    let ops = crew.scaled(PARTS);
    let texts: Vec<String> = (0..TEMPLATES).map(write).collect();
    let (sums, cost) = measure(|| {
        crew.each(|index| {
            let parts = Crew::part(ops, crew.threads, index);
            total(parts.map(|nth| search(&texts[(nth % TEMPLATES) as usize])))
        })
    });
    Outcome { ops, checksum: total(sums), cost }
}

/// A checksum of what is found.
fn search(text: &str) -> u64 {
    let mut found: HashMap<String, Vec<String>> = HashMap::new();
    for expression in EXPRESSIONS {
        let expression = Regex::new(expression).expect("well-formed");
        for captures in expression.captures_iter(text) {
            let groups = captures.iter().skip(1).flatten().map(|group| group.as_str().to_owned());
            found.entry(captures[1].to_owned()).or_default().extend(groups);
        }
    }
    let groups = found.values().map(Vec::len).sum::<usize>() as u64;
    // Two groups, five and two for each line.
    assert_eq!(groups, LINES * 9, "a match was lost");
    total(found.iter().map(|(key, groups)| key.len() as u64 * groups.iter().map(|s| s.len() as u64).sum::<u64>()))
}

fn write(seed: u64) -> String {
    let mut rng = Rng::with_seed(seed);
    let mut text = String::new();
    for nth in 0..LINES {
        let mut word = |len: usize| -> String { (0..len).map(|_| rng.lowercase()).collect() };
        let (user, host, path, rest) = (word(7), word(9), word(12), word(60));
        let (month, day, hour, status) = (1 + nth % 12, 1 + nth % 28, nth % 24, 200 + nth % 5);
        writeln!(text, "2024-{month:02}-{day:02}T{hour:02}:30 {user}@{host}.org GET \"/{path}/{nth}\" {status} {rest}")
            .expect("a string takes all");
    }
    text
}
