//! Instructions: what an executable's disassembly says, what callgrind saw executed, and what a fast path may have.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod tally;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

/// NB: in step with the probes.
pub const CALLS: u64 = 1000;

/// Stands for the instruction where it is none of the probe's.
const ELSEWHERE: &str = "in ";

/// Address → instruction, as objdump writes it.
pub type Disassembly = BTreeMap<u64, String>;

/// One instruction and how often it was executed.
pub struct Executed {
    pub address: u64,
    pub code: String,
    pub count: u64,
}

impl Executed {
    /// Whether it is none of the probe's.
    pub fn is_elsewhere(&self) -> bool {
        self.code.starts_with(ELSEWHERE)
    }
}

/// One way through a function.
pub struct Way {
    pub name: String,
    pub limit: u64,
    pub instructions: Vec<Executed>,
}

/// What the command wrote; it must be there and succeed.
pub fn output(command: &mut Command) -> String {
    let done = command.stderr(Stdio::piped()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(done.status.success(), "{command:?}: {}\n{}", done.status, String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("names of symbols are UTF-8")
}

pub fn disassembly(listing: &str) -> Disassembly {
    listing.lines().filter_map(instruction).map(|(address, text)| (address, text.to_owned())).collect()
}

/// The instruction of a line such as `   13e78:⇥mov    $0x8,%esi`.
pub fn instruction(line: &str) -> Option<(u64, &str)> {
    let (address, text) = line.split_once(":\t")?;
    Some((u64::from_str_radix(address.trim(), 16).ok()?, text.trim()))
}

pub fn has_valgrind() -> bool {
    Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_ok()
}

/// The disassembly of a file, as objdump writes it.
pub fn listing(file: &Path) -> String {
    output(Command::new("objdump").args(["-d", "--no-show-raw-insn", "-w"]).arg(file))
}

/// What of `file` was executed inside `function` in each of so many phases of the probe, which loads it or is it.
pub fn profile(
    probe: &Path,
    file: &Path,
    phases: usize,
    function: &str,
    disassembly: &Disassembly,
) -> Vec<Vec<Executed>> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(function.trim_start_matches('*'));
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
    dumps.map(|dump| counted(&std::fs::read_to_string(dump).unwrap(), file, disassembly)).collect()
}

/// Callgrind's lines `address line count` under `ob=`, the file that the code is in. The line after a `calls=` is the
/// sum of the call and no instruction.
fn counted(dump: &str, code_of: &Path, disassembly: &Disassembly) -> Vec<Executed> {
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
            let known = disassembly.get(&address).filter(|_| Path::new(file) == code_of);
            let code = known.map_or_else(|| format!("{ELSEWHERE}{file}"), String::clone);
            instructions.entry((file, address)).or_insert(Executed { address, code, count: 0 }).count += count;
        }
        of_call = line.starts_with("calls=");
    }
    instructions.into_values().collect()
}

/// The address of a function's first instruction; a star stands for the beginning of its name.
pub fn start_of(listing: &str, function: &str) -> u64 {
    let is_start = |line: &&str| {
        let name = line.split_once('<').and_then(|(_, name)| name.strip_suffix(">:"));
        name.is_some_and(|name| match function.strip_prefix('*') {
            Some(end) => name.ends_with(end),
            None => name == function,
        })
    };
    let mut lines = listing.lines().skip_while(|line| !is_start(line)).skip(1);
    instruction(lines.next().expect("the function is there")).expect("it has code").0
}

/// From an instruction to the function's return: unconditional jumps are followed, conditional ones not taken.
pub fn walk(listing: &str, mut address: u64) -> Vec<Executed> {
    let disassembly = disassembly(listing);
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

impl Way {
    pub fn per_call(&self) -> f64 {
        self.instructions.iter().map(|instruction| instruction.count).sum::<u64>() as f64 / CALLS as f64
    }

    /// What is wrong with it, with the instructions.
    pub fn fault(&self) -> Option<String> {
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

/// `xchg` with memory locks without saying so.
pub fn is_atomic(code: &str) -> bool {
    code.starts_with("lock") || code.starts_with("xchg") && code.contains('(')
}

/// A call, or a jump that may be one in disguise: through a pointer, or to where the probe has no code.
pub fn is_call(code: &str) -> bool {
    let through_pointer = code.starts_with("jmp") && code.contains('*');
    code.starts_with("call") || through_pointer || code.starts_with(ELSEWHERE)
}
