//! The order in which everything is run.
//!
//! Rounds are the outer loop, so that a minute in which the machine is busy with something else spoils one round of many
//! cells and not all rounds of one; in a cell all allocators run one after the other, starting with another one each
//! round. After the first round come the runs for the memory that is left and those for the calls' times, so that a run
//! that is interrupted has something of everything; what is done is written down every few seconds.

use crate::machine::Reading;
use crate::options::{Options, Pace};
use crate::results::{Cell, Results, Setup};
use crate::rivals::{self, Executables};
use crate::run::{self, Settling, Task};
use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SAVE_EVERY: Duration = Duration::from_secs(5);

/// A pass over all cells.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pass {
    Plain,
    Settle,
    Latency,
}

/// What one run after the other needs.
struct Measuring {
    results: Results,
    executables: Vec<Option<Executables>>,
    pace: Pace,
    bar: ProgressBar,
    path: PathBuf,
    saved: Instant,
}

/// Builds and runs what is asked for; the results are in `field.json` in the folder too.
pub fn measure(options: &Options, folder: &Path) -> anyhow::Result<Results> {
    // Before the builds, which take minutes.
    let probe = folder.join("field.part");
    std::fs::write(&probe, "")
        .and_then(|()| std::fs::remove_file(&probe))
        .with_context(|| format!("{} cannot be written to", folder.display()))?;
    let pace = options.pace();
    let mut all = Vec::new();
    let mut executables = Vec::new();
    for known in options.allocators() {
        let (rival, built) = rivals::build(known, &folder.join("children"));
        if let Some(why) = &rival.missing {
            eprintln!("{}: {why}", rival.name);
        }
        all.push(rival);
        executables.push(built);
    }
    anyhow::ensure!(executables[0].is_some(), "there is nothing to compare with");
    let threads = options.threads();
    let cells = options.workloads().into_iter().flat_map(|workload| {
        let cell = |&threads| Cell::new(&workload.name, &workload.about, threads, all.len());
        threads.iter().map(cell).collect::<Vec<_>>()
    });
    let processors = std::thread::available_parallelism()?.get();
    if options.small_pages {
        run::refuse_huge_pages().context("huge pages cannot be refused")?;
    }
    let small_pages = options.small_pages;
    let setup =
        Setup { rounds: 0, scale: pace.scale, processors, processor: processor(), share_of_others: None, small_pages };
    let results = Results { setup, cells: cells.collect(), rivals: all };

    let passes = passes(pace);
    let built = executables.iter().flatten().count();
    let bar = ProgressBar::new((passes.len() * results.cells.len() * built) as u64);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} (left: {eta}) {msg}");
    bar.set_style(style.expect("a valid template"));
    let path = folder.join("field.json");
    let mut measuring = Measuring { results, executables, pace, bar, path, saved: Instant::now() };
    let start = Reading::now();
    for pass in passes {
        measuring.pass(pass)?;
        measuring.results.setup.share_of_others = start.share_of_others(processors);
    }
    measuring.bar.finish_and_clear();
    measuring.results.save(&measuring.path)?;
    println!("records: {}", measuring.path.display());
    Ok(measuring.results)
}

/// A round first, then one pass each of what is measured less often, then the other rounds and passes.
fn passes(pace: Pace) -> Vec<Pass> {
    let mut passes = vec![Pass::Plain, Pass::Settle, Pass::Latency];
    passes.extend((1..pace.rounds).map(|_| Pass::Plain));
    passes.extend((1..pace.passes).flat_map(|_| [Pass::Settle, Pass::Latency]));
    passes
}

impl Measuring {
    fn pass(&mut self, pass: Pass) -> anyhow::Result<()> {
        for cell in 0..self.results.cells.len() {
            match pass {
                Pass::Settle => self.settle(cell),
                Pass::Plain | Pass::Latency => self.run(cell, pass == Pass::Latency),
            }
            if self.saved.elapsed() > SAVE_EVERY {
                self.results.save(&self.path)?;
                self.saved = Instant::now();
            }
        }
        ask_versions(&mut self.results);
        self.results.setup.rounds += usize::from(pass == Pass::Plain);
        Ok(())
    }

