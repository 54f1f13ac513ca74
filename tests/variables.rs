//! The environment variables: what the README tells of is what the code reads, and the other way round.

use std::collections::BTreeSet;
use std::path::Path;

const PREFIX: &str = "MILLPOND_";

fn text(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect("one of our own")
}

/// The name at the beginning of a text, without the prefix; empty if it goes on otherwise.
fn name(text: &str) -> &str {
    let end = text.find(|letter: char| !letter.is_ascii_uppercase() && letter != '_').unwrap_or(text.len());
    &text[..end]
}

/// What the code reads: the names in the table of `src/environment.rs`.
fn read(source: &str) -> BTreeSet<&str> {
    let (_, table) = source.split_once("const TABLE: [Variable;").expect("the table");
    let (table, _) = table.split_once("\n];").expect("its end");
    table.split("name: \"").skip(1).map(name).collect()
}

/// The names in the first column of a table.
fn told<'a>(text: &'a str, row: &str) -> BTreeSet<&'a str> {
    let rows = text.lines().filter_map(|line| line.strip_prefix(row)?.strip_prefix(PREFIX));
    rows.filter(|rest| rest[name(rest).len()..].starts_with("` |")).map(name).collect()
}

/// What one of the two has and the other has not, in words.
fn differences(of: &str, told: &BTreeSet<&str>, read: &BTreeSet<&str>) -> Vec<String> {
    let missing = read.difference(told).map(|name| format!("{of} has no row for {PREFIX}{name}"));
    let unknown = told.difference(read).map(|name| format!("{of} has {PREFIX}{name}, which the code does not read"));
    missing.chain(unknown).collect()
}

#[test]
fn each_variable_is_told_of_and_each_that_is_told_of_is_read() {
    let (readme, source) = (text("README.md"), text("src/environment.rs"));
    let read = read(&source);
    assert!(read.contains("MODE") && read.len() > 5, "{read:?}");
    let mut wrong = differences("the README's table", &told(&readme, "| `"), &read);
    wrong.extend(differences("the module's table", &told(&source, "//! | `"), &read));
    // Nor is any other told of in passing.
    let library = text("src/lib.rs");
    let mentioned: BTreeSet<&str> =
        [&readme, &library].iter().flat_map(|text| text.split(PREFIX).skip(1).map(name)).collect();
    let unread = mentioned.difference(&read).filter(|name| !name.is_empty());
    wrong.extend(unread.map(|name| format!("{PREFIX}{name} is named, and the code does not read it")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_missing_on_either_side_is_found() {
    let source = "const TABLE: [Variable; 2] = [\n    Variable { name: \"A\", .. },\n    Variable {\n        name: \"B\",\n    },\n];";
    let readme = "| `MILLPOND_A` | `x` | as `MILLPOND_B` |\n| `MILLPOND_C_D` | | |\n| `MILLPOND_E=x`, `f` | no row of the table |\n";
    let found = differences("it", &told(readme, "| `"), &read(source));
    assert_eq!(found, ["it has no row for MILLPOND_B", "it has MILLPOND_C_D, which the code does not read"]);
}
