//! The C library: what it exports, what its functions do, what their fast paths cost, and that a C program and a Rust
//! program get there by the README's lines.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(millpond_forward), not(millpond_portable_tls)))]

mod instructions;
mod library;

use instructions::{CALLS, Way, disassembly, has_valgrind, listing, profile, walk};
use library::{
    Ended, archive, build, compile, compile_file, link_shared, preloaded, root, run, shared, succeeds, workbench,
};
use std::collections::BTreeSet;
use std::process::Command;

const WATCHDOG: u32 = 240;

/// The family, whole: with one missing, memory from one allocator would be freed by another.
const FAMILY: &str = "malloc calloc realloc reallocarray free cfree aligned_alloc posix_memalign memalign valloc pvalloc \
    malloc_usable_size malloc_trim mallinfo mallinfo2 malloc_stats malloc_info mallopt free_sized free_aligned_sized";
/// What glibc exports of it under names of its own.
const OF_GLIBC: &str = "__libc_malloc __libc_calloc __libc_realloc __libc_reallocarray __libc_free __libc_cfree \
    __libc_memalign __libc_valloc __libc_pvalloc __posix_memalign __libc_mallinfo __libc_mallopt";
/// C++'s `new`, `new[]`, `delete` and `delete[]`, the latter also with a size.
const OPERATORS: &str = "_Znwm _Znam _ZdlPv _ZdaPv _ZdlPvm _ZdaPvm";

/// The other forms of these, in C++17.
const MORE_OPERATORS: &str = "_ZnwmRKSt9nothrow_t _ZnamRKSt9nothrow_t _ZnwmSt11align_val_t _ZnamSt11align_val_t \
    _ZnwmSt11align_val_tRKSt9nothrow_t _ZnamSt11align_val_tRKSt9nothrow_t _ZdlPvRKSt9nothrow_t _ZdaPvRKSt9nothrow_t \
    _ZdlPvSt11align_val_t _ZdaPvSt11align_val_t _ZdlPvmSt11align_val_t _ZdaPvmSt11align_val_t \
    _ZdlPvSt11align_val_tRKSt9nothrow_t _ZdaPvSt11align_val_tRKSt9nothrow_t";

fn arguments(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// The names that a header declares as functions.
fn declared(header: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("include").join(header)).expect("the header");
    let code: String = text.split("/*").map(|part| part.split_once("*/").map_or(part, |(_, code)| code)).collect();
    let names = code.split('(').filter_map(|part| part.rsplit(|c: char| !(c.is_alphanumeric() || c == '_')).next());
    names.filter(|name| name.starts_with("mp_") || name.starts_with("fast_")).map(str::to_owned).collect()
}

#[test]
fn all_names_are_there_and_no_others() {
    let symbols = succeeds(Command::new("nm").args(["--dynamic", "--defined-only"]).arg(shared())).stdout;
    let found: BTreeSet<String> =
        symbols.lines().filter_map(|line| line.split_whitespace().nth(2)).map(str::to_owned).collect();
    let mut expected: BTreeSet<String> =
        FAMILY.split_whitespace().chain(OF_GLIBC.split_whitespace()).map(str::to_owned).collect();
    // So that what it loads has the family as well.
    expected.insert("dlopen".to_owned());
    expected.extend(OPERATORS.split_whitespace().chain(MORE_OPERATORS.split_whitespace()).map(str::to_owned));
    for header in ["millpond.h", "fast_allocator.h", "allocator.h"] {
        let names = declared(header);
        assert!(names.len() >= 5, "{header}: {names:?}");
        expected.extend(names);
    }
    // The prefixed ones are of the family too, but for cfree, which is obsolete.
    for name in FAMILY.split_whitespace().filter(|name| *name != "cfree") {
        assert!(expected.contains(&format!("mp_{name}")), "mp_{name} is not declared");
    }
    assert_eq!(found, expected);
}

