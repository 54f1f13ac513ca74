//! The models: building them, and running one of them with or without a mutant.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use wait_timeout::ChildExt;

use crate::sites::Mutant;
use crate::tree;

/// What loom says where it gave up instead of finding something, as in the models' runner: such a mutant has not been killed.
const NOT_FINDINGS: [&str; 3] = [
    "Model exceeded maximum number of branches",
    "cannot access Loom execution state",
    "threads.len() < self.max_threads",
];

/// What the models take unweakened, at most.
const PATIENCE: Duration = Duration::from_secs(1200);

/// The models with all mutants in them.
pub struct Build {
    pub executable: PathBuf,
    pub models: Vec<Model>,
    pub mutants: Vec<Mutant>,
    /// What does not compile.
    pub broken: BTreeSet<u32>,
    /// Of the code that the models run.
    pub fingerprint: String,
}

/// One model.
#[derive(Clone, Serialize, Deserialize)]
pub struct Model {
    pub name: String,
    /// The files that it is about.
    pub files: Vec<String>,
    /// What it depends on, beside the code.
    pub fingerprint: String,
    /// How long it takes unweakened.
    pub takes: Duration,
    /// The mutants whose places it passes.
    pub reached: BTreeSet<u32>,
}

impl Model {
    pub fn names(&self, file: &str) -> bool {
        self.files.iter().any(|named| named == file)
    }
}

/// What the compiler did not like.
pub struct Errors {
    /// File and line.
    pub places: BTreeSet<(String, usize)>,
    pub text: String,
}

/// How a model ended.
pub enum Ended {
    Well {
        takes: Duration,
        output: String,
    },
    Badly {
        said: String,
    },
    /// Not in time, or loom gave up.
    Late,
}

