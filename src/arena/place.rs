//! What lies at an address that is no allocation, in words that follow a colon: free memory of the heap's, memory of another heap, or what
//! the system tells.

use super::{Arenas, whose};
use crate::os;
use core::fmt;

/// See [`Arenas::place`]. Looked up when it is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(super) arenas: &'a Arenas,
    pub(super) address: usize,
    /// Whether it is free memory of the heap's that lies in no arena.
    pub(super) is_free: bool,
}

impl Place<'_> {
    /// The same, where the heap's own free memory lies if that is so.
    pub(crate) fn free_if(self, is_free: bool) -> Self {
        Self { is_free, ..self }
    }
}

impl fmt::Display for Place<'_> {
    #[unsafe(link_section = ".millpond_cold")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_free || self.arenas.have(self.address) {
            return write!(f, "in free memory of {}", self.arenas.whose());
        }
        match whose(self.address) {
            Some(heap) => write!(f, "in memory of {heap}"),
            None => os::Place(self.address).fmt(f),
        }
    }
}
