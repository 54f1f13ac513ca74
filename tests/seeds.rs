//! The table of what the teaching allocators had: each row names a test, and that test is there.

use std::path::Path;

#[test]
fn each_row_names_a_test_that_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = std::fs::read_to_string(root.join("src/lib.rs")).expect("the crate's documentation");
    let (_, from) = docs.split_once("//! | theirs | here | shown by |\n").expect("the table");
    let rows: Vec<&str> = from.lines().skip(1).take_while(|line| line.starts_with("//! |")).collect();
    assert!(rows.len() > 30, "{} rows", rows.len());
    let wrong: Vec<String> =
        rows.iter().filter_map(|row| misses(root, row).map(|what| format!("{what}: {row}"))).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_row_without_its_test_is_found() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (row, expected) in [
        ("//! | a | b | `tests/seeds.rs`: `a_row_without_its_test_is_found` |", None),
        ("//! | a | b | `tests/seeds.rs`: `misses` |", Some("no test")),
        ("//! | a | b | `tests/seeds.rs`: `none_such` |", Some("no test")),
        ("//! | a | b | `tests/none.rs`: `none_such` |", Some("no file")),
        ("//! | a | b | by eye |", Some("names no test")),
    ] {
        assert_eq!(misses(root, row), expected, "{row}");
    }
}

/// What is wrong with a row, whose last column is a file and a test in it.
fn misses(root: &Path, row: &str) -> Option<&'static str> {
    let shown = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
    let Some((file, name)) = shown.split_once(": ") else { return Some("names no test") };
    let [file, name] = [file, name].map(|text| text.trim_matches('`'));
    let Ok(text) = std::fs::read_to_string(root.join(file)) else { return Some("no file") };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_test = |at: usize| {
        let above = lines[..at].iter().rev().take_while(|line| line.starts_with("#["));
        above.into_iter().any(|line| *line == "#[test]")
    };
    let found = lines.iter().position(|line| line.starts_with(&format!("fn {name}("))).is_some_and(is_test);
    (!found).then_some("no test")
}
