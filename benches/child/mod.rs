//! The program that runs one workload under whatever global allocator its executable has chosen.
//!
//! `child run --workload larson --threads 8 [--scale 0.25]` prints a [`Record`] as one line of JSON; `child list`
//! prints the workloads. Anything else, as from a plain `cargo bench`, says so and does nothing.

mod measure;
mod record;
mod usage;
mod workloads;

use clap::Parser;
use record::{Listed, Record};

/// A child that takes longer is stuck: the kernel ends it.
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
        /// What `cargo bench` adds.
        #[arg(long, hide = true)]
        bench: bool,
    },
}

pub fn main() {
    let asked = std::env::args().nth(1);
    if !matches!(asked.as_deref(), Some("list" | "run")) {
        println!("run by `cargo bench --bench throughput`; nothing to do here");
        return;
    }
    match Command::parse() {
        Command::List => {
            for workload in workloads::ALL {
                print_line(&Listed { name: workload.name.into(), about: workload.about.into() });
            }
        }
        Command::Run { workload, threads, scale, bench: _ } => run(&workload, threads, scale),
    }
}

fn run(name: &str, threads: usize, scale: f64) {
    // SAFETY: sets a timer and touches no memory; SIGALRM keeps its default action.
    unsafe { libc::alarm(DEADLINE_SECONDS) };
    let Some(workload) = workloads::ALL.iter().find(|each| each.name == name) else {
        eprintln!("no workload called {name}");
        std::process::exit(2);
    };
    let outcome = (workload.run)(&workloads::Crew::new(threads, scale));
    print_line(&Record {
        workload: name.into(),
        threads,
        ops: outcome.ops,
        checksum: outcome.checksum,
        wall_ns: outcome.cost.wall_ns,
        cpu_ns: outcome.cost.cpu_ns,
        minor_faults: outcome.cost.minor_faults,
        context_switches: outcome.cost.context_switches,
        peak_rss: measure::status_bytes("VmHWM"),
        final_rss: measure::status_bytes("VmRSS"),
    });
}

fn print_line(value: &impl serde::Serialize) {
    println!("{}", serde_json::to_string(value).expect("plain data"));
}
