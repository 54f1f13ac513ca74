//! The text files under a folder: which there are, and what is in one.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

/// As git does: a file with a zero byte this near its start is binary.
const HEAD: u64 = 8 * 1024;

/// Every regular file under a folder, text or not.
pub struct Corpus {
    pub files: Vec<PathBuf>,
    /// Entries that could not even be listed.
    pub unlisted: usize,
}

/// What reading one file brought.
pub enum Content {
    Text(String),
    Binary,
    Unreadable,
}

impl Corpus {
    /// Walks `folder`, leaving out hidden entries (`.git`) and folders marked as caches (cargo's `target`).
    pub fn walk(folder: &Path) -> io::Result<Corpus> {
        std::fs::metadata(folder)?;
        let mut corpus = Corpus { files: Vec::new(), unlisted: 0 };
        for entry in WalkDir::new(folder).sort_by_file_name().into_iter().filter_entry(wanted) {
            match entry {
                Ok(entry) if entry.file_type().is_file() => corpus.files.push(entry.into_path()),
                Ok(_) => {}
                Err(error) if error.depth() == 0 => return Err(error.into()),
                Err(_) => corpus.unlisted += 1,
            }
        }
        Ok(corpus)
    }
}

fn wanted(entry: &DirEntry) -> bool {
    // What the user named is wanted whatever it is called.
    if entry.depth() == 0 {
        return true;
    }
    let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
    let cache = || entry.file_type().is_dir() && entry.path().join("CACHEDIR.TAG").exists();
    !hidden && !cache()
}

/// Reads a file; stray bytes that are no UTF-8 do not make a text unreadable.
pub fn read(path: &Path) -> Content {
    match read_bytes(path) {
        Ok(Some(bytes)) => Content::Text(match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }),
        Ok(None) => Content::Binary,
        Err(_) => Content::Unreadable,
    }
}

/// The file's bytes, or `None` as soon as its head shows that it is binary.
fn read_bytes(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    file.by_ref().take(HEAD).read_to_end(&mut bytes)?;
    if bytes.contains(&0) {
        return Ok(None);
    }
    file.read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}
