//! Whether an operation costs the same however much is live and however many threads there are.
//!
//! ```text
//! cargo bench --bench flat                               1 MiB to 8 GiB live, 2 to 64 threads: needs valgrind and 10 GiB
//! cargo bench --bench flat -- --live 1,64 --threads 2    less of it; `--live ""` none
//! cargo bench --bench flat -- --against /usr/lib/x86_64-linux-gnu/libmimalloc.so.2    beside more than malloc
//! cargo bench --bench flat -- --live 64 --threads "" --sizes 5000,60000    of other sizes
//! ```
//!
//! Chunks of 16 B to 2 KiB, or of all sizes from one to another, are replaced at random among those live: an operation is a free
//! and an allocation whose first word is written. Time is the processor's, of all threads, natively; rivals are preloaded under the same program. Instructions are
//! callgrind's, of the operations alone. Valgrind makes a program some 50 times slower but not its clock, so there the clock,
//! which upkeep goes by, is this program's: it counts operations, each as long as it took natively.

use clap::Parser;
use millpond::Millpond;
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::ptr::{NonNull, null_mut};
use std::sync::Barrier;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

#[allow(dead_code, reason = "other benches need more")]
#[path = "figures/mod.rs"]
mod figures;

/// Where none are named: half a KiB on average.
const SIZES: [usize; 8] = [16, 48, 96, 200, 400, 600, 800, 2048];
/// How many sizes are drawn from, some of them the same.
const DRAWN: usize = 1024;
/// What is live where threads are what changes, in MiB.
const LIVE: usize = 64;
/// Operations from one look of the counted clock to the next.
const STEP: usize = 64;

/// What an operation costs, over what is live and over threads.
#[derive(Debug, Parser)]
struct Options {
    /// MiB that are live, with one thread.
    #[arg(long, value_parser = numbers, default_value = "1,64,1024,8192")]
    live: Numbers,
    /// Threads, with 64 MiB live over all of them.
    #[arg(long, value_parser = numbers, default_value = "2,8,32,64")]
    threads: Numbers,
    /// Libraries to preload, besides malloc.
    #[arg(long, value_delimiter = ',', value_parser = library)]
    against: Vec<PathBuf>,
    /// The least and the largest size.
    #[arg(long, value_name = "LEAST,MOST", value_parser = sizes)]
    sizes: Option<(usize, usize)>,
    /// Operations that are measured, after a quarter as many that are not.
    #[arg(long, value_parser = number, default_value = "4000000")]
    operations: usize,
    /// Runs of each for the time.
    #[arg(long, value_parser = number, default_value = "5")]
    rounds: usize,
    /// Count no instructions.
    #[arg(long)]
    native: bool,
    /// What this program tells itself to do.
    #[arg(long, hide = true, value_delimiter = ',')]
    work: Vec<usize>,
    #[arg(long, hide = true)]
    malloc: bool,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

/// So much live, so many threads and operations, of sizes from one to another.
#[derive(Clone, Copy, Debug)]
struct Task {
    live: usize,
    threads: usize,
    operations: usize,
    sizes: Option<(usize, usize)>,
}

/// What a run prints: nanoseconds of the processor's and of the clock, of an operation.
#[derive(Clone, Copy, Debug)]
struct Took {
    cpu: f64,
    wall: f64,
}

/// Two sizes: what is written into a chunk takes eight bytes.
fn sizes(said: &str) -> Result<(usize, usize), String> {
    let both = said.split_once(',').and_then(|(least, most)| Some((least.parse().ok()?, most.parse().ok()?)));
    both.filter(|(least, most)| (8..=*most).contains(least)).ok_or_else(|| "two numbers from 8 on, that rise".into())
}

/// Numbers with commas between; none of an empty text.
#[derive(Clone, Debug)]
struct Numbers(Vec<usize>);

fn numbers(said: &str) -> Result<Numbers, String> {
    said.split(',').filter(|_| !said.is_empty()).map(number).collect::<Result<_, _>>().map(Numbers)
}

fn number(said: &str) -> Result<usize, String> {
    said.parse().ok().filter(|number| *number > 0).ok_or_else(|| format!("`{said}` is no number from 1 on"))
}

/// A library that is there: the loader goes on without one that is not.
fn library(said: &str) -> Result<PathBuf, String> {
    Some(PathBuf::from(said)).filter(|path| path.is_file()).ok_or_else(|| "there is no such file".into())
}

fn main() {
    let options = Options::parse();
    let sizes = options.sizes;
    if let [live, threads, operations, pace] = options.work[..] {
        let task = Task { live, threads, operations, sizes };
        let took = if options.malloc { task.run(&System, pace) } else { task.run(&Millpond, pace) };
        return println!("{} {}", took.cpu, took.wall);
    }
    let task = Task { live: LIVE, threads: 1, operations: options.operations, sizes };
    let over_live = options.live.0.iter().map(|live| Task { live: *live, ..task });
    let over_threads = options.threads.0.iter().map(|threads| Task { threads: *threads, ..task });
    show(over_live, &options);
    show(over_threads, &options);
}

/// A line for each task, with what its instructions are of the first's.
fn show(tasks: impl Iterator<Item = Task>, options: &Options) {
    let mut first = None;
    for task in tasks {
        let mut rounds = vec![Vec::new(); options.against.len() + 2];
        for _ in 0..options.rounds {
            rounds[0].push(task.native(false, None));
            rounds[1].push(task.native(true, None));
            let libraries = options.against.iter().zip(&mut rounds[2..]);
            libraries.for_each(|(library, took)| took.push(task.native(true, Some(library))));
        }
        let medians: Vec<f64> = rounds.iter().map(|took| figures::median(took.iter().map(|took| took.cpu))).collect();
        let wall = figures::median(rounds[0].iter().map(|took| took.wall));
        let names = options.against.iter().map(|library| library.file_name().unwrap_or_default().to_string_lossy());
        let names = ["malloc".into()].into_iter().chain(names);
        print!("{} MiB live, {} threads: {:.0} ns", task.live, task.threads, medians[0]);
        names.zip(&medians[1..]).for_each(|(name, ns)| print!(", {name} {ns:.0}"));
        print!("; {:.2} of the best", medians[0] / medians[1..].iter().copied().fold(f64::MAX, f64::min));
        if !options.native {
            let each = task.instructions(wall.round().max(1.0) as usize);
            let of_first = each / *first.get_or_insert(each);
            print!("; {each:.1} instructions an operation, {of_first:.2} of the first");
        }
        println!();
    }
}

impl Task {
    fn command(&self, mut command: Command, pace: usize, malloc: bool) -> Command {
        let work = [self.live, self.threads, self.operations, pace].map(|number| number.to_string()).join(",");
        let sizes = self.sizes.map(|(least, most)| format!("--sizes={least},{most}"));
        command.args(["--work", &work]).args(sizes).args(malloc.then_some("--malloc")).stdin(Stdio::null());
        command
    }

