//! The fast path's budget: how many instructions an allocation and a deallocation execute in a release binary, and
//! that none of them is a call or an atomic read-modify-write. And a golden table (`golden`) of what each way costs, the
//! slow path's refill and drain among them, so that a change says exactly what it changes.
//!
//! Counted by callgrind, which notes each executed instruction of the probe (`tests/fastpath_probe`) and its address;
//! the disassembly says what stands there. Without valgrind the disassembly alone is read, along the way that is
//! taken where no conditional jump is: compilers lay the likely way out so. `-- --nocapture` shows the figures.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(millpond_forward), not(millpond_portable_tls)))]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use code::{ELSEWHERE, costs_of, is_atomic, is_call};
use golden::{Costs, Table};

mod code;
mod golden;

/// NB: in step with the probe.
const CALLS: u64 = 1000;
const SIZES: [usize; 10] = [1, 8, 24, 64, 129, 200, 1000, 5000, 40_000, 256 * 1024];

/// What is counted and how many instructions it may take, `ret` included.
struct Budget {
    what: &'static str,
    /// The function whose execution, with all that it calls, is counted; callgrind's wildcards.
    function: &'static str,
    limit: u64,
}

const CONSTANT_SIZE: [Budget; 3] = [
    Budget { what: "alloc of a constant size", function: "probe_alloc", limit: 20 },
    Budget { what: "dealloc of a constant size", function: "probe_dealloc", limit: 18 },
    Budget { what: "realloc within a class", function: "probe_realloc", limit: 24 },
];

/// `Box` and `Vec` come here for every size. The stars stand for the mangling that newer compilers add.
const RUN_TIME_SIZE: [Budget; 2] = [
    Budget { what: "alloc of a run-time size", function: "*__rust_alloc", limit: 28 },
    Budget { what: "dealloc of a run-time size", function: "*__rust_dealloc", limit: 24 },
];

/// One call of the slow path in each phase of the probe that follows the others: what it does there, and which of these
/// phases show it, counted from zero. The commonest cost of them counts: now and then a call looks at the clock.
struct Slow {
    what: &'static str,
    function: &'static str,
    phases: std::ops::Range<usize>,
}

/// NB: in step with the probe's `slow_phases`: it takes 24 magazines of one class, frees them, and takes them again.
const SLOW: [Slow; 5] = [
    Slow { what: "refill by carving", function: "*alloc_slow*", phases: 8..24 },
    Slow { what: "drain to a spare", function: "*free_slow*", phases: 26..32 },
    Slow { what: "drain to the pool", function: "*free_slow*", phases: 35..46 },
    Slow { what: "refill from a spare", function: "*alloc_slow*", phases: 50..56 },
    Slow { what: "refill from the pool", function: "*alloc_slow*", phases: 59..70 },
];
/// NB: in step with the probe.
const SLOW_PHASES: usize = 3 * 24;

/// The phases in which the fast path is called over and over.
const FAST_PHASES: usize = 1 + 2 * SIZES.len();

/// Address → instruction, as objdump writes it.
type Disassembly = BTreeMap<u64, String>;

/// One instruction and how often it was executed.
struct Executed {
    address: u64,
    code: String,
    count: u64,
}

/// One way through a function.
struct Way {
    name: String,
    limit: u64,
    instructions: Vec<Executed>,
}

