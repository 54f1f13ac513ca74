//! Everywhere that malloc is called: each scenario is a C program of `tests/c`, run under `LD_PRELOAD`, which checks what it
//! does and says `done`.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(millpond_forward), not(millpond_portable_tls)))]

mod library;

use library::{Ended, Resource, archive, build, compile, link_shared, preloaded, run, shared, succeeds, workbench};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

const WATCHDOG: u32 = 240;
const MIB: u64 = 1 << 20;

/// Compiles and runs a scenario under limits; it must say that it is done.
fn scenario(name: &str, arguments: &[&str], limits: &[(Resource, u64)]) -> Ended {
    let program = compile(&format!("{name}.c"), name, &link_shared().each_ref().map(String::as_str));
    let ended = run(preloaded(program).args(arguments), WATCHDOG, limits).well(name);
    assert!(ended.stdout.contains("done") && ended.stderr.is_empty(), "{name}: {ended:#?}");
    ended
}

/// The scenario in the modes with records: those begin after the first allocations of some programs, and where a sandbox refuses
/// what they ask for, they go on without it.
fn in_modes(name: &str) {
    let program = compile(&format!("{name}.c"), name, &link_shared().each_ref().map(String::as_str));
    for mode in ["tracked", "hardened"] {
        let ended = run(preloaded(&program).env("MILLPOND_MODE", mode), WATCHDOG, &[]).well(mode);
        assert!(ended.stdout.contains("done") && ended.stderr.is_empty(), "{name}, {mode}: {ended:#?}");
    }
}

#[test]
fn before_main_and_after_it() {
    scenario("early", &[], &[]);
    in_modes("early");
}

#[test]
fn in_destructors_of_threads() {
    scenario("destructors", &[], &[]);
}

#[test]
fn in_libraries_that_come_and_go() {
    let plugin = compile("plugin.c", "plugin.so", &["-shared", "-fPIC"]);
    scenario("plugins", &[plugin.to_str().expect("UTF-8")], &[]);
}

/// `RTLD_DEEPBIND` would give such a library libc's `malloc` and `free` back; and who asks for a library is still the program,
/// with its own search path.
#[test]
fn in_libraries_that_prefer_their_own_names() {
    let folder = workbench().join("searched");
    std::fs::create_dir_all(&folder).expect("a folder");
    let plugin = compile("plugin.c", "deep.so", &["-shared", "-fPIC"]);
    compile("plugin.c", "searched/millpond_searched.so", &["-shared", "-fPIC"]);
    let program = compile("deepbind.c", "deepbind", &[&format!("-Wl,-rpath,{}", folder.display())]);
    let mut command = preloaded(program);
    command.arg(plugin).arg("millpond_searched.so");
    let ended = run(&mut command, WATCHDOG, &[]).well("deepbind");
    assert!(ended.stdout == "done\n" && ended.stderr.is_empty(), "{ended:#?}");
}

#[test]
fn loaded_and_unloaded_itself() {
    let program = compile("loaded.c", "loaded", &[]);
    succeeds(Command::new(&program).arg(shared()));
    let dynamic = build("plugin", "plugin/libmillpond.so");
    let flags = succeeds(Command::new("readelf").arg("-d").arg(&dynamic)).stdout;
    assert!(flags.contains("NODELETE") && !flags.contains("STATIC_TLS"), "{flags}");
    succeeds(Command::new(&program).arg(&dynamic));
    let folder = dynamic.parent().expect("its folder").display();
    let link = [format!("-L{folder}"), format!("-Wl,-rpath,{folder}"), "-lmillpond".into()];
    succeeds(&mut Command::new(compile("semantics.c", "semantics_dynamic", &link.each_ref().map(String::as_str))));
}

#[test]
fn in_children() {
    scenario("children", &[], &[]);
}

