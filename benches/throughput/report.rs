//! The records of all runs, the tables made of them, and how they stand against the goals.

use crate::figures::pairs::PairTable;
use crate::figures::{geometric_mean, median};
use crate::record::Record;
use serde::Serialize;
use std::error::Error;

/// The goals are set against this allocator.
const YARDSTICK: &str = "system";
const GOAL_MEAN: f64 = 1.6;
const GOAL_HAND_OVER: (&str, f64) = ("producer_consumer", 4.0);
/// The most of its throughput at the first number of threads that a workload may lose at the second.
const GOAL_CROWD: (usize, usize, f64) = (2, 32, 0.15);

/// One workload at one number of threads.
#[derive(Serialize)]
pub struct Cell {
    pub workload: String,
    pub threads: usize,
    /// The records of each allocator's rounds.
    runs: Vec<Vec<Record>>,
    failed: usize,
}

/// Everything that was measured.
#[derive(Serialize)]
pub struct Report {
    pub rounds: usize,
    pub scale: f64,
    pub processors: usize,
    /// Of the processors' time.
    pub share_of_others: Option<f64>,
    /// The first is the one that the others are compared with.
    pub allocators: Vec<String>,
    pub cells: Vec<Cell>,
    pub pairs: Option<PairTable>,
}

impl Cell {
    pub fn new(workload: &str, threads: usize, allocators: usize) -> Self {
        Self { workload: workload.into(), threads, runs: vec![Vec::new(); allocators], failed: 0 }
    }

    /// Keeps what an allocator's run has given, unless it failed or disagrees with the runs before it.
    pub fn add(&mut self, allocator: usize, result: Result<Record, Box<dyn Error>>) -> Result<(), Box<dyn Error>> {
        let result = result.and_then(|record| {
            let differs = |other: &Record| (other.ops, other.checksum) != (record.ops, record.checksum);
            if self.runs.iter().flatten().any(differs) {
                return Err("computed something else than the runs before it".into());
            }
            Ok(record)
        });
        if result.is_err() {
            self.failed += 1;
        }
        self.runs[allocator].push(result?);
        Ok(())
    }

    fn median(&self, allocator: usize, of: impl Fn(&Record) -> f64) -> f64 {
        median(self.runs[allocator].iter().map(of))
    }

    /// How many times as much of something a rival takes; nothing where either has no record.
    fn ratio(&self, rival: usize, of: impl Fn(&Record) -> f64) -> Option<f64> {
        let (subject, rival) = (self.median(0, &of), self.median(rival, &of));
        (subject > 0.0 && rival > 0.0).then(|| rival / subject)
    }

    /// How far the middle half of the rounds lies from their middle, as a share of it: how much noise there is.
    fn noise(&self, allocator: usize) -> f64 {
        let middle = self.median(allocator, wall);
        median(self.runs[allocator].iter().map(|record| (wall(record) / middle - 1.0).abs()))
    }
}

impl Report {
    pub fn failures(&self) -> usize {
        self.cells.iter().map(|cell| cell.failed).sum()
    }

    pub fn print(&self) {
        if let Some(pairs) = &self.pairs {
            pairs.print();
        }
        self.print_details();
        for rival in 1..self.allocators.len() {
            self.print_ratios(rival);
        }
        if let Some(rival) = self.allocators.iter().position(|name| name == YARDSTICK) {
            self.print_goals(rival);
        }
    }

    fn print_details(&self) {
        let Self { rounds, scale, processors, .. } = self;
        println!("\nmedians of {rounds} rounds at scale {scale} on {processors} processors");
        println!("ns, cpu: nanoseconds an operation, by the clock and of processor time; +-: noise of the former");
        println!("peak, end: resident MiB, at most and after all was freed");
        if let Some(share) = self.share_of_others {
            let percent = share * 100.0;
            println!("other programs took {percent:.0} % of the processors (the more, the less the clock tells)");
        }
        println!();
        print!("{:<18} {:>3}", "", "");
        self.allocators.iter().for_each(|name| print!(" | {name:^34}"));
        print!("\n{:<18} {:>3}", "workload", "thr");
        self.allocators.iter().for_each(|_| {
            print!(" | {:>8} {:>4} {:>8} {:>5} {:>5}", "ns", "+-", "cpu", "peak", "end");
        });
        println!();
        for cell in &self.cells {
            print!("{:<18} {:>3}", cell.workload, cell.threads);
            for which in 0..self.allocators.len() {
                let noise = cell.noise(which) * 100.0;
                let (ns, cpu) = (cell.median(which, wall), cell.median(which, cpu));
                let (peak, end) = (cell.median(which, peak), cell.median(which, end));
                print!(" | {ns:>8.2} {noise:>3.0}% {cpu:>8.2} {peak:>5.0} {end:>5.0}");
            }
            println!();
        }
    }

