//! Whole programs under Millpond and under its rivals: how fast, and in how much memory.
//!
//! ```text
//! cargo bench --bench throughput                                  everything, about 4 minutes on 2 quiet cores
//! cargo bench --bench throughput -- --quick                       fewer and shorter rounds, about 40 s
//! cargo bench --bench throughput -- --list                        the workloads
//! cargo bench --bench throughput -- -w producer_consumer -t 1,8   some workloads (parts of names), some threads
//! cargo bench --bench throughput -- -w larson --rounds 11         more rounds, less noise
//! cargo bench --bench throughput -- --also before=PATH            beside an executable that was kept (see below)
//! ```
//!
//! Each run is a process of its own: the same workloads linked with one allocator or the other (`child_millpond`,
//! `child_system`), which this driver has cargo build first. Rounds are interleaved, each starting with another
//! allocator; figures are medians. Every workload checks its own result, and all allocators must compute the same.
//! The tables come last, with the micro bench's if the same `cargo bench` has run it; all records go to
//! `target/tmp/throughput.json`, or to `--json PATH`.
//!
//! To compare with an older Millpond, keep its child: cargo prints where it is when told `cargo bench --no-run
//! --bench child_millpond`; copy it and name the copy by `--also`. To look at one workload alone, with a profiler for
//! instance, run the child: `EXECUTABLE run --workload larson --threads 8`.
//!
//! A new rival is a file like `child_system.rs`, its `[[bench]]` in the manifest, and a line in
//! [`children::ALLOCATORS`].

#[path = "../driver/cargo.rs"]
mod cargo;
mod children;
#[path = "../figures/mod.rs"]
mod figures;
mod machine;
#[path = "../child/record.rs"]
mod record;
mod report;
#[path = "../child/usage.rs"]
mod usage;

use children::Child;
use clap::Parser;
use figures::pairs::PairTable;
use indicatif::{ProgressBar, ProgressStyle};
use report::{Cell, Report};
use std::error::Error;
use std::path::PathBuf;

/// What `--quick` stands for: rounds, and the share of the full work.
const QUICK: (usize, f64) = (3, 0.25);
const FULL: (usize, f64) = (5, 1.0);
/// Where not even `--bench` is given, as by `cargo test --benches`: does everything run?
const SMOKE: (usize, f64) = (1, 0.01);

#[derive(Parser)]
struct Options {
    /// Workloads, by parts of their names; all if none is given.
    #[arg(short, long, value_delimiter = ',')]
    workload: Vec<String>,
    #[arg(short, long, value_delimiter = ',', default_values_t = [1, 2, 8, 32])]
    threads: Vec<usize>,
    /// Runs of each workload, number of threads and allocator.
    #[arg(short, long)]
    rounds: Option<usize>,
    /// Share of the full work in each run.
    #[arg(short, long)]
    scale: Option<f64>,
    /// 3 rounds of a quarter of the work.
    #[arg(short, long)]
    quick: bool,
    /// One more executable to compare with, built from a child of this or another version.
    #[arg(long, value_name = "NAME=EXECUTABLE")]
    also: Vec<String>,
    /// Where to write the records.
    #[arg(long, default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/throughput.json"))]
    json: PathBuf,
    /// Print the workloads and stop.
    #[arg(long)]
    list: bool,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let (rounds, scale) = match (options.quick, options.bench) {
        (true, _) => QUICK,
        (false, true) => FULL,
        (false, false) => SMOKE,
    };
    let rounds = options.rounds.unwrap_or(rounds);
    let scale = options.scale.unwrap_or(scale);
    let children = children::all(&options.also)?;
    let known = children[0].workloads()?;
    if options.list {
        for workload in known {
            println!("{:<18} {}", workload.name, workload.about);
        }
        return Ok(());
    }
    let names: Vec<String> = known.into_iter().map(|workload| workload.name).collect();
    if let Some(wrong) = options.workload.iter().find(|part| !names.iter().any(|n| n.contains(*part))) {
        return Err(format!("no workload is called {wrong}; there are {}", names.join(", ")).into());
    }
    let wanted = |name: &String| options.workload.is_empty() || options.workload.iter().any(|part| name.contains(part));
    let mut cells: Vec<Cell> = Vec::new();
    for name in names.into_iter().filter(wanted) {
        let cell = |&threads| Cell::new(&name, threads, children.len());
        cells.extend(options.threads.iter().map(cell));
    }

    let start = machine::Reading::now();
    run_all(&mut cells, &children, rounds, scale);

    let processors = std::thread::available_parallelism()?.get();
    let report = Report {
        rounds,
        scale,
        processors,
        share_of_others: start.share_of_others(processors),
        allocators: children.into_iter().map(|child| child.name).collect(),
        cells,
        pairs: pairs_of_this_run(),
    };
    report.print();
    std::fs::write(&options.json, serde_json::to_string_pretty(&report)?)?;
    println!("\nrecords: {}", options.json.display());
    match report.failures() {
        0 => Ok(()),
        count => Err(format!("{count} runs failed: see above").into()),
    }
}

/// Rounds are the outer loop, so that a minute in which the machine is busy with something else spoils one round of
/// many cells and not all rounds of one.
fn run_all(cells: &mut [Cell], children: &[Child], rounds: usize, scale: f64) {
    let bar = ProgressBar::new((rounds * cells.len() * children.len()) as u64);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} (left: {eta}) {msg}");
    bar.set_style(style.expect("a valid template"));
    for round in 0..rounds {
        for cell in &mut *cells {
            for turn in 0..children.len() {
                let which = (round + turn) % children.len();
                let child = &children[which];
                bar.set_message(format!("{} at {}: {}", cell.workload, cell.threads, child.name));
                let result = child.run(&cell.workload, cell.threads, scale);
                if let Err(why) = cell.add(which, result) {
                    let (workload, threads) = (&cell.workload, cell.threads);
                    bar.suspend(|| eprintln!("{workload} at {threads}, {}: {why}", child.name));
                }
                bar.inc(1);
            }
        }
    }
    bar.finish_and_clear();
}

/// The micro bench's table, if the cargo that started us has run it just before.
fn pairs_of_this_run() -> Option<PairTable> {
    let json = std::fs::read(PairTable::path()).ok()?;
    let table: PairTable = serde_json::from_slice(&json).ok()?;
    (table.cargo == std::os::unix::process::parent_id()).then_some(table)
}
