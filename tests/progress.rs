//! Threads that stop in the middle of slow paths, several at once, or vanish there in a fork: the others finish, what is
//! stranded is bounded, and it is found again. The points are named in `src/sync/points.rs`; how often each was hit is
//! shown by `-- --nocapture`, and one that was not is a failure.
//!
//! The same program over an allocator with a lock must fail.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(millpond_forward), not(millpond_portable_tls)))]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// In each run threads stop elsewhere.
const SEEDS: u32 = 8;
const POINTS: usize = 8;

/// Builds the programs with the points, beside other builds, and returns where one is.
fn build(program: &str) -> PathBuf {
    static MESSAGES: OnceLock<String> = OnceLock::new();
    let messages = MESSAGES.get_or_init(|| {
        let mut command = Command::new(env!("CARGO"));
        command
            .args(["build", "--quiet", "--package", "millpond-progress-probe"])
            .args(["--message-format=json-render-diagnostics", "--manifest-path"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
            .arg("--target-dir")
            .arg(concat!(env!("CARGO_TARGET_TMPDIR"), "/points"))
            .env("RUSTFLAGS", "--cfg millpond_points")
            .env_remove("CARGO_ENCODED_RUSTFLAGS");
        let done = command.stderr(Stdio::inherit()).output().expect("cargo runs");
        assert!(done.status.success(), "{command:?}: {}", done.status);
        String::from_utf8(done.stdout).expect("text")
    });
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut executables = messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    executables.find(|path| path.ends_with(program)).expect("cargo names the program")
}

fn run(program: &str, how: &str, seed: u32) -> Output {
    Command::new(build(program)).args([how, &seed.to_string()]).stdin(Stdio::null()).output().expect("it runs")
}

fn passes(how: &str) {
    let mut hits = BTreeMap::<String, u32>::new();
    for seed in 1..=SEEDS {
        let output = run("progress_millpond", how, seed);
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "seed {seed}, {}\n{stdout}\n{stderr}", output.status);
        for (point, count) in stdout.lines().filter_map(|line| line.split_once(' ')) {
            *hits.entry(point.into()).or_default() += count.parse::<u32>().expect("a count");
        }
    }
    println!("threads that {how}, by point: {hits:?}");
    assert!(hits.len() == POINTS && hits.values().all(|count| *count > 0), "not all points were hit: {hits:?}");
}

fn fails(how: &str) {
    let output = run("progress_locked", how, 1);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{}: {stderr}", output.status);
    assert!(stderr.contains("waits for a thread that does not go on"), "{stderr}");
    println!("with a lock, {how}: {}", stderr.lines().next().unwrap_or(""));
}

#[test]
fn threads_stopped_in_the_middle_hold_up_nobody() {
    passes("stopped");
}

#[test]
fn what_threads_that_vanished_in_the_middle_had_is_found() {
    passes("vanished");
}

#[test]
fn an_allocator_with_a_lock_fails() {
    fails("stopped");
    fails("vanished");
}
