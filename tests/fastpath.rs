//! The fast path's budget: how many instructions an allocation and a deallocation execute in a release binary, and
//! that none of them is a call or an atomic read-modify-write.
//!
//! Counted by callgrind, which notes each executed instruction of the probe (`tests/fastpath_probe`) and its address;
//! the disassembly says what stands there. Without valgrind the disassembly alone is read, of a constant size, along the way that is
//! taken where no conditional jump is: compilers lay the likely way out so. `-- --nocapture` shows the figures.
//!
//! What each way executes, by kind, and what the slow path's exchanges do, is pinned in `tests/fastpath.golden`, for the
//! compiler that is named there; with another, the limits here hold alone.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(millpond_forward), not(millpond_portable_tls)))]

mod instructions;

use instructions::tally::{Table, Tally, touches};
use instructions::{CALLS, Disassembly, Executed, Way};
use instructions::{disassembly, has_valgrind, listing, output, profile, start_of, walk};
use std::path::{Path, PathBuf};
use std::process::Command;

/// NB: in step with the probe, as what follows.
const SIZES: [usize; 10] = [1, 8, 24, 64, 129, 200, 1000, 5000, 40_000, 256 * 1024];

const RESIZES: [(usize, usize); 2] = [(57, 64), (64, 128)];
const ROUNDS: usize = 24;

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
    let probe = build("millpond-fastpath-probe");
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
    if has_valgrind() {
        each_way_executes_what_is_pinned(&probe, &ways);
    }
}

/// Where the counts are pinned, and the variable that has them written anew.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fastpath.golden");
const RENEW: &str = "MILLPOND_GOLDEN";
/// The ways of run-time sizes that stand in the table: all others are the same code.
const PINNED: [&str; 3] = ["of a constant size", "Vec of 64", "Vec of 1000"];

/// Compares with the table, or writes it.
fn each_way_executes_what_is_pinned(probe: &Path, ways: &[Way]) {
    if std::env::var_os(RENEW).is_some_and(|how| how == "write") {
        let (now, _) = tallied(probe, ways, None);
        std::fs::write(GOLDEN, now.to_string()).expect("the table is written");
        return println!("{now}written to {GOLDEN}");
    }
    let pinned = Table::parse(&std::fs::read_to_string(GOLDEN).expect("the table is there")).expect("a table");
    let (mut now, mut code) = tallied(probe, ways, Some(&pinned));
    print!("{now}");
    if pinned.compiler != now.compiler {
        return println!("pinned for {}: with this compiler, the limits hold alone", pinned.compiler);
    }
    if !pinned.changes(&now).is_empty() {
        // Upkeep may have come along each time.
        (now, code) = tallied(probe, ways, Some(&pinned));
    }
    let changes = pinned.changes(&now);
    let changed = code.iter().filter(|(name, _)| changes.iter().any(|line| line.starts_with(&format!("{name}:"))));
    let code: String = changed.map(|(name, code)| format!("\n{name} executes now:\n{code}")).collect();
    assert!(
        changes.is_empty(),
        "\n{}\nIf that is meant: {RENEW}=write cargo test --release --test fastpath\n{code}",
        changes.join("\n")
    );
}

/// What each way does, by kind, and its instructions.
fn tallied(probe: &Path, ways: &[Way], pinned: Option<&Table>) -> (Table, Vec<(String, String)>) {
    let mut table = Table { compiler: output(Command::new("rustc").arg("--version")).trim().into(), rows: Vec::new() };
    let mut codes = Vec::new();
    let mut add = |name: &str, calls: u64, executed: &[Executed]| {
        table.rows.push((name.into(), Tally::of(executed, calls)));
        let lines = executed.iter().filter(|one| one.count * 2 >= calls);
        let line =
            |one: &Executed| format!("{:>4} {:8x}  {}\n", (one.count + calls / 2) / calls, one.address, one.code);
        codes.push((name.to_owned(), lines.map(line).collect()));
    };

    for way in ways.iter().filter(|way| PINNED.iter().any(|name| way.name.ends_with(name))) {
        add(&way.name, CALLS, &way.instructions);
    }
    let code = disassembly(&listing(probe));
    let first = 1 + 2 * SIZES.len();
    let constant = profile(probe, probe, first + 1, "probe_realloc", &code);
    add("realloc of a constant size, in place", CALLS, &constant[first]);
    let run_time = profile(probe, probe, first + 1 + RESIZES.len(), "*__rust_realloc", &code);
    for ((from, to), executed) in RESIZES.iter().zip(&run_time[first + 1..]) {
        add(&format!("realloc of a run-time size, {from} to {to}"), CALLS, executed);
    }

    let probe = &build("exchange");
    let code = disassembly(&listing(probe));
    // Of each round the counted refills, then the counted drains.
    let refills = profile(probe, probe, 4 * ROUNDS, "*alloc_slow*", &code);
    let drains = profile(probe, probe, 4 * ROUNDS, "*free_slow*", &code);
    for (at, name, misses) in [
        (0, "refill from a spare magazine", &refills),
        (1, "refill from the pool", &refills),
        (2, "drain to a spare magazine", &drains),
        (3, "drain to the pool", &drains),
    ] {
        add(name, 1, miss(misses, at, pinned.and_then(|table| table.row(name))));
    }
    (table, codes)
}

