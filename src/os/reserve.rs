//! Addresses: where the system is asked for memory.
//!
//! A number stored over the lower half of a word that held an address leaves what looks like an address, on stacks above all: a search
//! for leaks would take whatever lies there for reachable. Programs have small numbers all the time, of either sign. So a reservation that
//! lies where addresses end like those is made once more, while it is held, and the better one is kept (Boehm's collector, too, avoids
//! addresses that something else looks like: *Space efficient conservative garbage collection*, 1993).
//!
//! Invariant: what is returned is mapped whole, and nothing beside it is.

use super::linux::{quietly, unmap};

pub(super) const PROT: i32 = libc::PROT_READ | libc::PROT_WRITE;
pub(super) const FLAGS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// Bytes of addresses below and above a multiple of [`ALIKE`] whose lower halves are small numbers.
const NUMBERS: (usize, usize) = (64 << 10, 16 << 20);
const ALIKE: usize = 1 << 32;
/// How often other addresses are asked for: the first that are free may lie on either side.
const OTHERS: u32 = 2;
/// What is as long as this lies where it comes.
const LONG: usize = 1 << 30;

/// Maps so many bytes, wherever the system likes.
pub(super) fn map_as(flags: i32, len: usize) -> Option<usize> {
    // SAFETY: a fresh anonymous mapping touches nothing that exists.
    let at = quietly(|| unsafe { libc::mmap(core::ptr::null_mut(), len, PROT, flags, -1, 0) });
    (at != libc::MAP_FAILED).then(|| at.expose_provenance())
}

/// See [`os`](super).
pub(crate) fn reserve(len: usize, align: usize) -> Option<usize> {
    reserve_as(FLAGS | libc::MAP_NORESERVE, len, align)
}

/// See [`os`](super).
pub(crate) fn reserve_for_use(len: usize, align: usize, behind: usize) -> Option<usize> {
    if behind > 0 {
        if let Some(at) = len.checked_add(behind).and_then(|sum| reserve_as(FLAGS, sum, align)) {
            unmap(at + len, behind);
            return Some(at);
        }
    }
    reserve_as(FLAGS, len, align)
}

fn reserve_as(flags: i32, len: usize, align: usize) -> Option<usize> {
    reserve_apart(flags, len, align, OTHERS)
}

fn reserve_apart(flags: i32, len: usize, align: usize, tries: u32) -> Option<usize> {
    let at = reserve_aligned(flags, len, align)?;
    if tries == 0 || !looks_like_numbers(at, len) {
        return Some(at);
    }
    match reserve_apart(flags, len, align, tries - 1) {
        Some(other) if !looks_like_numbers(other, len) => {
            unmap(at, len);
            Some(other)
        }
        other => {
            other.into_iter().for_each(|other| unmap(other, len));
            Some(at)
        }
    }
}

fn looks_like_numbers(at: usize, len: usize) -> bool {
    let (below, above) = NUMBERS;
    let from = (at + below) % ALIKE;
    len < LONG && (from < below + above || from + len > ALIKE)
}

fn reserve_aligned(flags: i32, len: usize, align: usize) -> Option<usize> {
    let at = map_as(flags, len)?;
    if at % align == 0 {
        return Some(at);
    }
    // Not aligned by luck: take enough to cut an aligned piece out of it.
    unmap(at, len);
    let padded = len.checked_add(align)?;
    let at = map_as(flags, padded)?;
    let aligned = at.next_multiple_of(align);
    unmap(at, aligned - at);
    unmap(aligned + len, at + padded - (aligned + len));
    Some(aligned)
}

/// See [`os`](super).
pub(crate) fn reserve_again(at: usize, len: usize) -> bool {
    let flags = FLAGS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: a private anonymous mapping where nothing is mapped touches nothing that exists.
    let got = quietly(|| unsafe { libc::mmap(core::ptr::with_exposed_provenance_mut(at), len, PROT, flags, -1, 0) });
    if got != libc::MAP_FAILED && got.expose_provenance() != at {
        // Kernels before 4.17 take the address as advice only.
        unmap(got.expose_provenance(), len);
        return false;
    }
    got != libc::MAP_FAILED
}
