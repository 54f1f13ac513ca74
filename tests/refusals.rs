//! Each call of the system that a program's allocations make is refused, alone or with all that come after it: `mmap`,
//! `munmap`, `madvise`, `mremap`, the making of a key. A request then fails or is served otherwise, and only where all are
//! refused may it fail; afterwards all works, and nothing is lost. (`src/heap/tests/exhaustion.rs` does the same to the
//! heap over a system of its own.)
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(millpond_forward), not(millpond_portable_tls)))]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// At most so many places of each kind are tried.
const PLACES: u32 = 40;

#[test]
fn each_call_is_refused() {
    let probe = build();
    let all = run(&probe, "none", 0, "once");
    println!("calls: {all:?}");
    for (kind, calls) in &all {
        assert!(*calls > 0, "{kind} is never called");
        let stride = calls.div_ceil(PLACES);
        for call in (0..*calls).step_by(stride as usize) {
            run(&probe, kind, call, "once");
            run(&probe, kind, call, "ever");
        }
    }
}

/// Where the system has no memory for a search, no leaks are told: those of the searches before may be in use.
#[test]
fn leaks_are_not_told_by_half() {
    let output = Command::new(build()).arg("leaks").stdin(Stdio::null()).output().expect("it runs");
    assert!(output.status.success(), "{}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
}

/// How many calls there were of each kind.
fn run(probe: &Path, kind: &str, call: u32, how: &str) -> Vec<(String, u32)> {
    let mut command = Command::new(probe);
    command.args([kind, &call.to_string(), how]).stdin(Stdio::null());
    let output = command.output().expect("it runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{kind} {call} {how}: {}\n{stderr}", output.status);
    let stdout = String::from_utf8(output.stdout).expect("text");
    let lines = stdout.lines().filter_map(|line| line.split_once(' '));
    lines.map(|(kind, calls)| (kind.into(), calls.parse().expect("a count"))).collect()
}

fn build() -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "millpond-refusal-probe"])
        .args(["--message-format=json-render-diagnostics", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", output.status);
    let messages = String::from_utf8(output.stdout).expect("text");
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut executables = messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    executables.next_back().expect("cargo names the program")
}