#[test]
fn needs_libc_alone_and_is_never_unloaded() {
    let dynamic = succeeds(Command::new("readelf").args(["--dynamic", "--wide"]).arg(shared())).stdout;
    let needed: Vec<&str> = dynamic.lines().filter(|line| line.contains("(NEEDED)")).collect();
    assert!(needed.len() == 1 && needed[0].contains("[libc.so.6]"), "{dynamic}");
    assert!(dynamic.contains("NODELETE") && dynamic.contains("STATIC_TLS") && dynamic.contains("NOW"), "{dynamic}");
    // What other libcs have not must not keep a program from being loaded.
    let names = succeeds(Command::new("nm").args(["--dynamic", "--undefined-only"]).arg(shared())).stdout;
    let of_glibc: Vec<&str> = names.lines().filter(|line| line.contains("U __register_atfork")).collect();
    assert!(
        of_glibc.is_empty() && names.contains("w __register_atfork") && names.contains("w pthread_atfork"),
        "{names}"
    );
}

/// Under libc's names and the prefixed ones, against the shared library, preloaded, and the static one.
#[test]
fn the_family_to_the_letter() {
    let shared_link = link_shared();
    for prefix in [&[][..], &["-DPREFIXED"]] {
        let linked =
            compile("semantics.c", &format!("semantics{}", prefix.len()), &[prefix, &arguments(&shared_link)].concat());
        let archive = archive().to_str().expect("UTF-8");
        let whole = compile(
            "semantics.c",
            &format!("semantics{}_a", prefix.len()),
            &[prefix, &[archive, "-rdynamic"]].concat(),
        );
        for mut command in [Command::new(&linked), preloaded(&linked), Command::new(&whole)] {
            for mode in ["fast", "tracked", "hardened"] {
                let ended = run(command.env("MILLPOND_MODE", mode), WATCHDOG, &[]).well("semantics");
                assert_eq!(ended.stdout, "done\n", "{command:?}");
            }
        }
    }
}

/// Beside another malloc: the archive has the prefixed names alone.
#[test]
fn the_prefixed_names_stand_alone() {
    let archive = build("prefixed", "prefixed/libmillpond.a");
    let symbols = succeeds(Command::new("nm").args(["--defined-only", "--extern-only"]).arg(&archive)).stdout;
    let defined = |name: &str| symbols.lines().any(|line| line.ends_with(&format!(" T {name}")));
    assert!(defined("mp_malloc") && defined("mp_free"));
    let of_libc: Vec<&str> = FAMILY.split_whitespace().filter(|name| defined(name)).collect();
    assert!(of_libc.is_empty(), "{of_libc:?}");
    let program = compile("prefixed.c", "prefixed", &[archive.to_str().expect("UTF-8")]);
    assert_eq!(succeeds(&mut Command::new(program)).stdout, "done\n");
}

/// With all that the archives have, as some linkers take what they may: Rust's own parts in them are whole without std.
#[test]
fn whole_archives_are_linked() {
    for (name, archive) in [("semantics", archive()), ("prefixed", &build("prefixed", "prefixed/libmillpond.a"))] {
        let whole = ["-Wl,--whole-archive", archive.to_str().expect("UTF-8"), "-Wl,--no-whole-archive", "-rdynamic"];
        let program = compile(&format!("{name}.c"), &format!("whole_{name}"), &whole);
        assert_eq!(succeeds(&mut Command::new(program)).stdout, "done\n");
    }
}

/// Inside two shared libraries that export all names: functions are bound within each, what else has one name is shared.
#[test]
fn two_builds_keep_apart() {
    let library = |name: &str, archive: &std::path::Path| {
        let made = compile(
            "builds.c",
            &format!("{name}.so"),
            &[
                &format!("-DLIBRARY={name}"),
                "-shared",
                "-fPIC",
                "-Wl,-Bsymbolic-functions",
                archive.to_str().expect("UTF-8"),
            ],
        );
        made.to_str().expect("UTF-8").to_owned()
    };
    let first = library("first", archive());
    let second = library("second", &build("prefixed", "prefixed/libmillpond.a"));
    let program = compile("builds.c", "builds", &[&first, &second]);
    assert_eq!(run(&mut Command::new(program), WATCHDOG, &[]).well("two builds").stdout, "done\n");
}

#[test]
fn headers_compile_alone() {
    for header in ["millpond.h", "fast_allocator.h", "allocator.h", "improved_allocator.h"] {
        for compiler in [&["cc", "-xc", "-std=c11"][..], &["cc", "-xc", "-std=c2x"], &["c++", "-xc++", "-std=c++11"]] {
            succeeds(
                Command::new(compiler[0])
                    .args(&compiler[1..])
                    .args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"])
                    .arg(root().join("include").join(header)),
            );
        }
    }
}

