//! The memory profile: figures near the truth for functions that allocate known amounts, in the forms that tools read.
//!
//! The bounds are ten standard deviations of the estimates, under one per cent each, and the seeds are fixed. The probe is built
//! with frame pointers; `nm` names what lies at an address.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(millpond_forward), not(millpond_portable_tls)))]

mod library;

use library::{Ended, compile, link_shared, preloaded, root, run, succeeds, workbench};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const WATCHDOG: u32 = 120;
const MEAN: f64 = 256.0;

#[test]
fn figures_are_near_the_truth_and_stacks_name_who_allocates() {
    let file = workbench().join("all.pb");
    let variable = format!("{},bytes=256,seed=7", file.display());
    let probe = Probe::run(Command::new(probe()).arg("all").env("MILLPOND_PROFILE", variable));
    let profile = Profile::read(&file);
    assert_eq!(profile.kinds, ["alloc_objects count", "alloc_space bytes", "inuse_objects count", "inuse_space bytes"]);
    assert_eq!(
        (profile.period_kind.as_str(), profile.period, profile.default.as_str()),
        ("space bytes", 256, "inuse_space")
    );
    probe.holds(&profile.by_function(&probe.names, &probe.known()));
    gos_viewer_agrees(&file, &profile);
    // Each stack begins where the program does.
    let outer = profile.by_function(&probe.names, &["millpond_profile_probe::main"]);
    let all = probe.rows.iter().map(|row| row.blocks).sum::<f64>();
    assert!(outer["millpond_profile_probe::main"][0] > 0.95 * all, "{outer:?}");
    assert!(
        profile.mappings.iter().any(|mapping| mapping.name.ends_with("millpond-profile-probe")),
        "{:?}",
        profile.mappings
    );
    for sample in &profile.samples {
        for at in &sample.locations {
            let Location { mapping, address } = profile.locations[at];
            let lies_in = |mapping: &Mapping| (mapping.start..mapping.limit).contains(&address);
            assert!(mapping > 0 && lies_in(&profile.mappings[mapping as usize - 1]), "{address:#x}");
        }
    }
}

/// Go's own viewer, where there is one, reads the file, and finds as much in it.
fn gos_viewer_agrees(file: &Path, profile: &Profile) {
    for (at, index) in ["alloc_objects", "alloc_space", "inuse_objects", "inuse_space"].into_iter().enumerate() {
        let mut go = Command::new("go");
        go.args(["tool", "pprof", "-top", "-unit=B", "-symbolize=none", "-nodefraction=0", "-sample_index", index]);
        let Ok(output) = go.arg(file).env("PPROF_TMPDIR", workbench()).output() else {
            return println!("there is no `go` here");
        };
        let text = String::from_utf8_lossy(&output.stdout);
        // "Showing nodes accounting for 12B, 100% of 12B total".
        let total = text.lines().find_map(|line| line.split(" of ").nth(1)?.strip_suffix(" total"));
        let sum: u64 = profile.samples.iter().map(|sample| sample.values[at]).sum();
        let told = total.and_then(|total| total.trim_end_matches('B').parse::<u64>().ok());
        assert_eq!(told, Some(sum), "{index}: {output:?}");
    }
}

/// By the functions, while another thread is there already; what comes after the end is not in it.
#[test]
fn a_profile_is_begun_and_ended_by_calls() {
    let file = workbench().join("started.pb");
    let probe = Probe::run(Command::new(probe()).arg("started").arg(&file));
    let profile = Profile::read(&file);
    probe.holds(&profile.by_function(&probe.names, &probe.known()));
}

