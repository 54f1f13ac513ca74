//! The other side of the `wordindex` example: the same modules, under the system's malloc. It does the work once and
//! prints its figures as JSON; `wordindex` builds and starts it.

#[path = "wordindex/corpus.rs"]
mod corpus;
#[path = "wordindex/index.rs"]
mod index;
#[path = "wordindex/measure.rs"]
mod measure;
#[path = "wordindex/options.rs"]
mod options;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match measure::run(&options::Options::parse(), &measure::Allocator { trim, stats: || None }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wordindex_malloc: {error}");
            ExitCode::FAILURE
        }
    }
}

fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` has no precondition.
    unsafe {
        libc::malloc_trim(0);
    }
}
