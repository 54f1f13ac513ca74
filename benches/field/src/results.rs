//! What has been measured: all rounds of all cells, as they go to the JSON file, and the figures that are made of them.
//!
//! A cell is a workload at a number of threads. Everything is compared with the first allocator, the subject: a ratio is
//! what a rival takes of something over what the subject takes in the same round, so above 1 the subject is better.

use crate::rivals::Rival;
use crate::stats::{Estimate, estimate, mean_of_medians, median, pairs};
use clap::ValueEnum;
use millpond_field_child::{Latency, Record};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Failures of an allocator in a cell after which it is not tried there again.
const ENOUGH: usize = 2;

/// All of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    pub setup: Setup,
    /// The first is the subject.
    pub rivals: Vec<Rival>,
    pub cells: Vec<Cell>,
}

/// How it was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    pub rounds: usize,
    /// Share of the full work.
    pub scale: f64,
    pub processors: usize,
    /// The processor, as it calls itself.
    pub processor: String,
    /// Of the processors' time, that went to other programs.
    pub share_of_others: Option<f64>,
    /// Whether the system refused huge pages to all.
    #[serde(default)]
    pub small_pages: bool,
}

impl Setup {
    /// What is said of pages behind other text.
    pub fn pages(&self) -> &'static str {
        if self.small_pages { ", in small pages alone" } else { "" }
    }
}

/// A workload at a number of threads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cell {
    pub workload: String,
    pub about: String,
    pub threads: usize,
    /// By allocator.
    pub runs: Vec<Runs>,
}

/// An allocator's runs in a cell: nothing in the place of those that failed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Runs {
    pub rounds: Vec<Option<Record>>,
    /// Resident bytes after a second of light activity.
    pub settled: Vec<Option<u64>>,
    pub latencies: Vec<Option<Latency>>,
    pub failures: Vec<String>,
}

/// What can be compared; of all of it, less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Metric {
    /// Processor time, ns an operation.
    Cpu,
    /// Time by the clock, ns an operation.
    Wall,
    /// Resident memory at its peak, MiB.
    Peak,
    /// Resident memory after all was freed and a second of light activity, MiB.
    Settled,
    /// Batches of 16 calls of the allocator: what 999 in 1000 take at most, µs.
    P999,
}

impl Metric {
    pub const ALL: [Self; 5] = [Self::Cpu, Self::Wall, Self::Peak, Self::Settled, Self::P999];

    /// A short name and the unit.
    pub fn title(self) -> (&'static str, &'static str) {
        match self {
            Self::Cpu => ("processor time", "ns an operation"),
            Self::Wall => ("time by the clock", "ns an operation"),
            Self::Peak => ("peak memory", "MiB resident"),
            Self::Settled => ("memory 1 s after all was freed", "MiB resident"),
            Self::P999 => ("p99.9 of 16 calls", "µs"),
        }
    }

    /// What each round gave.
    fn samples(self, runs: &Runs) -> Vec<Option<f64>> {
        const MIB: f64 = 1_048_576.0;
        let of = |what: fn(&Record) -> f64| runs.rounds.iter().map(|round| round.as_ref().map(what)).collect();
        match self {
            Self::Cpu => of(|record| record.cpu_ns as f64 / record.ops as f64),
            Self::Wall => of(|record| record.wall_ns as f64 / record.ops as f64),
            Self::Peak => of(|record| record.peak_rss as f64 / MIB),
            Self::Settled => runs.settled.iter().map(|bytes| bytes.map(|bytes| bytes as f64 / MIB)).collect(),
            Self::P999 => runs.latencies.iter().map(|all| all.map(|all| all.p999 as f64 / 1000.0)).collect(),
        }
    }
}

impl Cell {
    pub fn new(workload: &str, about: &str, threads: usize, allocators: usize) -> Self {
        let runs = vec![Runs::default(); allocators];
        Self { workload: workload.into(), about: about.into(), threads, runs }
    }

    /// Whether an allocator has failed here too often to be tried again.
    pub fn is_given_up(&self, allocator: usize) -> bool {
        self.runs[allocator].failures.len() >= ENOUGH
    }

    /// Keeps what a run of an allocator has given, unless it failed or disagrees with the runs before it.
    pub fn add(&mut self, allocator: usize, result: Result<Record, String>) {
        let result = self.agree(result);
        let round = self.keep(allocator, result);
        self.runs[allocator].rounds.push(round);
    }

    /// The same for a run whose calls were timed.
    pub fn add_latency(&mut self, allocator: usize, result: Result<Record, String>) {
        let result = self.agree(result).and_then(|record| record.latency.ok_or("no latency".into()));
        let latency = self.keep(allocator, result);
        self.runs[allocator].latencies.push(latency);
    }

