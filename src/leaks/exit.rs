//! The leak report at the program's end: what `MILLPOND_LEAKS` asks for, and how it is done.
//!
//! Invariant: the words below are set once, before the program's end is asked to call anything, and not changed.

use super::{Leaks, LeaksUnknown, find_with_room, has_room};
use crate::environment::Leaking;
use crate::heap::Heap;
use crate::modes::Tracker;
use crate::os::{self, Opened, Output, Registers};
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
            Some(at) => PATH.store(at, Ordering::Relaxed),
            None => {
                os::say(format_args!("leaks are told here: their file's path is too long, or the folder is not known"))
            }
        }
    }
    FORM.store(wished.bits(), Ordering::Relaxed);
}

/// Reports what has been found, as was wished, and has the process end with another code if that was wished.
#[cold]
#[inline(never)]
pub(crate) fn at_exit(heap: &Heap, tracker: &Tracker, own: &Registers) {
    match has_room(own) {
        true => report(heap, tracker, own),
        false => say(format_args!("not known, {}", LeaksUnknown::Memory)),
    }
}

#[inline(never)]
fn report(heap: &Heap, tracker: &Tracker, own: &Registers) {
    let wished = Leaking::from_bits(FORM.load(Ordering::Relaxed));
    let leaks = match find_with_room(heap, tracker, own, 0) {
        Ok(leaks) => leaks,
        Err(reason) => return say(format_args!("not known, {reason}")),
    };
    let says = wished.text || (wished.code.is_some() && leaks.count() > 0 && !wished.json);
    if write(&leaks, says, wished.json).is_err() {
        say(format_args!("{} allocations, and no way to write which", leaks.count()));
    }
    if let Some(code) = wished.code.filter(|_| leaks.count() > 0) {
        os::end_with(code.into());
    }
}

fn write(leaks: &Leaks, text: bool, json: bool) -> fmt::Result {
    // So that a report is one piece of a file that several processes write to, nearly always.
    let mut buffer = [0; REPORT];
    let mut output = Output::new(file(), &mut buffer);
    if text {
        writeln!(output, "millpond: {leaks}")?;
        output.flush().map_err(|_| fmt::Error)?;
    }
    if json {
        writeln!(output, "{}", leaks.json())?;
    }
    output.finish().map_err(|_| fmt::Error)
}

/// The file that was named; `None`: none was, or it cannot be written.
fn file() -> Option<Opened> {
    let at = PATH.load(Ordering::Relaxed);
    if at == 0 {
        return None;
    }
    // SAFETY: what `wish` has had copied, with the zero behind it, which stays.
    let path = unsafe { CStr::from_ptr(with_exposed_provenance(at)) };
    let file = Opened::append(path);
    if file.is_none() {
        say(format_args!("{} cannot be written", path.to_bytes().escape_ascii()));
    }
    file
}

/// Says a line of this process's on stderr.
fn say(text: fmt::Arguments<'_>) {
    os::say(format_args!("leaks of process {}: {text}", os::process_id()));
}
