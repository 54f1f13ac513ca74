//! Compilers, a script with worker threads, a version control system, and a multithreaded program in C++.

use super::{On, Run, measured_well};
use crate::library::{compile, succeeds};
use std::path::Path;
use std::process::Command;

/// Compiles 300 functions.
pub fn gcc(on: On, folder: &Path) -> Run {
    let source: String = (0..300)
        .map(|at| {
            format!(
                "struct s{at} {{ int a, b[{at} % 7 + 1]; }};\nint f{at}(struct s{at} *s, int n) {{ int sum = 0; for (int i \
                 = 0; i < n; i++) {{ sum += s->b[i % ({at} % 7 + 1)] * i + s->a; if (sum > {at}) sum -= n; }} return sum; }}\n"
            )
        })
        .collect();
    let (file, object) = (folder.join("big.c"), folder.join("big.o"));
    std::fs::write(&file, source).expect("a file");
    let ended = measured_well(on.command("gcc").args(["-O2", "-c", "-o"]).arg(&object).arg(&file));
    Run::of(ended, checksum(&object))
}

/// Six worker threads with maps and buffers.
pub fn node(on: On, folder: &Path) -> Run {
    let script = "const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
        if (isMainThread) {
          const all = [];
          for (let i = 0; i < 6; i++) all.push(new Promise((good, bad) => {
            const w = new Worker(__filename, { workerData: i }); w.on('message', good); w.on('error', bad); }));
          Promise.all(all).then(sums => console.log(sums.join(' ')));
        } else {
          let sum = 0, map = new Map(), buffers = [];
          for (let i = 0; i < 60000; i++) {
            map.set('key ' + (i * 7919 % 20000), { at: i, text: 'x'.repeat(i % 50) });
            if (i % 50 == 0) { buffers.push(Buffer.alloc(i % 5000, i % 256)); if (buffers.length > 100) buffers.shift(); }
          }
          for (const [k, v] of map) sum = (sum * 31 + v.at + v.text.length) % 1000000007;
          for (const b of buffers) sum = (sum + b.reduce((a, c) => a + c, 0)) % 1000000007;
          parentPort.postMessage(sum + workerData);
        }";
    let file = folder.join("workers.js");
    std::fs::write(&file, script).expect("a file");
    let ended = measured_well(on.command("node").arg(file));
    let said = ended.stdout.clone();
    Run::of(ended, said)
}

/// Commits 600 files, packs them, and looks at what there is.
pub fn git(on: On, folder: &Path) -> Run {
    for at in 0..600 {
        let place = folder.join(format!("folder {}", at % 20));
        std::fs::create_dir_all(&place).expect("a folder");
        let text: String = (0..200).map(|line| format!("line {} of {at}\n", line * at % 77)).collect();
        std::fs::write(place.join(format!("file {at}")), text).expect("a file");
    }
    let script = "set -e; git init -q; git add .; git commit -qm all; for i in 1 2 3 4 5; do echo $i >> 'folder 1/file 1'; \
        git commit -qam more; done; git gc -q --aggressive; git fsck --full; git log --format=%H; git diff HEAD~3 | cksum; \
        git blame 'folder 1/file 1' | cksum";
    let mut command = on.command("sh");
    command.args(["-c", script]).current_dir(folder).env("HOME", folder).env("GIT_CONFIG_NOSYSTEM", "1");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "a").env(format!("GIT_{who}_EMAIL"), "a@b");
        command.env(format!("GIT_{who}_DATE"), "2020-01-01T00:00:00Z");
    }
    let ended = measured_well(&command);
    let said = ended.stdout.clone();
    Run::of(ended, said)
}

/// Strings, maps and vectors that pass from thread to thread.
pub fn cpp(on: On, _: &Path) -> Run {
    let program = compile("threads.cpp", "threads_cpp", &[]);
    let ended = measured_well(&on.command(program.to_str().expect("UTF-8")));
    let said = ended.stdout.clone();
    Run::of(ended, said)
}

/// Cargo building a crate. (The compiler as it is distributed has an allocator linked in; cargo and the linker have not.)
pub fn rust(on: On, folder: &Path) -> Run {
    let types: String = (0..60)
        .map(|at| {
            format!(
                "#[derive(Clone, Debug, Default, PartialEq)]\npub struct S{at} {{ pub a: u{}, pub b: Vec<String>, pub c: \
                 BTreeMap<String, Vec<u32>> }}\npub fn f{at}(s: &mut S{at}, n: u32) -> String {{ for i in 0..n {{ \
                 s.b.push(format!(\"{{i}}-{at}\")); s.c.entry(format!(\"{{}}\", i % 7)).or_default().push(i); }} \
                 s.b.sort(); format!(\"{{:?}}\", s.clone()).replace('{}', \"\") }}\n",
                8 << (at % 4),
                at % 10,
            )
        })
        .collect();
    let calls: String = (0..60).map(|at| format!("sum += f{at}(&mut S{at}::default(), {at}).len();\n")).collect();
    let program = format!(
        "use std::collections::BTreeMap;\n{types}fn main() {{ let mut sum = 0;\n{calls}println!(\"{{sum}}\"); }}\n"
    );
    let manifest = "[package]\nname = \"crate-to-build\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[workspace]\n";
    std::fs::create_dir_all(folder.join("src")).expect("a folder");
    std::fs::write(folder.join("Cargo.toml"), manifest).expect("a file");
    std::fs::write(folder.join("src/main.rs"), program).expect("a file");
    let mut command = on.command(env!("CARGO"));
    command.args(["build", "--quiet", "--offline", "--target-dir"]).arg(folder.join("target")).current_dir(folder);
    let ended = measured_well(&command);
    Run::of(ended, checksum(&folder.join("target/debug/crate-to-build")))
}

fn checksum(file: &Path) -> String {
    succeeds(Command::new("cksum").arg(file)).stdout
}
