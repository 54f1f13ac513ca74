//! Programs that a driver has cargo build, and what cargo says of them.

use serde::de::DeserializeOwned;
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;
use wait_timeout::ChildExt;

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

/// Runs cargo, for so long at most, and has it say where the executable of `target` is: its name may contain a hash, and
/// old ones lie beside it.
pub fn build(arguments: &[&OsStr], target: &str, limit: Duration) -> Result<Built, Failed> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from(env!("CARGO")));
    let failed = |why: String| Failed { why, said: String::new() };
    let mut command = Command::new(cargo);
    command.args(arguments).args(["--quiet", "--message-format", "json-render-diagnostics"]);
    let output = output_within(&mut command, limit).map_err(|why| failed(format!("cargo cannot be run: {why}")))?;
    let Some(output) = output else {
        return Err(failed(format!("{target} took more than {} min to build", limit.as_secs() / 60)));
    };
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

/// What a command prints until it ends; nothing when it has not ended in time and was killed.
pub fn output_within(command: &mut Command, limit: Duration) -> io::Result<Option<Output>> {
    let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // Read meanwhile: it would wait for somebody to, once a pipe is full.
    let read = |mut from: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            from.read_to_end(&mut text).map(|_| text)
        })
    };
    let stdout = read(Box::new(process.stdout.take().expect("it is piped")));
    let stderr = read(Box::new(process.stderr.take().expect("it is piped")));
    let Some(status) = process.wait_timeout(limit)? else {
        process.kill()?;
        process.wait()?;
        // Whom it has started may still hold the pipes: nobody waits for these.
        return Ok(None);
    };
    let text = |reader: JoinHandle<io::Result<Vec<u8>>>| reader.join().expect("reading does not panic");
    Ok(Some(Output { status, stdout: text(stdout)?, stderr: text(stderr)? }))
}

/// Reads values of JSON, one after the other.
pub fn parse_lines<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<Vec<T>> {
    serde_json::Deserializer::from_slice(text).into_iter().collect()
}
