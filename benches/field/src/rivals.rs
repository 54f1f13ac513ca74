//! The allocators that are compared, and the executables that run the workloads under each.
//!
//! Each is built by a cargo of its own, plain and timed, and copied to a folder of ours, since the next build takes its
//! place. A rival that cannot be built stays in the tables, with the reason.

use crate::cargo::{self, Built, Failed};
use crate::run::Child;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An allocator that can be asked for.
pub struct Known {
    /// Also the feature that links it; `malloc` has none.
    pub name: &'static str,
    /// The package whose version is the allocator's.
    package: Option<&'static str>,
    /// What must be there to build it.
    pub needs: &'static str,
}

/// All of them. The first is the one that the others are compared with.
pub const KNOWN: [Known; 9] = [
    Known { name: "millpond", package: Some("millpond"), needs: "nothing but Rust" },
    Known { name: "mimalloc3", package: Some("libmimalloc-sys"), needs: "a C compiler" },
    Known { name: "mimalloc2", package: Some("libmimalloc-sys"), needs: "a C compiler" },
    Known { name: "jemalloc", package: Some("tikv-jemalloc-sys"), needs: "a C compiler and make" },
    Known { name: "snmalloc", package: Some("snmalloc-sys"), needs: "a C++20 compiler and CMake" },
    Known { name: "rpmalloc", package: Some("rpmalloc-sys"), needs: "a C compiler" },
    Known { name: "tcmalloc", package: Some("libtcmalloc-sys"), needs: "a C++17 compiler" },
    Known { name: "rusty_alloc", package: Some("rusty_alloc"), needs: "nothing but Rust" },
    Known { name: "malloc", package: None, needs: "nothing but Rust" },
];

/// The largest takes some ten minutes on a busy machine.
const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);

/// An allocator of this run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rival {
    /// One of [`KNOWN`].
    pub name: String,
    /// Its package's version, and what it says of itself.
    pub version: String,
    /// Why there is no executable.
    pub missing: Option<String>,
}

/// A rival's executables, if it could be built.
pub struct Executables {
    pub plain: Child,
    pub timed: Child,
}

/// Builds an allocator's executables into `folder`; progress goes to the terminal.
pub fn build(known: &Known, folder: &Path) -> (Rival, Option<Executables>) {
    let spinner = ProgressBar::new_spinner();
    spinner.set_style(ProgressStyle::with_template("{spinner} {msg} {elapsed}").expect("a valid template"));
    spinner.set_message(format!("building {}", known.name));
    if spinner.is_hidden() {
        eprintln!("building {}", known.name);
    }
    spinner.enable_steady_tick(Duration::from_millis(200));
    let built = try_build(known, folder);
    spinner.finish_and_clear();
    let mut rival = Rival { name: known.name.into(), version: String::new(), missing: None };
    match built {
        Ok((version, built)) => {
            rival.version = version;
            (rival, Some(built))
        }
        Err(failed) => {
            rival.missing = Some(explain(known, &failed));
            (rival, None)
        }
    }
}

fn try_build(known: &Known, folder: &Path) -> Result<(String, Executables), Failed> {
    let (plain, version) = build_one(known, folder, false)?;
    let (timed, _) = build_one(known, folder, true)?;
    Ok((version, Executables { plain: Child(plain), timed: Child(timed) }))
}

/// This package's folder: as cargo says when it runs this, since checkouts that share a target folder share executables.
fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

fn build_one(known: &Known, folder: &Path, timed: bool) -> Result<(PathBuf, String), Failed> {
    let mut features = if known.package.is_some() { known.name.to_owned() } else { String::new() };
    let mut name = known.name.to_owned();
    if timed {
        features.push_str(" timed");
        name.push_str("-timed");
    }
    let manifest = root().join("rivals/Cargo.toml");
    let target_dir = target_dir();
    // Without debug information: where there is some, snmalloc's build takes it that checks and no optimisation are wanted.
    let arguments: [&OsStr; 10] = [
        "build".as_ref(),
        "--release".as_ref(),
        "--config".as_ref(),
        "profile.release.debug=false".as_ref(),
        "--manifest-path".as_ref(),
        manifest.as_ref(),
        "--target-dir".as_ref(),
        target_dir.as_ref(),
        "--features".as_ref(),
        features.trim().as_ref(),
    ];
    let Built { executable, messages } = cargo::build(&arguments, "millpond-rivals", BUILD_LIMIT)?;
    let kept = folder.join(name);
    keep(&executable, &kept).map_err(|why| Failed {
        why: format!("{} cannot be copied: {why}", executable.display()),
        said: String::new(),
    })?;
    Ok((kept, known.package.and_then(|package| version_of(package, &messages)).unwrap_or_default()))
}

