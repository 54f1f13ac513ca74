//! The executables that run the workloads, one for each allocator.

use crate::cargo::{self, parse_lines};
use crate::record::{Listed, Record};
use serde::de::DeserializeOwned;
use std::error::Error;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// An allocator's name, the manifest of its child (from our own manifest's folder) and the child's bench target. The
/// first is the one that the others are compared with.
pub const ALLOCATORS: [(&str, &str, &str); 2] =
    [("millpond", "Cargo.toml", "child_millpond"), ("system", "Cargo.toml", "child_system")];

/// Far more than a build takes.
const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);

/// A child that is ready to run.
pub struct Child {
    pub name: String,
    executable: PathBuf,
}

/// Builds the children of all allocators; those of `also` are there already, each given as `NAME=EXECUTABLE`.
pub fn all(also: &[String]) -> Result<Vec<Child>, Box<dyn Error>> {
    let mut children = Vec::new();
    for (name, manifest, target) in ALLOCATORS {
        children.push(Child { name: name.into(), executable: build(manifest, target)? });
    }
    for pair in also {
        let (name, executable) = pair.split_once('=').ok_or("--also wants NAME=EXECUTABLE")?;
        children.push(Child { name: name.into(), executable: executable.into() });
    }
    Ok(children)
}

/// Has cargo build a bench target. When this very bench was started by `cargo bench` there is nothing left to build.
fn build(manifest: &str, target: &str) -> Result<PathBuf, Box<dyn Error>> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join(manifest);
    let target_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().ok_or("no target directory")?;
    let arguments: [&OsStr; 8] = [
        "bench".as_ref(),
        "--no-run".as_ref(),
        "--bench".as_ref(),
        target.as_ref(),
        "--manifest-path".as_ref(),
        manifest.as_ref(),
        "--target-dir".as_ref(),
        target_dir.as_ref(),
    ];
    Ok(cargo::build(&arguments, target, BUILD_LIMIT)?.executable)
}

impl Child {
    pub fn workloads(&self) -> Result<Vec<Listed>, Box<dyn Error>> {
        self.ask(&["list"])
    }

    /// Runs a workload once, in a process of its own.
    pub fn run(&self, workload: &str, threads: usize, scale: f64) -> Result<Record, Box<dyn Error>> {
        let (threads, scale) = (threads.to_string(), scale.to_string());
        let arguments = ["run", "--workload", workload, "--threads", &threads, "--scale", &scale];
        let records = self.ask(&arguments)?;
        Ok(records.into_iter().next().ok_or("the child printed no record")?)
    }

    fn ask<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<Vec<T>, Box<dyn Error>> {
        let output = Command::new(&self.executable).args(arguments).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{}: {}", output.status, said.trim()).into());
        }
        Ok(parse_lines(&output.stdout)?)
    }
}
