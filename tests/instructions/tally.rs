//! What executed instructions do, counted by kind, and a table of such counts that is checked in: whatever changes in it
//! is named, and the table is written anew on purpose only.

use super::{Executed, is_atomic, is_call};
use std::fmt::{self, Write as _};

/// Instructions executed, by what they do. A read-modify-write is a load and a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub counts: [u64; COLUMNS.len()],
}

/// The columns of the table. Branches are jumps of every kind; atomics, locked instructions.
pub const COLUMNS: [&str; 6] = ["instructions", "branches", "loads", "stores", "calls", "atomics"];

impl Tally {
    /// What one of so many calls has executed of the program's own code: what but few of them did is no part of it.
    pub fn of(executed: &[Executed], calls: u64) -> Self {
        let mut tally = Self::default();
        for Executed { code, count, .. } in executed.iter().filter(|one| !one.is_elsewhere()) {
            let times = (count + calls / 2) / calls;
            let (loads, stores) = touches(code);
            let is = [true, code.starts_with('j'), loads, stores, is_call(code), is_atomic(code)];
            for (sum, is) in tally.counts.iter_mut().zip(is) {
                *sum += times * u64::from(is);
            }
        }
        tally
    }
}

/// Opcodes that only look at their last operand, or at none.
const READERS: [&str; 7] = ["cmp", "test", "ucomis", "comis", "ptest", "mul", "div"];
/// Opcodes that write to their last operand without reading it.
const WRITERS: [&str; 4] = ["mov", "vmov", "set", "pop"];
/// Opcodes whose operand is no access to memory of the program's.
const NEITHER: [&str; 4] = ["lea", "nop", "prefetch", "data16"];

/// Whether an instruction, as objdump writes it, loads from memory and stores to it.
pub fn touches(code: &str) -> (bool, bool) {
    let code = code.split('#').next().unwrap_or("").trim();
    let code = code.strip_prefix("lock ").map_or(code, str::trim_start);
    let (opcode, operands) = code.split_once(char::is_whitespace).unwrap_or((code, ""));
    let is_one_of = |names: &[&str]| names.iter().any(|name| opcode.starts_with(name));
    if is_one_of(&NEITHER) {
        return (false, false);
    }
    let operands = split(operands.trim());
    let at = operands.iter().position(|operand| is_memory(operand));
    // By way of the stack pointer, beside what the operand is.
    let (pops, pushes) = (opcode == "ret" || opcode == "pop", opcode == "push" || opcode == "call");
    let Some(at) = at else { return (pops, pushes) };
    let exchanges = is_one_of(&["xchg", "cmpxchg", "xadd"]);
    let only_looks = is_one_of(&READERS) || opcode.starts_with('j') || pushes || ["bt", "btl", "btq"].contains(&opcode);
    let (loads, stores) = match at + 1 == operands.len() {
        _ if exchanges => (true, true),
        true if !only_looks => (!is_one_of(&WRITERS), true),
        _ => (true, false),
    };
    (loads || pops, stores || pushes)
}

fn is_memory(operand: &str) -> bool {
    operand.contains('(') || operand.contains("%fs:")
}

/// The operands of an instruction: a comma in parentheses belongs to an address.
fn split(operands: &str) -> Vec<&str> {
    let mut depth = 0;
    operands
        .split(|letter| {
            depth += i32::from(letter == '(') - i32::from(letter == ')');
            letter == ',' && depth == 0
        })
        .filter(|operand| !operand.is_empty())
        .collect()
}

/// The table: who compiled what was counted, and a row for each way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub compiler: String,
    pub rows: Vec<(String, Tally)>,
}

const COMPILER: &str = "compiler: ";

impl Table {
    /// Reads what [`Display`](fmt::Display) wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let compiler = text.lines().find_map(|line| line.strip_prefix(COMPILER))?.to_owned();
        let row = |line: &str| {
            let (name, numbers) = line.split_once('|')?;
            let numbers: Vec<u64> = numbers.split_whitespace().map_while(|number| number.parse().ok()).collect();
            Some((name.trim().to_owned(), Tally { counts: numbers.try_into().ok()? }))
        };
        Some(Self { compiler, rows: text.lines().filter_map(row).collect() })
    }

    /// The row of that name.
    pub fn row(&self, name: &str) -> Option<Tally> {
        self.rows.iter().find(|row| row.0 == name).map(|row| row.1)
    }

    /// What is different in `now`, a line for each row.
    pub fn changes(&self, now: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        for (name, was) in &self.rows {
            let Some(is) = now.row(name) else {
                changes.push(format!("{name}: not counted any more"));
                continue;
            };
            let mut line = String::new();
            for (column, (was, is)) in COLUMNS.iter().zip(was.counts.iter().zip(&is.counts)) {
                if was != is {
                    let _ = write!(line, "{} {column} {was} -> {is}", if line.is_empty() { ":" } else { "," });
                }
            }
            if !line.is_empty() {
                changes.push(format!("{name}{line}"));
            }
        }
        let new = now.rows.iter().filter(|(name, _)| self.row(name).is_none());
        changes.extend(new.map(|(name, is)| format!("{name}: new, {:?}", is.counts)));
        changes
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{COMPILER}{}", self.compiler)?;
        write!(f, "{:48}", "")?;
        COLUMNS.iter().try_for_each(|column| write!(f, " {column:>12}"))?;
        writeln!(f)?;
        for (name, tally) in &self.rows {
            write!(f, "{name:47}|")?;
            tally.counts.iter().try_for_each(|count| write!(f, " {count:>12}"))?;
            writeln!(f)?;
        }
        Ok(())
    }
}
