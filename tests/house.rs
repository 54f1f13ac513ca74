//! The house rules, checked by reading the sources: who may import whom, where the platform and `cfg` may be known,
//! and that every ordering and every unsafe block gives its reason. All violations are printed at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use walkdir::WalkDir;

/// The layers, lowest first. A module names modules of lower layers; within a layer, without a cycle.
const LAYERS: &[&[&str]] = &[
    &["macros", "report", "sync", "os"],
    &["log", "closure"],
    &["config", "size_class", "tagged", "stack", "slab", "bitset", "counters", "c_class"],
    &["arena", "page_map"],
    &["span"],
    &["pool"],
    &["thread_cache"],
    &["modes", "sampler", "times", "tags"],
    &["heap"],
    &["slot", "environment", "pprof", "heaps"],
    &["leaks"],
    &["listed"],
    &["map"],
    &["global", "forward"],
    &["records", "measure", "profile", "collections"],
    &["chunks"],
    &["instance"],
    &["c_api"],
];

/// Where `cfg` may stand; elsewhere only unit tests have one, on their `mod tests`.
const CFG_HOMES: &[&str] = &["macros", "report", "sync", "os", "config", "slot", "instance", "c_api"];
const TEST_CFGS: &[&str] = &["cfg(test)", "cfg(all(test,not(millpond_loom)))"];

/// What atomic operations are given.
const ORDERS: [&str; 4] = ["Relaxed", "Acquire", "Release", "AcqRel"];

const MAX_LINES: usize = 600;
/// How far above its use a reason may begin.
const REASON_WITHIN: usize = 8;

/// Names that only some modules may follow with `::` or `!`, and the modules where they live.
const HOMES: &[(&[&str], &str, &str)] = &[
    (&["libc", "::"], "os slot", "the system is known in `os` alone"),
    (&["core", "::", "arch"], "os slot", "the processor is known in `os` alone"),
    (&["std", "::", "arch"], "os slot", "the processor is known in `os` alone"),
    (&["asm", "!"], "os slot", "the processor is known in `os` alone"),
    (&["global_asm", "!"], "os slot", "the processor is known in `os` alone"),
    (&["naked_asm", "!"], "os slot", "the processor is known in `os` alone"),
    (&["loom", "::"], "sync", "loom is known in `sync` alone"),
    (&["core", "::", "sync", "::", "atomic"], "sync", "atomics come from `sync`, or loom does not see them"),
    (&["core", "::", "cell"], "sync", "cells come from `sync`, or loom does not see them"),
];

/// Files that use atomics without a model, and why.
const UNMODELLED: &[(&str, &str)] = &[
    ("sync", "what the models stand on"),
    ("os/linux.rs", "the models have another system"),
    ("os/fork.rs", "a thread's own number, which publishes nothing"),
    ("os/fake", "is that system, or that of the unit tests"),
    ("os/traced.rs", "between processes, by the system's calls"),
    ("os/nursery.rs", "a bound that publishes nothing: what is given out is as the program was loaded"),
    ("closure.rs", "only its tests have any"),
    ("slot.rs", "the system's calls; a key is a number, and behind it nothing is published"),
    ("arena/growth.rs", "advice to the system, and access that it gives: behind them nothing is published"),
    ("arena/stretch.rs", "a picture: behind what it reads nothing is published"),
    ("tags.rs", "a thread's own words, which publish nothing"),
    ("thread_cache/text.rs", "the same"),
    ("global.rs", "a flag that publishes nothing"),
    ("global/configured.rs", "wishes that are the same whichever of the first threads takes them over"),
    ("global/tally.rs", "a flag that publishes nothing"),
    ("global/watch.rs", "the same, and a path that is set before there is a second thread"),
    ("instance/builder.rs", "heaps' numbers, which publish nothing"),
    ("c_api", "counts and a flag that publish nothing"),
    ("leaks/exit.rs", "words that are set before anybody reads them"),
    (
        "modes/quarantine.rs",
        "a budget that publishes nothing: passed by what those have in hand who free at the same time",
    ),
    ("heap/repair.rs", "runs while its thread is the only one"),
];

