//! The environment variables, one table of them: read once, at the program's first allocation, without allocating.
//!
//! | variable | values | meaning |
//! |---|---|---|
//! | `MILLPOND_MODE` | `fast`, `tracked`, `hardened` | what is known of each allocation, and which misuse is noticed |
//! | `MILLPOND_BACKTRACE` | 0 to 32 | where there are records, how many callers each keeps |
//! | `MILLPOND_GUARD` | a number N below 2^32 | in the mode `hardened`, one allocation in N gets pages of its own without access around it; 0: none |
//! | `MILLPOND_QUARANTINE` | bytes: `1000000`, `1000K`, `1M`, `1G` | where there are records, how much freed memory is kept back at most, of each thread's last 1024 frees; 0: none |
//! | `MILLPOND_FREED` | `junk`, `zero`, `keep` | where there are records, what is written over freed memory |
//! | `MILLPOND_SIZES` | `own`, `any` | where there are records, whether a free that says a size, or an alignment, has to say the allocation's own |
//! | `MILLPOND_LOG` | `os`, `arena`, `span`, `pool` or `cache`, and `,file=PATH` | what slow paths do, a line a step on stderr, or appended to a file; each level includes those before it |
//! | `MILLPOND_THP` | `default`, `always`, `never`, `system` | transparent huge pages: where the heap grows, everywhere, nowhere, or as the system is set |
//! | `MILLPOND_LEAKS` | a list of `report`, `json`, `fail` or `fail=CODE`, and last `file=PATH` | what is no longer reachable at the program's end: as text, as JSON, as the exit code (1 to 255; 23 if none is named); appended to a file instead of stderr, as text if nothing else is named |
//! | `MILLPOND_PROFILE` | `FILE[,bytes=N][,seed=N][,collapsed]` | a memory profile, written to the file at the program's end: see `profile` |
//! | `MILLPOND_TIMING` | `0`, `1` | whether calls are timed, for the statistics |
//! | `MILLPOND_SHOW` | a list of `config`, `stats`, `map`, with commas | on stderr: version and what is in force, once the environment is read; where the bytes are, and what each page is used for, at the program's end |
//!
//! An unknown name that begins with `MILLPOND_`, a value that is none of its variable's, and what the mode in force does not look
//! at are ignored with one line on stderr. So are `MILLPOND_PROFILE`, `MILLPOND_LEAKS` and the map without the feature `reports`. An empty value says nothing. A program that
//! runs with more rights than its user ignores all of them, without a word.

mod shown;
mod values;

use crate::log::Log;
use crate::os;
use crate::report::{Freed, Mode, Thp};
use core::fmt;
use values::Wrong;

/// What the variables say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `None`: not said.
    pub(crate) mode: Option<Mode>,
    pub(crate) backtrace: Option<u32>,
    pub(crate) guard: Option<u32>,
    /// Bytes; `None`: not said.
    pub(crate) quarantine: Option<usize>,
    pub(crate) freed: Option<Freed>,
    pub(crate) sizes: Option<Sizes>,
    pub(crate) thp: Thp,
    pub(crate) log: Log,
    /// Where it goes; `None`: stderr.
    pub(crate) log_file: Option<&'static [u8]>,
    pub(crate) profile: Option<Profile>,
    /// Time calls.
    pub(crate) timing: bool,
    /// Print what is in force.
    pub(crate) show_config: bool,
    /// Print the statistics at the program's end.
    pub(crate) show_stats: bool,
    /// And the map.
    pub(crate) show_map: bool,
    /// Whether what is wrong has been said.
    pub(crate) is_told: bool,
    pub(crate) leaks: Leaking,
}

/// What is made of the size and alignment that a free says, where there are records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sizes {
    /// They are the allocation's own, or the free is misuse.
    Own,
    /// Nothing.
    Any,
}

/// What is to become of leaks at the program's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leaking {
    /// A report as text, as JSON.
    pub(crate) text: bool,
    pub(crate) json: bool,
    /// The exit code, should there be any.
    pub(crate) code: Option<u8>,
    /// Where reports go; `None`: stderr.
    pub(crate) file: Option<&'static [u8]>,
}

impl Leaking {
    /// Whether anything is to.
    pub(crate) fn is_wished(&self) -> bool {
        self.text || self.json || self.code.is_some()
    }

    /// All but the file, in a word.
    pub(crate) fn bits(&self) -> usize {
        self.text as usize | (self.json as usize) << 1 | usize::from(self.code.unwrap_or(0)) << 8
    }

