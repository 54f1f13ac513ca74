//! Real programs under `LD_PRELOAD`: what each of them says must be what it says under malloc. `-- --nocapture` shows
//! processor time and peak memory side by side; `ROUNDS=20` before the command makes so many pairs of runs of each, one
//! under the one and one under the other in turn, and shows medians with the 95 % interval of the ratio.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(millpond_forward), not(millpond_portable_tls)))]

mod library;

use library::{Ended, compile, root, run, shared, succeeds, workbench};
use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

const WATCHDOG: u32 = 600;

/// One program at a time: their time and memory are shown.
static ALONE: Mutex<()> = Mutex::new(());

/// The allocator that a program runs on: malloc is glibc's, also where a program is linked with another.
#[derive(Clone, Copy, Debug, PartialEq)]
enum On {
    Malloc,
    Millpond,
}

impl On {
    fn command(self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").env(
            "LD_PRELOAD",
            match self {
                Self::Malloc => Path::new("libc.so.6"),
                Self::Millpond => shared(),
            },
        );
        command
    }
}

/// What a run said, and what it cost.
struct Run {
    said: String,
    seconds: f64,
    peak: i64,
}

impl Run {
    fn of(ended: Ended, said: impl Into<String>) -> Self {
        Self { said: said.into(), seconds: ended.seconds, peak: ended.peak }
    }
}