    /// The same for what is resident after a run.
    pub fn add_settled(&mut self, allocator: usize, result: Result<u64, String>) {
        let settled = self.keep(allocator, result);
        self.runs[allocator].settled.push(settled);
    }

    fn agree(&self, result: Result<Record, String>) -> Result<Record, String> {
        let record = result?;
        let differs = |other: &Record| (other.ops, other.checksum) != (record.ops, record.checksum);
        if self.runs.iter().flat_map(|runs| runs.rounds.iter().flatten()).any(differs) {
            return Err("computed something else than the runs before it".into());
        }
        Ok(record)
    }

    fn keep<T>(&mut self, allocator: usize, result: Result<T, String>) -> Option<T> {
        result.map_err(|why| self.runs[allocator].failures.push(why)).ok()
    }

    /// The median of what an allocator took.
    pub fn level(&self, allocator: usize, metric: Metric) -> Option<f64> {
        let samples: Vec<f64> = metric.samples(&self.runs[allocator]).into_iter().flatten().collect();
        median(&samples)
    }

    /// The ratios of the rounds.
    pub fn pairs(&self, allocator: usize, metric: Metric) -> Vec<f64> {
        pairs(&metric.samples(&self.runs[allocator]), &metric.samples(&self.runs[0]))
    }

    /// How many times as much as the subject a rival takes.
    pub fn ratio(&self, allocator: usize, metric: Metric) -> Option<Estimate> {
        estimate(&self.pairs(allocator, metric))
    }

    /// The rival that takes least, and its ratio.
    pub fn best(&self, metric: Metric) -> Option<(usize, Estimate)> {
        least((1..self.runs.len()).map(|rival| self.ratio(rival, metric)))
    }
}

impl Results {
    /// The geometric mean of a rival's ratios over all cells with so many threads, or over all cells.
    pub fn mean(&self, allocator: usize, metric: Metric, threads: Option<usize>) -> Option<Estimate> {
        let cells = self.cells.iter().filter(|cell| threads.is_none_or(|threads| cell.threads == threads));
        let sets: Vec<Vec<f64>> = cells.map(|cell| cell.pairs(allocator, metric)).collect();
        let sets: Vec<&[f64]> = sets.iter().map(Vec::as_slice).collect();
        mean_of_medians(&sets)
    }

    /// The rival with the least mean.
    pub fn best(&self, metric: Metric, threads: Option<usize>) -> Option<(usize, Estimate)> {
        least((1..self.rivals.len()).map(|rival| self.mean(rival, metric, threads)))
    }

    /// All numbers of threads, in order.
    pub fn threads(&self) -> Vec<usize> {
        let mut threads: Vec<usize> = self.cells.iter().map(|cell| cell.threads).collect();
        threads.sort_unstable();
        threads.dedup();
        threads
    }

    /// All workloads, in order, with the places of their cells.
    pub fn workloads(&self) -> Vec<(&str, Vec<&Cell>)> {
        let mut workloads: Vec<(&str, Vec<&Cell>)> = Vec::new();
        for cell in &self.cells {
            match workloads.iter_mut().find(|(name, _)| *name == cell.workload) {
                Some((_, cells)) => cells.push(cell),
                None => workloads.push((&cell.workload, vec![cell])),
            }
        }
        workloads
    }

    /// Whether what was read from a file hangs together.
    pub fn verify(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.rivals.is_empty(), "there is no allocator");
        let fits = |cell: &Cell| cell.runs.len() == self.rivals.len();
        anyhow::ensure!(self.cells.iter().all(fits), "a cell has more or fewer allocators than there are");
        Ok(())
    }

    /// Writes all to a file, in one step: who is interrupted leaves the file before.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let beside = path.with_extension("part");
        std::fs::write(&beside, serde_json::to_vec(self)?)?;
        Ok(std::fs::rename(&beside, path)?)
    }
}

