//! `cargo programs`: whole programs on Millpond's preloaded library against malloc, in processor time and peak memory.
//!
//! The programs are those of `tests/programs`. Rounds are the outer loop; in a round each program runs on both, one right
//! after the other, the first of them in turn, so that what disturbs the machine for longer than that cancels out in the
//! ratio. Shown are medians, and of the ratio's median the interval of 95 % (see `stats.rs` of the field).

#[allow(dead_code, unused_imports, reason = "its tests are run where it belongs")]
#[path = "field/src/stats.rs"]
mod stats;

#[path = "../tests/library/mod.rs"]
mod library;
#[path = "../tests/programs/mod.rs"]
mod programs;

use clap::Parser;
use programs::{PROGRAMS, Program, Run, most};
use std::process::ExitCode;
use std::time::Instant;

/// What a program may take of malloc's time.
const SLOWEST: f64 = 1.02;

/// Whole programs under LD_PRELOAD, against malloc.
#[derive(Debug, Parser)]
#[command(name = "cargo programs")]
struct Options {
    /// Pairs of runs of each program.
    #[arg(short, long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Programs by name; all if none is given.
    #[arg(short, long, value_delimiter = ',', value_parser = PROGRAMS.map(|program| program.name))]
    program: Vec<String>,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A program and its runs, on malloc and on Millpond.
struct Row {
    program: Program,
    runs: Vec<[Run; 2]>,
}

impl Row {
    fn median(&self, of: impl Fn(&[Run; 2]) -> f64) -> f64 {
        let values: Vec<f64> = self.runs.iter().map(of).collect();
        stats::median(&values).unwrap_or(f64::NAN)
    }

    /// Prints the program's line; whether it is surely slower, or needs more memory, than it may.
    fn show(&self) -> bool {
        let ratios: Vec<f64> = self.runs.iter().map(|[malloc, millpond]| millpond.seconds / malloc.seconds).collect();
        let ratio = stats::estimate(&ratios).expect("a round");
        let [malloc, millpond] = [0, 1].map(|on| self.median(|runs| runs[on].peak));
        let time = match ratio {
            _ if ratio.low > SLOWEST => "slower",
            _ if ratio.high <= SLOWEST => "no slower",
            _ => "not told",
        };
        let (seconds, bound) = (self.median(|runs| runs[0].seconds), most(malloc));
        let (peak, memory) = (millpond / malloc, if millpond <= bound { "kept" } else { "broken" });
        println!(
            "{:8} {seconds:8.2} s  {:5.3} [{:5.3}, {:5.3}] {time:10} {malloc:8.1} {millpond:8.1} {bound:8.1} MiB  {peak:4.2} {memory}",
            self.program.name, ratio.value, ratio.low, ratio.high,
        );
        ratio.low > SLOWEST || millpond > bound
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let asked =
        |program: &Program| options.program.is_empty() || options.program.iter().any(|name| name == program.name);
    let mut rows: Vec<Row> =
        PROGRAMS.into_iter().filter(asked).map(|program| Row { program, runs: Vec::new() }).collect();
    let start = Instant::now();
    for round in 0..options.rounds {
        for row in &mut rows {
            eprint!("\rround {} of {}: {:8}", round + 1, options.rounds, row.program.name);
            row.runs.push(row.program.pair(round % 2 == 0));
        }
    }
    println!("\r{} pairs of runs of each, in {:.0} s", options.rounds, start.elapsed().as_secs_f64());
    println!(
        "program    malloc    time over malloc's, at most {SLOWEST}      peak: malloc, Millpond, most       ratio"
    );
    let broken = rows.iter().filter(|row| row.show()).count();
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