#[test]
fn sources_keep_the_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut house = House::default();
    for path in sources(&root.join("src")) {
        let name = path.strip_prefix(root.join("src")).unwrap().to_str().unwrap().to_owned();
        house.read_source(&name, &std::fs::read_to_string(&path).unwrap());
    }
    house.check_cycles();
    for folder in ["tests", "benches", "examples", "loom_tests"] {
        for path in sources(&root.join(folder)) {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            house.check_opening(&name, &std::fs::read_to_string(&path).unwrap());
        }
    }
    house.check_models(&root.join("loom_tests"));
    assert!(house.violations.is_empty(), "\n{}\n", house.violations.join("\n"));
}

/// What README says of the models is counted.
#[test]
fn the_readme_counts_the_models() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let [readme, models] =
        ["README.md", "loom_tests/mod.rs"].map(|name| std::fs::read_to_string(root.join(name)).unwrap());
    let (_, models) = models.split_once("const MODELS: &[Model] = &[").expect("the list");
    let (models, _) = models.split_once("\n];").expect("its end");
    let [all, unbounded, twins] = ["model!(", "None,", "Fault::"].map(|what| models.matches(what).count());
    for says in [
        format!("{all} models, and {twins} twins"),
        format!("{all} models, {unbounded} of them without a bound, and {twins} twins"),
    ] {
        assert!(readme.contains(&says), "README does not say: {says}");
    }
}

/// A rule that catches nothing is none: each catches what is planted here, and lets the rest pass.
#[test]
fn rules_catch_what_is_planted() {
    let cases: &[(&str, &str, &[&str])] = &[
        ("stack.rs", "use crate::tagged::Tagged;", &[]),
        ("stack.rs", "use crate::{sync::AtomicU64, pool::Pool};", &["names `pool` above it"]),
        ("pool/magazine.rs", "fn f() { crate::heap::f(); $crate::span::g(); }", &["names `heap` above it"]),
        ("pool/magazine.rs", "use super::Pool; use crate::pool::x;", &[]),
        ("pool/magazine.rs", "use super::super::heap;", &["`super` leaves its module"]),
        ("span.rs", "mod tests { use super::*; }", &[]),
        ("span.rs", "use super::heap::Heap;", &["`super` leaves its module"]),
        ("span.rs", "use crate::Millpond;", &["names `Millpond`, no module of the table"]),
        ("odd.rs", "", &["`odd` stands in no layer"]),
        ("span.rs", "#[cfg(test)] mod tests {} #[cfg(all(test, not(millpond_loom)))] mod tests {}", &[]),
        ("span.rs", "#[cfg(test)] fn f() {}", &["`cfg` outside"]),
        ("span.rs", "#![cfg_attr(x, y)] fn f() { if cfg!(x) {} }", &["`cfg` outside", "`cfg` outside"]),
        ("os/unix.rs", "#[cfg(x)] use libc::mmap; core::arch::asm!();", &[]),
        ("heap.rs", "use libc::mmap;", &["in `os` alone"]),
        ("heap.rs", "core::arch::global_asm!(\"nop\");", &["in `os` alone", "in `os` alone"]),
        ("heap.rs", "use core::sync::atomic::AtomicU64;", &["atomics come from `sync`"]),
        ("heap.rs", "use core::cell::UnsafeCell;", &["cells come from `sync`"]),
        ("heap.rs", "use crate::sync::Ordering::{Acquire, Release};", &[]),
        ("heap.rs", "fn f() { a.load(Acquire) }", &["`Acquire` without a reason"]),
        ("heap.rs", "// ORDERING: pairs with g's.\nfn f() { a.load(Ordering::Acquire) }", &[]),
        ("heap.rs", "// Pairs with g's.\n\n\n\n\n\n\n\n\nfn f() { a.load(SeqCst) }", &["`SeqCst` without a reason"]),
        ("heap.rs", "mod tests { fn f() { a.load(SeqCst) } }", &[]),
        ("heap.rs", "fn f() { unsafe { g() } }", &["`unsafe` without its SAFETY"]),
        ("heap.rs", "unsafe impl Send for X {}", &["`unsafe` without its SAFETY"]),
        ("heap.rs", "// SAFETY: g asks for nothing.\nfn f() { unsafe { g() } }\nunsafe fn h() {}", &[]),
        ("heap.rs", "/// `unsafe {}` and crate::global and Acquire\nfn f() { \"unsafe { } Acquire\"; }", &[]),
        ("heap.rs", "fn f( {", &["cannot be read"]),
        ("heap.rs", &"\n".repeat(MAX_LINES), &["601 lines"]),
    ];
    for (name, source, expected) in cases {
        let mut house = House::default();
        house.read_source(name, &format!("//! Opens.\n{source}"));
        let found = house.violations;
        let matches = found.len() == expected.len() && found.iter().zip(*expected).all(|(f, e)| f.contains(e));
        assert!(matches, "{name}: {source}\nexpected {expected:?}\nfound {found:?}");
    }

    let mut house = House::default();
    house.read_source("stack.rs", "// no opening\nuse crate::tagged::x;");
    house.read_source("tagged.rs", "//! Opens.\nuse crate::slab::x;");
    house.read_source("slab.rs", "//! Opens.\nuse crate::stack::x;");
    house.check_cycles();
    assert!(house.violations[0].contains("does not open with"), "{:?}", house.violations);
    assert_eq!(house.violations[1..], ["cycle in a layer: slab -> stack -> tagged -> slab"]);

    let mut house = House::default();
    house.read_source("stack.rs", "//! Opens.");
    house.read_source("odd.rs", "//! Opens.\nfn f() { a.load(Ordering::Relaxed) }");
    house.violations.clear();
    house.check_models(&Path::new(env!("CARGO_MANIFEST_DIR")).join("loom_tests"));
    let said = house.violations.iter().any(|said| said.starts_with("odd.rs:1: uses atomics"));
    let named = house.violations.iter().any(|said| said.contains("`slab.rs` is no source"));
    assert!(said && named && house.violations.iter().all(|said| !said.contains("stack.rs")), "{:?}", house.violations);
}

