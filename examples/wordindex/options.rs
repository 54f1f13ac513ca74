//! The command line, shared by both executables: what the parent is asked and what it asks of a child.

use std::path::{Path, PathBuf};

use clap::Parser;

/// Index every word of every text file under a folder, then compare Millpond with malloc at it.
#[derive(Parser, Clone, Debug)]
pub struct Options {
    /// Folder to index [default: this project's own tree]
    #[arg(value_name = "FOLDER")]
    folder: Option<PathBuf>,

    /// How often a child indexes the folder, as that many separate copies of its files [default: as often as
    /// makes a second or two of work]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: Option<u32>,

    /// Rounds of the comparison, each one child per allocator; 0 leaves the comparison out
    #[arg(long, default_value_t = 3)]
    pub rounds: u32,

    /// Threads that read and index [default: one a processor]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: Option<u32>,

    /// How many of the most frequent terms to print
    #[arg(long, default_value_t = 20)]
    pub top: usize,

    /// Seconds of light activity between the drop of the index and the next look at resident memory
    #[arg(long, default_value_t = 2)]
    pub settle: u32,

    /// Be the child: do the work once in this process and print what it took, as JSON
    #[arg(long, hide = true)]
    pub measure: bool,
}

impl Options {
    /// The folder to index: the one named, or the project's own tree, or the current folder where the executable
    /// has outlived the tree it was built from.
    pub fn folder(&self) -> PathBuf {
        match &self.folder {
            Some(folder) => folder.clone(),
            None => {
                let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
                if tree.is_dir() { tree.to_owned() } else { PathBuf::from(".") }
            }
        }
    }

    /// Sets up rayon's global pool as asked.
    pub fn start_threads(&self) -> Result<(), rayon::ThreadPoolBuildError> {
        let threads = self.threads.unwrap_or(0); // 0 is rayon's word for "one a processor"
        rayon::ThreadPoolBuilder::new().num_threads(threads as usize).build_global()
    }
}
