//! Beside others under `LD_PRELOAD`: other allocators, and C++'s operators, ours or whoever's they are.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(millpond_forward), not(millpond_portable_tls)))]

mod library;

use library::{Resource, compile, link_shared, preloaded, run};
use std::path::Path;
use std::process::Command;

const WATCHDOG: u32 = 240;
const MIB: u64 = 1 << 20;

/// In each mode, the program must say that it is done, and nothing else.
fn quietly_done(program: &Path, arguments: &[&Path]) {
    for mode in ["fast", "tracked", "hardened"] {
        let ended = run(preloaded(program).args(arguments).env("MILLPOND_MODE", mode), WATCHDOG, &[]).well(mode);
        assert!(ended.stdout == "done\n" && ended.stderr.is_empty(), "{mode}: {ended:#?}");
    }
}

/// Before a program's constructors have run, its own malloc is called by none of ours.
#[test]
fn before_an_allocator_of_the_program_is_ready() {
    let program = compile("unready.c", "unready", &["-fno-builtin"]);
    let alone = run(&mut Command::new(&program), WATCHDOG, &[]).well("on its own");
    assert_eq!(alone.stdout, "done\n");
    quietly_done(&program, &[]);
}

/// What is none of ours goes to another allocator that the program is linked with, if there is one.
#[test]
fn beside_another_allocator() {
    let library = compile("neighbour.c", "libneighbour.so", &["-DLIBRARY", "-shared", "-fPIC", "-fno-builtin"]);
    let folder = library.parent().expect("its folder").display();
    let link = [library.display().to_string(), format!("-Wl,-rpath,{folder}")];
    let program = compile("neighbour.c", "neighbour", &link.each_ref().map(String::as_str));
    quietly_done(&program, &[]);
    // What is ours by the records alone is not.
    for mode in ["tracked", "hardened"] {
        for which in ["twice", "inside"] {
            let ended = run(preloaded(&program).arg(which).env("MILLPOND_MODE", mode), WATCHDOG, &[]);
            let is_told = ended.stderr.contains("free of 0x") && ended.stderr.contains("41943040 bytes, id ");
            assert!(ended.signal == Some(libc::SIGABRT) && is_told, "{mode} {which}: {ended:#?}");
        }
    }
}

/// What such a library's `new` with an alignment has from us is not given to its `delete` with a size, which would take it for its own.
#[test]
fn beside_another_allocator_with_operators() {
    let flags = ["-DLIBRARY", "-shared", "-fPIC", "-fno-builtin"];
    let library = compile("neighbour.cpp", "libneighbour_operators.so", &flags);
    let folder = library.parent().expect("its folder").display();
    let link = [library.display().to_string(), format!("-Wl,-rpath,{folder}")];
    let program = compile("neighbour.cpp", "neighbour_operators", &link.each_ref().map(String::as_str));
    quietly_done(&program, &[]);
}

/// The C++ runtime's operators are ours, and all that C++ says of them holds: handlers, exceptions, alignment.
#[test]
fn operators_of_cpp() {
    for (program, more) in [("operators", &[][..]), ("operators_static", &["-static-libstdc++", "-static-libgcc"][..])]
    {
        let program = compile("operators.cpp", program, more);
        for (mode, guard) in [("fast", None), ("tracked", None), ("hardened", None), ("hardened", Some("3"))] {
            let under = |what: &str, limits: &[(Resource, u64)]| {
                let mut command = preloaded(&program);
                command.arg(what).env("MILLPOND_MODE", mode).envs(guard.map(|guard| ("MILLPOND_GUARD", guard)));
                let ended = run(&mut command, WATCHDOG, limits).well(mode);
                assert!(ended.stdout == "done\n" && ended.stderr.is_empty(), "{mode}, {guard:?}: {ended:#?}");
            };
            under("all", &[]);
            under("limited", &[(libc::RLIMIT_AS, 400 * MIB)]);
        }
    }
}

/// A `delete` of another size than its `new` had is harmless where nothing is known of sizes, and named where it is; and what is told
/// of callers begins with who called the operator.
#[test]
fn operators_of_cpp_misused() {
    let program = compile("operators.cpp", "operators_misused", &["-fno-omit-frame-pointer"]);
    let mode = |what: &str, mode: &str| {
        let mut command = preloaded(&program);
        run(command.arg(what).envs([("MILLPOND_MODE", mode), ("MILLPOND_BACKTRACE", "4")]), WATCHDOG, &[])
    };
    assert_eq!(mode("wrong", "fast").well("fast").stdout, "survived\ndone\n");
    for records in ["tracked", "hardened"] {
        let ended = mode("wrong", records);
        assert!(ended.signal == Some(libc::SIGABRT) && ended.stdout.is_empty(), "{ended:#?}");
        assert!(ended.stderr.contains("with a size that is not its own, 8 bytes"), "{ended:#?}");
        let ended = mode("wrong_at_most", records);
        assert!(ended.signal == Some(libc::SIGABRT) && ended.stdout.is_empty(), "{ended:#?}");
        assert!(ended.stderr.contains("with a size that is not its own, "), "{ended:#?}");
        let mut command = preloaded(&program);
        command.arg("wrong").envs([("MILLPOND_MODE", records), ("MILLPOND_SIZES", "any")]);
        let ended = run(&mut command, WATCHDOG, &[]).well(records);
        assert!(ended.stdout == "survived\ndone\n" && ended.stderr.is_empty(), "{ended:#?}");
        let ended = mode("twice", records);
        let told = ["double free of 0x", "allocated from operators_misused+0x", "freed from operators_misused+0x"];
        let all = told.iter().all(|told| ended.stderr.contains(told));
        assert!(ended.signal == Some(libc::SIGABRT) && all, "{ended:#?}");
    }
}