#[test]
fn the_collapsed_form_has_a_line_a_stack() {
    let file = workbench().join("collapsed.txt");
    let probe = Probe::run(Command::new(probe()).arg("collapsed").arg(&file));
    let text = std::fs::read_to_string(&file).expect("it was written");
    let mut live: BTreeMap<&str, f64> = BTreeMap::new();
    for line in text.lines() {
        let (stack, figure) = line.rsplit_once(' ').expect("a figure");
        let figure: f64 = figure.parse().expect("a number");
        let names = stack.split(';').map(|frame| {
            let address = u64::from_str_radix(frame.strip_prefix("0x").expect("hexadecimal"), 16).expect("an address");
            probe.names.at(address)
        });
        // The outermost first: the innermost known function is the last.
        let known = names.filter_map(|name| probe.known().into_iter().find(|known| *known == name)).next_back();
        *live.entry(known.unwrap_or("")).or_default() += figure;
    }
    for row in probe.rows.iter().filter(|row| row.live_blocks > 0.0) {
        let found = live.get(row.name.as_str()).copied().unwrap_or(0.0);
        row.near("live bytes", found, row.live_bytes, row.live_blocks);
    }
}

/// The child has its parent's profile and its own from then on, and writes to a file of its own.
#[test]
fn forked_children_write_their_own() {
    let program = compile("profiled.c", "profiled", &flags());
    let file = workbench().join("forked.pb");
    let variable = format!("{},bytes=256,seed=1", file.display());
    let mut command = Command::new(&program);
    let ended = succeeds(command.env("MILLPOND_PROFILE", variable));
    let child = ended.stdout.lines().find_map(|line| line.strip_prefix("child ")).expect("its number").to_owned();
    let names = Names::of(&program, &ended.stdout);
    let known = ["before_the_fork", "in_the_child", "in_the_parent"];
    let [parent, child] = [file.clone(), PathBuf::from(format!("{}.{child}", file.display()))]
        .map(|file| Profile::read(&file).by_function(&names, &known));
    for (profile, live, own, other) in
        [(&parent, 20_000.0, "in_the_parent", "in_the_child"), (&child, 0.0, "in_the_child", "in_the_parent")]
    {
        let row = |blocks: f64, live: f64| Row::new("", blocks, blocks * 100.0, live, live * 100.0);
        row(20_000.0, live).holds(&profile["before_the_fork"]);
        row(10_000.0, 10_000.0).holds(&profile[own]);
        assert!(!profile.contains_key(other), "{profile:?}");
    }
}

/// A sample each byte takes all: none is missing because a thread has not allocated anything small yet.
#[test]
fn threads_that_begin_with_what_is_large_are_sampled() {
    let program = compile("profiled_large.c", "profiled_large", &flags());
    let file = workbench().join("large.pb");
    let mut command = Command::new(&program);
    succeeds(command.env("MILLPOND_PROFILE", format!("{},bytes=1", file.display())));
    let large = |sample: &Sample| sample.values[1] >= 1_000_003 && sample.values[1] % 1_000_003 == 0;
    let samples = Profile::read(&file).samples;
    let found: u64 = samples.iter().filter(|sample| large(sample)).map(|sample| sample.values[0]).sum();
    assert_eq!(found, 4);
}

/// Under `LD_PRELOAD`, with functions of the C family, a file for each process, and threads that come and go.
#[test]
fn python_is_profiled() {
    let folder = workbench().join("python");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder");
    let script = "
import threading, subprocess, sys
kept = [bytearray(1000) for _ in range(20000)]
def work():
    for _ in range(50):
        [str(number) * 50 for number in range(100)]
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
if len(sys.argv) < 2:
    subprocess.run([sys.executable, '-c', 'import sys; print(len([bytearray(5000) for _ in range(1000)]))', 'child'], check=True)
print('done')
";
    let variable = format!("{}/%p.pb,bytes=4096,seed=1", folder.display());
    let ended =
        run(preloaded("python3").args(["-c", script]).env("MILLPOND_PROFILE", variable), WATCHDOG, &[]).well("python");
    assert!(ended.stdout.contains("1000") && ended.stdout.contains("done") && ended.stderr.is_empty(), "{ended:#?}");
    let files: Vec<PathBuf> =
        std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("a file").path()).collect();
    let profiles: Vec<Profile> = files.iter().map(|file| Profile::read(file)).collect();
    let allocated = |profile: &Profile| profile.samples.iter().map(|sample| sample.values[1]).sum::<u64>();
    let named = |profile: &&Profile, part: &str| profile.mappings.iter().any(|mapping| mapping.name.contains(part));
    // What is called python may be a script that calls it.
    let pythons: Vec<&Profile> = profiles.iter().filter(|profile| named(profile, "/python")).collect();
    assert!(pythons.len() >= 2, "{files:?}");
    assert!(pythons.iter().any(|profile| allocated(profile) > 20_000_000), "20 MB are kept");
    assert!(profiles.iter().all(|profile| named(&profile, "libmillpond")));
}

