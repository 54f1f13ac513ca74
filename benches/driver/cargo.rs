//! Programs that a driver has cargo build, and what cargo says of them.

use serde::de::DeserializeOwned;
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::process::Command;

/// What cargo has built.
pub struct Built {
    pub executable: PathBuf,
    /// Cargo's messages: one for each package that is part of it.
    #[allow(dead_code, reason = "not every driver asks for versions")]
    pub messages: Vec<Value>,
}

/// Why there is no executable.
#[derive(Debug)]
pub struct Failed {
    pub why: String,
    /// What cargo and the compilers printed.
    pub said: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.why, self.said.trim())
    }
}

impl std::error::Error for Failed {}

/// Runs cargo and has it say where the executable of `target` is: its name may contain a hash, and old ones lie beside it.
pub fn build(arguments: &[&OsStr], target: &str) -> Result<Built, Failed> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from(env!("CARGO")));
    let failed = |why: String| Failed { why, said: String::new() };
    let output = Command::new(cargo)
        .args(arguments)
        .args(["--quiet", "--message-format", "json-render-diagnostics"])
        .output()
        .map_err(|why| failed(format!("cargo cannot be run: {why}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Failed { why: format!("{target} could not be built"), said });
    }
    let messages: Vec<Value> = parse_lines(&output.stdout).map_err(|why| failed(why.to_string()))?;
    let executable = messages
        .iter()
        .filter(|message| message["target"]["name"] == target)
        .find_map(|message| message["executable"].as_str());
    let executable = executable.ok_or_else(|| failed("cargo named no executable".into()))?.into();
    Ok(Built { executable, messages })
}

/// Reads values of JSON, one after the other.
pub fn parse_lines<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<Vec<T>> {
    serde_json::Deserializer::from_slice(text).into_iter().collect()
}