/// What has been read so far.
#[derive(Default)]
struct House {
    violations: Vec<String>,
    /// The sources, and those of them that use atomics.
    read: BTreeSet<String>,
    atomic: BTreeSet<String>,
    /// Who names whom within a layer.
    siblings: BTreeMap<String, BTreeSet<String>>,
}

/// A token of the flattened source; `::` is one token, a group's delimiters are two.
struct Token {
    text: String,
    line: usize,
}

/// A file of `src` with what the rules need to know of it.
struct Source<'a> {
    name: &'a str,
    /// The top-level module that it belongs to; empty for the crate root.
    module: &'a str,
    /// How many modules deep the file itself is.
    depth: usize,
    lines: Vec<&'a str>,
    tokens: Vec<Token>,
}

impl House {
    fn report(&mut self, name: &str, line: usize, what: impl std::fmt::Display) {
        self.violations.push(format!("{name}:{line}: {what}"));
    }

    fn check_opening(&mut self, name: &str, text: &str) {
        if !text.starts_with("//! ") {
            self.report(name, 1, "does not open with `//!` and what it is");
        }
    }

    fn read_source(&mut self, name: &str, text: &str) {
        self.check_opening(name, text);
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() > MAX_LINES {
            self.report(name, lines.len(), format!("{} lines: split it", lines.len()));
        }
        let Ok(stream) = text.parse::<TokenStream>() else {
            return self.report(name, 1, "cannot be read");
        };
        let parts: Vec<&str> = name.trim_end_matches(".rs").split('/').filter(|part| *part != "mod").collect();
        let (module, depth) = if parts == ["lib"] { ("", 0) } else { (parts[0], parts.len()) };
        if !module.is_empty() && layer(module).is_none() {
            self.report(name, 1, format!("`{module}` stands in no layer"));
        }
        let mut tokens = Vec::new();
        flatten(stream, &mut tokens);
        self.read.insert(name.into());
        let is_test = name.contains("tests");
        let uses = |at| ORDERS.iter().any(|order| is(&tokens, at, &["Ordering", "::", order]));
        if !is_test && (0..tokens.len()).any(uses) {
            self.atomic.insert(name.into());
        }
        self.check_tokens(&Source { name, module, depth, lines, tokens });
    }