/// The budget of the fast path as the library ships it: executed by a program, if there is valgrind, and as laid out.
#[test]
fn fast_path_keeps_its_budget() {
    const SIZES: [usize; 10] = [1, 8, 24, 64, 129, 200, 1000, 5000, 40_000, 256 * 1024];
    let limit = |name: &str| match name {
        "malloc" => 24,
        "free" | "free_sized" => 25,
        // Three more, to see whether the operators are this library's.
        name if name.starts_with("_Zn") => 25,
        _ => 28,
    };
    let listing = listing(shared());
    let symbols = succeeds(Command::new("nm").arg("--dynamic").arg(shared())).stdout;
    let start = |function: &str| {
        let line = symbols.lines().find(|line| line.ends_with(&format!(" T {function}"))).expect("it is exported");
        u64::from_str_radix(line.split(' ').next().expect("an address"), 16).expect("a number")
    };
    let count = || {
        let mut ways: Vec<Way> = ["malloc", "free", "free_sized"]
            .map(|name| Way {
                name: format!("{name} as laid out"),
                limit: limit(name),
                instructions: walk(&listing, start(name)),
            })
            .into();
        ways.extend(OPERATORS.split(' ').map(|name| Way {
            name: format!("{name} as laid out"),
            limit: limit(name),
            instructions: walk(&listing, start(name)),
        }));
        if !has_valgrind() {
            return ways;
        }
        let program = compile("instructions.c", "instructions", &arguments(&link_shared()));
        // Each has several names, of which the profiler takes one.
        for (what, function) in [("malloc", "*malloc"), ("free", "*free")] {
            let phases = profile(&program, shared(), SIZES.len(), function, &disassembly(&listing));
            ways.extend(SIZES.iter().zip(phases).map(|(size, instructions)| Way {
                name: format!("{what} of {size}, executed"),
                limit: limit(what),
                instructions,
            }));
        }
        ways
    };
    let faults = |ways: &[Way]| -> Vec<String> { ways.iter().filter_map(Way::fault).collect() };
    // Upkeep is no fast path: where the clock has moved amid a count, it is counted again, and each way's best count holds.
    let mut ways = count();
    for _ in 0..5 {
        if faults(&ways).is_empty() {
            break;
        }
        for (way, again) in ways.iter_mut().zip(count()) {
            if again.per_call() < way.per_call() {
                *way = again;
            }
        }
    }
    for way in &ways {
        println!("{:30} {:6.2} instructions, at most {}", way.name, way.per_call(), way.limit);
        assert!(way.instructions.iter().map(|one| one.count).sum::<u64>() >= 10 * CALLS, "{}: not counted", way.name);
    }
    let faults = faults(&ways);
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    assert!(!listing.contains("__tls_get_addr"), "thread-local storage costs a call");
}

/// Our own program and, where they are at hand, those of the texts that use `header`'s interface: a C program that includes
/// another allocator's file needs another line there, and nothing else.
fn first_programs(name: &str, header: &str) -> Vec<Ended> {
    let link = link_shared();
    let mut programs = vec![compile(&format!("{name}.c"), name, &arguments(&link))];
    let folder = root().join("../shared/seeds");
    match std::fs::read_dir(&folder) {
        Ok(files) => {
            let texts = files.filter_map(|file| std::fs::read_to_string(file.expect("a file").path()).ok());
            let examples: Vec<String> = texts.filter_map(|text| example(&text, header)).collect();
            assert!(!examples.is_empty(), "no text in {} uses {header}.h", folder.display());
            programs.extend(examples.iter().enumerate().map(|(nth, example)| {
                let source = workbench().join(format!("{name}_{nth}.c"));
                std::fs::write(&source, example).expect("a file");
                // Warnings of theirs are not ours to mend.
                let options = [&arguments(&link)[..], &["-Wno-error"]].concat();
                compile_file(&source, &format!("{name}_{nth}"), &options)
            }));
        }
        Err(_) => println!("no {}: our own program alone", folder.display()),
    }
    programs.iter().map(|program| succeeds(&mut Command::new(program))).collect()
}

/// The first C program of a text that includes a file of this name, or one that begins so, with our header.
fn example(text: &str, header: &str) -> Option<String> {
    let (_, from) = text.split_once(&format!("#include \"{header}"))?;
    let (_, body) = from.split_once('\n')?;
    let (program, _) = body.split_once("```")?;
    program.contains("int main").then(|| format!("#include \"{header}.h\"\n{program}"))
}