    pub(crate) fn from_bits(bits: usize) -> Self {
        let code = Some((bits >> 8) as u8).filter(|code| *code > 0);
        Self { text: bits & 1 != 0, json: bits & 2 != 0, code, file: None }
    }
}

/// A memory profile that is wished for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Profile {
    /// The file's path; `%p` in it stands for the number of the process.
    pub(crate) path: &'static [u8],
    /// Bytes between two samples, on average.
    pub(crate) bytes: u64,
    pub(crate) seed: Option<u64>,
    /// Write text, a line a stack.
    pub(crate) collapsed: bool,
}

/// One row of the table.
struct Variable {
    /// Without the prefix.
    name: &'static str,
    values: &'static str,
    /// Takes a value over, or says what is wrong with it; then nothing has changed.
    set: fn(&mut Settings, &'static [u8]) -> Result<(), Wrong>,
}

const PREFIX: &str = "MILLPOND_";

const TABLE: [Variable; 12] = [
    Variable { name: "BACKTRACE", values: "a number up to 32", set: values::backtrace },
    Variable { name: "FREED", values: "one of junk, zero, keep", set: values::freed },
    Variable { name: "GUARD", values: "a number", set: values::guard },
    Variable { name: "QUARANTINE", values: "a number of bytes", set: values::quarantine },
    Variable { name: "SIZES", values: "one of own, any", set: values::sizes },
    Variable {
        name: "LOG",
        values: "one of os, arena, span, pool, cache, with or without ,file=PATH",
        set: values::log,
    },
    Variable { name: "MODE", values: "one of fast, tracked, hardened", set: values::mode },
    Variable { name: "THP", values: "one of default, always, never, system", set: values::thp },
    Variable { name: "LEAKS", values: "a list of report, json, fail, fail=CODE, file=PATH", set: values::leaks },
    Variable { name: "PROFILE", values: "FILE[,bytes=N][,seed=N][,collapsed]", set: values::profile },
    Variable { name: "TIMING", values: "0 or 1", set: values::timing },
    Variable { name: "SHOW", values: "a list of config, stats, map", set: values::show },
];

/// Reads them all. `None`: libc does not know them yet.
pub(crate) fn read() -> Option<Settings> {
    let mut settings = Settings::default();
    os::environment(|text| look_at(&mut settings, text)).then_some(settings)
}

/// The same once more, without a word about what is wrong.
#[allow(dead_code, reason = "the programs' part of the crate alone has it twice")]
pub(crate) fn read_again() -> Option<Settings> {
    let mut settings = Settings { is_told: true, ..Settings::default() };
    os::environment(|text| look_at(&mut settings, text)).then_some(settings)
}

impl Settings {
    /// Says a line of each variable that a mode does not look at.
    #[inline]
    pub(crate) fn tell_unused(&self, mode: Mode) {
        let Self { backtrace, guard, quarantine, freed, sizes, .. } = self;
        // Most programs say nothing of these, and touch no code for it.
        if backtrace.is_some() || guard.is_some() || quarantine.is_some() || freed.is_some() || sizes.is_some() {
            self.tell_each_unused(mode);
        }
    }

