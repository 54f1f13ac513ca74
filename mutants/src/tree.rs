//! The copy of the sources in which the mutants are.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use walkdir::{DirEntry, WalkDir};

use crate::sites::{self, Mutant};

/// What is no part of the models: under loom, `sync` and `os` are other files; and what `tests/house.rs` lists as not
/// modelled, with the reasons.
const NOT_MODELLED: [&str; 19] = [
    "sync/",
    "os/mod.rs",
    "os/linux.rs",
    "os/fake",
    "os/nursery.rs",
    "os/traced.rs",
    "arena/growth.rs",
    "modes/quarantine.rs",
    "heap/repair.rs",
    "leaks/",
    "slot.rs",
    "global.rs",
    "global/",
    "c_api",
    "forward.rs",
    "lib.rs",
    "report.rs",
    "report/",
    "macros.rs",
];
const SWITCH: &str = include_str!("../switch/switch.rs");

/// All files of the tree, as paths within it.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let hidden = |entry: &DirEntry| {
        let name = entry.file_name().to_string_lossy();
        entry.depth() == 1 && (name == "target" || name.starts_with(".git"))
    };
    let mut files = Vec::new();
    for entry in WalkDir::new(root).sort_by_file_name().into_iter().filter_entry(|entry| !hidden(entry)) {
        let entry = entry?;
        if entry.file_type().is_file() {
            files.push(entry.path().strip_prefix(root)?.to_owned());
        }
    }
    Ok(files)
}

/// The name of a source of the core, as mutants and models say it.
fn modelled(file: &Path) -> Option<&str> {
    let name = file.strip_prefix("src").ok()?.to_str()?;
    let tests = name.contains("tests/") || name.ends_with("tests.rs");
    (!tests && name.ends_with(".rs") && !NOT_MODELLED.iter().any(|start| name.starts_with(start))).then_some(name)
}

/// The mutants that there are.
pub fn find(root: &Path) -> Result<Vec<Mutant>> {
    let mut mutants = Vec::new();
    for file in files(root)? {
        if let Some(name) = modelled(&file) {
            let text = fs::read_to_string(root.join(&file))?;
            let found = sites::mutate(name, &text, mutants.len() as u32 + 1, |_| true);
            mutants.extend(found.with_context(|| name.to_owned())?.mutants);
        }
    }
    Ok(mutants)
}

/// Makes the copy, with all mutants in it but the `broken` ones. Files that are right already stay untouched.
pub fn copy(root: &Path, copy: &Path, broken: &BTreeSet<u32>) -> Result<Vec<Mutant>> {
    let mut mutants = Vec::new();
    let files = files(root)?;
    for file in &files {
        let mut text = fs::read(root.join(file))?;
        if let Some(name) = modelled(file) {
            let source = String::from_utf8(text)?;
            let wanted = |mutant: &Mutant| !broken.contains(&mutant.id);
            let mutated = sites::mutate(name, &source, mutants.len() as u32 + 1, wanted);
            let mutated = mutated.with_context(|| name.to_owned())?;
            mutants.extend(mutated.mutants);
            text = mutated.text.into_bytes();
        }
        if file == Path::new("src/sync/model.rs") {
            let model = String::from_utf8(text)?;
            let insert = "mod switch;\npub(crate) use switch::*;\nuse super::Fault;";
            text = model.replacen("use super::Fault;", insert, 1).into_bytes();
        }
        write(&copy.join(file), &text)?;
    }
    let switch = PathBuf::from("src/sync/model/switch.rs");
    write(&copy.join(&switch), SWITCH.as_bytes())?;
    // What is no more in the tree.
    for stale in self::files(copy)?.into_iter().filter(|file| *file != switch && !files.contains(file)) {
        fs::remove_file(copy.join(stale))?;
    }
    Ok(mutants)
}

fn write(file: &Path, text: &[u8]) -> Result<()> {
    if fs::read(file).is_ok_and(|there| there == text) {
        return Ok(());
    }
    fs::create_dir_all(file.parent().context("a file is in a folder")?)?;
    fs::write(file, text).with_context(|| file.display().to_string())
}

/// Changes when the code does that the models run, or what is made of it. Comments do not count, nor do sources that the
/// models are built without: `read` are those that the compiler has read for them.
pub fn fingerprint(root: &Path, read: &[PathBuf]) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    [include_str!("sites.rs"), include_str!("tree.rs"), SWITCH].hash(&mut hasher);
    for file in read.iter().filter(|file| file.starts_with("src")) {
        file.hash(&mut hasher);
        // What it is in the copy alone.
        if let Ok(text) = fs::read_to_string(root.join(file)) {
            without_comments(&text).hash(&mut hasher);
        }
    }
    let lock = fs::read_to_string(root.join("Cargo.lock"))?;
    lock.split("[[package]]").find(|package| package.contains("\"loom\"")).hash(&mut hasher);
    Ok(format!("{:016x}", hasher.finish()))
}

/// Changes when a model does: its own file, the runner but for its table, or its bound. The empty name is that of all.
pub fn fingerprint_of_model(root: &Path, name: &str, bound: &str) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    let folder = root.join("loom_tests");
    let runner = fs::read_to_string(folder.join("mod.rs"))?;
    let (before, table) = runner.split_once("const MODELS").context("the runner has a table")?;
    let (_, after) = table.split_once("\n];").context("the table has an end")?;
    let module = name.split("::").next().unwrap_or_default();
    let own = fs::read_to_string(folder.join(module).with_extension("rs")).with_context(|| name.to_owned())?;
    for text in [before, after, &own] {
        without_comments(text).hash(&mut hasher);
    }
    (name, bound).hash(&mut hasher);
    Ok(format!("{:016x}", hasher.finish()))
}

/// The words of a text: what the compiler sees of it, or, where that is no text of Rust's, all.
fn without_comments(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let text = lines.collect::<Vec<_>>().join("\n");
    text.parse::<proc_macro2::TokenStream>().map_or(text, |tokens| tokens.to_string())
}

#[cfg(test)]
mod tests {
    use super::without_comments;

    #[test]
    fn comments_do_not_count() {
        let text = |comment: &str| format!("//! {comment}\nfn f() {{ g(1); }} // {comment}");
        assert_eq!(without_comments(&text("one")), without_comments(&text("two")));
        assert_ne!(without_comments("fn f() { g(1); }"), without_comments("fn f() { g(2); }"));
    }
}
