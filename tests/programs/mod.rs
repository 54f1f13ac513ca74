//! Real programs that can run on malloc or on Millpond's preloaded library, each with work that says what it came to:
//! `tests/preload_programs.rs` compares what they say, `benches/programs.rs` what they cost.
#![allow(dead_code, reason = "each user takes its own part")]

pub mod databases;
pub mod python;
pub mod tools;

use crate::library::{Ended, compile, run, shared, workbench};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const WATCHDOG: u32 = 600;

/// The allocator that a program runs on: malloc is glibc's, also where a program is linked with another; Millpond as the environment
/// has it, or in a mode.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum On {
    Malloc,
    Millpond,
    Mode(&'static str),
}

impl On {
    pub fn command(self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").env(
            "LD_PRELOAD",
            match self {
                Self::Malloc => Path::new("libc.so.6"),
                Self::Millpond | Self::Mode(_) => shared(),
            },
        );
        if let Self::Mode(mode) = self {
            command.env("MILLPOND_MODE", mode);
        }
        command
    }
}

/// What a run said, and what it cost.
pub struct Run {
    pub said: String,
    /// Processor time.
    pub seconds: f64,
    /// The most that was resident in any of its processes, in MiB.
    pub peak: f64,
}

impl Run {
    pub fn of(ended: Ended, said: impl Into<String>) -> Self {
        Self { said: said.into(), seconds: ended.seconds, peak: ended.peak as f64 / 1024.0 }
    }
}

/// A program, and a run of it in a folder of its own.
#[derive(Clone, Copy)]
pub struct Program {
    pub name: &'static str,
    once: fn(On, &Path) -> Run,
}

/// All of them.
pub const PROGRAMS: [Program; 8] = [
    Program { name: "python", once: python::python },
    Program { name: "redis", once: databases::redis },
    Program { name: "sqlite", once: databases::sqlite },
    Program { name: "gcc", once: tools::gcc },
    Program { name: "node", once: tools::node },
    Program { name: "git", once: tools::git },
    Program { name: "c++", once: tools::cpp },
    Program { name: "rust", once: tools::rust },
];

impl Program {
    pub fn named(name: &str) -> Self {
        PROGRAMS.into_iter().find(|program| program.name == name).expect("a program of that name")
    }

    pub fn run(self, on: On) -> Run {
        // The same for both: compilers write it into what they make.
        let folder = workbench().join(format!("{} of {}", self.name, std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let run = (self.once)(on, &folder);
        std::fs::remove_dir_all(&folder).expect("it was there");
        run
    }

    /// A run on each of two, in this order or the other; what they say must be the same.
    pub fn pair(self, [a, b]: [On; 2], in_order: bool) -> [Run; 2] {
        let (of_a, of_b) = if in_order {
            let of_a = self.run(a);
            (of_a, self.run(b))
        } else {
            let of_b = self.run(b);
            (self.run(a), of_b)
        };
        assert!(!of_a.said.is_empty(), "{} says nothing", self.name);
        assert_eq!(of_a.said, of_b.said, "{}: on {a:?}, and on {b:?}", self.name);
        [of_a, of_b]
    }
}

/// What is promised of a program's peak, in MiB: a tenth and 2 MiB above what it is on malloc.
pub fn most(on_malloc: f64) -> f64 {
    on_malloc * 1.1 + 2.0
}

fn well(command: &mut Command) -> Ended {
    let what = format!("{command:?}");
    run(command, WATCHDOG, &[]).well(&what)
}

/// Runs a program, and says what it alone took: to the system its peak begins with ours.
fn measured(command: &Command) -> Ended {
    static HELPER: OnceLock<PathBuf> = OnceLock::new();
    let helper = HELPER.get_or_init(|| compile("usage.c", "usage", &[]));
    let told = workbench().join(format!("usage of {}", std::process::id()));
    let mut helped = Command::new(helper);
    helped.arg(&told).arg(command.get_program()).args(command.get_args());
    helped.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(folder) = command.get_current_dir() {
        helped.current_dir(folder);
    }
    let mut ended = run(&mut helped, WATCHDOG, &[]);
    let text = std::fs::read_to_string(&told).unwrap_or_else(|error| panic!("{command:?}: {error}: {ended:#?}"));
    std::fs::remove_file(told).expect("it was there");
    let (seconds, peak) = text.trim().split_once(' ').expect("two numbers");
    ended.seconds = seconds.parse().expect("a number");
    ended.peak = peak.parse().expect("a number");
    ended
}

fn measured_well(command: &Command) -> Ended {
    measured(command).well(&format!("{command:?}"))
}