    #[cold]
    #[inline(never)]
    #[unsafe(link_section = ".millpond_cold")]
    fn tell_each_unused(&self, mode: Mode) {
        let needs = [
            ("BACKTRACE", self.backtrace.is_some(), "tracked or hardened", mode == Mode::Fast),
            ("GUARD", self.guard.is_some(), "hardened", mode != Mode::Hardened),
            ("QUARANTINE", self.quarantine.is_some(), "tracked or hardened", mode == Mode::Fast),
            ("FREED", self.freed.is_some(), "tracked or hardened", mode == Mode::Fast),
            ("SIZES", self.sizes.is_some(), "tracked or hardened", mode == Mode::Fast),
        ];
        for (name, _, modes, _) in needs.into_iter().filter(|(_, is_said, _, is_unused)| *is_said && *is_unused) {
            os::say(format_args!("{PREFIX}{name} is for {PREFIX}MODE={modes}: ignored"));
        }
    }
}

/// Takes over one variable, `NAME=value`, if it is one of ours.
fn look_at(settings: &mut Settings, text: &'static [u8]) {
    if let Some(rest) = text.strip_prefix(PREFIX.as_bytes()) {
        take(settings, rest);
    }
}

/// Takes over what follows the prefix, or says what is wrong with it.
#[cold]
#[unsafe(link_section = ".millpond_cold")]
fn take(settings: &mut Settings, rest: &'static [u8]) {
    let Some(at) = rest.iter().position(|byte| *byte == b'=') else { return };
    let (name, value) = (&rest[..at], &rest[at + 1..]);
    let is_told = settings.is_told;
    let say = |text: fmt::Arguments<'_>| {
        if !is_told {
            os::say(text);
        }
    };
    match TABLE.iter().find(|variable| variable.name.as_bytes() == name) {
        None => {
            let (shown, more) = (&name[..name.len().min(40)], if name.len() > 40 { "…" } else { "" });
            let shown = shown.escape_ascii();
            match nearest(name) {
                Some(known) => {
                    say(format_args!("{PREFIX}{shown}{more} is not known: ignored; is {PREFIX}{known} meant?"));
                }
                None => say(format_args!("{PREFIX}{shown}{more} is not known: ignored")),
            }
        }
        Some(_) if value.is_empty() => {}
        Some(Variable { name, values, set }) => {
            // Of a long value its start says enough.
            let (shown, more) = (&value[..value.len().min(40)], if value.len() > 40 { "…" } else { "" });
            let shown = shown.escape_ascii();
            match set(settings, value) {
                Ok(()) => {}
                Err(Wrong::Value) => say(format_args!("{PREFIX}{name}={shown}{more} is not {values}: ignored")),
                Err(Wrong::Range { of, least, most }) => {
                    say(format_args!("{PREFIX}{name}={shown}{more} is out of range, {of}{least} to {most}: ignored"))
                }
                Err(Wrong::Path { most }) => {
                    say(format_args!("{PREFIX}{name}={shown}{more} has a path of more than {most} bytes: ignored"));
                }
            }
        }
    }
}

/// The known name that is most like `name`, if one is like it: it has the known name in it, or at most half of its letters
/// are others.
fn nearest(name: &[u8]) -> Option<&'static str> {
    let names = TABLE.iter().map(|variable| variable.name);
    let known = names.min_by_key(|known| distance(known.as_bytes(), name))?;
    let has = name.windows(known.len()).any(|part| part.eq_ignore_ascii_case(known.as_bytes()));
    (has || distance(known.as_bytes(), name) <= known.len() / 2 + 1).then_some(known)
}

