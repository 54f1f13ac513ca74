//! What lies at an address that is no allocation, in words that follow a colon: free memory of the heap's, or what the system tells.

use super::Arenas;
use crate::config::PAGE_SHIFT;
use crate::os;
use core::fmt;

/// See [`Arenas::place`]. Looked up when it is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(super) arenas: &'a Arenas,
    pub(super) address: usize,
}

impl fmt::Display for Place<'_> {
    #[unsafe(link_section = ".millpond_cold")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.arenas.of(self.address >> PAGE_SHIFT) {
            Some(_) => write!(f, "in free memory of {}", self.arenas.whose()),
            None => os::Place(self.address).fmt(f),
        }
    }
}
