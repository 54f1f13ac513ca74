//! The environment variables, one table of them: read once, at the program's first allocation, without allocating.
//!
//! | variable | values | meaning |
//! |---|---|---|
//! | `MILLPOND_MODE` | `fast`, `tracked`, `hardened` | what is known of each allocation, and noticed of bad use |
//! | `MILLPOND_LOG` | `os`, `arena`, `span`, `pool`, `cache` | what slow paths do, a line a step on stderr; each level tells what those before it do, too |
//! | `MILLPOND_THP` | `default`, `always`, `never` | transparent huge pages |
//! | `MILLPOND_PROFILE` | `FILE[,bytes=N][,seed=N][,collapsed]` | a memory profile, written to the file at the program's end: see `profile` |
//! | `MILLPOND_TIMING` | `0`, `1` | whether calls are timed, for the statistics |
//! | `MILLPOND_SHOW` | `config`, `stats`, or both with a comma | what is in force, when it has been read; where the bytes are, at the program's end; both on stderr |
//!
//! A variable whose name begins so and is not in the table, and a value that is none of a variable's, are ignored with
//! one line on stderr. A program that runs with more rights than its user ignores all of them, without a word.

use crate::log::Log;
use crate::os;
use crate::report::{Mode, Thp};
use crate::sampler;

/// What the variables say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `None`: not said.
    pub(crate) mode: Option<Mode>,
    pub(crate) thp: Thp,
    pub(crate) log: Log,
    pub(crate) profile: Option<Profile>,
    /// Time calls.
    pub(crate) timing: bool,
    /// Print what is in force.
    pub(crate) show_config: bool,
    /// Print the statistics at the program's end.
    pub(crate) show_stats: bool,
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
    /// Takes a value over. `None`: it means nothing, and nothing has changed.
    set: fn(&mut Settings, &'static [u8]) -> Option<()>,
}

const PREFIX: &str = "MILLPOND_";

const TABLE: [Variable; 6] = [
    Variable { name: "LOG", values: "one of os, arena, span, pool, cache", set: set_log },
    Variable { name: "MODE", values: "one of fast, tracked, hardened", set: set_mode },
    Variable { name: "THP", values: "one of default, always, never, system", set: set_thp },
    Variable { name: "PROFILE", values: "FILE[,bytes=N][,seed=N][,collapsed]", set: set_profile },
    Variable { name: "TIMING", values: "0 or 1", set: set_timing },
    Variable { name: "SHOW", values: "a list of config, stats", set: set_show },
];

/// Reads them all. `None`: libc does not know them yet.
pub(crate) fn read() -> Option<Settings> {
    let mut settings = Settings::default();
    os::environment(|text| take(&mut settings, text)).then_some(settings)
}

/// Takes over one variable, `NAME=value`, or says what is wrong with it.
fn take(settings: &mut Settings, text: &'static [u8]) {
    let Some(rest) = text.strip_prefix(PREFIX.as_bytes()) else { return };
    let Some(at) = rest.iter().position(|byte| *byte == b'=') else { return };
    let (name, value) = (&rest[..at], &rest[at + 1..]);
    match TABLE.iter().find(|variable| variable.name.as_bytes() == name) {
        None => {
            let (shown, more) = (&name[..name.len().min(40)], if name.len() > 40 { "…" } else { "" });
            let shown = shown.escape_ascii();
            match nearest(name) {
                Some(known) => {
                    os::say(format_args!("{PREFIX}{shown}{more} is not known: ignored; is {PREFIX}{known} meant?"));
                }
                None => os::say(format_args!("{PREFIX}{shown}{more} is not known: ignored")),
            }
        }
        Some(variable) if value.is_empty() || (variable.set)(settings, value).is_some() => {}
        Some(Variable { name, values, .. }) => {
            // Of a long value its start says enough.
            let (shown, more) = (&value[..value.len().min(40)], if value.len() > 40 { "…" } else { "" });
            os::say(format_args!("{PREFIX}{name}={}{more} is not {values}: ignored", shown.escape_ascii()));
        }
    }
}

fn set_mode(settings: &mut Settings, value: &[u8]) -> Option<()> {
    settings.mode = Some(match value {
        b"fast" => Mode::Fast,
        b"tracked" => Mode::Tracked,
        b"hardened" => Mode::Hardened,
        _ => return None,
    });
    Some(())
}

fn set_log(settings: &mut Settings, value: &[u8]) -> Option<()> {
    settings.log = match value {
        b"os" => Log::Os,
        b"arena" => Log::Arena,
        b"span" => Log::Span,
        b"pool" => Log::Pool,
        b"cache" => Log::Cache,
        _ => return None,
    };
    Some(())
}

fn set_thp(settings: &mut Settings, value: &[u8]) -> Option<()> {
    settings.thp = match value {
        b"default" => Thp::Default,
        b"always" => Thp::Always,
        b"never" => Thp::Never,
        b"system" => Thp::System,
        _ => return None,
    };
    Some(())
}

