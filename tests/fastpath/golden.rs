//! The golden table: what each way costs, checked in beside this file, one part a compiler.
//!
//! Counts are those of one machine code, so a compiler that has no part is only held to the budgets. After a change that
//! is meant, `MILLPOND_BLESS=1 cargo test --test fastpath` writes the part of the compiler that is in use.

use std::collections::BTreeMap;
use std::fmt::Write;

/// What is counted of each call.
pub const COLUMNS: [&str; 6] = ["instructions", "branches", "loads", "stores", "calls", "atomics"];

/// Per call, by column.
pub type Costs = [f64; 6];

/// Compiler → way → costs.
#[derive(Debug, Default, PartialEq)]
pub struct Table(BTreeMap<String, BTreeMap<String, Costs>>);

const OPENING: &str = "\
# What one call of each way executes: instructions, branches, loads, stores, calls, atomic read-modify-writes.
# Written by `MILLPOND_BLESS=1 cargo test --test fastpath`.
";

impl Table {
    /// Reads the file's text; says which line cannot be read.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut table = Self::default();
        let mut compiler = None;
        for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let wrong = || format!("line {}: {line}", at + 1);
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                compiler = Some(table.0.entry(name.to_owned()).or_default());
                continue;
            }
            let (way, numbers) = line.split_once(':').ok_or_else(wrong)?;
            let numbers: Vec<f64> = numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
            let costs = Costs::try_from(numbers).map_err(|_| wrong())?;
            compiler.as_mut().ok_or_else(wrong)?.insert(way.to_owned(), costs);
        }
        Ok(table)
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let mut text = OPENING.to_owned();
        for (compiler, ways) in &self.0 {
            let _ = writeln!(text, "\n[{compiler}]");
            for (way, costs) in ways {
                let numbers: Vec<String> = costs.iter().map(|cost| format!("{cost:6}")).collect();
                let _ = writeln!(text, "{:45} {}", format!("{way}:"), numbers.join(" "));
            }
        }
        text
    }

    pub fn set(&mut self, compiler: &str, ways: BTreeMap<String, Costs>) {
        self.0.insert(compiler.to_owned(), ways);
    }

    /// What differs, a line each. `None`: nothing is known of this compiler.
    pub fn differences(&self, compiler: &str, found: &BTreeMap<String, Costs>) -> Option<Vec<String>> {
        let known = self.0.get(compiler)?;
        let mut differences = Vec::new();
        for (way, costs) in known {
            match found.get(way) {
                None => differences.push(format!("{way}: was never executed")),
                Some(now) => {
                    let columns = COLUMNS.iter().zip(costs.iter().zip(now)).filter(|(_, (was, is))| was != is);
                    let columns: Vec<String> =
                        columns.map(|(name, (was, is))| format!("{name} {was} → {is}")).collect();
                    if !columns.is_empty() {
                        differences.push(format!("{way}: {}", columns.join(", ")));
                    }
                }
            }
        }
        let new = found.keys().filter(|way| !known.contains_key(*way));
        differences.extend(new.map(|way| format!("{way}: is not in the table")));
        Some(differences)
    }
}

#[test]
fn what_changed_is_said() {
    let costs = |instructions: f64| [instructions, 1.0, 2.0, 3.0, 0.0, 0.5];
    let ways = |instructions: f64| BTreeMap::from([("alloc".to_owned(), costs(instructions))]);
    let mut table = Table::default();
    table.set("rustc 1.2.3", ways(14.0));
    assert_eq!(Table::read(&table.text()).as_ref(), Ok(&table));
    assert_eq!(table.differences("rustc 1.2.4", &ways(14.0)), None);
    assert_eq!(table.differences("rustc 1.2.3", &ways(14.0)), Some(vec![]));
    assert_eq!(table.differences("rustc 1.2.3", &ways(15.0)).unwrap(), ["alloc: instructions 14 → 15"]);
    let other = BTreeMap::from([("free".to_owned(), costs(1.0))]);
    let said = ["alloc: was never executed", "free: is not in the table"];
    assert_eq!(table.differences("rustc 1.2.3", &other).unwrap(), said);
    assert!(Table::read("alloc: 1 2 3 4 5 6").is_err() && Table::read("[x]\nalloc: 1 2").is_err());
}
