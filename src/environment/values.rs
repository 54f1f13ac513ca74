//! What each variable's value means, and what is wrong with one that means nothing.
//!
//! Invariant: a value that is refused has changed nothing.

use super::{Leaking, Profile, Settings, Sizes};
use crate::config::CALLERS;
use crate::log::Log;
use crate::os;
use crate::report::{Freed, Mode, Thp};
use crate::sampler;

/// What is wrong with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It is none of the variable's.
    Value,
    /// A number in it, behind this word, is less or more than can be.
    Range { of: &'static str, least: u64, most: u64 },
    /// A path in it has more bytes.
    Path { most: usize },
}

/// The exit code if none is named: LeakSanitizer's.
const LEAKED: u8 = 23;

/// The number that is written there, from `least` to `most`, behind the word `of`.
#[unsafe(link_section = ".millpond_cold")]
fn number(text: &[u8], of: &'static str, least: u64, most: u64) -> Result<u64, Wrong> {
    // Less than nothing is a number too, but one that does not fit.
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Wrong::Value);
    }
    let value = core::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    value.filter(|value| (least..=most).contains(value)).ok_or(Wrong::Range { of, least, most })
}

#[unsafe(link_section = ".millpond_cold")]
pub(super) fn mode(settings: &mut Settings, value: &'static [u8]) -> Result<(), Wrong> {
    settings.mode = Some(match value {
        b"fast" => Mode::Fast,
        b"tracked" => Mode::Tracked,
        b"hardened" => Mode::Hardened,
        _ => return Err(Wrong::Value),
    });
    Ok(())
}

#[unsafe(link_section = ".millpond_cold")]
pub(super) fn backtrace(settings: &mut Settings, value: &'static [u8]) -> Result<(), Wrong> {
    settings.backtrace = Some(number(value, "", 0, CALLERS as u64)? as u32);
    Ok(())
}

#[unsafe(link_section = ".millpond_cold")]
pub(super) fn guard(settings: &mut Settings, value: &'static [u8]) -> Result<(), Wrong> {
    settings.guard = Some(number(value, "", 0, u32::MAX.into())? as u32);
    Ok(())
}

#[unsafe(link_section = ".millpond_cold")]
pub(super) fn freed(settings: &mut Settings, value: &'static [u8]) -> Result<(), Wrong> {
    settings.freed = Some(match value {
        b"junk" => Freed::Junk,
        b"zero" => Freed::Zero,
        b"keep" => Freed::Keep,
        _ => return Err(Wrong::Value),
    });
    Ok(())
}

#[unsafe(link_section = ".millpond_cold")]
pub(super) fn sizes(settings: &mut Settings, value: &'static [u8]) -> Result<(), Wrong> {
    settings.sizes = Some(match value {
        b"own" => Sizes::Own,
        b"any" => Sizes::Any,
        _ => return Err(Wrong::Value),
    });
    Ok(())
}

#[unsafe(link_section = ".millpond_cold")]
pub(super) fn quarantine(settings: &mut Settings, value: &'static [u8]) -> Result<(), Wrong> {
    let (number, shift) = match value {
        [number @ .., b'K'] => (number, 10),
        [number @ .., b'M'] => (number, 20),
        [number @ .., b'G'] => (number, 30),
        _ => (value, 0),
    };
    let most = usize::MAX as u64;
    let all = Wrong::Range { of: "", least: 0, most };
    let in_units =
        self::number(number, "", 0, most >> shift).map_err(|wrong| if wrong == Wrong::Value { wrong } else { all })?;
    settings.quarantine = Some((in_units as usize) << shift);
    Ok(())
}

#[unsafe(link_section = ".millpond_cold")]
pub(super) fn log(settings: &mut Settings, value: &'static [u8]) -> Result<(), Wrong> {
    let comma = value.iter().position(|byte| *byte == b',').unwrap_or(value.len());
    let (level, file) = value.split_at(comma);
    let level = match level {
        b"os" => Log::Os,
        b"arena" => Log::Arena,
        b"span" => Log::Span,
        b"pool" => Log::Pool,
        b"cache" => Log::Cache,
        _ => return Err(Wrong::Value),
    };
    let file = match file {
        [] => None,
        file => Some(file.strip_prefix(b",file=").filter(|path| !path.is_empty()).ok_or(Wrong::Value)?),
    };
    (settings.log, settings.log_file) = (level, file);
    Ok(())
}

