//! Documents of JSON: parsed into values, changed, written again and dropped, as in a web service.

use super::sizes::total;
use crate::child::measure::measure;
use crate::child::workloads::{Crew, Outcome};
use fastrand::Rng;
use serde_json::{Value, json};

const DOCUMENTS: u64 = 1200;
/// Different ones.
const TEMPLATES: u64 = 8;
const ENTRIES: usize = 150;

pub fn run(crew: &Crew) -> Outcome {
    let ops = crew.scaled(DOCUMENTS);
    let texts: Vec<String> = (0..TEMPLATES).map(|seed| document(seed).to_string()).collect();
    let (sums, cost) = measure(|| {
        crew.each(|index| {
            let documents = Crew::part(ops, crew.threads, index);
            total(documents.map(|nth| serve(&texts[(nth % TEMPLATES) as usize], nth)))
        })
    });
    Outcome { ops, checksum: total(sums), cost }
}

/// Parses a document, marks each entry, and checks that the mark is in what is written.
fn serve(text: &str, mark: u64) -> u64 {
    let mut value: Value = serde_json::from_str(text).expect("well-formed");
    let before = weigh(&value);
    let entries = value["entries"].as_array_mut().expect("a list");
    let count = entries.len() as u64;
    for entry in entries {
        entry["mark"] = mark.into();
    }
    let written = value.to_string();
    let again: Value = serde_json::from_str(&written).expect("well-formed");
    assert_eq!(weigh(&again), before.wrapping_add(count * mark), "a document was damaged");
    before.wrapping_add(written.len() as u64)
}

/// The sum of all numbers.
fn weigh(value: &Value) -> u64 {
    match value {
        Value::Number(number) => number.as_u64().unwrap_or(0),
        Value::Array(values) => total(values.iter().map(weigh)),
        Value::Object(fields) => total(fields.values().map(weigh)),
        _ => 0,
    }
}

fn document(seed: u64) -> Value {
    let mut rng = Rng::with_seed(seed);
    let mut word = |most: usize| -> String {
        let len = rng.usize(3..most);
        (0..len).map(|_| rng.lowercase()).collect()
    };
    let mut entries = Vec::new();
    for nth in 0..ENTRIES {
        entries.push(json!({
            "id": nth,
            "name": word(24),
            "address": { "street": word(30), "town": word(16), "number": nth % 90 },
            "tags": [word(8), word(12), word(8)],
            "scores": [nth % 7, nth % 11, nth % 13, nth % 17],
            "active": nth % 3 == 0,
            "note": if nth % 5 == 0 { Value::Null } else { word(200).into() },
        }));
    }
    json!({ "version": 1, "entries": entries })
}
