//! The survivors that are known, each with its reason.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::sites::Mutant;

/// A survivor and why it is none. Named by file, function, text and, where the text occurs more than once, its ordinal.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explained {
    pub file: String,
    pub function: String,
    pub text: String,
    #[serde(default = "first")]
    pub ordinal: usize,
    pub reason: String,
}

fn first() -> usize {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    survivor: Vec<Explained>,
}

impl Explained {
    pub fn is_of(&self, mutant: &Mutant) -> bool {
        (&self.file, &self.function, &self.text, self.ordinal)
            == (&mutant.file, &mutant.function, &mutant.text, mutant.ordinal)
    }

    pub fn name(&self) -> String {
        format!("{} {}: {} ({})", self.file, self.function, self.text, self.ordinal)
    }
}

/// Reads the list.
pub fn read(path: &Path) -> Result<Vec<Explained>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    parse(&text).with_context(|| path.display().to_string())
}

fn parse(text: &str) -> Result<Vec<Explained>> {
    let list: List = toml::from_str(text)?;
    for entry in &list.survivor {
        ensure!(!entry.reason.trim().is_empty(), "{}: no reason is given", entry.name());
        ensure!(!entry.reason.contains('\n'), "{}: the reason has more than one line", entry.name());
    }
    Ok(list.survivor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_needed() {
        let entry = |reason: &str| {
            parse(&format!("[[survivor]]\nfile = 'a'\nfunction = 'f'\ntext = 't'\nreason = '''{reason}'''"))
        };
        assert_eq!(entry("because").unwrap()[0].ordinal, 1);
        assert!(entry(" ").is_err() && entry("one\ntwo").is_err());
        assert!(parse("[[survivor]]\nfile = 'a'").is_err());
        assert!(parse("").unwrap().is_empty());
    }
}