    /// All allocators in one cell, one after the other.
    fn run(&mut self, cell: usize, timed: bool) {
        for which in self.turn(cell) {
            let child = |built: &'_ Executables| if timed { built.timed.clone() } else { built.plain.clone() };
            let Some(child) = self.executables[which].as_ref().map(child) else { continue };
            self.show(cell, which);
            let cell = &mut self.results.cells[cell];
            let result = child.run(task(cell, self.pace));
            if let Err(why) = &result {
                self.bar.suspend(|| eprintln!("{} at {}: {why}", cell.workload, cell.threads));
            }
            if timed {
                cell.add_latency(which, result);
            } else {
                cell.add(which, result);
            }
            self.bar.inc(1);
        }
    }

    /// The same, but each settles down while the next one runs: nothing is timed here.
    fn settle(&mut self, cell: usize) {
        let mut settling: Vec<(usize, Result<Settling, String>)> = Vec::new();
        for which in self.turn(cell) {
            let Some(built) = &self.executables[which] else { continue };
            self.show(cell, which);
            let cell = &self.results.cells[cell];
            settling.push((which, built.plain.run_and_settle(task(cell, self.pace))));
            self.bar.inc(1);
        }
        for (which, settling) in settling {
            let settled = settling.and_then(Settling::finish);
            self.results.cells[cell].add_settled(which, settled);
        }
    }

    /// The allocators in the order in which they are next, without those that are given up here.
    fn turn(&self, cell: usize) -> Vec<usize> {
        let all = self.executables.len();
        let first = self.results.cells[cell].runs[0].rounds.len();
        let order = (0..all).map(|turn| (first + turn) % all);
        order.filter(|&which| !self.results.cells[cell].is_given_up(which)).collect()
    }

    fn show(&self, cell: usize, which: usize) {
        let (cell, rival) = (&self.results.cells[cell], &self.results.rivals[which]);
        self.bar.set_message(format!("{} at {}: {}", cell.workload, cell.threads, rival.name));
    }
}

fn task(cell: &Cell, pace: Pace) -> Task<'_> {
    let limit = Duration::from_secs(pace.limit);
    Task { workload: &cell.workload, threads: cell.threads, scale: pace.scale, limit }
}

/// Where an allocator has said what it is, that counts, and not its package's version.
fn ask_versions(results: &mut Results) {
    for (nth, rival) in results.rivals.iter_mut().enumerate() {
        let mut records = results.cells.iter().flat_map(|cell| cell.runs[nth].rounds.iter().flatten());
        let said = records.next().map(|record| record.allocator.as_str()).unwrap_or_default();
        if !said.is_empty() {
            rival.version = said.to_owned();
        }
    }
}

/// The processor's name, where the system says it.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name =
        text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim()));
    name.unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn a_folder_that_takes_nothing_is_refused_before_anything_is_built() {
        // No files can be made there, not even by root.
        let folder = Path::new("/proc/self");
        let options = Options::try_parse_from(["field", "-a", "malloc", "-w", "pairs", "-t", "1"]).unwrap();
        let why = measure(&options, folder).err().unwrap().to_string();
        assert_eq!(why, "/proc/self cannot be written to");
    }

    #[test]
    fn the_first_passes_have_something_of_everything() {
        let pace = Pace { rounds: 3, passes: 2, scale: 1.0, limit: 1 };
        let passes = passes(pace);
        assert_eq!(passes[..3], [Pass::Plain, Pass::Settle, Pass::Latency]);
        let count = |wanted| passes.iter().filter(|pass| **pass == wanted).count();
        assert_eq!([count(Pass::Plain), count(Pass::Settle), count(Pass::Latency)], [3, 2, 2]);
    }
}