/// The least of the rivals' ratios, and whose it is; rivals are counted from 1.
fn least(ratios: impl Iterator<Item = Option<Estimate>>) -> Option<(usize, Estimate)> {
    let ratios = ratios.enumerate().filter_map(|(nth, ratio)| Some((nth + 1, ratio?)));
    ratios.min_by(|(_, one), (_, other)| one.value.total_cmp(&other.value))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A record of one operation.
    pub fn record(cpu_ns: u64, peak_mib: u64) -> Record {
        Record {
            workload: "w".into(),
            threads: 1,
            allocator: String::new(),
            ops: 1,
            checksum: 7,
            wall_ns: 2 * cpu_ns,
            cpu_ns,
            minor_faults: 0,
            context_switches: 0,
            peak_rss: peak_mib << 20,
            final_rss: 0,
            latency: None,
        }
    }

    /// Two workloads at 1 and 8 threads, of a subject, a rival twice as slow and half as large, one as good as the subject,
    /// and one that could not be built.
    pub fn example() -> Results {
        let rival = |name: &str, missing: Option<&str>| Rival {
            name: name.into(),
            version: "1.2".into(),
            missing: missing.map(Into::into),
        };
        let rivals =
            vec![rival("millpond", None), rival("slow", None), rival("twin", None), rival("gone", Some("no compiler"))];
        let mut cells = Vec::new();
        for (workload, threads) in [("one", 1), ("one", 8), ("two", 1), ("two", 8)] {
            let mut cell = Cell::new(workload, "does something", threads, rivals.len());
            for round in 0..5 {
                let time = 100 + 10 * round;
                cell.add(0, Ok(record(time, 20)));
                cell.add(1, Ok(record(2 * time, 10)));
                cell.add(2, Ok(record(time, 20)));
            }
            for allocator in 0..3 {
                cell.add_settled(allocator, Ok((4 << 20) << allocator));
                let latency = Latency { calls: 16, batches: 9, p50: 1, p99: 2, p999: 3000 << allocator, max: 9 };
                cell.add_latency(allocator, Ok(Record { latency: Some(latency), ..record(1, 1) }));
            }
            cells.push(cell);
        }
        let setup = Setup {
            rounds: 5,
            scale: 0.5,
            processors: 2,
            processor: "test".into(),
            share_of_others: Some(0.25),
            small_pages: false,
        };
        Results { setup, rivals, cells }
    }

    #[test]
    fn ratios_are_medians_of_pairs() {
        let results = example();
        let cell = &results.cells[0];
        assert_eq!(cell.level(0, Metric::Cpu), Some(120.0));
        assert_eq!(cell.level(0, Metric::Wall), Some(240.0));
        let near = |estimate: Option<Estimate>, expected: f64| {
            estimate.is_some_and(|estimate| (estimate.value - expected).abs() < 1e-9 && estimate.reach() < 1e-9)
        };
        // The subject's own time varies by 40 %, the pairs' ratio not at all.
        assert!(near(cell.ratio(1, Metric::Cpu), 2.0));
        assert!(near(cell.ratio(1, Metric::Peak), 0.5));
        assert!(near(cell.ratio(1, Metric::Settled), 2.0));
        assert!(near(cell.ratio(2, Metric::P999), 4.0));
        assert_eq!(cell.ratio(3, Metric::Cpu), None);
        assert_eq!(cell.best(Metric::Cpu).unwrap().0, 2);
        assert_eq!(cell.best(Metric::Peak).unwrap().0, 1);
        assert!(near(results.mean(1, Metric::Cpu, None), 2.0));
        assert!(near(results.mean(1, Metric::Cpu, Some(8)), 2.0));
        assert_eq!(results.mean(1, Metric::Cpu, Some(2)), None);
        assert_eq!(results.best(Metric::Cpu, None).unwrap().0, 2);
        assert_eq!(results.threads(), [1, 8]);
        assert_eq!(
            results.workloads().iter().map(|(name, cells)| (*name, cells.len())).collect::<Vec<_>>(),
            [("one", 2), ("two", 2)]
        );
    }

    #[test]
    fn failures_are_kept_apart_and_given_up() {
        let mut cell = Cell::new("w", "", 1, 2);
        cell.add(0, Ok(record(100, 1)));
        cell.add(1, Err("signal: 11".into()));
        assert!(!cell.is_given_up(1));
        cell.add(1, Ok(Record { checksum: 8, ..record(100, 1) }));
        assert!(cell.is_given_up(1) && !cell.is_given_up(0));
        assert_eq!(cell.runs[1].failures, ["signal: 11", "computed something else than the runs before it"]);
        assert_eq!(cell.ratio(1, Metric::Cpu), None);
        cell.add_latency(0, Ok(record(1, 1)));
        assert_eq!(cell.runs[0].failures, ["no latency"]);
    }

    #[test]
    fn what_is_saved_is_what_is_read() {
        let path = std::env::temp_dir().join(format!("millpond-field-{}.json", std::process::id()));
        let results = example();
        results.save(&path).unwrap();
        let mut read: Results = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), serde_json::to_value(&results).unwrap());
        read.verify().unwrap();
        read.cells[0].runs.pop();
        assert!(read.verify().is_err());
    }
}