/// Who has operators, or a `malloc`, of his own keeps them.
#[test]
fn operators_of_cpp_that_others_have() {
    let library = compile("operators_pool.cpp", "liboperators.so", &["-DLIBRARY", "-shared", "-fPIC", "-fno-builtin"]);
    let folder = library.parent().expect("its folder").display();
    let link = [library.display().to_string(), format!("-Wl,-rpath,{folder}")];
    let simple = ["-fno-builtin", "-Wno-sized-deallocation"];
    let programs = [
        compile("operators_replaced.cpp", "operators_replaced", &simple),
        compile(
            "operators_replaced.cpp",
            "operators_replaced_fixed",
            &[&simple[..], &["-no-pie", "-fno-pie"]].concat(),
        ),
        compile("operators_pool.cpp", "operators_pool", &link.each_ref().map(String::as_str)),
        compile("operators_pool.cpp", "operators_wrapped", &["-DWRAPPED", "-fno-builtin"]),
    ];
    for program in &programs {
        quietly_done(program, &[]);
    }
}

/// A library behind that has some operators, and not `new`, keeps those.
#[test]
fn operators_of_cpp_of_which_others_have_some() {
    for more in [&["-std=c++17"][..], &["-std=c++17", "-DALIGNED"]] {
        let name = |what: &str| format!("{what}{}", more.len());
        let library = name("liboperators_counted") + ".so";
        let flags = [more, &["-DLIBRARY", "-shared", "-fPIC", "-fno-builtin", "-Wno-sized-deallocation"]].concat();
        let library = compile("operators_counted.cpp", &library, &flags);
        let folder = library.parent().expect("its folder").display();
        let link = [library.display().to_string(), format!("-Wl,-rpath,{folder}")];
        let flags = [more, &link.each_ref().map(String::as_str)].concat();
        let program = compile("operators_counted.cpp", &name("operators_counted"), &flags);
        quietly_done(&program, &[]);
    }
}

/// The C++ runtime that a library brings along, or has inside, is found when it is needed: each library's own.
#[test]
fn operators_of_cpp_in_a_library_that_comes_later() {
    let library = compile("operators_later.cpp", "operators_later.so", &["-shared", "-fPIC"]);
    let inside = ["-shared", "-fPIC", "-static-libstdc++", "-static-libgcc"];
    let inside = compile("operators_later.cpp", "operators_later_inside.so", &inside);
    let program = compile("operators_later.c", "operators_later", &[]);
    for libraries in [&[&library][..], &[&inside], &[&library, &inside]] {
        for mode in ["fast", "tracked", "hardened"] {
            let mut command = preloaded(&program);
            command.args(libraries).env("MILLPOND_MODE", mode);
            let ended = run(&mut command, WATCHDOG, &[(libc::RLIMIT_AS, 600 * MIB)]).well(mode);
            assert!(ended.stdout == "done\n" && ended.stderr.is_empty(), "{mode}, {libraries:?}: {ended:#?}");
        }
    }
}

/// A program may have the simplest alone: all others come down to these.
#[test]
fn operators_of_cpp_of_which_a_program_has_the_simplest() {
    let link = link_shared();
    let flags = [&["-fno-builtin", "-rdynamic"], &link.each_ref().map(String::as_str)[..]].concat();
    let program = compile("operators_simple.c", "operators_simple", &flags);
    quietly_done(&program, &[]);
}

/// What a library that comes later has of its own is bound to ours, and all of it.
#[test]
fn operators_of_cpp_that_a_library_brings() {
    let flags = ["-DLIBRARY", "-shared", "-fPIC", "-fno-builtin", "-std=c++17"];
    let library = compile("operators_pool.cpp", "operators_plugin.so", &flags);
    let program = compile("operators_plugin.c", "operators_plugin", &[]);
    quietly_done(&program, &[&library]);
}

/// Looking for the operators in vain leaves no error of the loader's behind.
#[test]
fn operators_of_cpp_that_nobody_has() {
    let program = compile("operators_unsaid.c", "operators_unsaid", &["-fno-builtin", "-rdynamic"]);
    let ended = run(&mut preloaded(&program), WATCHDOG, &[]).well("unsaid");
    assert!(ended.stdout == "done\n" && ended.stderr.is_empty(), "{ended:#?}");
}

/// Who is told that there is no memory does not wait for another thread that loads a library.
#[test]
fn operators_of_cpp_while_a_library_is_loaded() {
    let library = compile("operators_waits.cpp", "operators_waits.so", &["-shared", "-fPIC", "-std=c++17"]);
    let program = compile("operators_plugin.c", "operators_plugin_waits", &[]);
    quietly_done(&program, &[&library]);
}