/// How many letters, large or small, have to be put in, taken out or changed to get from one name to the other (Levenshtein,
/// 1965), one row of his table at a time; names are cut off at 31 letters.
#[unsafe(link_section = ".millpond_cold")]
fn distance(from: &[u8], to: &[u8]) -> usize {
    let to = &to[..to.len().min(31)];
    let mut row: [usize; 32] = core::array::from_fn(|at| at);
    for (above, letter) in from.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (at, other) in to.iter().enumerate() {
            let changed = diagonal + !letter.eq_ignore_ascii_case(other) as usize;
            diagonal = row[at + 1];
            row[at + 1] = changed.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;
    use std::string::ToString;

    fn taken(texts: &[&'static str]) -> Settings {
        let mut settings = Settings::default();
        texts.iter().for_each(|text| look_at(&mut settings, text.as_bytes()));
        settings
    }

    #[test]
    fn what_is_known_is_taken_and_all_else_changes_nothing() {
        let all = taken(&["HOME=/", "MILLPOND_THP=never", "MILLPOND_SHOW=stats,config"]);
        assert_eq!(all, Settings { thp: Thp::Never, show_config: true, show_stats: true, ..Settings::default() });
        assert_eq!(taken(&["MILLPOND_MODE=hardened"]).mode, Some(Mode::Hardened));
        let counts = taken(&["MILLPOND_BACKTRACE=8", "MILLPOND_GUARD=1000"]);
        assert_eq!((counts.backtrace, counts.guard), (Some(8), Some(1000)));
        for text in [
            "MILLPOND_BACKTRACE=33",
            "MILLPOND_BACKTRACE=x",
            "MILLPOND_GUARD=-1",
            "MILLPOND_MODE=slow",
            "MILLPOND_THP=",
            "MILLPOND_THP=Never",
            "MILLPOND_THPS=never",
            "MILLPOND_THP",
            "THP=never",
        ] {
            assert_eq!(taken(&[text]), Settings::default(), "{text}");
        }
        let both = Settings { show_config: true, show_stats: true, ..Settings::default() };
        assert_eq!(taken(&["MILLPOND_SHOW=stats, config"]), both);
        assert!(taken(&["MILLPOND_SHOW=map,stats"]).to_string().ends_with("MILLPOND_SHOW=stats,map"));
        assert_eq!(taken(&["MILLPOND_SHOW=stats,", "MILLPOND_SHOW=config,stat"]), Settings::default());
        assert_eq!(
            taken(&["MILLPOND_SHOW=stats", "MILLPOND_SHOW=x"]).to_string().split(' ').next_back(),
            Some("MILLPOND_SHOW=stats")
        );
    }

    /// What is wrong with a value.
    fn wrong(text: &'static str) -> Option<Wrong> {
        let (name, value) = text.split_once('=').expect("a variable");
        let variable = TABLE.iter().find(|variable| variable.name == name).expect("known");
        let mut settings = Settings::default();
        let result = (variable.set)(&mut settings, value.as_bytes());
        assert!(result.is_ok() || settings == Settings::default(), "{text}");
        result.err()
    }

    #[test]
    fn numbers_out_of_range_are_told_from_what_is_none() {
        let range = |of, least, most| Some(Wrong::Range { of, least, most });
        let (all, callers) = (u64::MAX, range("", 0, crate::config::CALLERS as u64));
        let (bytes, seed, code) =
            (range("bytes=", 1, crate::sampler::MEAN_MAX), range("seed=", 0, all), range("fail=", 1, 255));
        for (text, is) in [
            ("BACKTRACE=33", callers),
            ("BACKTRACE=-1", callers),
            ("BACKTRACE=32", None),
            ("BACKTRACE=many", Some(Wrong::Value)),
            ("GUARD=4294967295", None),
            ("GUARD=5000000000", range("", 0, u32::MAX.into())),
            ("GUARD=99999999999999999999999999", range("", 0, u32::MAX.into())),
            ("GUARD=-5", range("", 0, u32::MAX.into())),
            ("GUARD=-", Some(Wrong::Value)),
            ("GUARD=1.5", Some(Wrong::Value)),
            ("QUARANTINE=17179869183G", None),
            ("QUARANTINE=17179869184G", range("", 0, all)),
            ("QUARANTINE=18446744073709551616", range("", 0, all)),
            ("QUARANTINE=-1K", range("", 0, all)),
            ("QUARANTINE=K", Some(Wrong::Value)),
            ("LEAKS=report,fail=256", code),
            ("LEAKS=fail=0", code),
            ("LEAKS=fail=x", Some(Wrong::Value)),
            ("PROFILE=f,bytes=0", bytes),
            ("PROFILE=f,bytes=1099511627777", bytes),
            ("PROFILE=f,bytes=1099511627776,seed=18446744073709551615", None),
            ("PROFILE=f,seed=18446744073709551616", seed),
            ("PROFILE=f,bytes=1k", Some(Wrong::Value)),
        ] {
            assert_eq!(wrong(text), is, "{text}");
        }
        let most = os::PATH_MAX / 2 - 1;
        for (len, is) in [(most, None), (most + 1, Some(Wrong::Path { most }))] {
            assert_eq!(wrong(std::format!("PROFILE={}", "p".repeat(len)).leak()), is, "{len}");
        }
    }

    #[test]
    fn what_is_in_force_is_shown_as_it_may_be_said() {
        let said = [
            "MODE=hardened",
            "THP=always",
            "BACKTRACE=8",
            "GUARD=1000",
            "QUARANTINE=65536",
            "TIMING=1",
            "FREED=zero",
            "SIZES=any",
            "LOG=span,file=a b",
            "LEAKS=report,json,fail=7,file=c",
            "PROFILE=d.%p,bytes=4096,seed=7,collapsed",
            "SHOW=config,stats",
        ];
        assert_eq!(said.len(), TABLE.len());
        let settings = taken(&said.map(|text| &*std::format!("{PREFIX}{text}").leak()));
        let shown = settings.to_string();
        let shown = shown.strip_prefix(concat!(env!("CARGO_PKG_VERSION"), ": ")).expect("the version first");
        assert_eq!(shown, said.map(|text| std::format!("{PREFIX}{text}")).join(" "));
        assert!(Settings::default().to_string().ends_with("MILLPOND_MODE=fast MILLPOND_THP=default"));
    }

    /// A second look says nothing again.
    #[test]
    fn what_is_wrong_is_told_once() {
        let system = os::fake::System::fresh();
        let long: &str = std::format!("MILLPOND_PROFILE={}", "p".repeat(os::PATH_MAX)).leak();
        for text in ["MILLPOND_THPS=x", "MILLPOND_THP=x", "MILLPOND_GUARD=5000000000", "MILLPOND_LEAKS=fail=0", long] {
            for (is_told, lines) in [(false, 1), (true, 0)] {
                look_at(&mut Settings { is_told, ..Settings::default() }, text.as_bytes());
                let said = system.said();
                assert_eq!(said.len(), lines, "{text}: {said:?}");
            }
        }
    }

    #[test]
    fn bytes_may_be_counted_in_larger_units() {
        let quarantine = |text: &'static str| taken(&[text]).quarantine;
        for (text, bytes) in [("0", Some(0)), ("1000", Some(1000)), ("64K", Some(64 << 10)), ("2M", Some(2 << 20))] {
            assert_eq!(quarantine(std::format!("MILLPOND_QUARANTINE={text}").leak()), bytes, "{text}");
        }
        for text in ["", "K", "-1", "1k", "1.5M", "99999999999999G"] {
            assert_eq!(quarantine(std::format!("MILLPOND_QUARANTINE={text}").leak()), None, "{text}");
        }
        assert_eq!(taken(&["MILLPOND_FREED=zero"]).freed, Some(Freed::Zero));
    }

    #[test]
    fn a_log_has_a_level_and_may_have_a_file() {
        let log = |text| {
            let taken = taken(&[text]);
            (taken.log, taken.log_file)
        };
        assert_eq!(log("MILLPOND_LOG=span"), (Log::Span, None));
        assert_eq!(log("MILLPOND_LOG=os,file=a,b"), (Log::Os, Some(&b"a,b"[..])));
        for text in ["MILLPOND_LOG=os,", "MILLPOND_LOG=os,file=", "MILLPOND_LOG=file=a", "MILLPOND_LOG=os,span"] {
            assert_eq!(log(text), (Log::Off, None), "{text}");
        }
    }

    #[test]
    fn what_is_to_become_of_leaks_is_a_list() {
        let leaks = |text: &'static str| taken(&[text]).leaks;
        let none = Leaking::default();
        assert_eq!(leaks("MILLPOND_LEAKS=report"), Leaking { text: true, ..none });
        assert_eq!(leaks("MILLPOND_LEAKS=fail"), Leaking { code: Some(23), ..none });
        let file = Some(&b"/tmp/a,b"[..]);
        let all = leaks("MILLPOND_LEAKS=json,fail=7,file=/tmp/a,b");
        assert_eq!(all, Leaking { json: true, code: Some(7), file, ..none });
        assert_eq!(Leaking::from_bits(all.bits()), Leaking { file: None, ..all });
        assert_eq!(leaks("MILLPOND_LEAKS=file=/tmp/a,b"), Leaking { text: true, file, ..none });
        for text in ["fail=0", "fail=256", "fail=x", "file=", "reports", "report,,json", "fail 3"] {
            let text: &'static str = std::format!("MILLPOND_LEAKS={text}").leak();
            assert_eq!(leaks(text), none, "{text}");
        }
    }

    #[test]
    fn a_profile_has_a_file_and_numbers() {
        let profile = |text| taken(&[text]).profile;
        let plain = Profile { path: b"a/b.%p", bytes: 512 << 10, seed: None, collapsed: false };
        assert_eq!(profile("MILLPOND_PROFILE=a/b.%p"), Some(plain));
        let all = Profile { bytes: 4096, seed: Some(7), collapsed: true, ..plain };
        assert_eq!(profile("MILLPOND_PROFILE=a/b.%p,seed=7,collapsed,bytes=4096"), Some(all));
        for text in [
            "MILLPOND_PROFILE=",
            "MILLPOND_PROFILE=,bytes=1",
            "MILLPOND_PROFILE=f,bytes=0",
            "MILLPOND_PROFILE=f,bytes=",
            "MILLPOND_PROFILE=f,bytes=1099511627777",
            "MILLPOND_PROFILE=f,bytes=1k",
            "MILLPOND_PROFILE=f,seed=-1",
            "MILLPOND_PROFILE=f,flat",
            "MILLPOND_PROFILE=f,",
        ] {
            assert_eq!(profile(text), None, "{text}");
        }
        assert!(taken(&["MILLPOND_TIMING=1"]).timing && !taken(&["MILLPOND_TIMING=yes"]).timing);
    }

    #[test]
    fn the_nearest_name_is_found() {
        for (name, known) in [
            ("TPH", Some("THP")),
            ("SHWO", Some("SHOW")),
            ("SHOW_STATS", Some("SHOW")),
            ("mode", Some("MODE")),
            ("Leak", Some("LEAKS")),
            ("XYZZY", None),
        ] {
            assert_eq!(nearest(name.as_bytes()), known, "{name}");
        }
        assert_eq!(distance(b"SHOW", b"SLOW"), 1);
        assert_eq!(distance(b"SHOW", b"SHOWER"), 2);
        assert_eq!(distance(b"", &[b'x'; 100]), 31);
    }
}