    fn print_ratios(&self, rival: usize) {
        let (subject, name) = (&self.allocators[0], &self.allocators[rival]);
        let mut threads: Vec<usize> = self.cells.iter().map(|cell| cell.threads).collect();
        threads.sort_unstable();
        threads.dedup();
        let (few, many, _) = GOAL_CROWD;

        println!("\n{subject} vs {name}: throughput (above 1 is faster), and means for processor time and peak memory");
        print!("{:<18}", "threads");
        threads.iter().for_each(|threads| print!(" {threads:>8}"));
        print!(" | {:>8} {:>8} {:>8}", "mean", "cpu", "memory");
        println!(" | {many} vs {few} threads: {subject}, {name}");
        for workload in self.workloads() {
            let cells: Vec<&Cell> = self.cells_of(workload).collect();
            print!("{workload:<18}");
            for threads in &threads {
                let cell = cells.iter().copied().filter(|cell| cell.threads == *threads);
                print!(" {}", ratio(mean(cell, rival, wall)));
            }
            print_means(&cells, rival);
            let crowd = |which| ratio(self.crowd(workload, which));
            println!(" | {} {}", crowd(0), crowd(rival));
        }
        print!("{:<18}", "geometric mean");
        for threads in &threads {
            let cells = self.cells.iter().filter(|cell| cell.threads == *threads);
            print!(" {}", ratio(mean(cells, rival, wall)));
        }
        print_means(&self.cells.iter().collect::<Vec<_>>(), rival);
        println!(" |");
    }

    fn print_goals(&self, rival: usize) {
        let (few, many, loss) = GOAL_CROWD;
        let (hand_over, hand_over_goal) = GOAL_HAND_OVER;
        println!("\ngoals, as far as these runs can tell:");

        let ratios = self.cells.iter().filter_map(|cell| {
            let name = format!("{} at {}", cell.workload, cell.threads);
            Some((name, cell.ratio(rival, wall)?))
        });
        let level = format!("each at least level with {YARDSTICK}");
        print_goal(&level, 1.0, ratios.collect());

        let all = mean(self.cells.iter(), rival, wall);
        let all = all.map(|mean| ("mean".into(), mean));
        print_goal("geometric mean", GOAL_MEAN, all.into_iter().collect());

        // One thread alone hands nothing over.
        let cells = self.cells_of(hand_over).filter(|cell| cell.threads > 1);
        let hand_overs = mean(cells, rival, wall).map(|mean| ("mean".into(), mean));
        let name = format!("{hand_over}, mean over 2 and more threads");
        print_goal(&name, hand_over_goal, hand_overs.into_iter().collect());

        let crowds = self.workloads().into_iter();
        let crowds = crowds.filter_map(|name| Some((name.into(), self.crowd(name, 0)?)));
        let name = format!("throughput at {many} threads against {few}");
        print_goal(&name, 1.0 - loss, crowds.collect());
    }

    fn workloads(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.cells.iter().map(|cell| cell.workload.as_str()).collect();
        names.dedup();
        names
    }

    fn cells_of<'a>(&'a self, workload: &'a str) -> impl Iterator<Item = &'a Cell> {
        self.cells.iter().filter(move |cell| cell.workload == workload)
    }

    /// An allocator's throughput with many threads, as a multiple of that with few.
    fn crowd(&self, workload: &str, allocator: usize) -> Option<f64> {
        let (few, many, _) = GOAL_CROWD;
        let time = |threads| {
            let cell = self.cells_of(workload).find(|cell| cell.threads == threads)?;
            Some(cell.median(allocator, wall)).filter(|&ns| ns > 0.0)
        };
        Some(time(few)? / time(many)?)
    }
}

/// The geometric mean of a ratio over some cells.
fn mean<'a>(cells: impl Iterator<Item = &'a Cell>, rival: usize, of: fn(&Record) -> f64) -> Option<f64> {
    let mean = geometric_mean(cells.filter_map(|cell| cell.ratio(rival, of)));
    (mean > 0.0).then_some(mean)
}

fn print_means(cells: &[&Cell], rival: usize) {
    let mean = |of| ratio(mean(cells.iter().copied(), rival, of));
    print!(" | {} {} {}", mean(wall), mean(cpu), mean(peak));
}

/// Says whether all of some named ratios, if there are any, reach the goal, and which do not.
fn print_goal(what: &str, goal: f64, ratios: Vec<(String, f64)>) {
    let missed = ratios.iter().filter(|(_, ratio)| *ratio < goal);
    let missed: Vec<String> = missed.map(|(name, ratio)| format!("{name} {ratio:.2}x")).collect();
    let verdict = match (ratios.len(), missed.len()) {
        (0, _) => "not measured".into(),
        (_, 0) => "met".into(),
        (all, some) => format!("missed by {some} of {all}: {}", missed.join(", ")),
    };
    println!("{what} (goal {goal}x): {verdict}");
}

fn ratio(value: Option<f64>) -> String {
    value.map_or_else(|| format!("{:>8}", "-"), |value| format!("{value:>7.2}x"))
}

fn wall(record: &Record) -> f64 {
    record.wall_ns as f64 / record.ops as f64
}

fn cpu(record: &Record) -> f64 {
    record.cpu_ns as f64 / record.ops as f64
}

fn peak(record: &Record) -> f64 {
    record.peak_rss as f64 / f64::from(1 << 20)
}

fn end(record: &Record) -> f64 {
    record.final_rss as f64 / f64::from(1 << 20)
}
