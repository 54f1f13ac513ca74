//! The mode `hardened` under C programs: all misuse that is deterministic is stopped and named, none takes effect, and valid
//! programs hear nothing.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(millpond_forward), not(millpond_portable_tls)))]

mod library;
#[path = "common/words.rs"]
mod words;

use library::{Ended, compile, preloaded, run};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use words::{bytes, into_freed, past_end};

const WATCHDOG: u32 = 60;
/// From here on an allocation has pages of its own.
const CLASS_MAX: usize = 256 << 10;
/// What is freed is kept back with its memory up to here.
const KEPT_MAX: usize = 16 << 10;

fn program() -> &'static Path {
    static MADE: OnceLock<std::path::PathBuf> = OnceLock::new();
    MADE.get_or_init(|| compile("misuse.c", "misuse", &["-fno-omit-frame-pointer", "-fno-builtin", "-fno-inline"]))
}

fn hardened(words: &str, more: &[(&str, &str)]) -> Ended {
    let mut command: Command = preloaded(program());
    command.args(words.split(' ')).env("MILLPOND_MODE", "hardened").envs(more.iter().copied());
    run(&mut command, WATCHDOG, &[])
}

/// What is wrong with how a misuse ended, if anything is.
fn misjudged(ended: &Ended, parts: &[&str]) -> Option<String> {
    let named = ended.stderr.starts_with("millpond: ") && ended.stderr.lines().count() == 1;
    let told = named && parts.iter().all(|part| ended.stderr.contains(part));
    (ended.signal != Some(libc::SIGABRT) || !told || !ended.stdout.is_empty()).then(|| format!("{ended:?}"))
}

