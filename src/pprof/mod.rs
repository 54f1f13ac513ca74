//! What a sampler knows, written for the tools that show it, without allocating.
//!
//! `pprof`'s format is one message of Protocol Buffers ([profile.proto](https://github.com/google/pprof), not compressed,
//! which its readers take as well). A part of a message whose length stands before it is made in a buffer first; everything
//! else goes out as it comes, in one walk over the sites. Each frame of each site is a location of its own: readers join
//! those that are equal.
//!
//! | field | what |
//! |---|---|
//! | `sample_type` | allocated objects and bytes, live objects and bytes, under the names that the tools know |
//! | `mapping` | what is executable, of `/proc/thread-self/maps`: with it, tools find the names of functions |
//! | `sample`, `location` | each stack with its four figures; addresses lie inside the call, not behind it |
//! | `period` | bytes between two samples, on average |

mod collapsed;
mod message;

pub use collapsed::Value;
pub(crate) use collapsed::{module_and_offset, write as collapse};

use crate::config::FRAMES;
use crate::os;
use crate::sampler::{Sampler, Site, Totals};
use core::ptr::with_exposed_provenance_mut;
use message::Message;

/// Where bytes go; an error ends the writing.
pub(crate) type Sink<'a, E> = &'a mut dyn FnMut(&[u8]) -> Result<(), E>;

/// The numbers of `Profile`'s fields.
mod field {
    pub(super) const SAMPLE_TYPE: u32 = 1;
    pub(super) const SAMPLE: u32 = 2;
    pub(super) const MAPPING: u32 = 3;
    pub(super) const LOCATION: u32 = 4;
    pub(super) const STRING: u32 = 6;
    pub(super) const TIME: u32 = 9;
    pub(super) const PERIOD_TYPE: u32 = 11;
    pub(super) const PERIOD: u32 = 12;
    pub(super) const DEFAULT_TYPE: u32 = 14;
}

/// The first strings of the table; those of the mappings follow.
const STRINGS: [&str; 8] =
    ["", "alloc_objects", "count", "alloc_space", "bytes", "inuse_objects", "inuse_space", "space"];

/// Mappings that are noted: what lies in others has addresses only.
const MAPPINGS: usize = 4096;
const TABLE: usize = MAPPINGS * size_of::<[usize; 2]>();

/// Start and end of each executable mapping, in memory of its own. The number of the mapping is one more than its place.
struct Mappings {
    at: usize,
    len: usize,
}

impl Mappings {
    fn new() -> Self {
        Self { at: os::scratch(TABLE).unwrap_or(0), len: 0 }
    }

    fn add(&mut self, range: [usize; 2]) -> bool {
        if self.at == 0 || self.len == MAPPINGS {
            return false;
        }
        // SAFETY: inside the table, which is ours alone.
        unsafe { with_exposed_provenance_mut::<[usize; 2]>(self.at).add(self.len).write(range) };
        self.len += 1;
        true
    }

    /// The number of the mapping in which an address lies; zero: in none.
    fn number(&self, address: usize) -> u64 {
        if self.at == 0 {
            return 0;
        }
        // SAFETY: so many have been written.
        let ranges =
            unsafe { core::slice::from_raw_parts(with_exposed_provenance_mut::<[usize; 2]>(self.at), self.len) };
        let after = ranges.partition_point(|[start, _]| *start <= address);
        if after > 0 && address < ranges[after - 1][1] { after as u64 } else { 0 }
    }
}

impl Drop for Mappings {
    fn drop(&mut self) {
        if self.at != 0 {
            os::release_metadata(self.at, TABLE);
        }
    }
}

/// Writes the run's profile.
pub(crate) fn write<E>(sampler: &Sampler, sink: Sink<'_, E>) -> Result<(), E> {
    let kind = |name, unit| Message::<64>::new().number(1, name).number(2, unit);
    for (name, unit) in [(1, 2), (3, 4), (5, 2), (6, 4)] {
        kind(name, unit).send(field::SAMPLE_TYPE, sink)?;
    }
    kind(7, 4).send(field::PERIOD_TYPE, sink)?;
    let numbers = Message::<64>::new().number(field::PERIOD, sampler.mean());
    sink(numbers.number(field::TIME, os::wall_ns()).number(field::DEFAULT_TYPE, 6).bytes())?;
    for text in STRINGS {
        string(text.as_bytes(), sink)?;
    }

    let mut mappings = Mappings::new();
    let mut result = Ok(());
    os::mappings(&mut |mapping| {
        if result.is_ok() && mapping.is_code() && mappings.add([mapping.start, mapping.end]) {
            let number = mappings.len as u64;
            let message = Message::<64>::new().number(1, number).number(2, mapping.start as u64);
            let message = message.number(3, mapping.end as u64).number(4, mapping.offset as u64);
            let message = message.number(5, STRINGS.len() as u64 + number - 1);
            result = message.send(field::MAPPING, sink).and_then(|()| string(mapping.name, sink));
        }
        result.is_ok()
    });
    result?;

    let mut result = Ok(());
    sampler.walk(|site, totals| {
        if result.is_ok() {
            result = stack(site, totals, &mappings, sink);
        }
    });
    result
}

/// One stack: its sample and its locations.
fn stack<E>(site: &Site, totals: Totals, mappings: &Mappings, sink: Sink<'_, E>) -> Result<(), E> {
    let first = site.index() as u64 * FRAMES as u64;
    let frames = site.frames();
    let Totals { allocated_objects, allocated_bytes, live_objects, live_bytes } = totals;
    let sample = Message::<{ FRAMES * 6 + 64 }>::new().packed(1, (0..frames.len()).map(|at| first + at as u64));
    sample
        .packed(2, [allocated_objects, allocated_bytes, live_objects, live_bytes].into_iter())
        .send(field::SAMPLE, sink)?;
    for (at, frame) in frames.iter().enumerate() {
        let address = call(frame.get());
        let location = Message::<64>::new().number(1, first + at as u64);
        location.number(2, mappings.number(address)).number(3, address as u64).send(field::LOCATION, sink)?;
    }
    Ok(())
}

/// An address inside the call that returns to this one.
pub(crate) fn call(returns_to: usize) -> usize {
    returns_to.saturating_sub(1)
}

fn string<E>(text: &[u8], sink: Sink<'_, E>) -> Result<(), E> {
    let head = Message::<64>::new().head(field::STRING, text.len());
    sink(head.bytes())?;
    sink(text)
}