#[test]
fn fast_path_keeps_its_budget() {
    let probe = build();
    let listing = output(Command::new("objdump").args(["-d", "--no-show-raw-insn", "-w"]).arg(&probe));
    let has_valgrind = Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_ok();
    let disassembly = disassembly(&listing);
    let ways = if has_valgrind { executed(&probe, &disassembly) } else { laid_out(&listing) };

    let mut faults: Vec<String> = ways.iter().filter_map(Way::fault).collect();
    for way in &ways {
        println!("{:45} {:7.2} instructions, at most {}", way.name, way.per_call(), way.limit);
    }
    if has_valgrind {
        let mut costs: BTreeMap<String, Costs> = ways.iter().map(|way| (way.name.clone(), way.costs())).collect();
        costs.extend(slow(&probe, &disassembly));
        faults.extend(changes(&probe, &costs));
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// What is not as in the golden table; or writes the table, if told to.
fn changes(probe: &Path, costs: &BTreeMap<String, Costs>) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fastpath/golden.txt");
    let mut table =
        Table::read(&std::fs::read_to_string(&path).unwrap()).unwrap_or_else(|line| panic!("golden.txt, {line}"));
    let compiler = compiler(probe);
    if std::env::var_os("MILLPOND_BLESS").is_some() {
        table.set(&compiler, costs.clone());
        std::fs::write(&path, table.text()).unwrap();
        println!("golden.txt has a new part for {compiler}");
        return Vec::new();
    }
    for (way, costs) in costs {
        println!("{way:45} {costs:?}");
    }
    match table.differences(&compiler, costs) {
        None => {
            println!("golden.txt has no part for {compiler}: only the budgets hold");
            Vec::new()
        }
        Some(mut differences) => {
            if !differences.is_empty() {
                differences.push("if that is meant: MILLPOND_BLESS=1 cargo test --test fastpath".into());
            }
            differences
        }
    }
}

/// Such as `rustc 1.85.0`: what made the probe's code, by its own account.
fn compiler(probe: &Path) -> String {
    let comment = output(Command::new("readelf").args(["--wide", "--string-dump=.comment"]).arg(probe));
    let version = comment.split("rustc version ").nth(1).and_then(|rest| rest.split_whitespace().next());
    format!("rustc {}", version.expect("rustc says its version"))
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
    let way = |budget| Way { name: String::new(), limit: 4, instructions: walk(listing, budget) };
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

/// What the command wrote; it must be there and succeed.
fn output(command: &mut Command) -> String {
    let done = command.stderr(Stdio::piped()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(done.status.success(), "{command:?}: {}\n{}", done.status, String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("names of symbols are UTF-8")
}

fn disassembly(listing: &str) -> Disassembly {
    listing.lines().filter_map(instruction).map(|(address, text)| (address, text.to_owned())).collect()
}

/// The instruction of a line such as `   13e78:⇥mov    $0x8,%esi`.
fn instruction(line: &str) -> Option<(u64, &str)> {
    let (address, text) = line.split_once(":\t")?;
    Some((u64::from_str_radix(address.trim(), 16).ok()?, text.trim()))
}

/// All ways, as callgrind saw them executed.
fn executed(probe: &Path, disassembly: &Disassembly) -> Vec<Way> {
    let mut ways = Vec::new();
    for Budget { what, function, limit } in CONSTANT_SIZE {
        let instructions = profile(probe, function, disassembly, FAST_PHASES).swap_remove(0);
        ways.push(Way { name: what.into(), limit, instructions });
    }
    for Budget { what, function, limit } in RUN_TIME_SIZE {
        let mut phases = profile(probe, function, disassembly, FAST_PHASES).into_iter().skip(1);
        for owner in ["Vec", "Box"] {
            for (size, instructions) in SIZES.iter().zip(phases.by_ref()) {
                ways.push(Way { name: format!("{what}, {owner} of {size}"), limit, instructions });
            }
        }
    }
    ways
}

/// What one call of each way through the slow path costs.
fn slow(probe: &Path, disassembly: &Disassembly) -> BTreeMap<String, Costs> {
    let mut functions: BTreeMap<&str, Vec<Costs>> = BTreeMap::new();
    let way = |Slow { what, function, phases }: Slow| {
        let costs = functions.entry(function).or_insert_with(|| {
            let phases = profile(probe, function, disassembly, FAST_PHASES + SLOW_PHASES).into_iter().skip(FAST_PHASES);
            phases.map(|instructions| sum(&instructions)).collect()
        });
        let costs = &costs[phases];
        let often = |cost: &Costs| costs.iter().filter(|other| *other == cost).count();
        // Of equally common ones the cheaper.
        let common = costs.iter().max_by(|a, b| often(a).cmp(&often(b)).then(b[0].total_cmp(&a[0])));
        (what.to_owned(), *common.expect("there are phases"))
    };
    SLOW.into_iter().map(way).collect()
}

/// What was executed inside `function` in each of the first phases of the probe.
fn profile(probe: &Path, function: &str, disassembly: &Disassembly, phases: usize) -> Vec<Vec<Executed>> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(function.trim_matches('*'));
    let _ = std::fs::remove_dir_all(&folder); // An earlier run's.
    std::fs::create_dir_all(&folder).unwrap();
    output(
        Command::new("valgrind")
            .args(["--tool=callgrind", "--demangle=no", "--callgrind-out-file=profile"])
            .args(["--dump-instr=yes", "--compress-pos=no", "--compress-strings=no"])
            .args(["--collect-atstart=no", &format!("--toggle-collect={function}")])
            .arg("--dump-before=probe_mark")
            .arg(probe)
            .current_dir(&folder),
    );
    // Dumps are numbered from 1. The first of each pair is a warm-up.
    let dumps = (1..=phases).map(|phase| folder.join(format!("profile.{}", 2 * phase)));
    dumps.map(|dump| counted(&std::fs::read_to_string(dump).unwrap(), probe, disassembly)).collect()
}

/// Callgrind's lines `address line count` under `ob=`, the file that the code is in. The line after a `calls=` is the
/// sum of the call and no instruction.
fn counted(dump: &str, probe: &Path, disassembly: &Disassembly) -> Vec<Executed> {
    let mut file = "";
    let mut of_call = false;
    let mut instructions = BTreeMap::new();
    for line in dump.lines() {
        if let Some(name) = line.strip_prefix("ob=") {
            file = name;
        }
        if line.starts_with("0x") && !of_call {
            let mut fields = line.split_whitespace();
            let address = u64::from_str_radix(&fields.next().unwrap()[2..], 16).unwrap();
            let count: u64 = fields.nth(1).unwrap().parse().unwrap();
            let known = disassembly.get(&address).filter(|_| Path::new(file) == probe);
            let code = known.map_or_else(|| format!("{ELSEWHERE}{file}"), String::clone);
            instructions.entry((file, address)).or_insert(Executed { address, code, count: 0 }).count += count;
        }
        of_call = line.starts_with("calls=");
    }
    instructions.into_values().collect()
}

/// All ways, as the compiler laid them out.
fn laid_out(listing: &str) -> Vec<Way> {
    println!("no valgrind: reading the disassembly");
    let budgets = CONSTANT_SIZE.iter().chain(&RUN_TIME_SIZE);
    budgets
        .map(|budget| Way { name: budget.what.into(), limit: budget.limit, instructions: walk(listing, budget) })
        .collect()
}

/// From the function's first instruction to its return: unconditional jumps are followed, conditional ones not taken.
fn walk(listing: &str, budget: &Budget) -> Vec<Executed> {
    let is_start = |line: &&str| {
        let name = line.split_once('<').and_then(|(_, name)| name.strip_suffix(">:"));
        name.is_some_and(|name| match budget.function.strip_prefix('*') {
            Some(end) => name.ends_with(end),
            None => name == budget.function,
        })
    };
    let disassembly = disassembly(listing);
    let mut lines = listing.lines().skip_while(|line| !is_start(line)).skip(1);
    let mut address = instruction(lines.next().expect("the probe has the function")).expect("it has code").0;
    let mut instructions = Vec::new();
    while let Some((&at, text)) = disassembly.range(address..).next() {
        instructions.push(Executed { address: at, code: text.clone(), count: CALLS });
        let mut words = text.split_whitespace();
        match words.next() {
            Some("ret") => break,
            // An indirect jump goes who knows where: it stands as the last instruction, and as a call.
            Some("jmp") => match words.next().and_then(|target| u64::from_str_radix(target, 16).ok()) {
                Some(target) if instructions.len() < 1000 => address = target,
                _ => break,
            },
            _ => address = at + 1,
        }
    }
    instructions
}

/// What all of it costs together.
fn sum(instructions: &[Executed]) -> Costs {
    let mut sum = Costs::default();
    for Executed { code, count, .. } in instructions {
        for (sum, cost) in sum.iter_mut().zip(costs_of(code)) {
            *sum += cost * *count as f64;
        }
    }
    sum
}

impl Way {
    fn costs(&self) -> Costs {
        sum(&self.instructions).map(|cost| cost / CALLS as f64)
    }

    fn per_call(&self) -> f64 {
        self.instructions.iter().map(|instruction| instruction.count).sum::<u64>() as f64 / CALLS as f64
    }

    /// What is wrong with it, with the instructions.
    fn fault(&self) -> Option<String> {
        let mut faults = Vec::new();
        if self.instructions.is_empty() {
            faults.push("was never executed".to_owned());
        }
        if self.per_call() > self.limit as f64 {
            faults.push(format!("{:.2} instructions, at most {} are allowed", self.per_call(), self.limit));
        }
        if let Some(Executed { code, .. }) = self.instructions.iter().find(|i| is_atomic(&i.code)) {
            faults.push(format!("an atomic read-modify-write, `{code}`"));
        }
        if let Some(Executed { code, .. }) = self.instructions.iter().find(|i| is_call(&i.code)) {
            faults.push(format!("a call, `{code}`"));
        }
        let line = |i: &Executed| format!("{:>10} {:8x}  {}\n", i.count, i.address, i.code);
        let code: String = self.instructions.iter().map(line).collect();
        (!faults.is_empty()).then(|| format!("{}: {}\n{code}", self.name, faults.join("; ")))
    }
}