#[test]
fn with_ten_thousand_threads() {
    let program = compile("threads.c", "threads", &[]);
    for (kind, count, most) in [("short", "10000", 8 << 10), ("idle", "1000", 40 << 10)] {
        let peak = |mut command: Command| -> u64 {
            let ended = run(command.args([kind, count]), WATCHDOG, &[]).well(kind);
            ended.stdout.trim().parse().unwrap_or_else(|_| panic!("{kind}: {ended:#?}"))
        };
        let (malloc, millpond) = (peak(Command::new(&program)), peak(preloaded(&program)));
        println!("{count} {kind} threads: peak {malloc} KiB under malloc, {millpond} KiB under Millpond");
        assert!(millpond < most, "{count} {kind} threads: {millpond} KiB, at most {most}");
    }
}

#[test]
fn on_small_stacks() {
    scenario("small_stack", &[], &[]);
}

#[test]
fn under_cancellation() {
    scenario("cancellation", &[], &[]);
}

#[test]
fn in_little_address_space() {
    scenario("scarce", &[], &[(libc::RLIMIT_AS, 48 * MIB)]);
}

/// What may be written is limited, reserved or not, as where nothing is overcommitted.
#[test]
fn where_nothing_is_overcommitted() {
    scenario("scarce", &[], &[(libc::RLIMIT_DATA, 64 * MIB)]);
}

#[test]
fn where_what_shrinks_cannot_be_copied() {
    scenario("shrinks", &[], &[]);
}

#[test]
fn in_a_sandbox_that_refuses() {
    scenario("sandbox", &[], &[]);
    in_modes("sandbox");
    scenario("confined", &[], &[]);
    in_modes("confined");
}

#[test]
fn in_a_sandbox_that_kills_for_reads() {
    in_modes("killed");
    let program = compile("killed.c", "killed", &[]);
    let ended = run(preloaded(program).arg("overrun").env("MILLPOND_MODE", "hardened"), WATCHDOG, &[]);
    let told = ended.stderr.contains("write right past the end of 0x");
    assert!(ended.signal == Some(libc::SIGABRT) && told && ended.stdout == "done\n", "{ended:#?}");
}

/// libc's `atexit` allocates under its lock, perhaps first of all: what is wished for the program's end is entered when that is over.
/// Or it allocates for what is entered there, in the middle of a thread's first allocation, and the thread has one cache all the same.
#[test]
fn where_the_first_to_allocate_enters_what_comes_last() {
    for count in [30, 31, 32, 40] {
        let (library, define) = (format!("libearly_exits_{count}.so"), format!("-DCOUNT={count}"));
        let library = compile("early_exits.c", &library, &[&define, "-shared", "-fPIC"]);
        let folder = library.parent().expect("its folder").display();
        let link = [library.display().to_string(), format!("-Wl,-rpath,{folder}")];
        let program = compile("early_exits.c", &format!("early_exits_{count}"), &link.each_ref().map(String::as_str));
        for (name, value) in [("SHOW", "stats"), ("MODE", "hardened"), ("LEAKS", "report"), ("PROFILE", "/dev/null")] {
            let what = format!("{name}={value}, {count}");
            let mut command = preloaded(&program);
            let ended = run(command.env(format!("MILLPOND_{name}"), value), 20, &[]).well(&what);
            let says = match name {
                "SHOW" => ended.stderr.matches(" spans, 1 threads\n").count() == 1,
                "LEAKS" => ended.stderr.matches("no leaks of process ").count() == 1,
                _ => ended.stderr.is_empty(),
            };
            assert!(ended.stdout == "done\n" && says, "{what}: {ended:#?}");
        }
    }
}

/// A program may take over the family, the clock and what tells the processor, as do libraries that count what is allocated, or fake
/// the time or the machine.
#[test]
fn behind_a_program_that_puts_itself_between() {
    scenario("wrapped", &[], &[]);
    in_modes("wrapped");
}