/// Copies an executable. The one before it is replaced: into one that still runs, as after an interruption or for a `cargo
/// field` beside this one, the system lets nobody write.
fn keep(executable: &Path, kept: &Path) -> io::Result<()> {
    kept.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    let beside = kept.with_extension(std::process::id().to_string());
    std::fs::copy(executable, &beside)?;
    std::fs::rename(&beside, kept)
}

/// Where cargo builds: this program lies in `target/release` or thereabouts.
pub fn target_dir() -> PathBuf {
    let own = std::env::current_exe().ok();
    let folder = own.as_deref().and_then(|own| own.ancestors().find(|folder| folder.ends_with("target")));
    let given = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    given.or(folder.map(Path::to_owned)).unwrap_or_else(|| "target".into())
}

/// The version in the identifier of a package, as in `registry+…#name@1.2.3` and `path+…/name#0.1.0`.
fn version_of(package: &str, messages: &[Value]) -> Option<String> {
    let ids = messages.iter().filter_map(|message| message["package_id"].as_str());
    ids.filter_map(|id| {
        let (source, rest) = id.split_once('#')?;
        let (name, version) = rest.split_once('@').unwrap_or((source.rsplit('/').next()?, rest));
        // A path's last part need not be the package's name.
        (name == package || package == "millpond" && !rest.contains('@')).then(|| version.to_owned())
    })
    .next()
}

/// The first line of the compiler's that says what is wrong, and what the build wants.
fn explain(known: &Known, failed: &Failed) -> String {
    let lines = failed.said.lines().map(str::trim);
    let said =
        lines.clone().find(|line| line.starts_with("error")).or_else(|| lines.clone().find(|line| !line.is_empty()));
    format!("{}: {} (it needs {})", failed.why, said.unwrap_or("no message"), known.needs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_packages() {
        let ids =
            ["registry+somewhere#libc@0.2.1", "registry+somewhere#rpmalloc-sys@0.2.3+b0", "path+file:///a/b#0.1.0"];
        let messages: Vec<Value> = ids.iter().map(|id| serde_json::json!({ "package_id": id })).collect();
        assert_eq!(version_of("rpmalloc-sys", &messages).as_deref(), Some("0.2.3+b0"));
        assert_eq!(version_of("millpond", &messages).as_deref(), Some("0.1.0"));
        assert_eq!(version_of("rpmalloc", &messages), None);
    }

    #[test]
    fn an_executable_is_replaced_and_not_written_into() {
        let folder = std::env::temp_dir().join(format!("millpond-field-{}-kept", std::process::id()));
        let (built, kept) = (folder.join("built"), folder.join("children/one"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(&built, "old").unwrap();
        keep(&built, &kept).unwrap();
        let before = std::fs::File::open(&kept).unwrap();
        std::fs::write(&built, "new").unwrap();
        keep(&built, &kept).unwrap();
        let (old, new) = (io::read_to_string(before).unwrap(), std::fs::read_to_string(&kept).unwrap());
        let beside = std::fs::read_dir(folder.join("children")).unwrap().count();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!((old.as_str(), new.as_str(), beside), ("old", "new", 1));
    }

    #[test]
    fn a_build_that_fails_has_the_compilers_words() {
        let arguments = ["build", "--manifest-path", "/nonexistent/Cargo.toml"].map(OsStr::new);
        let failed = cargo::build(&arguments, "x", BUILD_LIMIT).err().unwrap().to_string();
        assert!(failed.contains("x could not be built") && failed.contains("nonexistent"), "{failed}");
    }

    #[test]
    fn a_failed_build_says_what_is_missing() {
        let failed = Failed { why: "x could not be built".into(), said: "warning: a\nerror: no CMake\nmore".into() };
        let text = explain(&KNOWN[4], &failed);
        assert_eq!(text, "x could not be built: error: no CMake (it needs a C++20 compiler and CMake)");
    }
}