    fn native(&self, malloc: bool, library: Option<&Path>) -> Took {
        let mut command = self.command(Command::new(own()), 0, malloc);
        if let Some(library) = library {
            command.env("LD_PRELOAD", library);
        }
        let output = command.stderr(Stdio::inherit()).output().expect("this program is there");
        let said = String::from_utf8_lossy(&output.stdout);
        let figures: Vec<f64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [cpu, wall] = figures[..] else { panic!("{library:?}: {said}") };
        Took { cpu, wall }
    }

    /// Instructions of an operation, where each takes so many nanoseconds by the clock.
    fn instructions(&self, pace: usize) -> f64 {
        let mut command = Command::new("valgrind");
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"]);
        command.arg("--toggle-collect=*measured*").arg(own());
        let output = self.command(command, pace, false).output();
        let output = output.unwrap_or_else(|why| panic!("valgrind cannot be run: {why}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let count = said.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, count)| count.trim());
        let count: u64 = count.and_then(|count| count.parse().ok()).expect("callgrind says how many");
        count as f64 / self.operations as f64
    }

    /// The sizes that are drawn from.
    fn drawn(&self) -> [usize; DRAWN] {
        std::array::from_fn(|nth| match self.sizes {
            Some((least, most)) => least + (most - least) * nth / (DRAWN - 1),
            None => SIZES[nth * SIZES.len() / DRAWN],
        })
    }

    /// Does the work; with a pace, by a clock of which each operation takes so many nanoseconds.
    fn run<A: GlobalAlloc + Sync>(&self, allocator: &A, pace: usize) -> Took {
        BEGUN.store(read(libc::CLOCK_MONOTONIC), Ordering::Relaxed);
        PACE.store(pace as u64, Ordering::Relaxed);
        let sizes = self.drawn();
        let average = sizes.iter().sum::<usize>() / DRAWN;
        let (slots, operations) = ((self.live << 20) / average / self.threads, self.operations / self.threads);
        let barrier = Barrier::new(self.threads + 1);
        let read = || (read(libc::CLOCK_PROCESS_CPUTIME_ID), read(libc::CLOCK_MONOTONIC));
        let work = |thread: usize| {
            let mut set = Set::filled(allocator, sizes, slots, thread as u64);
            set.replace(operations / 4);
            // Once for all to be ready, once for the clocks to be read.
            barrier.wait();
            barrier.wait();
            measured(&mut set, operations);
            barrier.wait();
            set.empty();
        };
        let (before, after) = std::thread::scope(|scope| {
            (0..self.threads).for_each(|thread| _ = scope.spawn(move || work(thread)));
            barrier.wait();
            let before = read();
            barrier.wait();
            barrier.wait();
            (before, read())
        });
        let each = |nanoseconds: u64| nanoseconds as f64 / self.operations as f64;
        Took { cpu: each(after.0 - before.0), wall: each(after.1 - before.1) }
    }
}

fn own() -> PathBuf {
    std::env::current_exe().expect("a program has a name")
}

/// The chunks of a thread.
struct Set<'a, A> {
    allocator: &'a A,
    sizes: [usize; DRAWN],
    chunks: Vec<(NonNull<u8>, usize)>,
    random: fastrand::Rng,
}

/// What is counted: callgrind knows it by its name.
#[inline(never)]
fn measured<A: GlobalAlloc>(set: &mut Set<'_, A>, operations: usize) {
    set.replace(operations);
}

impl<'a, A: GlobalAlloc> Set<'a, A> {
    fn filled(allocator: &'a A, sizes: [usize; DRAWN], slots: usize, seed: u64) -> Self {
        let mut set =
            Self { allocator, sizes, chunks: Vec::with_capacity(slots), random: fastrand::Rng::with_seed(seed) };
        for slot in 0..slots {
            let random = set.random.u64(..);
            set.chunks.push(set.make(random));
            count(slot);
        }
        set
    }

