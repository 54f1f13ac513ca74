//! What Millpond costs a program that allocates almost nothing: resident memory over that of the same program under
//! malloc, built for release. `-- --nocapture` shows the figures.
//!
//! Where libraries lie decides which of their pages the kernel maps beside those that are touched: some 50 KiB more or less.
//! So they lie where they always do, if the system allows that.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// KiB.
const AT_MOST: i64 = 300;
const ROUNDS: usize = 9;

#[test]
fn almost_nothing_costs_almost_nothing() {
    let mut over: Vec<i64> = (0..ROUNDS).map(|_| resident("under_millpond") - resident("under_malloc")).collect();
    over.sort_unstable();
    println!("resident over malloc, KiB: {over:?}");
    assert!(over[ROUNDS / 2] <= AT_MOST, "{} KiB over malloc, at most {AT_MOST}: {over:?}", over[ROUNDS / 2]);
}

/// Without the feature `reports` a program has none of their code.
#[test]
fn reports_that_no_feature_asks_for_are_not_there() {
    let program = std::fs::read(executable("under_millpond")).expect("a program");
    let has = |text: &str| program.windows(text.len()).any(|bytes| bytes == text.as_bytes());
    assert!(has("statistics of process "), "what each program can tell");
    assert!(!has("leaks of process "), "leaks");
    assert!(!has("map of "), "a map");
    assert!(!has("samples are missing"), "profiles");
}

/// KiB that are resident in a run of one of the probe's programs.
fn resident(program: &str) -> i64 {
    let mut command = Command::new(executable(program));
    // SAFETY: one call of the system, between `fork` and `exec`.
    unsafe {
        command.pre_exec(|| {
            libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong);
            Ok(())
        });
    }
    let text = output(command.stdin(Stdio::null()));
    text.trim().parse().unwrap_or_else(|_| panic!("{program} wrote {text:?}"))
}

fn executable(program: &str) -> PathBuf {
    let messages = output(
        Command::new(env!("CARGO"))
            .args(["build", "--release", "--quiet", "--package", "millpond-footprint-probe", "--bin", program])
            .args(["--message-format=json-render-diagnostics", "--manifest-path"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")),
    );
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut executables = messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    executables.next_back().expect("cargo names the executable")
}

fn output(command: &mut Command) -> String {
    let done = command.stderr(Stdio::inherit()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(done.status.success(), "{command:?}: {}", done.status);
    String::from_utf8(done.stdout).expect("text")
}
