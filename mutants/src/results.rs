//! What became of each mutant, kept on disk as it is found.
//!
//! A result holds as long as the code is the same and, of a mutant that was killed, the model that has killed it; of one
//! that was not, all models. So a model that is made stronger has the survivors run again, and those that it killed.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::sites::Mutant;

/// What may become of a mutant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fate", rename_all = "snake_case")]
pub enum Fate {
    /// A model failed.
    Killed { by: String, said: String },
    /// So many models noticed nothing.
    Survived { models: usize },
    /// No model noticed anything, and one of them had no end.
    TimedOut { model: String },
    /// No model that names its file passes its place.
    Unreached,
    /// The compiler refuses it.
    Uncompiled,
    /// Not run yet.
    Unknown,
}

#[derive(Serialize, Deserialize)]
struct Line {
    fingerprint: String,
    mutant: String,
    seconds: f64,
    #[serde(flatten)]
    fate: Fate,
}

/// What a result depends on.
pub struct Prints {
    pub code: String,
    /// By name.
    pub models: BTreeMap<String, String>,
}

impl Prints {
    fn of(&self, fate: &Fate) -> String {
        let mut print = self.code.clone();
        match fate {
            Fate::Killed { by, .. } => print.extend(self.models.get(by).into_iter().flat_map(|model| ["-", model])),
            Fate::Uncompiled => {}
            _ => {
                let mut hasher = DefaultHasher::new();
                self.models.hash(&mut hasher);
                print += &format!("={:016x}", hasher.finish());
            }
        }
        print
    }
}

/// What is known.
pub struct Results {
    prints: Prints,
    file: Mutex<File>,
    known: Mutex<BTreeMap<String, (Fate, f64)>>,
}

impl Results {
    /// Reads what earlier runs found that still holds.
    pub fn open(path: &Path, prints: Prints, afresh: bool) -> Result<Self> {
        if afresh {
            let _ = fs::remove_file(path);
        }
        let text = fs::read_to_string(path).unwrap_or_default();
        // The last line may be torn: the run was stopped.
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
        let same = lines.filter(|line| line.fingerprint == prints.of(&line.fate));
        let known = same.map(|line| (line.mutant, (line.fate, line.seconds))).collect();
        let file =
            OpenOptions::new().create(true).append(true).open(path).with_context(|| path.display().to_string())?;
        Ok(Self { prints, file: Mutex::new(file), known: Mutex::new(known) })
    }

    pub fn is_known(&self, mutant: &Mutant) -> bool {
        self.known.lock().unwrap().contains_key(&mutant.key())
    }

    pub fn fate(&self, mutant: &Mutant) -> Fate {
        self.known.lock().unwrap().get(&mutant.key()).map_or(Fate::Unknown, |(fate, _)| fate.clone())
    }

    /// Seconds that all mutants have taken, over all runs.
    pub fn seconds(&self) -> f64 {
        self.known.lock().unwrap().values().map(|(_, seconds)| seconds).sum()
    }

    pub fn add(&self, mutant: &Mutant, fate: Fate, took: Duration) {
        let seconds = took.as_secs_f64();
        let line = Line { fingerprint: self.prints.of(&fate), mutant: mutant.key(), seconds, fate: fate.clone() };
        let text = serde_json::to_string(&line).expect("a line can be written as JSON");
        // A result that cannot be kept is found again by the next run.
        let _ = writeln!(self.file.lock().unwrap(), "{text}");
        self.known.lock().unwrap().insert(mutant.key(), (fate, seconds));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_holds_as_long_as_its_model_does() {
        let prints = |a: &str, b: &str| {
            let models = [("a", a), ("b", b)].map(|(name, print)| (name.to_owned(), print.to_owned()));
            Prints { code: "code".into(), models: models.into() }
        };
        let killed = Fate::Killed { by: "a".into(), said: String::new() };
        assert_eq!(prints("1", "1").of(&killed), prints("1", "2").of(&killed));
        assert_ne!(prints("1", "1").of(&killed), prints("2", "1").of(&killed));
        let survived = Fate::Survived { models: 2 };
        assert_ne!(prints("1", "1").of(&survived), prints("1", "2").of(&survived));
        assert_eq!(prints("1", "1").of(&Fate::Uncompiled), prints("1", "2").of(&Fate::Uncompiled));
    }
}