    fn make(&self, random: u64) -> (NonNull<u8>, usize) {
        let size = self.sizes[(random >> (64 - DRAWN.ilog2())) as usize];
        // SAFETY: not of size zero.
        let chunk = NonNull::new(unsafe { self.allocator.alloc(layout(size)) }).expect("memory");
        // SAFETY: 8 bytes at least, aligned to 8.
        unsafe { chunk.cast::<u64>().write(random) };
        (chunk, size)
    }

    fn free(&self, (chunk, size): (NonNull<u8>, usize)) {
        // SAFETY: allocated by `make` with this layout, and freed once: it is replaced, or at the end.
        unsafe { self.allocator.dealloc(chunk.as_ptr(), layout(size)) };
    }

    #[inline]
    fn replace(&mut self, operations: usize) {
        for nth in 0..operations {
            let random = self.random.u64(..);
            let slot = (((random & 0xffff_ffff) * self.chunks.len() as u64) >> 32) as usize;
            self.free(self.chunks[slot]);
            self.chunks[slot] = self.make(random);
            count(nth);
        }
    }

    fn empty(&mut self) {
        while let Some(chunk) = self.chunks.pop() {
            self.free(chunk);
        }
    }
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).expect("a sane size")
}

/// Nanoseconds of an operation by the counted clock; zero: the system's clock.
static PACE: AtomicU64 = AtomicU64::new(0);
/// What the system's clock said when it began, and operations since.
static BEGUN: AtomicU64 = AtomicU64::new(0);
static DONE: AtomicU64 = AtomicU64::new(0);

fn count(nth: usize) {
    if nth % STEP == STEP - 1 {
        DONE.fetch_add(STEP as u64, Ordering::Relaxed);
    }
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a live timespec for the call to fill.
    let status = unsafe { clock_gettime(clock, &mut time) };
    assert_eq!(status, 0, "no such clock");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Takes the place of libc's for all of the program.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    static LIBC: AtomicPtr<libc::c_void> = AtomicPtr::new(null_mut());
    let pace = PACE.load(Ordering::Relaxed);
    if pace > 0 {
        let now = BEGUN.load(Ordering::Relaxed) + DONE.load(Ordering::Relaxed) * pace;
        let now = libc::timespec { tv_sec: (now / 1_000_000_000) as i64, tv_nsec: (now % 1_000_000_000) as i64 };
        // SAFETY: the caller's to give.
        unsafe { time.write(now) };
        return 0;
    }
    if LIBC.load(Ordering::Relaxed).is_null() {
        // SAFETY: a literal with its zero; libc is among the libraries behind this program.
        LIBC.store(unsafe { libc::dlsym(libc::RTLD_NEXT, c"clock_gettime".as_ptr()) }, Ordering::Relaxed);
    }
    type Clock = unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> libc::c_int;
    // SAFETY: libc's function of that name, and not null: every libc has it.
    let clock_gettime: Clock = unsafe { std::mem::transmute(LIBC.load(Ordering::Relaxed)) };
    // SAFETY: the caller's arguments.
    unsafe { clock_gettime(clock, time) }
}