fn rounds() -> usize {
    std::env::var("ROUNDS").map_or(1, |text| text.parse().expect("ROUNDS is a number"))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs a program on both allocators in turn, compares what it says, and shows what it costs.
fn compare(name: &str, mut once: impl FnMut(On, &Path) -> Run) {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let folder = workbench().join(name);
    let (mut ratios, mut costs) = (Vec::new(), [(); 2].map(|()| (Vec::new(), Vec::new())));
    for round in 0..rounds() {
        let order = if round % 2 == 0 { [On::Malloc, On::Millpond] } else { [On::Millpond, On::Malloc] };
        let mut runs: Vec<(On, Run)> = order
            .map(|on| {
                let _ = std::fs::remove_dir_all(&folder); // An earlier run's.
                std::fs::create_dir_all(&folder).expect("a folder");
                (on, once(on, &folder))
            })
            .into();
        if runs[0].0 == On::Millpond {
            runs.reverse();
        }
        assert!(!runs[0].1.said.is_empty(), "{name} says nothing");
        assert_eq!(runs[0].1.said, runs[1].1.said, "{name}: on malloc, and on Millpond");
        ratios.push(runs[1].1.seconds / runs[0].1.seconds.max(1e-3));
        for ((seconds, peaks), (_, run)) in costs.iter_mut().zip(runs) {
            seconds.push(run.seconds);
            peaks.push(run.peak as f64 / 1024.0);
        }
    }
    let [malloc, millpond] = costs.map(|(seconds, peaks)| (median(seconds), median(peaks)));
    // By the normal approximation, on logarithms.
    let logs: Vec<f64> = ratios.iter().map(|ratio| ratio.ln()).collect();
    let mean = logs.iter().sum::<f64>() / logs.len() as f64;
    let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (logs.len().max(2) - 1) as f64;
    let half = 1.96 * (variance / logs.len() as f64).sqrt();
    let interval = if logs.len() > 1 {
        format!(" [{:.3}, {:.3}]", (mean - half).exp(), (mean + half).exp())
    } else {
        String::new()
    };
    println!(
        "{name:10} malloc {:8.2} s {:8.1} MiB   Millpond {:8.2} s {:8.1} MiB   time {:.3}{interval}   memory {:.2}",
        malloc.0,
        malloc.1,
        millpond.0,
        millpond.1,
        mean.exp(),
        millpond.1 / malloc.1,
    );
    // Far above what it is: a leak would show.
    assert!(millpond.1 < malloc.1 * 1.5 + 32.0, "{name}: {} MiB, under malloc {}", millpond.1, malloc.1);
}

fn well(command: &mut Command) -> Ended {
    let what = format!("{command:?}");
    run(command, WATCHDOG, &[]).well(&what)
}

/// Modules of Python's own test suite.
const MODULES: &str = "test_threading test_thread test_gc test_fork1 test_weakref test_list test_dict test_tuple \
    test_heapq test_string test_struct test_memoryview test_generators test_coroutines \
    test_contextlib test_functools test_collections test_copy test_sched test_mmap \
    test_class test_enum test_dataclasses test_csv test_bool test_int test_float test_complex test_range test_slice \
    test_iter test_scope test_super test_property test_bisect test_base64 test_binascii test_textwrap test_shlex \
    test_glob test_configparser test_fstring test_zlib test_bytes";

#[test]
fn python() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let known = well(On::Malloc.command("python3").args(["-c", "import test; print(test.__path__[0])"])).stdout;
    let folder = PathBuf::from(known.trim());
    let modules: Vec<&str> = MODULES
        .split_whitespace()
        .filter(|name| folder.join(name).exists() || folder.join(format!("{name}.py")).exists())
        .collect();
    assert!(modules.len() >= 40, "Python's test suite has only {modules:?} of what is asked for");
    let results = |on: On, modules: &[&str]| {
        let place = workbench().join(format!("python {on:?}"));
        std::fs::create_dir_all(&place).expect("a folder");
        let mut command = on.command("python3");
        command.args(["-m", "test", "-v", "-j2"]).args(modules).env("PYTHONMALLOC", "malloc").current_dir(place);
        let ended = run(&mut command, WATCHDOG, &[]);
        // Each test's own line, `test_name (where) ... ok`.
        let lines = ended.stdout.lines().chain(ended.stderr.lines());
        let outcomes: BTreeMap<String, String> = lines
            .filter_map(|line| line.split_once(" ... "))
            .filter(|(name, _)| name.starts_with("test") && name.contains('('))
            .map(|(name, outcome)| {
                let word = ["ok", "skipped", "FAIL", "ERROR", "expected failure"];
                let outcome = word.into_iter().find(|word| outcome.contains(word)).unwrap_or("?");
                (name.to_owned(), outcome.to_owned())
            })
            .collect();
        (ended, outcomes)
    };
    let differences = |modules: &[&str]| {
        let ((one, malloc), (other, millpond)) = (results(On::Malloc, modules), results(On::Millpond, modules));
        let mut differ: Vec<String> = malloc
            .iter()
            .filter(|(name, outcome)| millpond.get(*name) != Some(outcome))
            .map(|(name, outcome)| format!("{name}: {outcome}, on Millpond {:?}", millpond.get(name)))
            .collect();
        differ.extend(millpond.keys().filter(|name| !malloc.contains_key(*name)).cloned());
        (malloc.len(), differ, one, other)
    };
    let (count, mut differ, malloc, millpond) = differences(&modules);
    assert!(count > 2000, "only {count} tests have run: {}", malloc.stdout);
    if !differ.is_empty() {
        // Some of Python's tests fail by themselves where the machine is busy: what differs must do so twice.
        let again: Vec<&str> =
            modules.iter().copied().filter(|name| differ.iter().any(|line| line.contains(name))).collect();
        println!("once more: {again:?}, for {differ:?}");
        let second = differences(if again.is_empty() { &modules } else { &again }).1;
        differ.retain(|line| second.contains(line));
    }
    assert!(differ.is_empty(), "{} of {count} tests end otherwise: {differ:#?}", differ.len());
    println!(
        "python     malloc {:8.2} s {:8.1} MiB   Millpond {:8.2} s {:8.1} MiB   {count} tests of {} modules end the same",
        malloc.seconds,
        malloc.peak as f64 / 1024.0,
        millpond.seconds,
        millpond.peak as f64 / 1024.0,
        modules.len(),
    );
}

