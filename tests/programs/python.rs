//! Python's own test suite, with each object an allocation.

use super::{On, Run, measured};
use crate::library::Ended;
use std::collections::BTreeMap;
use std::path::Path;

/// Modules that end the same each time, and the one that needs most memory of all.
const SOME: [&str; 7] =
    ["test_fstring", "test_list", "test_dict", "test_tuple", "test_collections", "test_functools", "test_string"];

/// Some of the modules, one after the other.
pub fn python(on: On, folder: &Path) -> Run {
    let (ended, outcomes) = test(on, &SOME, &[], folder);
    assert!(outcomes.len() > 300, "{ended:#?}");
    Run::of(ended, format!("{outcomes:?}"))
}

/// Runs modules of the suite, and says how each test of theirs has ended.
pub fn test(on: On, modules: &[&str], options: &[&str], folder: &Path) -> (Ended, BTreeMap<String, String>) {
    let mut command = on.command("python3");
    command.args(["-m", "test", "-v"]).args(options).args(modules).env("PYTHONMALLOC", "malloc").current_dir(folder);
    let ended = measured(&command);
    // Each test's own line, `test_name (where) ... ok`.
    let lines = ended.stdout.lines().chain(ended.stderr.lines());
    let outcomes = lines
        .filter_map(|line| line.split_once(" ... "))
        .filter(|(name, _)| name.starts_with("test") && name.contains('('))
        .map(|(name, outcome)| {
            let word = ["ok", "skipped", "FAIL", "ERROR", "expected failure"];
            let outcome = word.into_iter().find(|word| outcome.contains(word)).unwrap_or("?");
            (name.to_owned(), outcome.to_owned())
        })
        .collect();
    (ended, outcomes)
}
