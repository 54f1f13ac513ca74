//! What a heap answers when it cannot serve.

use core::fmt;

/// The heap's capacity, or the system's memory, is used up. What is live stays as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "there is no more to say")]
pub struct AllocError;

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the heap is exhausted")
    }
}

impl core::error::Error for AllocError {}
