//! Settings as text: variables with their values, as they may be said.

use super::{Leaking, PREFIX, Settings, Sizes};
use crate::log::Log;
use crate::report::{Freed, Mode, Thp};
use core::fmt;

/// What is in force: mode and huge pages always, all else where it was said.
impl fmt::Display for Settings {
    #[unsafe(link_section = ".millpond_cold")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode.unwrap_or_default() {
            Mode::Fast => "fast",
            Mode::Tracked => "tracked",
            Mode::Hardened => "hardened",
        };
        let thp = match self.thp {
            Thp::Default => "default",
            Thp::Always => "always",
            Thp::Never => "never",
            Thp::System => "system",
        };
        write!(f, "{}: {PREFIX}MODE={mode} {PREFIX}THP={thp}", env!("CARGO_PKG_VERSION"))?;
        let numbers = [
            ("BACKTRACE", self.backtrace.map(|most| most as usize)),
            ("GUARD", self.guard.map(|one_in| one_in as usize)),
            ("QUARANTINE", self.quarantine),
            ("TIMING", self.timing.then_some(1)),
        ];
        for (name, number) in numbers {
            if let Some(number) = number {
                write!(f, " {PREFIX}{name}={number}")?;
            }
        }
        if let Some(freed) = self.freed {
            let freed = match freed {
                Freed::Junk => "junk",
                Freed::Zero => "zero",
                Freed::Keep => "keep",
            };
            write!(f, " {PREFIX}FREED={freed}")?;
        }
        if let Some(sizes) = self.sizes {
            let sizes = match sizes {
                Sizes::Own => "own",
                Sizes::Any => "any",
            };
            write!(f, " {PREFIX}SIZES={sizes}")?;
        }
        if self.log != Log::Off {
            let level = match self.log {
                Log::Off | Log::Os => "os",
                Log::Arena => "arena",
                Log::Span => "span",
                Log::Pool => "pool",
                Log::Cache => "cache",
            };
            write!(f, " {PREFIX}LOG={level}")?;
            if let Some(path) = self.log_file {
                write!(f, ",file={}", path.escape_ascii())?;
            }
        }
        if self.leaks.is_wished() {
            write!(f, " {PREFIX}LEAKS={}", self.leaks)?;
        }
        if let Some(profile) = self.profile {
            write!(f, " {PREFIX}PROFILE={},bytes={}", profile.path.escape_ascii(), profile.bytes)?;
            if let Some(seed) = profile.seed {
                write!(f, ",seed={seed}")?;
            }
            if profile.collapsed {
                f.write_str(",collapsed")?;
            }
        }
        let shown = [(self.show_config, "config"), (self.show_stats, "stats"), (self.show_map, "map")];
        let shown = shown.into_iter().filter(|(is_wished, _)| *is_wished);
        shown.enumerate().try_for_each(|(at, (_, word))| match at {
            0 => write!(f, " {PREFIX}SHOW={word}"),
            _ => write!(f, ",{word}"),
        })
    }
}

/// As the variable's value is written.
impl fmt::Display for Leaking {
    #[unsafe(link_section = ".millpond_cold")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for (is_wished, word) in [(self.text, "report"), (self.json, "json")] {
            if is_wished {
                write!(f, "{comma}{word}")?;
                comma = ",";
            }
        }
        if let Some(code) = self.code {
            write!(f, "{comma}fail={code}")?;
            comma = ",";
        }
        match self.file {
            Some(path) => write!(f, "{comma}file={}", path.escape_ascii()),
            None => Ok(()),
        }
    }
}