/// Of the misses counted in each round, the one at this place: of that round in which it was as pinned, if there is one,
/// else of that in which it executed least. Upkeep comes along with some, depending on time; counted are those that do not even
/// look at the clock, whose code is not the program's.
fn miss(misses: &[Vec<Executed>], at: usize, pinned: Option<Tally>) -> &[Executed] {
    let executed = |miss: &&Vec<Executed>| miss.iter().map(|one| one.count).sum::<u64>();
    let misses = || misses.iter().skip(at).step_by(4).filter(|miss| !miss.iter().any(Executed::is_elsewhere));
    let as_pinned = misses().find(|miss| Some(Tally::of(miss, 1)) == pinned);
    as_pinned.or_else(|| misses().min_by_key(executed)).expect("there are misses")
}

/// A change is named by row and column; what is read is what was written.
#[test]
fn a_change_is_named() {
    let tally = |counts| Tally { counts };
    let row = |name: &str, counts| (name.to_owned(), tally(counts));
    let was = Table { compiler: "rustc 1".into(), rows: vec![row("a, b", [9, 2, 3, 1, 0, 0]), row("c", [1; 6])] };
    assert_eq!(Table::parse(&was.to_string()).as_ref(), Some(&was));
    assert!(was.changes(&was).is_empty());
    let is = Table { rows: vec![row("a, b", [10, 2, 4, 1, 0, 0]), row("d", [2; 6])], ..was.clone() };
    let changes = ["a, b: instructions 9 -> 10, loads 3 -> 4", "c: not counted any more", "d: new, [2, 2, 2, 2, 2, 2]"];
    assert_eq!(was.changes(&is), changes);
}

/// Who loads and who stores.
#[test]
fn memory_is_told_from_registers() {
    let cases = [
        ("mov    %fs:0x0,%rax", (true, false)),
        ("mov    %rax,0x10(%rcx,%rdx,8)", (false, true)),
        ("movq   $0x0,(%rcx)", (false, true)),
        ("add    $0x1,0x8(%rax)", (true, true)),
        ("incq   (%rax)", (true, true)),
        ("cmp    %rcx,(%rax)", (true, false)),
        ("testb  $0x1,(%rax)", (true, false)),
        ("lock cmpxchg %rcx,(%rdx)", (true, true)),
        ("xchg   %rax,(%rdx)", (true, true)),
        ("lea    0x8(%rax),%rcx", (false, false)),
        ("nopw   0x0(%rax,%rax,1)", (false, false)),
        ("prefetchw (%rax)", (false, false)),
        ("push   %rbx", (false, true)),
        ("pop    %rbx", (true, false)),
        ("ret", (true, false)),
        ("call   *0x1234(%rip)        # 5d0f8 <memcpy>", (true, true)),
        ("jmp    1030 <slow>", (false, false)),
        ("jmp    *(%rax)", (true, false)),
        ("imul   0x8(%rax),%rcx", (true, false)),
        ("movups %xmm0,0x8(%rsp)", (false, true)),
    ];
    for (code, expected) in cases {
        assert_eq!(touches(code), expected, "{code}");
    }
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

/// Builds the probes for release, with the flags that this test was built with, and returns where one is.
fn build(name: &str) -> PathBuf {
    let messages = output(
        Command::new(env!("CARGO"))
            .args(["build", "--release", "--quiet", "--package", "millpond-fastpath-probe"])
            .args(["--message-format=json-render-diagnostics", "--manifest-path"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")),
    );
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut executables = messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    executables.find(|path| path.ends_with(name)).expect("cargo names the probe's executable")
}

/// All ways, as callgrind saw them executed.
fn executed(probe: &Path, disassembly: &Disassembly) -> Vec<Way> {
    let mut ways = Vec::new();
    for Budget { what, function, limit } in CONSTANT_SIZE {
        let instructions = profile(probe, probe, 1, function, disassembly).swap_remove(0);
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

/// The ways of a constant size, as the compiler laid them out. Of others the limits are for what is executed: a size known at run
/// time is compared, and which way is laid out without a jump need not be the common one.
fn laid_out(listing: &str) -> Vec<Way> {
    println!("no valgrind: reading the disassembly, of a constant size alone");
    CONSTANT_SIZE
        .iter()
        .map(|budget| Way {
            name: budget.what.into(),
            limit: budget.limit,
            instructions: walk(listing, start_of(listing, budget.function)),
        })
        .collect()
}