/// Builds the models of a tree and returns their executable.
pub fn build(tree: &Path, target: &Path) -> Result<Result<PathBuf, Errors>> {
    let output = Command::new(env!("CARGO"))
        .args(["test", "--release", "--package", "millpond-loom", "--lib", "--no-run"])
        .arg("--message-format=json")
        // A folder of its own: to cargo, the copy's packages are those of the tree.
        .env("CARGO_TARGET_DIR", target)
        .current_dir(tree)
        .stderr(Stdio::piped())
        .output()
        .context("cannot run cargo")?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let messages: Vec<serde_json::Value> = stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if output.status.success() {
        let executable = messages.iter().rev().find_map(|message| message["executable"].as_str());
        return Ok(Ok(executable.context("cargo names no executable")?.into()));
    }
    let mut errors = Errors { places: BTreeSet::new(), text: String::new() };
    for message in messages.iter().map(|message| &message["message"]).filter(|message| message["level"] == "error") {
        errors.text += message["rendered"].as_str().unwrap_or_default();
        for span in message["spans"].as_array().into_iter().flatten() {
            let file = span["file_name"].as_str().unwrap_or_default();
            let name = file.rsplit_once("src/").map_or(file, |(_, name)| name);
            errors.places.insert((name.into(), span["line_start"].as_u64().unwrap_or_default() as usize));
        }
    }
    if errors.text.is_empty() {
        bail!("cargo failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(Err(errors))
}

/// The sources that the compiler has read for the models, as paths within the tree.
pub fn sources(executable: &Path, tree: &Path) -> Result<Vec<PathBuf>> {
    let list = executable.with_extension("d");
    let text = std::fs::read_to_string(&list).with_context(|| list.display().to_string())?;
    let files = text.lines().filter_map(|line| line.strip_suffix(':')).map(Path::new);
    let tree = tree.canonicalize()?;
    let own = |file: &Path| {
        let file = tree.join(file).canonicalize().ok()?;
        Some(file.strip_prefix(&tree).ok()?.to_owned())
    };
    let sources: BTreeSet<PathBuf> = files.filter_map(own).collect();
    ensure!(!sources.is_empty(), "{} names no source", list.display());
    Ok(sources.into_iter().collect())
}

/// The models that there are, the files that they name, and what they depend on.
pub fn list(executable: &Path, root: &Path) -> Result<Vec<Model>> {
    let output = Command::new(executable).arg("--list").output()?;
    ensure!(output.status.success(), "the models do not list themselves");
    let text = String::from_utf8(output.stdout)?;
    let model = |line: &str| {
        let (name, rest) = line.split_once(", ").with_context(|| format!("not a model: {line}"))?;
        let (bound, files) = rest.split_once(": ").with_context(|| format!("not a model: {line}"))?;
        let files = files.split(' ').map(String::from).collect();
        let fingerprint = tree::fingerprint_of_model(root, name, bound)?;
        Ok(Model { name: name.into(), files, fingerprint, takes: Duration::ZERO, reached: BTreeSet::new() })
    };
    text.lines().map(model).collect()
}

/// The models that name the file of a wanted mutant, with how long they take unweakened, the quickest first. What an earlier
/// run measured is kept in `file`.
pub fn measured(build: &Build, wanted: &[&Mutant], jobs: usize, file: &Path) -> Result<Vec<Model>> {
    let known = std::fs::read_to_string(file).ok();
    let known = known.and_then(|text| serde_json::from_str::<(String, Vec<Model>)>(&text).ok());
    let known =
        known.filter(|(fingerprint, _)| *fingerprint == build.fingerprint).map_or(Vec::new(), |(_, known)| known);
    let same = |model: &Model| {
        let known =
            known.iter().find(|known| (&known.name, &known.fingerprint) == (&model.name, &model.fingerprint))?;
        Some(Model { takes: known.takes, reached: known.reached.clone(), ..model.clone() })
    };
    let mut models: Vec<Model> = build.models.iter().filter_map(same).collect();
    let is_asked = |model: &Model| wanted.iter().any(|mutant| model.names(&mutant.file));
    let rest: Vec<&Model> = build.models.iter().filter(|model| same(model).is_none() && is_asked(model)).collect();
    // A few at a time, so that a run that is stopped here goes on here.
    for some in rest.chunks(2 * jobs.max(1)) {
        println!("models without a mutant: {} have been run", models.len());
        models.extend(measure(&build.executable, some, jobs)?);
        std::fs::write(file, serde_json::to_string(&(&build.fingerprint, &models))?)?;
    }
    models.sort_by_key(|model| model.takes);
    Ok(models)
}

/// Runs models unweakened: they must pass.
fn measure(executable: &Path, models: &[&Model], jobs: usize) -> Result<Vec<Model>> {
    let next = AtomicUsize::new(0);
    let measured = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(model) = models.get(next.fetch_add(1, Relaxed)) {
                    measured.lock().unwrap().push((*model, run(executable, &model.name, None, PATIENCE)));
                }
            });
        }
    });
    let mut models = Vec::new();
    for (model, ended) in measured.into_inner().unwrap() {
        match ended {
            Ended::Well { takes, output } => {
                let numbers = output.lines().filter_map(|line| line.strip_prefix("reached ")?.parse().ok());
                models.push(Model { takes, reached: numbers.collect(), ..model.clone() });
            }
            Ended::Badly { said } => bail!("{} fails without a mutant: {said}", model.name),
            Ended::Late => bail!("{} has no end without a mutant", model.name),
        }
    }
    Ok(models)
}

/// Runs one model, with a mutant or, to see what it passes, without.
pub fn run(executable: &Path, model: &str, mutant: Option<u32>, limit: Duration) -> Ended {
    let start = Instant::now();
    let mut command = Command::new(executable);
    command.args(["--one", model]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    match mutant {
        Some(mutant) => command.env("MILLPOND_MUTANT", mutant.to_string()),
        None => command.env("MILLPOND_REACHED", "1"),
    };
    let mut child = command.spawn().expect("the models can be started");
    // Read meanwhile, lest a full pipe hold it up.
    let (mut out, mut err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let read = |from: &mut dyn Read| {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    };
    std::thread::scope(|scope| {
        let output = scope.spawn(move || read(&mut out));
        let errors = scope.spawn(move || read(&mut err));
        let Some(status) = child.wait_timeout(limit).expect("a child can be waited for") else {
            let _ = child.kill();
            let _ = child.wait();
            return Ended::Late;
        };
        let (output, errors) = (output.join().unwrap_or_default(), errors.join().unwrap_or_default());
        if status.success() {
            return Ended::Well { takes: start.elapsed(), output };
        }
        let first = errors.split("panicked at").nth(1).unwrap_or("");
        if NOT_FINDINGS.iter().any(|words| first.contains(words)) {
            return Ended::Late;
        }
        let said = first.lines().nth(1).map_or_else(|| status.to_string(), |line| line.trim().into());
        Ended::Badly { said }
    })
}
