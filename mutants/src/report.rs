//! The table at the end, and whether all is well.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::explained::Explained;
use crate::results::Fate;
use crate::sites::Mutant;

/// Of so many mutants, one may survive with an explanation.
const ONE_IN: usize = 10;

/// A mutant and what became of it.
#[derive(Serialize)]
pub struct Row {
    #[serde(flatten)]
    mutant: Mutant,
    #[serde(flatten)]
    fate: Fate,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Row {
    pub fn new(mutant: &Mutant, fate: Fate) -> Self {
        Self { mutant: mutant.clone(), fate, reason: None }
    }

    fn lives(&self) -> bool {
        matches!(self.fate, Fate::Survived { .. } | Fate::TimedOut { .. } | Fate::Unreached)
    }
}

/// What was found.
#[derive(Serialize)]
pub struct Report {
    models: usize,
    seconds: f64,
    counts: BTreeMap<&'static str, usize>,
    /// What is wrong, apart from survivors without a reason.
    wrong: Vec<String>,
    mutants: Vec<Row>,
}

impl Report {
    /// `whole`: no mutant was left out on purpose.
    pub fn new(mut rows: Vec<Row>, explained: Vec<Explained>, models: usize, whole: bool, seconds: f64) -> Self {
        let mut wrong = Vec::new();
        for (at, entry) in explained.iter().enumerate() {
            if explained[..at].iter().any(|other| other.name() == entry.name()) {
                wrong.push(format!("explained twice: {}", entry.name()));
            }
            match rows.iter_mut().find(|row| entry.is_of(&row.mutant)) {
                None => wrong.push(format!("explained, but there is no such mutant: {}", entry.name())),
                Some(row) if row.lives() || row.fate == Fate::Unknown => row.reason = Some(entry.reason.clone()),
                Some(row) => wrong.push(format!("explained, but it is {}: {}", word(&row.fate), entry.name())),
            }
        }
        let mut counts = BTreeMap::new();
        for row in &rows {
            *counts.entry(word(&row.fate)).or_default() += 1;
            if row.lives() && row.reason.is_some() {
                *counts.entry("explained").or_default() += 1;
            }
        }
        let count = |word| counts.get(word).copied().unwrap_or(0);
        let ran = rows.len() - count("unknown") - count("does not compile");
        if count("explained") * ONE_IN > ran && whole {
            wrong.push(format!("{} of {ran} are merely explained: more than one in {ONE_IN}", count("explained")));
        }
        if whole && count("unknown") > 0 {
            wrong.push(format!("{} have not been run: the next run goes on", count("unknown")));
        }
        Self { models, seconds, counts, wrong, mutants: rows }
    }

    pub fn is_good(&self) -> bool {
        self.wrong.is_empty() && !self.mutants.iter().any(|row| row.lives() && row.reason.is_none())
    }

    /// One line a survivor, then a table a file.
    pub fn print(&self) {
        for row in self.mutants.iter().filter(|row| row.lives()) {
            let Mutant { file, line, function, text, ordinal, .. } = &row.mutant;
            println!("{file}:{line} {function}: {text} ({ordinal})\n    {}", told(row));
        }
        let words = ["killed", "survived", "timed out", "unreached", "explained", "does not compile", "unknown"];
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header([&["file", "mutants"], &words[..]].concat());
        let mut files: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
        for row in &self.mutants {
            for file in [row.mutant.file.as_str(), "together"] {
                let counts = files.entry(file).or_default();
                *counts.entry("mutants").or_default() += 1;
                *counts.entry(word(&row.fate)).or_default() += 1;
                if row.lives() && row.reason.is_some() {
                    *counts.entry("explained").or_default() += 1;
                }
            }
        }
        let together = files.remove_entry("together");
        for (file, counts) in files.into_iter().chain(together) {
            let numbers =
                ["mutants"].iter().chain(&words).map(|word| counts.get(word).copied().unwrap_or(0).to_string());
            table.add_row([file.to_owned()].into_iter().chain(numbers));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        println!("{table}");
        self.wrong.iter().for_each(|what| println!("wrong: {what}"));
        println!("{} models, {:.0} s of processor time", self.models, self.seconds);
    }

    /// The same for programs.
    pub fn write(&self, file: &Path) -> Result<()> {
        Ok(std::fs::write(file, serde_json::to_string_pretty(self)?)?)
    }
}

fn word(fate: &Fate) -> &'static str {
    match fate {
        Fate::Killed { .. } => "killed",
        Fate::Survived { .. } => "survived",
        Fate::TimedOut { .. } => "timed out",
        Fate::Unreached => "unreached",
        Fate::Uncompiled => "does not compile",
        Fate::Unknown => "unknown",
    }
}

fn told(row: &Row) -> String {
    let how = match &row.fate {
        Fate::Survived { models } => format!("survived {models} models"),
        Fate::TimedOut { model } => format!("{model} had no end in time"),
        fate => word(fate).into(),
    };
    match &row.reason {
        Some(reason) => format!("{how}; explained: {reason}"),
        None => how,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str, fate: Fate) -> Row {
        let text = text.into();
        let mutant = Mutant { id: 1, file: "a.rs".into(), line: 1, function: "f".into(), ordinal: 1, text };
        Row::new(&mutant, fate)
    }

    fn explained(text: &str) -> Explained {
        let (file, function, reason) = ("a.rs".into(), "f".into(), "because".into());
        Explained { file, function, text: text.into(), ordinal: 1, reason }
    }

    fn killed() -> Fate {
        Fate::Killed { by: "m".into(), said: "x".into() }
    }

    #[test]
    fn survivors_need_a_reason_and_reasons_a_survivor() {
        let rows = || {
            let many = (0..20).map(|at| row(&at.to_string(), killed()));
            many.chain([row("s", Fate::Survived { models: 1 })]).collect()
        };
        assert!(!Report::new(rows(), vec![], 1, true, 0.0).is_good());
        assert!(Report::new(rows(), vec![explained("s")], 1, true, 0.0).is_good());
        assert!(!Report::new(rows(), vec![explained("s"), explained("s")], 1, true, 0.0).is_good());
        assert!(!Report::new(rows(), vec![explained("s"), explained("3")], 1, true, 0.0).is_good());
        assert!(!Report::new(rows(), vec![explained("s"), explained("t")], 1, true, 0.0).is_good());
    }

    #[test]
    fn too_many_reasons_are_wrong_and_so_is_an_unfinished_run() {
        let rows = vec![row("k", killed()), row("s", Fate::Unreached)];
        assert!(!Report::new(rows, vec![explained("s")], 1, true, 0.0).is_good());
        assert!(!Report::new(vec![row("k", Fate::Unknown)], vec![], 1, true, 0.0).is_good());
        assert!(Report::new(vec![row("k", killed())], vec![], 1, true, 0.0).is_good());
    }
}
