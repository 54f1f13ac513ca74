//! The program that runs one workload under whatever global allocator its executable has chosen.
//!
//! `child run --workload larson --threads 8 [--scale 0.25]` prints a [`Record`] as one line of JSON; with `--settle` a
//! second line follows, of what is resident a second later. `child list` prints the workloads. Anything else, as from a
//! plain `cargo bench`, says so and does nothing.

pub mod measure;
pub mod record;
pub mod settle;
pub mod usage;
pub mod workloads;

use clap::Parser;
use record::{Latency, Listed, Record};
use workloads::{Crew, Workload};

/// A child that takes longer is stuck, if nobody says otherwise: the kernel ends it.
const DEADLINE_SECONDS: u32 = 300;

#[derive(Parser)]
enum Command {
    /// Print the workloads, one JSON object a line.
    List,
    /// Run one workload and print its record.
    Run {
        #[arg(long)]
        workload: String,
        #[arg(long)]
        threads: usize,
        /// Share of the full amount of work.
        #[arg(long, default_value_t = 1.0)]
        scale: f64,
        /// Go on for a second afterwards, with little to do and the threads idle, and say what is resident then.
        #[arg(long)]
        settle: bool,
        /// Seconds after which the kernel ends the process.
        #[arg(long, default_value_t = DEADLINE_SECONDS)]
        limit: u32,
        /// What `cargo bench` adds.
        #[arg(long, hide = true)]
        bench: bool,
    },
}

/// What a child is besides its global allocator.
pub struct Program {
    pub workloads: Vec<&'static Workload>,
    /// Its allocator's name and version, as far as they are known to it.
    pub allocator: String,
    /// Called before the measured run.
    pub begin: fn(),
    /// Called after it: what it is told of the allocator's calls.
    pub end: fn() -> Option<Latency>,
}

/// The child of `throughput`: the workloads here, and calls untimed.
#[allow(dead_code, reason = "`cargo field` has workloads besides")]
pub fn main() {
    let workloads = workloads::ALL.iter().collect();
    Program { workloads, allocator: String::new(), begin: || (), end: || None }.main();
}

impl Program {
    pub fn main(&self) {
        let asked = std::env::args().nth(1);
        if !matches!(asked.as_deref(), Some("list" | "run")) {
            println!("run by `cargo bench --bench throughput` or `cargo field`; nothing to do here");
            return;
        }
        match Command::parse() {
            Command::List => {
                for workload in &self.workloads {
                    print_line(&Listed { name: workload.name.into(), about: workload.about.into() });
                }
            }
            Command::Run { workload, threads, scale, settle, limit, bench: _ } => {
                // SAFETY: sets a timer and touches no memory; SIGALRM keeps its default action.
                unsafe { libc::alarm(limit) };
                self.run(&workload, threads, scale, settle);
            }
        }
    }

    fn run(&self, name: &str, threads: usize, scale: f64, settle: bool) {
        let Some(workload) = self.workloads.iter().find(|each| each.name == name) else {
            eprintln!("no workload called {name}");
            std::process::exit(2);
        };
        let crew = Crew::new(threads, scale);
        (self.begin)();
        let outcome = (workload.run)(&crew);
        let latency = (self.end)();
        print_line(&Record {
            workload: name.into(),
            threads,
            allocator: self.allocator.clone(),
            ops: outcome.ops,
            checksum: outcome.checksum,
            wall_ns: outcome.cost.wall_ns,
            cpu_ns: outcome.cost.cpu_ns,
            minor_faults: outcome.cost.minor_faults,
            context_switches: outcome.cost.context_switches,
            peak_rss: measure::status_bytes("VmHWM"),
            final_rss: measure::status_bytes("VmRSS"),
            latency,
        });
        if settle {
            print_line(&settle::settle());
        }
    }
}

fn print_line(value: &impl serde::Serialize) {
    println!("{}", serde_json::to_string(value).expect("plain data"));
}
