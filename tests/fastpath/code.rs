//! What an instruction does, read from its text as objdump writes it.

use crate::golden::Costs;

/// Stands for the instruction where it is none of the probe's.
pub const ELSEWHERE: &str = "in ";

/// `xchg` with memory locks without saying so.
pub fn is_atomic(code: &str) -> bool {
    code.starts_with("lock") || code.starts_with("xchg") && code.contains('(')
}

/// A call, or a jump that may be one in disguise: through a pointer, or to where the probe has no code.
pub fn is_call(code: &str) -> bool {
    let through_pointer = code.starts_with("jmp") && code.contains('*');
    code.starts_with("call") || through_pointer || code.starts_with(ELSEWHERE)
}

/// What one execution costs. Prefetches and the stack's part in calls and returns are no loads and stores.
pub fn costs_of(code: &str) -> Costs {
    let atomic = is_atomic(code);
    let code = code.trim_start_matches("lock ");
    let (name, operands) = code.split_once(char::is_whitespace).unwrap_or((code, ""));
    let operands = operands.split(['#', '<']).next().unwrap_or("").trim();
    let in_memory = |operand: &str| operand.contains('(') || operand.contains("%fs:");
    let last = last_operand(operands);
    let others = &operands[..operands.len() - last.len()];
    let (mut loads, mut stores) = (in_memory(others), false);
    match name {
        _ if ["lea", "nop", "prefetch", "ret", "call", "j"].iter().any(|start| name.starts_with(start)) => {
            loads = false
        }
        _ if name.starts_with("push") => (loads, stores) = (in_memory(last), true),
        _ if name.starts_with("pop") && name != "popcnt" => (loads, stores) = (true, in_memory(last)),
        _ if name.starts_with("cmp") && !name.starts_with("cmpxchg") || name.starts_with("test") || name == "bt" => {
            loads |= in_memory(last);
        }
        _ if name.starts_with("mov") || name.starts_with("set") || name.starts_with("vmov") => stores = in_memory(last),
        // Reads what it changes. With one operand that is in a register, the operation is the register's.
        _ => {
            loads |= in_memory(last);
            stores = in_memory(last);
        }
    }
    let branch = name.starts_with('j');
    [true, branch, loads, stores, is_call(code), atomic].map(|flag| flag as u8 as f64)
}

/// AT&T's last operand is the target. Commas in brackets separate nothing.
fn last_operand(operands: &str) -> &str {
    let mut depth = 0;
    let mut start = 0;
    for (at, letter) in operands.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => start = at + 1,
            _ => {}
        }
    }
    &operands[start..]
}

#[test]
fn instructions_are_read() {
    let costs = |code| costs_of(code)[1..].iter().map(|cost| *cost as u8).collect::<Vec<_>>();
    for (code, expected) in [
        ("mov    %fs:0x0,%rax", [0, 1, 0, 0, 0]),
        ("mov    0x8(%rax,%rcx,1),%rdx", [0, 1, 0, 0, 0]),
        ("mov    %rdx,0x8(%rax,%rcx,1)", [0, 0, 1, 0, 0]),
        ("cmp    0x8(%rax),%rdx", [0, 1, 0, 0, 0]),
        ("cmp    %rdx,0x8(%rax)", [0, 1, 0, 0, 0]),
        ("add    $0x1,(%rax)", [0, 1, 1, 0, 0]),
        ("add    (%rax),%rdx", [0, 1, 0, 0, 0]),
        ("lea    0x8(%rax),%rdx", [0, 0, 0, 0, 0]),
        ("prefetchw -0x8(%rdx)", [0, 0, 0, 0, 0]),
        ("nopw   0x0(%rax,%rax,1)", [0, 0, 0, 0, 0]),
        ("push   %rbx", [0, 0, 1, 0, 0]),
        ("pop    %rbx", [0, 1, 0, 0, 0]),
        ("je     1020 <slow>", [1, 0, 0, 0, 0]),
        ("call   1050 <refill>", [0, 0, 0, 1, 0]),
        ("ret", [0, 0, 0, 0, 0]),
        ("lock cmpxchg %rcx,(%rdx)", [0, 1, 1, 0, 1]),
        ("xchg   %rcx,(%rdx)", [0, 1, 1, 0, 1]),
        ("mov    0x2f41(%rip),%rdi        # 5f00 <x(y)>", [0, 1, 0, 0, 0]),
    ] {
        assert_eq!(costs(code), expected, "{code}");
    }
}