/// Each case with what its line must say, at each size: a chunk, the largest that is kept whole, a large and a huge one.
#[test]
fn what_is_deterministic_is_stopped_and_named() {
    let sizes = [24, 1000, 100_000, 300_000, 40 << 20usize];
    let mut cases: Vec<(String, Vec<String>)> = Vec::new();
    let mut case = |words: String, parts: &[&str]| {
        cases.push((words, parts.iter().map(|part| part.to_string()).collect()));
    };
    for size in sizes {
        let known = format!(": {size} bytes, id ");
        for name in ["twice", "twice_by_another", "twice_in_another"] {
            case(format!("{name} {size}"), &["double free of 0x", &known, ", freed by thread "]);
        }
        // What is large may have stayed, with another size.
        let known_then = if size < CLASS_MAX { &known } else { " bytes, id " };
        case(format!("twice_after_realloc {size}"), &["double free of 0x", known_then, ", freed by thread "]);
        for name in ["realloc_twice", "realloc_twice_by_another"] {
            case(format!("{name} {size}"), &["realloc of 0x", "which has been freed", &known, ", freed by thread "]);
        }
        for at in [1, 8, 16] {
            for (name, verb) in [("inside", "free of 0x"), ("realloc_inside", "realloc of 0x")] {
                case(format!("{name} {size} {at}"), &[verb, &format!("{} into the allocation 0x", bytes(at)), &known]);
            }
        }
        if size > 4096 {
            for at in [4096, size / 2] {
                case(format!("inside {size} {at}"), &[&format!("{} into the allocation 0x", bytes(at)), &known]);
            }
        }
        for past in [0, 1, 15, 16, 31] {
            let at = size + past;
            case(format!("write_at {size} {at}"), &[&past_end(past), &known]);
        }
        for before in [1, 8, 25, 32] {
            if size < CLASS_MAX {
                let what = format!("write {} before the beginning of 0x", bytes(before));
                case(format!("write_at {size} -{before}"), &[&what, &known]);
            }
        }
        for by in [-8, 1, 1000] {
            case(format!("sized {size} {by}"), &["with a size that is not its own", &known]);
        }
        case(format!("aligned_sized {size}"), &["with an alignment that is not its own, ", &known]);
        for name in ["sized_at_most", "aligned_sized_at_most"] {
            case(format!("{name} {size}"), &["with a size that is not its own", &known]);
        }
    }
    for size in [24, 1000, 16 << 10] {
        for at in [0, 1, size / 2, size - 1] {
            case(format!("write_after_free {size} {at}"), &["write to 0x", &into_freed(at)]);
        }
        case(format!("twice_after_others {size}"), &["double free of 0x", &format!(": {size} bytes, id ")]);
    }
    for (verb, prefix) in [("free of 0x", ""), ("realloc of 0x", "realloc_")] {
        for (name, what) in [
            ("stack 8", "an address of the stack of this thread"),
            ("global 8", "which is not an allocation of Millpond's"),
            ("code 8", "which is not an allocation of Millpond's"),
            ("number 8 1", "too small to be an address"),
            ("number 8 16", "too small to be an address"),
            ("number 8 0x123456789000", "which is not an allocation of Millpond's"),
            ("non_canonical 8 16", "not canonical: no address at all"),
        ] {
            case(format!("{prefix}{name}"), &[verb, what]);
        }
    }
    let mut wrong = Vec::new();
    for (words, parts) in &cases {
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        wrong.extend(misjudged(&hardened(words, &[]), &parts).map(|how| format!("{words}: {parts:?}\n  {how}")));
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    println!("{} misuses, each stopped and named", cases.len());
}

/// What faults: use after free of what has addresses of its own, and any use past a guarded allocation's end.
#[test]
fn what_has_pages_of_its_own_faults_at_once() {
    let guarded = [("MILLPOND_GUARD", "1")];
    for (words, more) in [
        ("write_after_free 300000 0", &[][..]),
        ("write_after_free 41943040 5000000", &[]),
        ("write_after_free 100 0", &guarded),
        ("write_after_free 4096 4095", &guarded),
        ("write_at 4096 4096", &guarded),
        ("write_at 4096 -4096", &guarded),
        ("write_at 100 112", &guarded),
        // What was never used, and what lies around.
        ("write_at 24 1048600", &[]),
        ("write_at 24 -1048576", &[]),
        ("write_at 4096 1052671", &[]),
        ("write_at 4096 -1048576", &[]),
        ("write_at 300000 1348576", &[]),
        ("write_at 300000 -1048576", &[]),
        ("write_at 300000 -1", &[]),
    ] {
        let ended = hardened(words, more);
        assert_eq!((ended.signal, ended.stdout.as_str()), (Some(libc::SIGSEGV), ""), "{words}: {ended:?}");
    }
    for (words, part) in [
        ("twice 100", "double free of 0x"),
        ("write_at 100 100", "write right past the end of 0x"),
        ("inside 100 16", "16 bytes into the allocation 0x"),
        ("sized 100 1", "with a size that is not its own"),
        ("realloc_twice 100", "which has been freed"),
    ] {
        let ended = hardened(words, &guarded);
        assert_eq!(misjudged(&ended, &[part]), None, "{words}");
    }
}

/// What no free has looked at is told when the program ends.
#[test]
fn the_end_tells_what_is_left() {
    let mut cases: Vec<(String, String)> = Vec::new();
    for size in [0usize, 24, 1000, 100_000, 300_000, 40 << 20] {
        for past in [0, 31] {
            let what = past_end(past);
            cases.push((format!("write_and_keep {size} {}", size + past), what));
        }
        if size < CLASS_MAX {
            cases.push((format!("write_and_keep {size} -3"), "write 3 bytes before the beginning of 0x".into()));
        }
        if (1..=KEPT_MAX).contains(&size) {
            let into = size / 2;
            cases.push((format!("write_at_last {size} {into}"), into_freed(into)));
        }
    }
    for (words, what) in &cases {
        let ended = hardened(words, &[]);
        assert_eq!((ended.signal, ended.stdout.as_str()), (Some(libc::SIGABRT), "survived\n"), "{words}: {ended:?}");
        let lines: Vec<&str> = ended.stderr.lines().collect();
        assert_eq!(lines.len(), 2, "{words}: {ended:?}");
        assert!(lines[0].starts_with("millpond: write ") && lines[0].contains(what), "{words}: {ended:?}");
        assert!(lines[1].contains("found at the program's end"), "{words}: {ended:?}");
    }
}

/// The program's own frames, innermost first, as `addr2line` finds them.
#[test]
fn callers_are_named() {
    let ended = hardened("twice 100", &[("MILLPOND_BACKTRACE", "4")]);
    assert_eq!(misjudged(&ended, &["double free of 0x", ", allocated from misuse+0x"]), None);
    let (_, known) = ended.stderr.trim_end().split_once(", allocated from ").expect("callers");
    let (allocated, freed) = known.split_once(", freed from ").expect("callers");
    for (callers, expected) in [(allocated, ["take", "main"]), (freed, ["give", "main"])] {
        let offsets: Vec<&str> =
            callers.split(", ").take(2).filter_map(|caller| caller.strip_prefix("misuse+")).collect();
        let lines = library::succeeds(Command::new("addr2line").arg("-fe").arg(program()).args(&offsets)).stdout;
        let names: Vec<&str> = lines.lines().step_by(2).collect();
        assert_eq!(names, expected, "{callers}\n{lines}");
    }
}

#[test]
fn a_valid_program_hears_nothing() {
    for more in [&[][..], &[("MILLPOND_GUARD", "3"), ("MILLPOND_BACKTRACE", "32")]] {
        for size in [0, 1, 100, 5000, 300_000] {
            let ended = hardened(&format!("none {size}"), more);
            assert_eq!(
                (ended.code, ended.stdout.as_str(), ended.stderr.as_str()),
                (Some(0), "survived\n", ""),
                "{size}"
            );
        }
    }
}