    fn check_tokens(&mut self, source: &Source<'_>) {
        let mut open = Vec::new(); // For each open brace, the inline module it belongs to.
        let mut in_use = false;
        for (at, token) in source.tokens.iter().enumerate() {
            match token.text.as_str() {
                "{" => open.push(source.inline_module(at)),
                "}" => drop(open.pop()),
                "use" => in_use = !source.is(at + 1, &["<"]),
                ";" => in_use = false,
                "crate" if source.is(at + 1, &["::"]) => self.check_import(source, at + 2),
                "super" => self.check_super(source, at, open.iter().flatten().count()),
                "#" | "cfg" => self.check_cfg(source, at),
                "Acquire" | "Release" | "AcqRel" | "SeqCst" => {
                    let tests = open.iter().flatten().any(|module| *module == "tests");
                    if !in_use && !tests && !source.reason(token.line, &["ORDERING", "airs with"]) {
                        self.report(source.name, token.line, format!("`{}` without a reason", token.text));
                    }
                }
                "unsafe" => {
                    let needs = source.is(at + 1, &["{"]) || source.is(at + 1, &["impl"]);
                    if needs && !source.reason(token.line, &["SAFETY"]) {
                        self.report(source.name, token.line, "`unsafe` without its SAFETY");
                    }
                }
                _ => {}
            }
            for (words, home, why) in HOMES {
                if source.is(at, words) && !home.split(" ").any(|home| home == source.module) {
                    self.report(source.name, token.line, format!("`{}`: {why}", words.concat()));
                }
            }
        }
    }

    /// `crate::x` or, one level deep, each `x` of `crate::{x, …}`; the crate root may name all.
    fn check_import(&mut self, source: &Source<'_>, at: usize) {
        if source.module.is_empty() {
            return;
        }
        let mut named = Vec::new();
        if source.is(at, &["{"]) {
            let mut depth = 0;
            for pair in source.tokens[at..].windows(2) {
                match pair[0].text.as_str() {
                    "{" => depth += 1,
                    "}" => depth -= 1,
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
                if depth == 1 && matches!(pair[0].text.as_str(), "{" | ",") && pair[1].text != "}" {
                    named.push(&pair[1]);
                }
            }
        } else {
            named.extend(source.tokens.get(at));
        }
        let own = layer(source.module);
        for Token { text, line } in named {
            match layer(text) {
                _ if text == source.module => {}
                None => self.report(source.name, *line, format!("names `{text}`, no module of the table")),
                its if its > own => self.report(source.name, *line, format!("names `{text}` above it")),
                its if its == own => {
                    self.siblings.entry(source.module.into()).or_default().insert(text.clone());
                }
                _ => {}
            }
        }
    }

    /// A chain of `super`s must end within the file's own top-level module: what lies beyond is named by `crate::`.
    fn check_super(&mut self, source: &Source<'_>, at: usize, inline: usize) {
        let continues_a_chain = at >= 2 && source.is(at - 2, &["super", "::"]);
        let supers = source.tokens[at..].chunks(2).take_while(|pair| pair[0].text == "super").count();
        if !continues_a_chain && supers >= source.depth + inline && !source.module.is_empty() {
            self.report(source.name, source.tokens[at].line, "`super` leaves its module: say `crate::`");
        }
    }

    /// `#[cfg(…)]`, `#[cfg_attr(…)]` with or without `!`, and `cfg!(…)`.
    fn check_cfg(&mut self, source: &Source<'_>, at: usize) {
        let inner = at + 1 + usize::from(source.is(at + 1, &["!"]));
        let attribute = source.is(at, &["#"])
            && (source.is(inner, &["[", "cfg", "("]) || source.is(inner, &["[", "cfg_attr", "("]));
        let expression = source.is(at, &["cfg", "!", "("]);
        if !(attribute || expression) || source.module.is_empty() || CFG_HOMES.contains(&source.module) {
            return;
        }
        let text: String = source.tokens[inner..].iter().skip(1).map(|token| token.text.as_str()).take(16).collect();
        let of_tests = TEST_CFGS.iter().any(|cfg| text.starts_with(&format!("{cfg}]modtests")));
        if !(attribute && of_tests) {
            self.report(source.name, source.tokens[at].line, "`cfg` outside its homes");
        }
    }

    /// Within a layer the imports must have an order too.
    fn check_cycles(&mut self) {
        for start in self.siblings.keys() {
            let mut chain = vec![start.clone()];
            // A cycle is reported once, from its first module by name.
            if self.finds_cycle(start, &mut chain) && chain.iter().min() == Some(start) {
                self.violations.push(format!("cycle in a layer: {}", chain.join(" -> ")));
            }
        }
    }

    fn finds_cycle(&self, start: &str, chain: &mut Vec<String>) -> bool {
        for next in self.siblings.get(chain.last().unwrap()).into_iter().flatten() {
            let closes = next == start;
            if !closes && chain.contains(next) {
                continue;
            }
            chain.push(next.clone());
            if closes || self.finds_cycle(start, chain) {
                return true;
            }
            chain.pop();
        }
        false
    }

    /// A file of models that the runner does not know would never run. Each source with atomics has a model that names it,
    /// and each name is that of a source.
    fn check_models(&mut self, folder: &Path) {
        let Ok(runner) = std::fs::read_to_string(folder.join("mod.rs")) else { return };
        let named: BTreeSet<&str> = runner.split('"').flat_map(str::split_whitespace).collect();
        for name in std::mem::take(&mut self.atomic) {
            let exempt = UNMODELLED.iter().any(|(start, _)| name.starts_with(start));
            if exempt == named.contains(name.as_str()) {
                self.report(&name, 1, "uses atomics: a model must name it, or `UNMODELLED` say why none does");
            }
        }
        for name in named.into_iter().filter(|name| name.ends_with(".rs")) {
            if !self.read.contains(name) {
                self.report("loom_tests/mod.rs", 1, format!("`{name}` is no source"));
            }
        }
        for path in sources(folder) {
            let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
            if stem != "mod" && stem != "build" && !runner.lines().any(|line| line == format!("mod {stem};")) {
                self.report(&format!("loom_tests/{stem}.rs"), 1, "the runner has no `mod` for it");
            }
        }
    }
}

impl Source<'_> {
    fn is(&self, at: usize, words: &[&str]) -> bool {
        is(&self.tokens, at, words)
    }

