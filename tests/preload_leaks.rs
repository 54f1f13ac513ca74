//! Leaks of C programs under `LD_PRELOAD`: found, whatever holds them, and not in what is held; under other people's programs
//! a report and no harm.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(millpond_forward), not(millpond_portable_tls)))]

mod library;

use library::{Ended, compile, link_shared, preloaded, run, workbench};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const WATCHDOG: u32 = 60;

fn program() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| compile("leaks.c", "leaks", &link_shared().each_ref().map(String::as_str)))
}

fn loses(which: &str, leaks: &str) -> Ended {
    let ended = run(preloaded(program()).arg(which).env("MILLPOND_LEAKS", leaks), WATCHDOG, &[]);
    assert_eq!(ended.stdout, "done", "{which}: {ended:#?}");
    ended
}

/// Count, and how many no other holds, of the lost blocks of a size.
fn group(ended: &Ended, size: u64) -> (u64, u64) {
    let json: serde_json::Value = serde_json::from_str(&ended.stderr).unwrap_or_else(|_| panic!("{ended:#?}"));
    let groups = json["groups"].as_array().expect("groups");
    let number = |group: &serde_json::Value, name: &str| group[name].as_u64().expect("a number");
    let group = groups.iter().find(|group| group["size"] == size);
    group.map_or((0, 0), |group| (number(group, "count"), number(group, "direct")))
}

#[test]
fn what_is_lost_is_found() {
    for which in ["lost", "huge", "cycle", "sparse"] {
        let ended = loses(which, "json,fail");
        assert_eq!(ended.code, Some(23), "{which}: {ended:#?}");
        let (count, direct) = group(&ended, 6144);
        assert!((96..=100).contains(&count) && direct == count, "{which}: {count}, {direct}");
        assert!(which != "huge" || group(&ended, 1 << 30).0 >= 4, "{ended:#?}");
    }
}

#[test]
fn what_is_held_is_not_found() {
    for which in ["nothing", "inside"] {
        let ended = loses(which, "json,fail");
        assert_eq!((ended.code, group(&ended, 6144)), (Some(3), (0, 0)), "{which}: {ended:#?}");
        let ended = loses(which, "report");
        assert!(ended.stderr.starts_with("millpond: no leaks of process "), "{which}: {ended:#?}");
        assert!(ended.stderr.contains(": 0 allocations, 0 bytes; "), "{which}: {ended:#?}");
    }
}

/// Where records keep callers, a report has those of the first of each group.
#[test]
fn who_asked_for_what_is_lost_is_told() {
    let link = link_shared();
    let flags: Vec<&str> = link.iter().map(String::as_str).chain(["-fno-omit-frame-pointer"]).collect();
    let program = compile("leaks.c", "leaks_called", &flags);
    let told = [("report", ", allocated from leaks_called+0x"), ("json", "\"locations\":[\"leaks_called+0x")];
    for (mode, depth) in [("tracked", "8"), ("hardened", "1"), ("tracked", "0")] {
        for (form, text) in told {
            let mut command = preloaded(&program);
            command.arg("lost").env("MILLPOND_LEAKS", form).env("MILLPOND_MODE", mode).env("MILLPOND_BACKTRACE", depth);
            let ended = run(&mut command, WATCHDOG, &[]);
            assert_eq!(ended.stderr.contains(text), depth != "0", "{mode} {depth}: {ended:#?}");
            if form == "json" {
                assert!(group(&ended, 6000).0 >= 96, "{ended:#?}");
            }
        }
    }
}

/// A program may end in a thread with little stack.
#[test]
fn without_stack_nothing_is_known() {
    for which in ["small", "named"] {
        let ended = loses(which, "report,fail");
        assert_eq!(ended.code, Some(3), "{ended:#?}");
        let says = |text| ended.stderr.starts_with("millpond: leaks of process ") && ended.stderr.ends_with(text);
        assert!(says(": not known, there is no memory for the search, or too little stack\n"), "{ended:#?}");
    }
}

/// Whatever code the program ends with, what its libraries do at the end is done.
#[test]
fn destructors_of_libraries_run() {
    let library = compile("last.c", "last.so", &["-shared", "-fPIC"]);
    let program = compile("leaks.c", "leaks_last", &["-Wl,--no-as-needed", library.to_str().expect("UTF-8")]);
    for (leaks, code) in [("report", 3), ("fail=7", 7), ("json,fail", 23)] {
        let ended = run(preloaded(&program).arg("lost").env("MILLPOND_LEAKS", leaks), WATCHDOG, &[]);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(code), "last\ndone"), "{leaks}: {ended:#?}");
    }
}

#[test]
fn others_may_run_meanwhile() {
    for leaks in ["json,fail=99", "json"] {
        let ended = loses("threads", leaks);
        assert_eq!(ended.code, Some(if leaks == "json" { 3 } else { 99 }), "{ended:#?}");
        // Where the thread was that has lost them, others are now: their stacks hold what they have not written over.
        assert!((90..=100).contains(&group(&ended, 6144).0), "{ended:#?}");
    }
}