#[test]
fn with_all_memory_locked() {
    let program = compile("locked.c", "locked", &[]);
    let ended = run(&mut preloaded(program), WATCHDOG, &[]).well("locked");
    print!("{}", ended.stdout);
    assert!(ended.stdout == "done\n" || ended.stdout == "mlockall is refused here\n", "{ended:#?}");
}

#[test]
fn in_few_mappings() {
    scenario("mappings", &[], &[]);
}

#[test]
fn what_is_hardly_touched() {
    scenario("sparse", &[], &[]);
}

#[test]
fn without_standard_descriptors() {
    let program = compile("closed.c", "closed", &[]);
    run(&mut preloaded(program), WATCHDOG, &[]).well("closed");
}

/// Files of the allocator's, which get its number then, are closed all the same; what is told at the end comes to none of them.
#[test]
fn without_stderr() {
    let program = compile("closed.c", "closed", &[]);
    let folder = workbench().join(format!("stderr{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut command = preloaded(program);
    command.arg("stderr").current_dir(&folder).env("MILLPOND_LOG", "cache,file=log").env("MILLPOND_SHOW", "stats");
    command.env("MILLPOND_PROFILE", "profile,bytes=10000,collapsed");
    let ended = run(&mut command, WATCHDOG, &[]);
    let [log, profile] = ["log", "profile"].map(|name| std::fs::read_to_string(folder.join(name)).expect("written"));
    assert!(ended.code == Some(0) && ended.stderr.contains("statistics of process"), "{ended:#?}");
    assert!(!log.is_empty() && !log.contains("statistics of process"), "{log}");
    assert!(!profile.is_empty() && !profile.contains("statistics of process"), "{profile}");
    std::fs::remove_dir_all(folder).expect("our own");
}

/// One line on stderr, and abort.
#[test]
fn what_is_not_ours_is_refused() {
    let program = compile("foreign.c", "foreign", &[]);
    for (which, says) in [
        ("again", "not an allocation of Millpond's: an address of the stack of this thread\n"),
        ("stack", "not an allocation of Millpond's: an address of the stack of this thread\n"),
        ("program", "not an allocation of Millpond's: in the data of the file /"),
        ("mapping", "not an allocation of Millpond's: in a mapping of no file\n"),
        ("code", "not an allocation of Millpond's: in the code of the file /"),
        (
            "wild",
            "free of 0xdead00000000beef, which is not an allocation of Millpond's: not canonical: no address at all\n",
        ),
        ("small", "free of 0x10, which is not an allocation of Millpond's: too small to be an address\n"),
        ("large", "where no allocation begins"),
        ("huge", "where no allocation begins"),
        ("kernel", "not an allocation of Millpond's: an address of the kernel's\n"),
        ("thread", "not an allocation of Millpond's: an address of the stack of thread "),
        ("gone", "not an allocation of Millpond's: where nothing is mapped\n"),
        ("twice", "not an allocation of Millpond's: in free memory of Millpond's\n"),
    ] {
        let ended = run(preloaded(&program).arg(which), WATCHDOG, &[]);
        let one_line = ended.stderr.lines().count() == 1 && ended.stderr.starts_with("millpond: ");
        assert!(ended.signal == Some(libc::SIGABRT) && ended.stdout.is_empty(), "{which}: {ended:#?}");
        assert!(one_line && ended.stderr.contains(says), "{which}: {ended:#?}");
    }
}

#[test]
fn the_environment_is_heard() {
    let stderr = |variables: &[(&str, &str)]| {
        run(preloaded("true").envs(variables.iter().copied()), WATCHDOG, &[]).well("true").stderr
    };
    assert_eq!(stderr(&[]), "");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        stderr(&[("MILLPOND_SHOW", "config"), ("MILLPOND_THP", "never")]),
        format!("millpond: {version}: MILLPOND_MODE=fast MILLPOND_THP=never MILLPOND_SHOW=config\n")
    );
    // What is said of a mode that is not in force is not in force.
    let wished = |mode| stderr(&[("MILLPOND_SHOW", "config"), ("MILLPOND_MODE", mode), ("MILLPOND_FREED", "zero")]);
    let shown = |text| format!("millpond: {version}: MILLPOND_{text} MILLPOND_SHOW=config\n");
    assert_eq!(wished("tracked"), shown("MODE=tracked MILLPOND_THP=default MILLPOND_FREED=zero"));
    let unused = "millpond: MILLPOND_FREED is for MILLPOND_MODE=tracked or hardened: ignored\n";
    assert_eq!(wished("fast"), unused.to_owned() + &shown("MODE=fast MILLPOND_THP=default"));
    assert_eq!(
        stderr(&[("MILLPOND_SHWO", "config")]),
        "millpond: MILLPOND_SHWO is not known: ignored; is MILLPOND_SHOW meant?\n"
    );
    assert_eq!(
        stderr(&[("MILLPOND_THP", "sometimes")]),
        "millpond: MILLPOND_THP=sometimes is not one of default, always, never, system: ignored\n"
    );
    for (name, value, says) in [
        ("BACKTRACE", "33", "is out of range, 0 to 32"),
        ("GUARD", "5000000000", "is out of range, 0 to 4294967295"),
        ("GUARD", "all", "is not a number"),
        ("QUARANTINE", "-1", "is out of range, 0 to 18446744073709551615"),
        ("LEAKS", "report,fail=256", "is out of range, fail=1 to 255"),
        ("LEAKS", "json,", "is not a list of report, json, fail, fail=CODE, file=PATH"),
        ("PROFILE", "file,bytes=0", "is out of range, bytes=1 to 1099511627776"),
    ] {
        let told = stderr(&[(&format!("MILLPOND_{name}"), value)]);
        assert_eq!(told, format!("millpond: MILLPOND_{name}={value} {says}: ignored\n"));
    }
    let stats = stderr(&[("MILLPOND_SHOW", "stats")]);
    let (first, table) = stats.split_once('\n').expect("lines");
    assert!(first.starts_with("millpond: statistics of process "), "{stats}");
    assert!(table.starts_with("where  ") && table.contains("\n= committed "), "{stats}");
}

/// What is told is told whole, whatever signals come meanwhile.
#[test]
fn signals_cut_nothing_off() {
    scenario("interrupted", &[], &[]);
}

/// What nobody reads, and what finds no room, ends no program; least of all one that has nothing to say itself.
#[test]
fn refused_writes_are_no_signals() {
    let file = workbench().join(format!("unread{}", std::process::id()));
    scenario("unread", &[file.to_str().expect("UTF-8")], &[]);
    std::fs::remove_file(file).expect("our own");
}

/// What is told at the end is told though the program has closed stderr; but never into a file of its own.
#[test]
fn the_end_is_told_where_stderr_is_closed() {
    let program = compile("leaves.c", "leaves", &[]);
    let leaves = |which: &str, name: &str, value: &str| {
        run(preloaded(&program).arg(which).env(name, value).current_dir(workbench()), WATCHDOG, &[])
    };
    for (name, value, says) in [
        ("MILLPOND_SHOW", "stats", "millpond: statistics of process "),
        ("MILLPOND_SHOW", "map", ": map of 1 arena: a sign is 64 KiB\n0x"),
        ("MILLPOND_LEAKS", "report", "leaks of process "),
        ("MILLPOND_PROFILE", "/dev/full,bytes=1", "no profile can be written to /dev/full: no space left (errno 28)"),
    ] {
        let ended = leaves("closes", name, value).well("closes");
        assert!(ended.stderr.contains(says), "{ended:#?}");
        let ended = leaves("reuses", name, value).well("reuses");
        let own = std::fs::read_to_string(workbench().join("reuses")).expect("its own");
        assert_eq!((ended.stderr.as_str(), own.as_str()), ("", ""));
        // However few files it may have open.
        for most in [1024, 256, 64, 16] {
            let ended = run(preloaded("ls").env(name, value), WATCHDOG, &[(libc::RLIMIT_NOFILE, most)]).well("ls");
            assert!(ended.stderr.contains(says), "{most}: {ended:#?}");
        }
    }
    let ended = leaves("overwrites", "MILLPOND_MODE", "hardened");
    assert!(
        ended.signal == Some(libc::SIGABRT) && ended.stderr.contains("write right past the end of 0x"),
        "{ended:#?}"
    );
}

/// What the system says of a process is asked for by the thread that asks: by the first, which has ended, it tells nothing.
#[test]
fn all_is_known_where_the_first_thread_has_ended() {
    let program = compile("outlived.c", "outlived", &[]);
    let outlived =
        |which: &str, name: &str, value: &str| run(preloaded(&program).arg(which).env(name, value), WATCHDOG, &[]);
    let ended = outlived("loses", "MILLPOND_LEAKS", "fail");
    assert!(ended.code == Some(23) && ended.stderr.contains(" of     6144, first at 0x"), "{ended:#?}");
    let ended = outlived("overwrites", "MILLPOND_MODE", "hardened");
    assert!(ended.signal == Some(libc::SIGABRT) && ended.stderr.contains("write right past the end"), "{ended:#?}");
    let ended = outlived("frees", "MILLPOND_MODE", "fast");
    assert!(ended.stderr.contains(": in the data of the file ") && ended.stderr.ends_with("/outlived\n"), "{ended:#?}");
}

/// Whoever waits for the end of what a daemon says does not wait for the daemon.
#[test]
fn a_daemon_lets_its_stderr_go() {
    scenario("daemon", &[], &[]);
}

/// In a file the log meets nobody: not a program that closes what is open and whose own file is the second descriptor then. The
/// file is where the program began, wherever it goes.
#[test]
fn a_log_in_a_file_is_in_no_other() {
    let folder = workbench().join(format!("log{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let script = "cd / && exec 2>&- && exec 2>\"$0\" && echo written >&2 && exec ls -l /proc/self";
    let mut command = preloaded("sh");
    command.args(["-c", script]).arg(folder.join("own")).current_dir(&folder).env("MILLPOND_LOG", "cache,file=log");
    run(&mut command, WATCHDOG, &[]).well("sh");
    let [own, log] = ["own", "log"].map(|name| std::fs::read_to_string(folder.join(name)).expect("written"));
    assert_eq!(own, "written\n");
    assert!(log.lines().count() > 20 && log.lines().all(|line| line.starts_with("millpond: [")), "{log}");
    assert!(["os     ", "arena  ", "span   ", "cache  "].iter().all(|floor| log.contains(floor)), "{log}");
    // It is open only while a line is written.
    let mut command = preloaded("ls");
    command.args(["-l", "/proc/self/fd"]).current_dir(&folder).env("MILLPOND_LOG", "cache,file=log");
    let open = run(&mut command, WATCHDOG, &[]).well("ls").stdout;
    assert!(open.contains("/proc/") && !open.lines().any(|line| line.ends_with("/log")), "{open}");
    // One that cannot be opened is said so, and the log is not lost.
    let mut command = preloaded("ls");
    command.env("MILLPOND_LOG", format!("cache,file={}/none/log", folder.display()));
    let told = run(&mut command, WATCHDOG, &[]).well("ls").stderr;
    assert!(
        told.starts_with(&format!(
            "millpond: the log's file {}/none/log cannot be opened, no such file or folder (errno 2): told here\n",
            folder.display()
        )) && told.lines().count() > 20,
        "{told}"
    );
    // So is one that takes nothing, once.
    let mut command = preloaded("ls");
    command.env("MILLPOND_LOG", "cache,file=/dev/full");
    let full = "millpond: the log's file /dev/full has not taken a line, no space left (errno 28): that is lost, and others may be\n";
    assert_eq!(run(&mut command, WATCHDOG, &[]).well("ls").stderr, full);
    // Nobody reads this one: to wait for a reader would be to wait for ever.
    let fifo = folder.join("fifo");
    run(Command::new("mkfifo").arg(&fifo), WATCHDOG, &[]).well("mkfifo");
    let path = fifo.display();
    let ask = |name: &str, value: String| run(preloaded("ls").env(name, value), WATCHDOG, &[]).well("ls").stderr;
    for (name, value) in [
        ("MILLPOND_LOG", format!("cache,file={path}")),
        ("MILLPOND_PROFILE", format!("{path},bytes=1")),
        ("MILLPOND_LEAKS", format!("report,file={path}")),
    ] {
        let told = ask(name, value);
        assert!(told.contains(&format!("{path}")) && told.contains("nobody reads it"), "{name}: {told}");
    }
    // As soon as somebody does, lines go there.
    let mut both = std::fs::File::options().read(true).write(true).open(&fifo).expect("made above");
    assert_eq!(ask("MILLPOND_LOG", format!("os,file={path}")), "");
    let mut log = vec![0; 64 << 10];
    let len = both.read(&mut log).expect("lines");
    assert!(log.starts_with(b"millpond: [") && log[..len].ends_with(b"\n"), "{}", log[..len].escape_ascii());
    std::fs::remove_dir_all(folder).expect("our own");
}

/// A program with more rights than its user ignores the variables. Only root can install one.
#[test]
fn the_environment_of_privileged_programs_is_not() {
    // SAFETY: asks for a number.
    if unsafe { libc::geteuid() } != 0 {
        println!("not root: no program can be given more rights than its user has");
        return;
    }
    let program = compile("secure.c", "secure", &[archive().to_str().expect("UTF-8")]);
    let ask = || run(Command::new(&program).envs([("MILLPOND_SHOW", "config"), ("MILLPOND_X", "1")]), WATCHDOG, &[]);
    let ended = ask().well("secure");
    assert!(ended.stdout == "secure 0\n" && ended.stderr.lines().count() == 2, "{ended:#?}");

    const NOBODY: u32 = 65534;
    std::os::unix::fs::chown(&program, Some(NOBODY), Some(NOBODY)).expect("root may");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o4755)).expect("root may");
    // What is to be run by its owner must be reachable for it.
    let ended = ask().well("secure");
    assert!(ended.stdout == "secure 1\n" && ended.stderr.is_empty(), "{}: {ended:#?}", workbench().display());
}

/// A `realloc` of what is no allocation says so, and nothing of a `free`, whatever the sizes.
#[test]
fn a_bad_realloc_is_called_so() {
    let program = compile("misuse.c", "misuse_fast", &["-fno-builtin", "-fno-inline"]);
    let sizes = [100, 100_000, 300_000, 40 << 20usize];
    for to in sizes.map(|size| size * 3) {
        let inside = sizes.map(|size| format!("inside {size} 8 {to}"));
        let twice = [300_000, 40 << 20].map(|size| format!("twice {size} 0 {to}"));
        let foreign = ["stack", "global", "code", "number"].map(|what| format!("{what} 100 16 {to}"));
        for case in inside.iter().chain(&twice).chain(&foreign) {
            let words = format!("realloc_{case}");
            let ended = run(preloaded(&program).args(words.split(' ')), WATCHDOG, &[]);
            assert_eq!((ended.signal, ended.stdout.as_str()), (Some(libc::SIGABRT), ""), "{words}: {ended:?}");
            assert!(ended.stderr.starts_with("millpond: realloc of 0x"), "{words}: {ended:?}");
            assert_eq!(ended.stderr.lines().count(), 1, "{words}: {ended:?}");
        }
    }
}
