//! What the modes cost: an allocation and its free in a heap of one's own; and whole programs, user CPU time in each over that in
//! the mode `fast`, under `LD_PRELOAD`.
//!
//! ```text
//! cargo bench --bench modes               all, about a minute
//! cargo bench --bench modes -- perl 15    programs whose names have that in them, in so many rounds
//! cargo bench --bench modes -- pair       an allocation and its free alone
//! ```
//!
//! Rounds are interleaved: in each, a program runs once in each mode, and what is printed are the medians of the ratios of a
//! round. What this machine has not is left out.

#[allow(dead_code, reason = "the median alone is used")]
mod figures;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use figures::median;
use millpond::{Heap, Mode};
use std::alloc::Layout;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Many objects that live for as long as a document, in Python: with `PYTHONMALLOC=malloc` each is an allocation.
const PYTHON: &str = "
import json
for _ in range(ROUNDS):
    table = {str(i): [i, str(i * 7), (i, i + 1), {'a': i}] for i in range(OBJECTS)}
    assert json.loads(json.dumps(table))['1'][1] == '7'
";
const PERL: &str = "for my $round (1 .. 6) { my @strings; push @strings, \"string number $_ of them\" for 1 .. 300_000; \
                    my %seen; $seen{$_} = 1 for @strings[0 .. 20_000]; }";
const SQLITE: &str = "create table t (a integer primary key, b text, c real);
    with recursive n(x) as (select 1 union all select x + 1 from n where x < 200000)
        insert into t select x, 'row number ' || x, x * 1.5 from n;
    create index i on t (b);
    select count(*), sum(c), max(b) from t where b like '%7%';";

const MODES: [&str; 3] = ["fast", "tracked", "hardened"];

/// A program: its name, what is run, and what else it finds in its environment.
struct Program {
    name: &'static str,
    arguments: Vec<String>,
    variables: &'static [(&'static str, &'static str)],
}

fn programs() -> Vec<Program> {
    let python = |rounds: usize, objects: usize| {
        let text = PYTHON.replace("ROUNDS", &rounds.to_string()).replace("OBJECTS", &objects.to_string());
        ["/usr/bin/python3", "-c", &text].map(String::from).to_vec()
    };
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/c/semantics.c");
    let include = concat!("-I", env!("CARGO_MANIFEST_DIR"), "/include");
    let each = |name, arguments: &[&str]| Program {
        name,
        arguments: arguments.iter().map(|word| String::from(*word)).collect(),
        variables: &[],
    };
    let malloc = &[("PYTHONMALLOC", "malloc")];
    vec![
        Program { name: "python", arguments: python(3, 30_000), variables: &[] },
        Program { name: "python, an object an allocation", arguments: python(3, 30_000), variables: malloc },
        Program { name: "python, the same with fewer live", arguments: python(30, 3000), variables: malloc },
        each("perl", &["perl", "-e", PERL]),
        each("sqlite3", &["sqlite3", ":memory:", SQLITE]),
        each("cc", &["cc", "-O2", "-S", "-o", "/dev/null", include, source]),
    ]
}

/// Seconds of user CPU time that this process's children have taken.
fn children() -> f64 {
    // SAFETY: zeros are valid, and it is ours to write.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage);
        usage
    };
    usage.ru_utime.tv_sec as f64 + usage.ru_utime.tv_usec as f64 / 1e6
}

/// How long a run takes; `None` if it fails.
fn run(program: &Program, library: &Path, mode: &str) -> Option<f64> {
    let before = children();
    let mut command = Command::new(&program.arguments[0]);
    command.args(&program.arguments[1..]).env("LD_PRELOAD", library).env("MILLPOND_MODE", mode);
    let status = command.envs(program.variables.iter().copied()).stdout(Stdio::null()).status().ok()?;
    status.success().then(|| children() - before)
}

/// Nanoseconds that an allocation of 64 bytes and its free take in each mode: the least of interleaved rounds, since whatever else
/// the machine does only adds to it.
fn pairs() -> Option<[f64; 3]> {
    const CALLS: u32 = 20_000;
    let heaps = [Mode::Fast, Mode::Tracked, Mode::Hardened].map(|mode| Heap::builder().mode(mode).build().ok());
    let layout = Layout::new::<[u64; 8]>();
    let mut least = [f64::MAX; 3];
    for _ in 0..300 {
        for (heap, least) in heaps.iter().zip(&mut least) {
            let heap = heap.as_ref()?;
            let start = Instant::now();
            for _ in 0..CALLS {
                let block = black_box(heap.alloc(layout).ok()?);
                // SAFETY: allocated just now, with this layout.
                unsafe { heap.free(block, layout) };
            }
            *least = least.min(start.elapsed().as_nanos() as f64 / f64::from(CALLS));
        }
    }
    Some(least)
}

/// What the modes cost.
#[derive(Debug, Parser)]
#[command(name = "cargo bench --bench modes --")]
struct Options {
    /// Programs whose names have that in them; `pair`: an allocation and its free. All if none is given.
    program: Option<String>,
    /// Runs of each program in each mode.
    #[arg(default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let Options { program: filter, rounds, .. } = Options::parse();
    let is_asked = |name: &str| filter.as_ref().is_none_or(|word| name.contains(word.as_str()));
    let programs: Vec<Program> = programs().into_iter().filter(|program| is_asked(program.name)).collect();
    if programs.is_empty() && !is_asked("pair") {
        Options::command().error(ErrorKind::InvalidValue, "no program has that in its name").exit();
    }
    if is_asked("pair") {
        if let Some([fast, tracked, hardened]) = pairs() {
            println!("an allocation and its free, ns: fast {fast:.1}, tracked {tracked:.1}, hardened {hardened:.1}");
        }
    }
    if programs.is_empty() {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let built = Command::new(env!("CARGO")).arg("shared").current_dir(root).status();
    assert!(built.is_ok_and(|status| status.success()), "`cargo shared` fails");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), Into::into);
    let library = target.join("library/libmillpond.so");
    println!("{:<36} {:>10} {:>10} {:>10}", "user CPU time", "fast, s", "tracked", "hardened");
    for program in &programs {
        let round = |_| MODES.iter().map(|mode| run(program, &library, mode)).collect::<Option<Vec<f64>>>();
        let Some(times) = (0..rounds).map(round).collect::<Option<Vec<_>>>() else {
            println!("{:<36} does not run here", program.name);
            continue;
        };
        let middle = |of: &dyn Fn(&Vec<f64>) -> f64| median(times.iter().map(of));
        let (fast, [tracked, hardened]) = (middle(&|all| all[0]), [1, 2].map(|mode| middle(&|all| all[mode] / all[0])));
        println!("{:<36} {fast:>10.3} {tracked:>10.2} {hardened:>10.2}", program.name);
    }
}
