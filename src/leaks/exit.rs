//! The leak report at the program's end: what `MILLPOND_LEAKS` asks for, and how it is done.
//!
//! Invariant: the words below are set once, before the program's end is asked to call anything, and not changed.

use super::{All, Leaks, LeaksUnknown, find_with_room, has_room};
use crate::environment::Leaking;
use crate::os::{self, Opened, Output, Refused, Registers};
use crate::sync::{AtomicUsize, Ordering};
use core::ffi::CStr;
use core::fmt::{self, Write};
use core::ptr::with_exposed_provenance;

/// The form, the code, and where the path is that was copied.
static FORM: AtomicUsize = AtomicUsize::new(0);
static PATH: AtomicUsize = AtomicUsize::new(0);

/// Bytes of a report that are written at once: all groups, as text or as JSON, with tags of a few words.
const REPORT: usize = 14 << 10;

/// Notes what is wished. The path is copied, from the root on: a program may write over its environment, and go elsewhere.
#[cold]
pub(crate) fn wish(wished: &Leaking) {
    let path = wished.file.unwrap_or_default();
    if !path.is_empty() {
        match os::keep_path(path) {
            Ok(at) => PATH.store(at, Ordering::Relaxed),
            Err(refused) => {
                let name = path.escape_ascii();
                os::say(format_args!("leaks are told here: where {name} is to be cannot be noted, {refused}"))
            }
        }
    }
    FORM.store(wished.bits(), Ordering::Relaxed);
}

/// Reports what has been found, as was wished, and has the process end with another code if that was wished.
#[cold]
#[inline(never)]
pub(crate) fn at_exit(all: All<'_>, own: &Registers) {
    match has_room(own) {
        true => report(all, own),
        false => say(format_args!("not known, {}", LeaksUnknown::Memory)),
    }
}

#[inline(never)]
fn report(all: All<'_>, own: &Registers) {
    let wished = Leaking::from_bits(FORM.load(Ordering::Relaxed));
    let leaks = match find_with_room(all.program, all, own, 0) {
        Ok(leaks) => leaks,
        Err(reason) => return say(format_args!("not known, {reason}")),
    };
    let says = wished.text || (wished.code.is_some() && leaks.count() > 0 && !wished.json);
    let (file, path) = file();
    if let Err(refused) = write(&leaks, file, says, wished.json) {
        let (count, place) = (leaks.count(), path.escape_ascii());
        say(format_args!("{count} allocations, and no way to write which to {place}: {refused}"));
    }
    if let Some(code) = wished.code.filter(|_| leaks.count() > 0) {
        os::end_with(code.into());
    }
}

#[inline(never)]
fn write(leaks: &Leaks, file: Option<Opened>, text: bool, json: bool) -> Result<(), Refused> {
    // So that a report is one piece of a file that several processes write to, nearly always.
    let mut buffer = [0; REPORT];
    let mut output = Output::new(file, &mut buffer);
    // The first refusal ends the writing, and is told by what finishes it.
    if text {
        let _ = writeln!(output, "millpond: {leaks}");
        output.flush()?;
    }
    if json {
        let _ = writeln!(output, "{}", leaks.json());
    }
    output.finish()
}

/// Where it goes, and that in words: the file that was named, or stderr, if none was or it cannot be written.
fn file() -> (Option<Opened>, &'static [u8]) {
    let at = PATH.load(Ordering::Relaxed);
    if at == 0 {
        return (None, b"stderr");
    }
    // SAFETY: what `wish` has had copied, with the zero behind it, which stays.
    let path = unsafe { CStr::from_ptr(with_exposed_provenance(at)) };
    match Opened::append(path) {
        Ok(file) => (Some(file), path.to_bytes()),
        Err(refused) => {
            say(format_args!("{} cannot be written: {refused}", path.to_bytes().escape_ascii()));
            (None, b"stderr")
        }
    }
}

/// Says a line of this process's on stderr.
fn say(text: fmt::Arguments<'_>) {
    os::say(format_args!("leaks of process {}: {text}", os::process_id()));
}
