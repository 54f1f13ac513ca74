//! The fast path's budget: how many instructions an allocation and a deallocation execute in a release binary, and
//! that none of them is a call or an atomic read-modify-write.
//!
//! Counted by callgrind, which notes each executed instruction of the probe (`tests/fastpath_probe`) and its address;
//! the disassembly says what stands there. Without valgrind the disassembly alone is read, along the way that is
//! taken where no conditional jump is: compilers lay the likely way out so. `-- --nocapture` shows the figures.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(millpond_forward), not(millpond_portable_tls)))]

mod instructions;

use instructions::{Disassembly, Way, disassembly, has_valgrind, listing, output, profile, start_of, walk};
use std::path::{Path, PathBuf};
use std::process::Command;

const SIZES: [usize; 10] = [1, 8, 24, 64, 129, 200, 1000, 5000, 40_000, 256 * 1024];

/// What is counted and how many instructions it may take, `ret` included.
struct Budget {
    what: &'static str,
    /// The function whose execution, with all that it calls, is counted; callgrind's wildcards.
    function: &'static str,
    limit: u64,
}

const CONSTANT_SIZE: [Budget; 2] = [
    Budget { what: "alloc of a constant size", function: "probe_alloc", limit: 20 },
    Budget { what: "dealloc of a constant size", function: "probe_dealloc", limit: 18 },
];

/// `Box` and `Vec` come here for every size. The stars stand for the mangling that newer compilers add.
const RUN_TIME_SIZE: [Budget; 2] = [
    Budget { what: "alloc of a run-time size", function: "*__rust_alloc", limit: 28 },
    Budget { what: "dealloc of a run-time size", function: "*__rust_dealloc", limit: 24 },
];

#[test]
fn fast_path_keeps_its_budget() {
    let probe = build();
    let listing = listing(&probe);
    let count = || if has_valgrind() { executed(&probe, &disassembly(&listing)) } else { laid_out(&listing) };
    let faults = |ways: &[Way]| -> Vec<String> { ways.iter().filter_map(Way::fault).collect() };

    // Upkeep is no fast path: where the clock has moved amid a count, it is counted again, and each way's best count holds.
    let mut ways = count();
    for _ in 0..5 {
        if faults(&ways).is_empty() {
            break;
        }
        for (best, way) in ways.iter_mut().zip(count()) {
            if way.per_call() < best.per_call() {
                *best = way;
            }
        }
    }
    let faults = faults(&ways);
    for way in &ways {
        println!("{:45} {:7.2} instructions, at most {}", way.name, way.per_call(), way.limit);
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// The walk that stands in for callgrind, on a listing with a branch, a jump and a tail call.
#[test]
fn layout_is_walked() {
    let listing = "\
0000000000001000 <probe_alloc>:
    1000:\tmov    %fs:0x0,%rax
    1009:\tje     1020 <slow>
    100b:\tjmp    1030 <_R7___rust_alloc>
0000000000001020 <slow>:
    1020:\tcall   1050 <refill>
0000000000001030 <_R7___rust_alloc>:
    1030:\tlock cmpxchg %rcx,(%rdx)
    1035:\tret
";
    let way = |budget: &Budget| Way {
        name: String::new(),
        limit: 4,
        instructions: walk(listing, start_of(listing, budget.function)),
    };
    let constant = way(&CONSTANT_SIZE[0]);
    assert_eq!(constant.per_call(), 5.0);
    let fault = constant.fault().unwrap();
    assert!(fault.contains("5.00 instructions") && fault.contains("atomic") && !fault.contains("a call"), "{fault}");
    let run_time = way(&RUN_TIME_SIZE[0]);
    assert_eq!(run_time.per_call(), 2.0);
    assert!(run_time.fault().unwrap().contains("atomic"));
    assert!(way(&Budget { what: "", function: "slow", limit: 9 }).fault().unwrap().contains("a call"));
}

/// Builds the probe for release, with the flags that this test was built with, and returns where it is.
fn build() -> PathBuf {
    let messages = output(
        Command::new(env!("CARGO"))
            .args(["build", "--release", "--quiet", "--package", "millpond-fastpath-probe"])
            .args(["--message-format=json-render-diagnostics", "--manifest-path"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")),
    );
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut executables = messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    executables.next_back().expect("cargo names the probe's executable")
}

/// All ways, as callgrind saw them executed.
fn executed(probe: &Path, disassembly: &Disassembly) -> Vec<Way> {
    let mut ways = Vec::new();
    for Budget { what, function, limit } in CONSTANT_SIZE {
        let instructions = profile(probe, probe, 1 + 2 * SIZES.len(), function, disassembly).swap_remove(0);
        ways.push(Way { name: what.into(), limit, instructions });
    }
    for Budget { what, function, limit } in RUN_TIME_SIZE {
        let mut phases = profile(probe, probe, 1 + 2 * SIZES.len(), function, disassembly).into_iter().skip(1);
        for owner in ["Vec", "Box"] {
            for (size, instructions) in SIZES.iter().zip(phases.by_ref()) {
                ways.push(Way { name: format!("{what}, {owner} of {size}"), limit, instructions });
            }
        }
    }
    ways
}

/// All ways, as the compiler laid them out.
fn laid_out(listing: &str) -> Vec<Way> {
    println!("no valgrind: reading the disassembly");
    let budgets = CONSTANT_SIZE.iter().chain(&RUN_TIME_SIZE);
    budgets
        .map(|budget| Way {
            name: budget.what.into(),
            limit: budget.limit,
            instructions: walk(listing, start_of(listing, budget.function)),
        })
        .collect()
}