/// The file is where the program began, wherever it goes; what is no number in the folder's name stays as it is.
#[test]
fn a_profile_is_where_the_program_began() {
    let folder = workbench().join("began%p");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut command = preloaded("python3");
    command.args(["-c", "import os; os.chdir('/'); kept = [bytearray(1000) for _ in range(20000)]"]);
    let ended = run(command.current_dir(&folder).env("MILLPOND_PROFILE", "own.pb"), WATCHDOG, &[]).well("python");
    assert_eq!(ended.stderr, "");
    assert!(!Profile::read(&folder.join("own.pb")).samples.is_empty());
}

/// What cannot be written is said, and harms nobody.
#[test]
fn a_file_that_cannot_be_written_is_named() {
    let program = compile("profiled.c", "profiled_nowhere", &flags());
    let mut command = Command::new(&program);
    let ended = run(command.env("MILLPOND_PROFILE", "/nowhere/there,bytes=4096"), WATCHDOG, &[]).well("profiled");
    assert!(
        ended
            .stderr
            .contains("millpond: no profile can be written to /nowhere/there: no such file or folder (errno 2)\n"),
        "{ended:#?}"
    );
}

/// Compiled with frame pointers, and linked with the library.
fn flags() -> Vec<&'static str> {
    static LINK: std::sync::OnceLock<[String; 3]> = std::sync::OnceLock::new();
    let link = LINK.get_or_init(link_shared);
    let own = ["-fno-omit-frame-pointer", "-fno-optimize-sibling-calls"];
    own.into_iter().chain(link.iter().map(String::as_str)).collect()
}

/// The Rust program, built with frame pointers.
fn probe() -> &'static Path {
    static BUILT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    BUILT.get_or_init(|| {
        let package = ["--package", "millpond-profile-probe"];
        let flags = ["--", "-C", "force-frame-pointers=yes"];
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["rustc", "--release", "--quiet", "--locked"]).args(package).args(flags).current_dir(root());
        succeeds(&mut cargo);
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
        target.join("release/millpond-profile-probe")
    })
}

/// What a run of the probe says that it did, and the names of its functions.
struct Probe {
    rows: Vec<Row>,
    names: Names,
}

impl Probe {
    fn run(command: &mut Command) -> Self {
        let Ended { stdout, stderr, .. } = run(command, WATCHDOG, &[]).well("the probe");
        assert!(stderr.is_empty(), "{stderr}");
        let mut rows = Vec::new();
        for line in stdout.lines() {
            if let [name, numbers @ ..] = &line.split(' ').collect::<Vec<_>>()[..] {
                let numbers: Vec<f64> = numbers.iter().filter_map(|number| number.parse().ok()).collect();
                if let [blocks, bytes, live_blocks, live_bytes] = numbers[..] {
                    let name = format!("millpond_profile_probe::{name}");
                    rows.push(Row::new(&name, blocks, bytes, live_blocks, live_bytes));
                }
            }
        }
        assert_eq!(rows.len(), 6, "{stdout}");
        Self { rows, names: Names::of(probe(), &stdout) }
    }

    fn known(&self) -> Vec<&str> {
        self.rows.iter().map(|row| row.name.as_str()).collect()
    }

    fn holds(&self, found: &BTreeMap<String, [f64; 4]>) {
        for row in &self.rows {
            let found = found.get(&row.name).unwrap_or_else(|| panic!("{} is missing: {found:?}", row.name));
            if row.blocks > 0.0 {
                row.holds(found);
            } else {
                // A vector grown to 8 MiB by doubling: all of it is live, and twice that was allocated, or half if it grew in place.
                let [_, allocated, live_blocks, live] = found.map(|figure| figure / f64::from(8 << 20));
                assert!(
                    (0.99..1.01).contains(&live) && live_blocks < 1e-5 && (0.99..2.1).contains(&allocated),
                    "{found:?}"
                );
            }
        }
    }
}

