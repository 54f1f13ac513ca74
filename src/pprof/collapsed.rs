//! The collapsed form: text, a line a stack, outermost function first, and one figure; what flame graphs are drawn from.

use super::call;
use crate::os;
use crate::sampler::{Sampler, Site, Totals};
use core::fmt::{self, Write};

/// Which figure [`write_collapsed`](crate::profile::write_collapsed) writes for each stack; all are estimates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value {
    /// Bytes that are live.
    #[default]
    LiveBytes,
    /// The number of live allocations.
    LiveObjects,
    /// Bytes of all allocations since the start.
    AllocatedBytes,
    /// The number of all allocations since the start.
    AllocatedObjects,
}

impl Value {
    fn of(self, totals: Totals) -> u64 {
        match self {
            Self::LiveBytes => totals.live_bytes,
            Self::LiveObjects => totals.live_objects,
            Self::AllocatedBytes => totals.allocated_bytes,
            Self::AllocatedObjects => totals.allocated_objects,
        }
    }
}

/// Writes the run's stacks for which the figure is not zero. `name` writes what is to stand for an address inside a call.
pub(crate) fn write(
    sampler: &Sampler,
    value: Value,
    out: &mut dyn Write,
    name: &mut dyn FnMut(usize, &mut dyn Write) -> fmt::Result,
) -> fmt::Result {
    let mut result = Ok(());
    sampler.walk(|site, totals| {
        let figure = value.of(totals);
        if result.is_ok() && figure > 0 {
            result = line(site, out, name).and_then(|()| writeln!(out, " {figure}"));
        }
    });
    result
}

fn line(site: &Site, out: &mut dyn Write, name: &mut dyn FnMut(usize, &mut dyn Write) -> fmt::Result) -> fmt::Result {
    let mut rest = site.frames().len();
    for frame in site.frames().iter().rev() {
        name(call(frame.get()), &mut Plain(out))?;
        rest -= 1;
        if rest > 0 {
            out.write_char(';')?;
        }
    }
    Ok(())
}

/// Text in which the form's own marks are replaced.
struct Plain<'a>(&'a mut dyn Write);

impl Write for Plain<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.split_inclusive([';', '\n']).try_for_each(|part| {
            let plain = part.trim_end_matches([';', '\n']);
            self.0.write_str(plain)?;
            if plain.len() < part.len() { self.0.write_char(':') } else { Ok(()) }
        })
    }
}

/// The name by which the loader knows an address: a function's, if it is exported, else its file's with the distance from
/// its start, which `addr2line` and others take.
pub(crate) fn module_and_offset(address: usize, out: &mut dyn Write) -> fmt::Result {
    let Some(symbol) = os::symbol(address) else { return write!(out, "{address:#x}") };
    let text = |bytes: &core::ffi::CStr, out: &mut dyn Write| {
        bytes.to_bytes().utf8_chunks().try_for_each(|chunk| out.write_str(chunk.valid()))
    };
    match symbol.name {
        Some(name) => text(name, out),
        None => {
            let path = symbol.file.to_bytes_with_nul();
            let start = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
            text(core::ffi::CStr::from_bytes_with_nul(&path[start..]).unwrap_or_default(), out)?;
            write!(out, "+{:#x}", address - symbol.start)
        }
    }
}