#[test]
fn redis() {
    compare("redis", |on, folder| {
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port().to_string();
        let mut server = on.command("redis-server");
        server.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no"]);
        server.args(["--dir"]).arg(folder);
        let port_of_client = port.clone();
        let client = std::thread::spawn(move || {
            while TcpStream::connect(format!("127.0.0.1:{port_of_client}")).is_err() {
                std::thread::yield_now();
            }
            let tool =
                |name: &str, more: &[&str]| well(Command::new(name).args(["-p", &port_of_client]).args(more)).stdout;
            let load = tool("redis-benchmark", &["-q", "-n", "5000", "-d", "200", "-r", "5000", "-c", "20"]);
            let script = "for i = 1, 50000 do redis.call('set', 'key' .. i, string.rep('x', i % 500)) end return 'set'";
            let set = tool("redis-cli", &["eval", script, "0"]);
            let sum = "local n = 0 for i = 1, 50000 do n = n + redis.call('strlen', 'key' .. i) end return n";
            let sum = tool("redis-cli", &["eval", sum, "0"]);
            let kinds: String = load.lines().filter_map(|line| line.trim().split(':').next()).collect();
            let _ = run(Command::new("redis-cli").args(["-p", &port_of_client, "shutdown", "nosave"]), WATCHDOG, &[]);
            assert!(!kinds.is_empty());
            format!("{set}{sum}")
        });
        let ended = well(&mut server);
        Run::of(ended, client.join().expect("the client's work"))
    });
}

#[test]
fn sqlite() {
    compare("sqlite", |on, folder| {
        let script = "create table t(id integer primary key, name text, part int, body blob);
            with recursive n(i) as (select 1 union all select i + 1 from n where i < 150000)
              insert into t select i, 'name ' || (i * 7919 % 150000), i % 97, zeroblob(i % 300) from n;
            create index by_name on t(name); create index by_part on t(part, name);
            update t set name = name || ' again' where part < 20; delete from t where part = 50;
            select part, count(*), sum(length(body)), min(name) from t group by part order by 3 desc, 1 limit 20;
            select count(distinct a.name) from t a join t b on a.name = b.name;
            pragma integrity_check; vacuum; pragma integrity_check;";
        let ended = well(on.command("sqlite3").arg(folder.join("data.db")).arg(script));
        let said = ended.stdout.clone();
        assert!(said.ends_with("ok\nok\n"), "{said}");
        Run::of(ended, said)
    });
}

#[test]
fn gcc() {
    compare("gcc", |on, folder| {
        let source: String = (0..500)
            .map(|at| {
                format!(
                    "struct s{at} {{ int a, b[{at} % 7 + 1]; }};\nint f{at}(struct s{at} *s, int n) {{ int sum = 0; for (int i \
                     = 0; i < n; i++) {{ sum += s->b[i % ({at} % 7 + 1)] * i + s->a; if (sum > {at}) sum -= n; }} return sum; }}\n"
                )
            })
            .collect();
        let (file, object) = (folder.join("big.c"), folder.join("big.o"));
        std::fs::write(&file, source).expect("a file");
        let ended = well(on.command("gcc").args(["-O2", "-c", "-o"]).arg(&object).arg(&file));
        Run::of(ended, checksum(&object))
    });
}

#[test]
fn node() {
    compare("node", |on, _| {
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
        let file = workbench().join("workers.js");
        std::fs::write(&file, script).expect("a file");
        let ended = well(on.command("node").arg(file));
        let said = ended.stdout.clone();
        Run::of(ended, said)
    });
}

#[test]
fn git() {
    compare("git", |on, folder| {
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
        let ended = well(&mut command);
        let said = ended.stdout.clone();
        Run::of(ended, said)
    });
}

#[test]
fn cpp() {
    let program = compile("threads.cpp", "threads_cpp", &[]);
    compare("c++", |on, _| {
        let ended = well(&mut on.command(program.to_str().expect("UTF-8")));
        let said = ended.stdout.clone();
        Run::of(ended, said)
    });
}

/// Cargo and what it runs. (The compiler as it is distributed has an allocator linked in; the linker and cargo have not.)
#[test]
fn rust() {
    compare("rust", |on, folder| {
        let mut command = on.command(env!("CARGO"));
        command.args([
            "build",
            "--quiet",
            "--release",
            "--offline",
            "--package",
            "millpond-fastpath-probe",
            "--target-dir",
        ]);
        let ended = well(command.arg(folder).current_dir(root()));
        Run::of(ended, checksum(&folder.join("release/millpond-fastpath-probe")))
    });
}

fn checksum(file: &Path) -> String {
    succeeds(Command::new("cksum").arg(file)).stdout
}