/// What a function has allocated in truth.
struct Row {
    name: String,
    blocks: f64,
    bytes: f64,
    live_blocks: f64,
    live_bytes: f64,
}

impl Row {
    fn new(name: &str, blocks: f64, bytes: f64, live_blocks: f64, live_bytes: f64) -> Self {
        Self { name: name.into(), blocks, bytes, live_blocks, live_bytes }
    }

    fn holds(&self, [objects, bytes, live_objects, live_bytes]: &[f64; 4]) {
        self.near("objects", *objects, self.blocks, self.blocks);
        self.near("bytes", *bytes, self.bytes, self.blocks);
        self.near("live objects", *live_objects, self.live_blocks, self.live_blocks);
        self.near("live bytes", *live_bytes, self.live_bytes, self.live_blocks);
    }

    /// Of `blocks` allocations, sampled with the probability `p` each, the estimate's variance is `blocks (1 - p) / p`.
    fn near(&self, what: &str, found: f64, truth: f64, blocks: f64) {
        let share = -(-self.bytes / self.blocks / MEAN).exp_m1();
        let deviation = ((1.0 - share) / share / blocks.max(1.0)).sqrt();
        // Bookkeeping of the function's own, a vector's growth, is in its figures too.
        let bound = truth * (10.0 * deviation + 0.01) + 1.0;
        println!("{} {what}: {found:.0} for {truth:.0}, {:+.2} %", self.name, (found / truth - 1.0) * 100.0);
        assert!((found - truth).abs() <= bound, "{} {what}: {found} for {truth}, at most {bound} off", self.name);
    }
}

/// Where the functions of a running program begin.
struct Names(Vec<(u64, String)>);

impl Names {
    /// The program has printed where its `main` is.
    fn of(program: &Path, stdout: &str) -> Self {
        let listing = succeeds(Command::new("nm").args(["-C", "--defined-only"]).arg(program)).stdout;
        let mut names: Vec<(u64, String)> = listing
            .lines()
            .filter_map(|line| {
                let (address, rest) = line.split_once(' ')?;
                let (kind, name) = rest.split_once(' ')?;
                // Without the hash that some manglings add.
                let name = name.rsplit_once("::h").filter(|(_, hash)| hash.len() == 16).map_or(name, |(name, _)| name);
                let address = u64::from_str_radix(address, 16).ok()?;
                "tT".contains(kind).then(|| (address, name.to_owned()))
            })
            .collect();
        names.sort_unstable();
        let running = stdout.lines().find_map(|line| line.strip_prefix("main 0x")).expect("where it is");
        let running = u64::from_str_radix(running, 16).expect("an address");
        let is_main = |name: &str| name == "main" || name == "millpond_profile_probe::main";
        let linked = names.iter().filter(|(_, name)| is_main(name)).map(|(address, _)| *address);
        // Rust's own `main` stands beside C's.
        let linked = { linked }.rfind(|address| address % 4096 == running % 4096).expect("it is there");
        names.iter_mut().for_each(|(address, _)| *address += running - linked);
        Self(names)
    }

    fn at(&self, address: u64) -> &str {
        let after = self.0.partition_point(|(start, _)| *start <= address);
        after.checked_sub(1).map_or("", |at| &self.0[at].1)
    }
}

/// What of a profile in `pprof`'s format is looked at.
#[derive(Debug, Default)]
struct Profile {
    kinds: Vec<String>,
    samples: Vec<Sample>,
    mappings: Vec<Mapping>,
    locations: BTreeMap<u64, Location>,
    period: u64,
    period_kind: String,
    default: String,
}

#[derive(Debug)]
struct Sample {
    locations: Vec<u64>,
    values: Vec<u64>,
}

#[derive(Debug)]
struct Mapping {
    start: u64,
    limit: u64,
    name: String,
}

#[derive(Debug)]
struct Location {
    mapping: u64,
    address: u64,
}

