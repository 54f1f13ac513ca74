//! `cargo programs`: whole programs on Millpond's preloaded library against malloc, in processor time and peak memory; or, with
//! `--mode`, in that mode against `fast`, to which no bounds apply.
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

use clap::{Parser, ValueEnum};
use programs::{On, PROGRAMS, Program, Run, most};
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
    /// Millpond in this mode against Millpond in the mode `fast`.
    #[arg(short, long)]
    mode: Option<Mode>,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A mode with records.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    Tracked,
    Hardened,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Tracked => "tracked",
            Self::Hardened => "hardened",
        }
    }
}

/// A program and its runs, on the first and the second of two.
struct Row {
    program: Program,
    runs: Vec<[Run; 2]>,
}

impl Row {
    fn median(&self, of: impl Fn(&[Run; 2]) -> f64) -> f64 {
        let values: Vec<f64> = self.runs.iter().map(of).collect();
        stats::median(&values).unwrap_or(f64::NAN)
    }

    /// The second's time as a multiple of the first's, round by round.
    fn ratios(&self) -> Vec<f64> {
        self.runs.iter().map(|[first, second]| second.seconds / first.seconds).collect()
    }

    /// The program's line, up to the peaks.
    fn times(&self) -> String {
        let ratio = stats::estimate(&self.ratios()).expect("a round");
        let (name, seconds) = (self.program.name, self.median(|runs| runs[0].seconds));
        format!("{name:8} {seconds:8.2} s  {:5.3} [{:5.3}, {:5.3}]", ratio.value, ratio.low, ratio.high)
    }

    fn peaks(&self) -> [f64; 2] {
        [0, 1].map(|on| self.median(|runs| runs[on].peak))
    }

    /// Prints the program's line against malloc; whether it is surely slower, or needs more memory, than it may.
    fn show(&self) -> bool {
        let ratio = stats::estimate(&self.ratios()).expect("a round");
        let time = match ratio {
            _ if ratio.low > SLOWEST => "slower",
            _ if ratio.high <= SLOWEST => "no slower",
            _ => "not told",
        };
        let [malloc, millpond] = self.peaks();
        let bound = most(malloc);
        let (peak, memory) = (millpond / malloc, if millpond <= bound { "kept" } else { "broken" });
        let times = self.times();
        println!("{times} {time:10} {malloc:8.1} {millpond:8.1} {bound:8.1} MiB  {peak:4.2} {memory}");
        ratio.low > SLOWEST || millpond > bound
    }

    /// Prints the program's line in a mode.
    fn show_mode(&self) {
        let [fast, mode] = self.peaks();
        println!("{} {fast:8.1} {mode:8.1} MiB  {:4.2}", self.times(), mode / fast);
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let asked =
        |program: &Program| options.program.is_empty() || options.program.iter().any(|name| name == program.name);
    let mut rows: Vec<Row> =
        PROGRAMS.into_iter().filter(asked).map(|program| Row { program, runs: Vec::new() }).collect();
    let mode = options.mode.map(Mode::name);
    let on = mode.map_or([On::Malloc, On::Millpond], |mode| [On::Mode("fast"), On::Mode(mode)]);
    let start = Instant::now();
    for round in 0..options.rounds {
        for row in &mut rows {
            eprint!("\rround {} of {}: {:8}", round + 1, options.rounds, row.program.name);
            row.runs.push(row.program.pair(on, round % 2 == 0));
        }
    }
    println!("\r{} pairs of runs of each, in {:.0} s", options.rounds, start.elapsed().as_secs_f64());
    if let Some(mode) = mode {
        println!("program      fast    {mode}: time over fast's       peak: fast, {mode}, ratio");
        rows.iter().for_each(Row::show_mode);
        let ratios: Vec<Vec<f64>> = rows.iter().map(Row::ratios).collect();
        let sets: Vec<&[f64]> = ratios.iter().map(Vec::as_slice).collect();
        let mean = stats::mean_of_medians(&sets).expect("a program");
        println!("geometric mean       {:5.3} [{:5.3}, {:5.3}]", mean.value, mean.low, mean.high);
        return ExitCode::SUCCESS;
    }
    println!(
        "program    malloc    time over malloc's, at most {SLOWEST}      peak: malloc, Millpond, most       ratio"
    );
    let broken = rows.iter().filter(|row| row.show()).count();
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
