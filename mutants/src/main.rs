//! Mutation of the proof: weakens the shipped code one place at a time and runs the models that name its file. A mutant
//! that no model notices has survived: then a model is too weak, or the code is stronger than it need be, or
//! `explained.toml` says why neither is so. Only what a model finds kills: a mutant for which a model has no end in its time,
//! or loom gives up, and which no other model notices, has timed out, and that is a way to survive.
//!
//! The sources are copied to a folder under `target`, all mutants are put in behind switches (see [`sites`]), the models
//! are built once, and each mutant is switched on when the models are run. Results are kept, so that a run that was
//! stopped goes on where it was (see [`results`]).

mod explained;
mod models;
mod report;
mod results;
mod sites;
mod tree;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

use models::{Build, Ended, Model};
use report::{Report, Row};
use results::{Fate, Prints, Results};
use sites::Mutant;

/// Weakens Millpond one place at a time and sees whether its models notice.
#[derive(Parser)]
struct Options {
    /// Only mutants whose file, function or text has this in it.
    filter: Option<String>,
    /// Mutants that run at a time.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, |count| count.get()))]
    jobs: usize,
    /// Minutes after which the run stops; the next one goes on.
    #[arg(long, default_value_t = 120)]
    minutes: u64,
    /// Seconds that a model has for a mutant, at least; and no less than ten times what it takes unweakened.
    #[arg(long, default_value_t = 60)]
    limit: u64,
    /// Forgets what earlier runs found.
    #[arg(long)]
    afresh: bool,
    /// Lists the mutants and runs none.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("millpond-mutants: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<bool> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace is around this package")?;
    let place = root.join("target/mutants");
    if options.list {
        for mutant in tree::find(root)? {
            println!("{}:{} {}: {}", mutant.file, mutant.line, mutant.function, mutant.text);
        }
        return Ok(true);
    }
    let start = Instant::now();
    let build = build(root, &place)?;
    println!("{} mutants, {} models", build.mutants.len(), build.models.len());
    let prints = build.models.iter().map(|model| (model.name.clone(), model.fingerprint.clone())).collect();
    let prints = Prints { code: build.fingerprint.clone(), models: prints };
    let results = Results::open(&place.join("results.jsonl"), prints, options.afresh)?;

    let mut wanted: Vec<&Mutant> = build.mutants.iter().filter(|mutant| options.lets_through(mutant)).collect();
    ensure!(!wanted.is_empty(), "no mutant has {:?} in it", options.filter.as_deref().unwrap_or_default());
    let models = models::measured(&build, &wanted, options.jobs, &place.join("models.json"))?;
    // Those whose models are quick come first: most of what there is to see is seen early.
    wanted.sort_by_cached_key(|mutant| asked(&models, mutant).map(|model| model.takes).sum::<Duration>());
    try_all(&build, &models, &wanted, &results, options, start);

    let explained = explained::read(&root.join("mutants/explained.toml"))?;
    let rows: Vec<Row> = build.mutants.iter().map(|mutant| Row::new(mutant, results.fate(mutant))).collect();
    let whole = options.filter.is_none();
    let report = Report::new(rows, explained, build.models.len(), whole, results.seconds());
    report.print();
    let file = place.join("report.json");
    report.write(&file)?;
    println!("{} has all of it", shown(root, &file));
    Ok(report.is_good())
}

fn shown(root: &Path, file: &Path) -> String {
    file.strip_prefix(root).unwrap_or(file).display().to_string()
}

impl Options {
    fn lets_through(&self, mutant: &Mutant) -> bool {
        self.filter.as_deref().is_none_or(|filter| mutant.key().contains(filter))
    }
}

/// Copies and builds, leaving out what does not compile.
fn build(root: &Path, place: &Path) -> Result<Build> {
    let copy: PathBuf = place.join("tree");
    let spinner = ProgressBar::new_spinner().with_message("building the models with all mutants in them");
    spinner.enable_steady_tick(Duration::from_millis(100));
    let mut broken = BTreeSet::new();
    loop {
        let mutants = tree::copy(root, &copy, &broken)?;
        match models::build(&copy, &place.join("build"))? {
            Ok(executable) => {
                spinner.finish_and_clear();
                let fingerprint = tree::fingerprint(root, &models::sources(&executable, &copy)?)?;
                let models = models::list(&executable, root)?;
                return Ok(Build { executable, models, mutants, broken, fingerprint });
            }
            Err(errors) => {
                let guilty: BTreeSet<u32> = mutants
                    .iter()
                    .filter(|mutant| errors.places.contains(&(mutant.file.clone(), mutant.line)))
                    .map(|mutant| mutant.id)
                    .filter(|id| !broken.contains(id))
                    .collect();
                ensure!(!guilty.is_empty(), "the mutated sources do not compile:\n{}", errors.text);
                broken.extend(guilty);
            }
        }
    }
}

/// Runs the models for each mutant whose fate is not known yet.
fn try_all(build: &Build, models: &[Model], wanted: &[&Mutant], results: &Results, options: &Options, start: Instant) {
    let bar = ProgressBar::new(wanted.len() as u64);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {elapsed} (left: {eta}) {msg}");
    bar.set_style(style.expect("the template is right"));
    bar.enable_steady_tick(Duration::from_millis(500));
    let next = AtomicUsize::new(0);
    let survivors = Mutex::new(0);
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                while let Some(mutant) = wanted.get(next.fetch_add(1, Relaxed)) {
                    if start.elapsed() > Duration::from_secs(60 * options.minutes) {
                        return;
                    }
                    if !results.is_known(mutant) {
                        let from = Instant::now();
                        let fate = fate(build, models, mutant, options);
                        let lived = !matches!(fate, Fate::Killed { .. } | Fate::Uncompiled);
                        if lived {
                            *survivors.lock().unwrap() += 1;
                            bar.set_message(format!("{} new survivors", survivors.lock().unwrap()));
                        }
                        results.add(mutant, fate, from.elapsed());
                    }
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
}

/// The models that name a mutant's file and pass its place.
fn asked<'a>(models: &'a [Model], mutant: &Mutant) -> impl Iterator<Item = &'a Model> {
    models.iter().filter(|model| model.names(&mutant.file) && model.reached.contains(&mutant.id))
}

/// What becomes of a mutant: the quickest models that name its file and pass its place are asked first.
fn fate(build: &Build, models: &[Model], mutant: &Mutant, options: &Options) -> Fate {
    if build.broken.contains(&mutant.id) {
        return Fate::Uncompiled;
    }
    let asked: Vec<&Model> = asked(models, mutant).collect();
    if asked.is_empty() {
        return Fate::Unreached;
    }
    let mut late = None;
    for model in &asked {
        let limit = Duration::from_secs(options.limit).max(model.takes * 10);
        match models::run(&build.executable, &model.name, Some(mutant.id), limit) {
            Ended::Well { .. } => {}
            Ended::Badly { said } => return Fate::Killed { by: model.name.clone(), said },
            Ended::Late => late = Some(model.name.clone()),
        }
    }
    match late {
        Some(model) => Fate::TimedOut { model },
        None => Fate::Survived { models: asked.len() },
    }
}
