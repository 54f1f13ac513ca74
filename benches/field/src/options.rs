//! What the command line asks for, and what it may ask for.

use crate::results::Metric;
use crate::rivals::{KNOWN, Known};
use clap::Parser;
use millpond_field_child::{Listed, workloads};
use std::path::PathBuf;

/// What `--quick` stands for: rounds, passes of the runs besides, the share of the full work, and seconds for a run.
const QUICK: Pace = Pace { rounds: 3, passes: 1, scale: 0.05, limit: 20 };
const FULL: Pace = Pace { rounds: 10, passes: 3, scale: 0.5, limit: 120 };

/// How much is done, and how long a run may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    pub rounds: usize,
    pub passes: usize,
    pub scale: f64,
    pub limit: u64,
}

/// Whole programs under Millpond and its rivals.
#[derive(Debug, Parser)]
#[command(name = "cargo field")]
pub struct Options {
    /// Workloads, by parts of their names; all if none is given.
    #[arg(short, long, value_delimiter = ',', value_parser = workload)]
    workload: Vec<String>,
    #[arg(short, long, value_delimiter = ',', default_values_t = [1, 2, 8, 32], value_parser = threads)]
    threads: Vec<usize>,
    /// Allocators beside Millpond; all if none is given.
    #[arg(short, long, value_delimiter = ',', value_parser = KNOWN.map(|known| known.name))]
    allocator: Vec<String>,
    /// Runs of each workload, number of threads and allocator.
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// Share of the full work in each run.
    #[arg(short, long, value_parser = scale)]
    scale: Option<f64>,
    /// 3 rounds of a twentieth of the work.
    #[arg(short, long)]
    quick: bool,
    /// Have the system refuse huge pages to all, to see what is owed to them.
    #[arg(long)]
    pub small_pages: bool,
    /// What the terminal shows of each cell.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [Metric::Cpu])]
    pub table: Vec<Metric>,
    /// The folder for the results and the page; `target/field` if none is given.
    #[arg(short, long)]
    pub out: Option<PathBuf>,
    /// Measure nothing: make tables and page of these results.
    #[arg(long, value_name = "JSON", conflicts_with_all = ["workload", "threads", "allocator", "rounds", "scale", "quick", "small_pages"])]
    pub from: Option<PathBuf>,
    /// Print the workloads and the allocators, and stop.
    #[arg(long)]
    pub list: bool,
}

impl Options {
    pub fn pace(&self) -> Pace {
        let pace = if self.quick { QUICK } else { FULL };
        Pace { rounds: self.rounds.map_or(pace.rounds, usize::from), scale: self.scale.unwrap_or(pace.scale), ..pace }
    }

    pub fn workloads(&self) -> Vec<Listed> {
        let wanted = |workload: &Listed| self.workload.iter().any(|part| workload.name.contains(part));
        workloads().into_iter().filter(|workload| self.workload.is_empty() || wanted(workload)).collect()
    }

    /// In the order in which they are named, each once: cells that are there twice would count twice in the means.
    pub fn threads(&self) -> Vec<usize> {
        let mut threads = Vec::new();
        for &number in &self.threads {
            if !threads.contains(&number) {
                threads.push(number);
            }
        }
        threads
    }

    /// The first, which all others are compared with, is always there.
    pub fn allocators(&self) -> Vec<&'static Known> {
        let wanted = |known: &Known| self.allocator.is_empty() || self.allocator.iter().any(|name| name == known.name);
        KNOWN.iter().enumerate().filter(|(nth, known)| *nth == 0 || wanted(known)).map(|(_, known)| known).collect()
    }
}

fn workload(part: &str) -> Result<String, String> {
    let names: Vec<String> = workloads().into_iter().map(|workload| workload.name).collect();
    if !part.is_empty() && names.iter().any(|name| name.contains(part)) {
        return Ok(part.into());
    }
    Err(format!("no workload is called so; there are {}", names.join(", ")))
}

fn threads(text: &str) -> Result<usize, String> {
    let threads = text.parse::<usize>().ok().filter(|threads| (1..=256).contains(threads));
    threads.ok_or_else(|| "not a number from 1 to 256".into())
}

fn scale(text: &str) -> Result<f64, String> {
    let scale = text.parse::<f64>().ok().filter(|scale| *scale > 0.0 && *scale <= 100.0);
    scale.ok_or_else(|| "not a number above 0, up to 100".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::try_parse_from(["field"].into_iter().chain(line.split_whitespace())).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_asked_for_is_chosen() {
        let options = parse("-w larson,cache -t 1,8 -a malloc --quick --rounds 7").unwrap();
        let names: Vec<String> = options.workloads().into_iter().map(|workload| workload.name).collect();
        assert_eq!(names, ["larson", "cache_scratch", "cache_thrash"]);
        assert_eq!(options.allocators().iter().map(|known| known.name).collect::<Vec<_>>(), ["millpond", "malloc"]);
        assert_eq!(options.threads(), [1, 8]);
        assert!(!options.small_pages && parse("--small-pages").unwrap().small_pages);
        assert_eq!(options.pace(), Pace { rounds: 7, ..QUICK });
        let options = parse("").unwrap();
        assert_eq!(options.workloads().len(), workloads().len());
        assert_eq!(options.allocators().len(), KNOWN.len());
        assert_eq!(options.pace(), FULL);
        // A number that is named twice is measured once.
        assert_eq!(parse("-t 8,1,8").unwrap().threads(), [8, 1]);
    }

    #[test]
    fn nonsense_is_refused_and_what_there_is_named() {
        let cases = [
            ("-w nonesuch", "pairs, replace_4k"),
            ("-w pairs,", "there are pairs"),
            ("-a nonesuch", "mimalloc3"),
            ("-t 0", "1 to 256"),
            ("-t 1,x", "1 to 256"),
            ("--rounds 0", "0 is not in 1.."),
            ("--scale 0", "above 0"),
            ("--scale NaN", "above 0"),
            ("--table nonesuch", "settled"),
            ("--nonesuch", "--nonesuch"),
            ("--from x.json --quick", "cannot be used with"),
            ("--from x.json --small-pages", "cannot be used with"),
            ("--from x.json -t 1", "cannot be used with"),
        ];
        for (line, expected) in cases {
            let said = parse(line).unwrap_err();
            assert!(said.contains(expected), "{line}: {said}");
        }
    }
}
