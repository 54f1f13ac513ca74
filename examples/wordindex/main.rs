//! A program with a real appetite: rayon threads read every text file under a folder and build an inverted index of
//! its words; then the same work runs under malloc and under Millpond, side by side.
//!
//! ```text
//! cargo run --release --example wordindex -- FOLDER
//! ```

mod compare;
mod corpus;
mod index;
mod measure;
mod options;
mod top;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};

use corpus::Corpus;
use index::Index;
use measure::Allocator;
use millpond::Millpond;
use options::Options;

#[global_allocator]
static GLOBAL: Millpond = Millpond;

/// Text that makes a second or two of work; smaller folders are indexed as often as they fit into it.
const ENOUGH: u64 = 96 << 20;

fn main() -> ExitCode {
    let options = Options::parse();
    let done = if options.measure {
        let trim = || {
            millpond::trim();
        };
        measure::run(&options, &Allocator { trim, stats: || Some(millpond::stats().to_string()) })
    } else {
        show(&options)
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wordindex: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whoever read our output has enough of it (`| head`): no error.
fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn show(options: &Options) -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout().lock();
    let bytes = index_once(options, &mut out)?;
    if options.rounds > 0 {
        let repeat = options.repeat.unwrap_or_else(|| (ENOUGH / bytes).clamp(1, 10_000) as u32);
        match repeat {
            1 => writeln!(out, "\nComparing with malloc.")?,
            _ => writeln!(out, "\nComparing with malloc, each file indexed {repeat} times.")?,
        }
        compare::compare(options, repeat, &mut out)?;
    }
    Ok(())
}

/// Indexes the folder in this process, prints what is in it, and returns its bytes of text.
fn index_once(options: &Options, out: &mut dyn Write) -> Result<u64, Box<dyn Error>> {
    let folder = options.folder();
    let name = folder.display();
    options.start_threads()?;
    let corpus = Corpus::walk(&folder).map_err(|error| format!("cannot read {name}: {error}"))?;

    // Drawn on a terminal only: indicatif sees to that.
    let bar = ProgressBar::new(corpus.files.len() as u64);
    bar.set_style(ProgressStyle::with_template("indexing [{bar:40}] {pos}/{len} files, {elapsed}")?);
    bar.enable_steady_tick(Duration::from_millis(100));
    let index = Index::build(&corpus, 1, &|| bar.inc(1));
    bar.finish_and_clear();

    let totals = index.totals();
    let skipped =
        format!("skipped: {} binary, {} unreadable", HumanCount(totals.binary), HumanCount(totals.unreadable));
    if totals.words == 0 {
        return Err(format!("no text under {name} ({skipped})").into());
    }
    writeln!(
        out,
        "{name}: {} text files, {}, {} words, {} different ({skipped})\n",
        HumanCount(totals.documents),
        HumanBytes(totals.bytes),
        HumanCount(totals.words),
        HumanCount(totals.terms),
    )?;
    writeln!(out, "{:>10} {:>8}  {:20} most in", "words", "files", "term")?;
    for top in top::top(&index, &corpus, options.top) {
        let (words, files) = (HumanCount(top.words as u64).to_string(), HumanCount(top.files as u64).to_string());
        let most_in = top.most_in.strip_prefix(&folder).unwrap_or(top.most_in).display();
        writeln!(out, "{words:>10} {files:>8}  {:20} {most_in}", top.term)?;
    }
    Ok(totals.bytes)
}