#[unsafe(link_section = ".millpond_cold")]
pub(super) fn thp(settings: &mut Settings, value: &'static [u8]) -> Result<(), Wrong> {
    settings.thp = match value {
        b"default" => Thp::Default,
        b"always" => Thp::Always,
        b"never" => Thp::Never,
        b"system" => Thp::System,
        _ => return Err(Wrong::Value),
    };
    Ok(())
}

#[unsafe(link_section = ".millpond_cold")]
pub(super) fn timing(settings: &mut Settings, value: &'static [u8]) -> Result<(), Wrong> {
    settings.timing = match value {
        b"0" => false,
        b"1" => true,
        _ => return Err(Wrong::Value),
    };
    Ok(())
}

#[unsafe(link_section = ".millpond_cold")]
pub(super) fn profile(settings: &mut Settings, value: &'static [u8]) -> Result<(), Wrong> {
    let mut words = value.split(|byte| *byte == b',');
    let path = words.next().filter(|path| !path.is_empty()).ok_or(Wrong::Value)?;
    let most = os::PATH_MAX / 2 - 1;
    if path.len() > most {
        return Err(Wrong::Path { most });
    }
    let mut profile = Profile { path, bytes: sampler::MEAN, seed: None, collapsed: false };
    for word in words {
        if let Some(digits) = word.strip_prefix(b"bytes=") {
            profile.bytes = number(digits, "bytes=", 1, sampler::MEAN_MAX)?;
        } else if let Some(digits) = word.strip_prefix(b"seed=") {
            profile.seed = Some(number(digits, "seed=", 0, u64::MAX)?);
        } else if word == b"collapsed" {
            profile.collapsed = true;
        } else {
            return Err(Wrong::Value);
        }
    }
    settings.profile = Some(profile);
    Ok(())
}

#[unsafe(link_section = ".millpond_cold")]
pub(super) fn show(settings: &mut Settings, value: &'static [u8]) -> Result<(), Wrong> {
    let mut wanted = *settings;
    for word in value.split(|byte| *byte == b',') {
        match word.trim_ascii() {
            b"config" => wanted.show_config = true,
            b"stats" => wanted.show_stats = true,
            b"map" => wanted.show_map = true,
            _ => return Err(Wrong::Value),
        }
    }
    *settings = wanted;
    Ok(())
}

/// The file comes last, since its name may have commas in it.
#[unsafe(link_section = ".millpond_cold")]
pub(super) fn leaks(settings: &mut Settings, value: &'static [u8]) -> Result<(), Wrong> {
    let mut wanted = Leaking::default();
    let mut rest = value;
    while !rest.is_empty() {
        if let Some(path) = rest.strip_prefix(b"file=") {
            wanted.file = Some(path).filter(|path| !path.is_empty());
            if wanted.file.is_none() {
                return Err(Wrong::Value);
            }
            break;
        }
        let end = rest.iter().position(|byte| *byte == b',').unwrap_or(rest.len());
        match &rest[..end] {
            b"report" => wanted.text = true,
            b"json" => wanted.json = true,
            b"fail" => wanted.code = Some(LEAKED),
            word => {
                let code = word.strip_prefix(b"fail=").ok_or(Wrong::Value)?;
                wanted.code = Some(number(code, "fail=", 1, u8::MAX.into())? as u8);
            }
        }
        rest = match &rest[end..] {
            [] => &[],
            // A comma is followed by a word.
            [_] => return Err(Wrong::Value),
            [_, more @ ..] => more,
        };
    }
    // A file alone is a file for the report.
    wanted.text |= !wanted.is_wished();
    settings.leaks = wanted;
    Ok(())
}