    /// The name of the module whose body the brace at `at` opens.
    fn inline_module(&self, at: usize) -> Option<&str> {
        let of_module = at >= 2 && self.tokens[at - 2].text == "mod";
        of_module.then(|| self.tokens[at - 1].text.as_str())
    }

    /// Whether a comment on this line, or not far above it, has one of the words.
    fn reason(&self, line: usize, words: &[&str]) -> bool {
        let near = &self.lines[line.saturating_sub(REASON_WITHIN + 1)..line];
        let comments = near.iter().filter_map(|line| line.split_once("//"));
        comments.into_iter().any(|(_, comment)| words.iter().any(|word| comment.contains(word)))
    }
}

/// Whether these words stand there.
fn is(tokens: &[Token], at: usize, words: &[&str]) -> bool {
    let tokens = tokens.get(at..at + words.len());
    tokens.is_some_and(|tokens| tokens.iter().zip(words).all(|(token, word)| token.text == *word))
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let files = WalkDir::new(folder).sort_by_file_name().into_iter().filter_map(Result::ok);
    files.map(walkdir::DirEntry::into_path).filter(|path| path.extension().is_some_and(|e| e == "rs")).collect()
}

fn flatten(stream: TokenStream, tokens: &mut Vec<Token>) {
    let mut colon = false; // The last token was a `:` that the next may join.
    for tree in stream {
        let line = tree.span().start().line;
        let joins = std::mem::take(&mut colon);
        match tree {
            TokenTree::Group(group) => {
                let (start, end) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                tokens.push(Token { text: start.into(), line });
                flatten(group.stream(), tokens);
                tokens.push(Token { text: end.into(), line: group.span_close().end().line });
            }
            TokenTree::Punct(punct) if punct.as_char() == ':' && joins => {
                tokens.last_mut().unwrap().text.push(':');
            }
            TokenTree::Punct(punct) => {
                colon = punct.as_char() == ':' && punct.spacing() == proc_macro2::Spacing::Joint;
                tokens.push(Token { text: punct.to_string(), line });
            }
            TokenTree::Ident(ident) => tokens.push(Token { text: ident.to_string(), line }),
            TokenTree::Literal(_) => tokens.push(Token { text: "literal".into(), line }),
        }
    }
}