impl Profile {
    fn read(file: &Path) -> Self {
        let bytes = std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let message = Fields::read(&bytes);
        let strings: Vec<String> =
            message.all(6).map(|text| String::from_utf8(text.bytes().to_vec()).expect("UTF-8")).collect();
        assert_eq!(strings[0], "", "the first string is empty");
        let string = |at: u64| strings[at as usize].clone();
        let kind = |bytes: &[u8]| {
            let kind = Fields::read(bytes);
            format!("{} {}", string(kind.number(1)), string(kind.number(2)))
        };
        let mut profile = Self {
            kinds: message.all(1).map(|field| kind(field.bytes())).collect(),
            period: message.number(12),
            period_kind: message.all(11).map(|field| kind(field.bytes())).collect(),
            default: string(message.number(14)),
            ..Self::default()
        };
        for field in message.all(2) {
            let sample = Fields::read(field.bytes());
            let numbers = |number| sample.all(number).flat_map(|field| varints(field.bytes())).collect::<Vec<u64>>();
            profile.samples.push(Sample { locations: numbers(1), values: numbers(2) });
        }
        for (at, field) in message.all(3).enumerate() {
            let mapping = Fields::read(field.bytes());
            assert_eq!(mapping.number(1), at as u64 + 1, "numbers from 1 on");
            let (start, limit) = (mapping.number(2), mapping.number(3));
            profile.mappings.push(Mapping { start, limit, name: string(mapping.number(5)) });
        }
        for field in message.all(4) {
            let location = Fields::read(field.bytes());
            let (id, mapping, address) = (location.number(1), location.number(2), location.number(3));
            let before = profile.locations.insert(id, Location { mapping, address });
            assert!(id != 0 && before.is_none(), "two locations have the number {id}");
        }
        for sample in &profile.samples {
            assert_eq!(sample.values.len(), 4, "a figure for each kind");
            assert!(!sample.locations.is_empty() && sample.locations.len() <= 128);
        }
        profile
    }

    /// The four figures of each known function, with all that it calls.
    fn by_function<T: AsRef<str>>(&self, names: &Names, known: &[T]) -> BTreeMap<String, [f64; 4]> {
        let mut sums: BTreeMap<String, [f64; 4]> = BTreeMap::new();
        for sample in &self.samples {
            let mut on: Vec<&str> = sample.locations.iter().map(|at| names.at(self.locations[at].address)).collect();
            on.sort_unstable();
            on.dedup();
            for name in known.iter().map(AsRef::as_ref).filter(|name| on.contains(name)) {
                let sum = sums.entry(name.to_owned()).or_default();
                sum.iter_mut().zip(&sample.values).for_each(|(sum, value)| *sum += *value as f64);
            }
        }
        sums
    }
}

/// A message of Protocol Buffers, taken apart.
struct Fields<'a>(Vec<(u64, Field<'a>)>);

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    fn bytes(&self) -> &'a [u8] {
        match self {
            Self::Number(_) => panic!("a number where bytes are expected"),
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl<'a> Fields<'a> {
    fn read(mut rest: &'a [u8]) -> Self {
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let key = varint(&mut rest);
            fields.push((
                key >> 3,
                match key & 7 {
                    0 => Field::Number(varint(&mut rest)),
                    2 => {
                        let len = varint(&mut rest) as usize;
                        let (bytes, after) = rest.split_at(len);
                        rest = after;
                        Field::Bytes(bytes)
                    }
                    kind => panic!("a field of kind {kind}"),
                },
            ));
        }
        Self(fields)
    }

    fn all(&self, number: u64) -> impl Iterator<Item = &Field<'a>> {
        self.0.iter().filter(move |(field, _)| *field == number).map(|(_, field)| field)
    }

    /// Zero if it is not there.
    fn number(&self, number: u64) -> u64 {
        self.all(number).last().map_or(0, |field| match field {
            Field::Number(number) => *number,
            Field::Bytes(_) => panic!("bytes where a number is expected"),
        })
    }
}

fn varint(rest: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first().expect("whole");
        *rest = after;
        number |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return number;
        }
    }
    panic!("a number of more than 64 bits");
}

fn varints(mut rest: &[u8]) -> Vec<u64> {
    let mut numbers = Vec::new();
    while !rest.is_empty() {
        numbers.push(varint(&mut rest));
    }
    numbers
}
