//! The C library, built by the command that the README names, and C programs that use it.
#![allow(dead_code, reason = "each test binary uses its own part")]

#[path = "../common/resource.rs"]
mod resource;

pub use resource::Resource;
use std::io::{Read as _, Seek as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where the tests' programs are put.
pub fn workbench() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("c");
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// `libmillpond.so`, by `cargo shared`.
pub fn shared() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("shared", "library/libmillpond.so"))
}

/// `libmillpond.a`, by `cargo static`.
pub fn archive() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("static", "library/libmillpond.a"))
}

/// What a command of the README's builds, in the target folder.
pub fn build(alias: &str, file: &str) -> PathBuf {
    succeeds(Command::new(env!("CARGO")).arg(alias).current_dir(root()));
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
    let built = target.join(file);
    assert!(built.is_file(), "`cargo {alias}` has made no {}", built.display());
    built
}

/// Compiles `tests/c/NAME.c` with what else the compiler is told, and returns the program.
pub fn compile(name: &str, program: &str, more: &[&str]) -> PathBuf {
    compile_file(&root().join("tests/c").join(name), program, more)
}

pub fn compile_file(source: &Path, program: &str, more: &[&str]) -> PathBuf {
    let compiler = if source.extension().is_some_and(|end| end == "cpp") { "c++" } else { "cc" };
    let made = workbench().join(program);
    let standard = if compiler == "cc" { "-std=gnu11" } else { "-std=c++17" };
    succeeds(
        Command::new(compiler)
            .args([standard, "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"])
            .arg(format!("-I{}", root().join("include").display()))
            .arg("-o")
            .arg(&made)
            .arg(source)
            .args(more)
            .arg("-ldl"),
    );
    made
}

/// The arguments that link a program with the shared library.
pub fn link_shared() -> [String; 3] {
    let folder = shared().parent().expect("its folder").display();
    [format!("-L{folder}"), format!("-Wl,-rpath,{folder}"), "-lmillpond".into()]
}

/// What became of a program.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    /// The most that was resident, in KiB.
    pub peak: i64,
    /// Seconds of processor time, of the program and of the children that it has waited for.
    pub seconds: f64,
}

impl Ended {
    /// It must have ended with 0.
    pub fn well(self, what: &str) -> Self {
        assert_eq!(self.code, Some(0), "{what}: {self:#?}");
        self
    }
}

/// A program under Millpond's library.
pub fn preloaded(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("LD_PRELOAD", shared());
    command
}

/// A program that must come to an end with 0.
pub fn succeeds(command: &mut Command) -> Ended {
    let what = format!("{command:?}");
    run(command, 600, &[]).well(&what)
}

/// Runs a program to its end, under resource limits; a watchdog ends what hangs. Output goes to files: a grandchild that
/// lives on holds up nobody.
pub fn run(command: &mut Command, watchdog: u32, limits: &[(Resource, u64)]) -> Ended {
    let (mut stdout, mut stderr) = (file(), file());
    let limits = limits.to_vec();
    command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().expect("a descriptor"))
        .stderr(stderr.try_clone().expect("a descriptor"));
    // SAFETY: between fork and exec the closure makes plain system calls alone.
    unsafe {
        command.pre_exec(move || {
            for (resource, most) in limits.iter().copied().chain([(libc::RLIMIT_CORE, 0)]) {
                libc::setrlimit(resource, &libc::rlimit { rlim_cur: most, rlim_max: most });
            }
            libc::alarm(watchdog);
            Ok(())
        });
    }
    #[allow(clippy::zombie_processes, reason = "`wait4` below waits for it")]
    let child = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let (mut status, pid) = (0, child.id() as libc::pid_t);
    // SAFETY: waits for our own child, once; zeros are a valid `rusage`, which the call fills in.
    let usage = unsafe {
        let mut usage: libc::rusage = core::mem::zeroed();
        while libc::wait4(pid, &mut status, 0, &mut usage) != pid {}
        usage
    };
    let status = std::process::ExitStatus::from_raw(status);
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Ended {
        code: status.code(),
        signal: status.signal(),
        stdout: text(&mut stdout),
        stderr: text(&mut stderr),
        peak: usage.ru_maxrss,
        seconds: seconds(usage.ru_utime) + seconds(usage.ru_stime),
    }
}

fn file() -> std::fs::File {
    use std::os::fd::FromRawFd as _;
    // SAFETY: a fresh descriptor, checked, owned by the file from here on.
    unsafe {
        let descriptor = libc::memfd_create(c"output".as_ptr(), libc::MFD_CLOEXEC);
        assert!(descriptor >= 0, "memfd_create");
        std::fs::File::from_raw_fd(descriptor)
    }
}

fn text(file: &mut std::fs::File) -> String {
    let mut bytes = Vec::new();
    file.rewind().expect("a file");
    file.read_to_end(&mut bytes).expect("a file");
    String::from_utf8_lossy(&bytes).into_owned()
}