#[test]
fn a_first_program_reports_what_it_did() {
    for ended in first_programs("learn", "fast_allocator") {
        for row in ["Allocations                         2", "Deallocations                       2", "4352"] {
            assert!(ended.stdout.contains(row), "{}", ended.stdout);
        }
        let pools: Vec<&str> =
            ended.stdout.lines().filter(|line| line.ends_with(" us") && line.contains(" B ")).collect();
        assert!(pools.len() == 2 && pools[0].contains("256 B") && pools[1].contains("4096 B"), "{}", ended.stdout);
    }
}

/// Of memory that goes in by one interface and out by the other, calls are counted, and what is in use is what is in use.
#[test]
fn memory_of_malloc_may_be_freed_by_the_small_interface() {
    let link = link_shared();
    let ended = succeeds(&mut Command::new(compile("learn_mixed.c", "learn_mixed", &arguments(&link))));
    for row in ["Allocations                         1", "Deallocations                       1"] {
        assert!(ended.stdout.contains(row), "{}", ended.stdout);
    }
    let row = ended.stdout.lines().find(|line| line.contains(" 40960 B ")).expect("its pool");
    assert!(!row.contains(" 0.0 %"), "{}", ended.stdout);
}

#[test]
fn a_first_program_is_told_ids_and_bits() {
    for ended in first_programs("learn_ids", "improved_allocator") {
        for row in ["Stored: ", "Allocation ID: 1", "Bit 42: 1", "= committed", "      64            1          1"] {
            assert!(ended.stdout.contains(row), "{row}: {}", ended.stdout);
        }
        assert_eq!(ended.stderr, "");
    }
}

/// A heap for C: its capacity, IDs, bits and report; and a double free in it, which is named.
#[test]
fn a_heap_for_c_keeps_its_word() {
    let link = link_shared();
    let program = compile("allocator.c", "allocator", &arguments(&link));
    let ended = succeeds(&mut Command::new(&program));
    for row in ["thread cache hits", "all is well"] {
        assert!(ended.stdout.contains(row), "{}", ended.stdout);
    }
    let misused = Command::new(&program).arg("twice").output().expect("it runs");
    let stderr = String::from_utf8_lossy(&misused.stderr);
    assert!(
        !misused.status.success() && stderr.contains("double free of 0x") && stderr.contains("64 bytes, id "),
        "{stderr}"
    );
}

/// Its mode is the one that it has chosen, though libc allocates first, unless the environment names another.
#[test]
fn a_rust_program_that_has_it_as_malloc_chooses_its_mode() {
    let probe = |word: &str, variables: &[(&str, &str)]| {
        let arguments =
            ["run", "--release", "--quiet", "--package", "millpond-malloc-probe", "--bin", "in_a_mode", "--"];
        let mut command = Command::new(env!("CARGO"));
        command.args(arguments).arg(word).envs(variables.iter().copied()).current_dir(root());
        let output = command.output().expect("cargo runs");
        (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (stdout, stderr) = probe("", &[]);
    assert!(stdout == "done\n" && stderr.is_empty(), "{stdout}\n{stderr}");
    for how in ["rust", "c"] {
        let (stdout, stderr) = probe(how, &[]);
        assert!(stdout.is_empty() && stderr.contains("double free of 0x"), "{how}: {stdout}\n{stderr}");
    }
    // Wrong values are told once.
    let (stdout, stderr) = probe("", &[("MILLPOND_MODE", "fast"), ("MILLPOND_THP", "x")]);
    assert_eq!(
        (stdout.as_str(), stderr.matches("MILLPOND_THP=x is not").count()),
        ("Fast, 0 callers\n", 1),
        "{stderr}"
    );
    let (stdout, stderr) = probe("", &[("MILLPOND_THPS", "x")]);
    assert_eq!((stdout.as_str(), stderr.matches("MILLPOND_THPS is not known").count()), ("done\n", 1), "{stderr}");
}

#[test]
fn a_rust_program_has_it_as_malloc() {
    let ended = succeeds(
        Command::new(env!("CARGO"))
            .args(["run", "--release", "--quiet", "--package", "millpond-malloc-probe"])
            .current_dir(root()),
    );
    assert!(ended.stdout.starts_with("done"), "{ended:#?}");
}