fn set_timing(settings: &mut Settings, value: &[u8]) -> Option<()> {
    settings.timing = match value {
        b"0" => false,
        b"1" => true,
        _ => return None,
    };
    Some(())
}

fn set_profile(settings: &mut Settings, value: &'static [u8]) -> Option<()> {
    let number = |digits: &[u8]| core::str::from_utf8(digits).ok()?.parse().ok();
    let mut words = value.split(|byte| *byte == b',');
    let path = words.next().filter(|path| !path.is_empty() && path.len() < os::PATH_MAX / 2)?;
    let mut profile = Profile { path, bytes: sampler::MEAN, seed: None, collapsed: false };
    for word in words {
        if let Some(digits) = word.strip_prefix(b"bytes=") {
            profile.bytes = number(digits).filter(|bytes| (1..=sampler::MEAN_MAX).contains(bytes))?;
        } else if let Some(digits) = word.strip_prefix(b"seed=") {
            profile.seed = Some(number(digits)?);
        } else if word == b"collapsed" {
            profile.collapsed = true;
        } else {
            return None;
        }
    }
    settings.profile = Some(profile);
    Some(())
}

fn set_show(settings: &mut Settings, value: &[u8]) -> Option<()> {
    let mut wanted = *settings;
    for word in value.split(|byte| *byte == b',') {
        match word.trim_ascii() {
            b"config" => wanted.show_config = true,
            b"stats" => wanted.show_stats = true,
            _ => return None,
        }
    }
    *settings = wanted;
    Some(())
}

/// The known name that is most like `name`, if one is like it: it has the known name in it, or at most half of its letters
/// are others.
fn nearest(name: &[u8]) -> Option<&'static str> {
    let names = TABLE.iter().map(|variable| variable.name);
    let known = names.min_by_key(|known| distance(known.as_bytes(), name))?;
    let has = name.windows(known.len()).any(|part| part.eq_ignore_ascii_case(known.as_bytes()));
    (has || distance(known.as_bytes(), name) <= known.len() / 2 + 1).then_some(known)
}

/// How many letters have to be put in, taken out or changed to get from one name to the other (Levenshtein, 1965), one
/// row of his table at a time; names are cut off at 31 letters.
fn distance(from: &[u8], to: &[u8]) -> usize {
    let to = &to[..to.len().min(31)];
    let mut row: [usize; 32] = core::array::from_fn(|at| at);
    for (above, letter) in from.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (at, other) in to.iter().enumerate() {
            let changed = diagonal + (letter != other) as usize;
            diagonal = row[at + 1];
            row[at + 1] = changed.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

impl core::fmt::Display for Settings {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let thp = match self.thp {
            Thp::Default => "default",
            Thp::Always => "always",
            Thp::Never => "never",
            Thp::System => "system",
        };
        let show = match (self.show_config, self.show_stats) {
            (true, true) => "config,stats",
            (true, false) => "config",
            (false, true) => "stats",
            (false, false) => "",
        };
        let mode = match self.mode.unwrap_or_default() {
            Mode::Fast => "fast",
            Mode::Tracked => "tracked",
            Mode::Hardened => "hardened",
        };
        let version = env!("CARGO_PKG_VERSION");
        write!(f, "{version}: {PREFIX}MODE={mode} {PREFIX}THP={thp} {PREFIX}SHOW={show}")
    }
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;
    use std::string::ToString;

    fn taken(texts: &[&'static str]) -> Settings {
        let mut settings = Settings::default();
        texts.iter().for_each(|text| take(&mut settings, text.as_bytes()));
        settings
    }

    #[test]
    fn what_is_known_is_taken_and_all_else_changes_nothing() {
        let all = taken(&["HOME=/", "MILLPOND_THP=never", "MILLPOND_SHOW=stats,config"]);
        assert_eq!(all, Settings { thp: Thp::Never, show_config: true, show_stats: true, ..Settings::default() });
        assert_eq!(taken(&["MILLPOND_MODE=hardened"]).mode, Some(Mode::Hardened));
        for text in [
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
        assert_eq!(taken(&["MILLPOND_SHOW=stats,", "MILLPOND_SHOW=config,stat"]), Settings::default());
        assert_eq!(
            taken(&["MILLPOND_SHOW=stats", "MILLPOND_SHOW=x"]).to_string().split(' ').next_back(),
            Some("MILLPOND_SHOW=stats")
        );
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
        for (name, known) in
            [("TPH", Some("THP")), ("SHWO", Some("SHOW")), ("SHOW_STATS", Some("SHOW")), ("XYZZY", None)]
        {
            assert_eq!(nearest(name.as_bytes()), known, "{name}");
        }
        assert_eq!(distance(b"SHOW", b"SLOW"), 1);
        assert_eq!(distance(b"SHOW", b"SHOWER"), 2);
        assert_eq!(distance(b"", &[b'x'; 100]), 31);
    }
}
