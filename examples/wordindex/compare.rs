//! The parent's side of the comparison: starts the children, takes medians, prints them side by side.

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use crate::measure::Measured;
use crate::options::Options;

/// The executable that does the same work under malloc.
const SIBLING: &str = "wordindex_malloc";

/// All rounds of one allocator.
struct Runs(Vec<Measured>);

/// Runs the rounds and prints the table. The order of the two changes from round to round, so that neither always
/// finds the machine as the other left it.
pub fn compare(options: &Options, repeat: u32, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    let millpond_executable = std::env::current_exe()?;
    let malloc_executable = sibling(&millpond_executable)?;
    let arguments = child_arguments(options, repeat);
    let (mut malloc, mut millpond) = (Runs(Vec::new()), Runs(Vec::new()));

    let bar = ProgressBar::new(u64::from(options.rounds) * 2);
    bar.set_style(ProgressStyle::with_template("{msg:20} [{bar:30}] {pos}/{len} children, {elapsed}")?);
    for round in 0..options.rounds {
        let mut pair = [("malloc", &malloc_executable), ("Millpond", &millpond_executable)];
        pair.rotate_left(round as usize % 2);
        for (name, executable) in pair {
            bar.set_message(format!("under {name}"));
            let measured = child(executable, &arguments).map_err(|error| format!("the child under {name}: {error}"))?;
            match name {
                "malloc" => malloc.0.push(measured),
                _ => millpond.0.push(measured),
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();

    same_work(&malloc, &millpond)?;
    print(options, &malloc, &millpond, out)?;
    Ok(())
}

/// The sibling executable, brought up to date first where cargo is at hand.
///
/// An executable has one global allocator. One that chooses at run time would put a load and a branch in front of
/// every call on both sides and take from the compiler what it knows of constant sizes, so each side is an
/// executable of its own around the same modules. `cargo run --example` builds only the example that it runs; the
/// other is built from here, by the same cargo and with the same profile and flags.
fn sibling(own: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let folder = own.parent().ok_or("this executable has no folder")?;
    let profile = folder.parent().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or("release");
    let profile = if profile == "debug" { "dev" } else { profile };
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let by_hand = format!("build it with `cargo build --profile {profile} --example {SIBLING}`");

    // Set under `cargo run`; without it, what lies beside this executable has to do.
    let Some(cargo) = std::env::var_os("CARGO") else {
        let beside = folder.join(SIBLING).with_extension(std::env::consts::EXE_EXTENSION);
        return if beside.is_file() { Ok(beside) } else { Err(format!("no {SIBLING} beside this: {by_hand}").into()) };
    };
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--message-format=json-render-diagnostics", "--example", SIBLING])
        .args(["--profile", profile, "--manifest-path"])
        .arg(manifest)
        .stderr(Stdio::inherit())
        .output()?;
    if !built.status.success() {
        return Err(format!("cargo could not build {SIBLING}, see above; {by_hand}").into());
    }
    // Cargo says itself where it put the file: no guess at target folders.
    String::from_utf8(built.stdout)?
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == SIBLING)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .ok_or_else(|| format!("cargo named no executable for {SIBLING}; {by_hand}").into())
}

fn child_arguments(options: &Options, repeat: u32) -> Vec<OsString> {
    let mut arguments: Vec<OsString> =
        vec!["--measure".into(), format!("--repeat={repeat}").into(), format!("--settle={}", options.settle).into()];
    if let Some(threads) = options.threads {
        arguments.push(format!("--threads={threads}").into());
    }
    arguments.extend(["--".into(), options.folder().into_os_string()]);
    arguments
}

fn child(executable: &Path, arguments: &[OsString]) -> Result<Measured, Box<dyn Error>> {
    let done = Command::new(executable).args(arguments).stderr(Stdio::inherit()).output()?;
    if !done.status.success() {
        return Err(done.status.to_string().into());
    }
    Ok(serde_json::from_slice(&done.stdout)?)
}

/// A faster run that did less would be no win.
fn same_work(malloc: &Runs, millpond: &Runs) -> Result<(), Box<dyn Error>> {
    let mut totals = malloc.0.iter().chain(&millpond.0).map(|measured| measured.totals);
    let first = totals.next();
    match totals.find(|other| Some(*other) != first) {
        None => Ok(()),
        Some(other) => Err(format!("the children indexed different things: {first:?} and {other:?}").into()),
    }
}

fn print(options: &Options, malloc: &Runs, millpond: &Runs, out: &mut dyn Write) -> io::Result<()> {
    let rounds = options.rounds;
    writeln!(out, "\nThe same work in fresh processes, medians of {rounds} interleaved rounds:\n")?;
    writeln!(out, "{:38} {:>12} {:>12} {:>18}", "", "malloc", "Millpond", "malloc / Millpond")?;
    let mut row = |name: &str, show: fn(u64) -> String, of: &dyn Fn(&Measured) -> Option<u64>| {
        let (a, b) = (malloc.median(of), millpond.median(of));
        let shown = |value: Option<u64>| value.map_or("unknown".into(), show);
        let ratio = a.zip(b).map_or(String::new(), |(a, b)| format!("{:.2}", a as f64 / b.max(1) as f64));
        writeln!(out, "{name:38} {:>12} {:>12} {ratio:>18}", shown(a), shown(b))
    };
    row("wall time: read, index, merge", seconds, &|m| nanoseconds(m.index))?;
    row("wall time: drop the index", seconds, &|m| nanoseconds(m.drop))?;
    row("wall time: both", seconds, &|m| nanoseconds(m.index + m.drop))?;
    row("resident memory: peak", bytes, &|m| m.peak)?;
    row("resident memory: index alive", bytes, &|m| m.alive)?;
    row("resident memory: index dropped", bytes, &|m| m.dropped)?;
    let settled = format!("resident memory: {} s of little to do", options.settle);
    row(&settled, bytes, &|m| m.settled)?;
    row("resident memory: trimmed", bytes, &|m| m.trimmed)?;

    let Some(last) = millpond.0.last() else {
        return Ok(());
    };
    for (when, stats) in [("with the index alive", &last.stats_alive), ("after the trim", &last.stats_trimmed)] {
        if let Some(stats) = stats {
            writeln!(out, "\nMillpond's statistics {when}, last round:\n\n{}", stats.trim_end())?;
        }
    }
    Ok(())
}

impl Runs {
    /// The middle value (the lower one of an even number), `None` unless every run knows it.
    fn median(&self, of: &dyn Fn(&Measured) -> Option<u64>) -> Option<u64> {
        let mut values = self.0.iter().map(of).collect::<Option<Vec<u64>>>()?;
        values.sort_unstable();
        values.get(values.len().checked_sub(1)? / 2).copied()
    }
}

fn nanoseconds(time: Duration) -> Option<u64> {
    u64::try_from(time.as_nanos()).ok()
}

fn seconds(nanoseconds: u64) -> String {
    format!("{:.3} s", Duration::from_nanos(nanoseconds).as_secs_f64())
}

fn bytes(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}