#[test]
fn records_say_more() {
    for mode in ["tracked", "hardened"] {
        let mut command = preloaded(program());
        let ended = run(command.arg("lost").env("MILLPOND_LEAKS", "report").env("MILLPOND_MODE", mode), WATCHDOG, &[]);
        assert_eq!(ended.code, Some(3), "{ended:#?}");
        let line = ended.stderr.lines().find(|line| line.contains(" of     6000, first at 0x")).expect("the blocks");
        assert!(line.contains(", id ") && line.contains(" by thread ") && line.ends_with(" s ago"), "{line}");
    }
}

#[test]
fn a_file_takes_reports() {
    let file = workbench().join("leaks.txt");
    let _ = std::fs::remove_file(&file);
    for _ in 0..2 {
        let ended = loses("lost", &format!("report,json,file={}", file.display()));
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(3), ""));
    }
    let text = std::fs::read_to_string(&file).expect("written");
    assert_eq!(text.lines().filter(|line| line.starts_with("millpond: leaks of process ")).count(), 2, "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("{\"process\":")).count(), 2, "{text}");
    // It is where the program began, wherever it goes.
    std::fs::remove_file(&file).expect("written");
    let mut command = preloaded(program());
    command.arg("elsewhere").current_dir(workbench()).env("MILLPOND_LEAKS", "report,file=leaks.txt");
    assert_eq!(run(&mut command, WATCHDOG, &[]).stdout, "done");
    let text = std::fs::read_to_string(&file).expect("written");
    assert!(text.starts_with("millpond: leaks of process "), "{text}");
    // Where it began in no folder that is there, nothing is lost.
    let gone = workbench().join("gone");
    std::fs::create_dir_all(&gone).expect("a folder");
    let mut command = preloaded(program());
    command.arg("lost").current_dir(&gone).env("MILLPOND_LEAKS", "report,file=leaks.txt");
    // SAFETY: what runs between `fork` and `exec` is one call of the system, with a path that is there.
    unsafe { command.pre_exec(move || std::fs::remove_dir(&gone)) };
    let ended = run(&mut command, WATCHDOG, &[]);
    assert!(ended.stderr.starts_with("millpond: leaks are told here: where leaks.txt is to be cannot be noted, no such file or folder (errno 2)\n"), "{ended:#?}");
    assert!(ended.stderr.contains("\nmillpond: leaks of process "), "{ended:#?}");
    let ended = loses("lost", "fail,file=/nowhere/at/all");
    let why = ": /nowhere/at/all cannot be written: no such file or folder (errno 2)\n";
    assert!(ended.code == Some(23) && ended.stderr.contains(why), "{ended:#?}");
    assert_eq!(ended.stderr.matches("millpond: leaks of process ").count(), 2, "{ended:#?}");
    for form in ["report", "json", "fail"] {
        let ended = loses("lost", &format!("{form},file=/dev/full"));
        let why = " allocations, and no way to write which to /dev/full: no space left (errno 28)\n";
        assert!(ended.stderr.ends_with(why) && ended.stderr.lines().count() == 1, "{ended:#?}");
    }
}

/// Each report of a file says whose it is, and none is cut up by another's.
#[test]
fn reports_of_many_processes_are_told_apart() {
    let file = workbench().join("leaks_of_many.txt");
    let _ = std::fs::remove_file(&file);
    let mut command = preloaded(program());
    let leaks = format!("report,json,file={}", file.display());
    command.arg("many").env("MILLPOND_LEAKS", leaks).env("MILLPOND_MODE", "tracked");
    let ended = run(&mut command, WATCHDOG, &[]).well("many");
    let text = std::fs::read_to_string(&file).expect("written");
    let lines: Vec<&str> = text.lines().collect();
    let json: Vec<serde_json::Value> = lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let processes: Vec<u64> = ended.stdout.lines().map(|line| line.parse().expect("a number")).collect();
    assert_eq!(processes.len(), 8, "{ended:#?}");
    for process in processes {
        let head = format!("millpond: leaks of process {process}: ");
        let at = lines.iter().position(|line| line.starts_with(&head)).expect(&head);
        let groups = lines[at + 1..].iter().take_while(|line| line.contains(", first at 0x")).count();
        let json = json.iter().find(|json| json["process"] == process).expect("JSON");
        assert!(
            groups > 50 && json["groups"].as_array().expect("groups").len() == groups,
            "{process}: {groups}\n{text}"
        );
    }
}

#[test]
fn others_programs_go_on() {
    for mode in ["fast", "hardened"] {
        for (program, arguments) in [
            ("python3", &["-c", "import json, threading; print(json.dumps({'a': [1] * 9}))"][..]),
            ("git", &["--version"][..]),
            ("sh", &["-c", "for i in 1 2 3; do echo $(echo $i); done; exit 5"][..]),
        ] {
            if Command::new(program).args(["--version"]).output().is_err() {
                println!("{program} is not here");
                continue;
            }
            let plain = run(Command::new(program).args(arguments), WATCHDOG, &[]);
            let mut command = preloaded(program);
            command.args(arguments).env("MILLPOND_LEAKS", "report").env("MILLPOND_MODE", mode);
            let ended = run(&mut command, WATCHDOG, &[]);
            assert_eq!((ended.code, &ended.stdout), (plain.code, &plain.stdout), "{program}: {ended:#?}");
            // A shell may leave without a look at what is to be done at the end.
            assert!(program == "sh" || ended.stderr.contains("leaks of process "), "{program}: {ended:#?}");
            println!("{program}, {mode}: {}", ended.stderr.lines().next().unwrap_or_default());
        }
    }
}
