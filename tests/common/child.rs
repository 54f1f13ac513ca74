//! Scenarios that need a process of their own: the test binary runs itself again for that one test.
//!
//! The child carries its own watchdog, an alarm whose signal it does not handle, set before `exec`: a scenario that
//! hangs is killed by it, whatever state the allocator is in, and the test fails.

use super::resource::Resource;
use std::ffi::c_int;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::fd::FromRawFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;

const SCENARIO: &str = "TEST_SCENARIO";
const DONE: &str = "the scenario ran to its end";

/// One scenario at a time: they measure memory and time.
static ALONE: Mutex<()> = Mutex::new(());

/// How to run a test's body in a process of its own.
pub struct Scenario {
    test: &'static str,
    seconds: u32,
    address_space: Option<usize>,
    blocked: Option<c_int>,
    variables: Vec<(&'static str, &'static str)>,
}

/// What became of it.
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Scenario {
    /// `test` is the name of the calling test function.
    pub fn new(test: &'static str) -> Self {
        Self { test, seconds: 180, address_space: None, blocked: None, variables: Vec::new() }
    }

    /// The watchdog's patience: for hangs only, far above what the scenario takes.
    pub fn watchdog(mut self, seconds: u32) -> Self {
        self.seconds = seconds;
        self
    }

    /// Limits the address space from before the first instruction on.
    pub fn address_space(mut self, bytes: usize) -> Self {
        self.address_space = Some(bytes);
        self
    }

    /// Starts with this signal blocked in every thread.
    pub fn blocked(mut self, signal: c_int) -> Self {
        self.blocked = Some(signal);
        self
    }

    pub fn variable(mut self, name: &'static str, value: &'static str) -> Self {
        self.variables.push((name, value));
        self
    }

    /// Runs `body` in a child, which must reach its end. What it prints after `# ` is for whoever runs the test.
    pub fn passes(self, body: impl FnOnce()) {
        let test = self.test;
        if let Some(ended) = self.run(body) {
            assert!(
                ended.status.success() && ended.stdout.contains(DONE),
                "{test} {}\n--- its stdout ---\n{}\n--- its stderr ---\n{}",
                ended.how(),
                ended.stdout,
                ended.stderr
            );
            // The harness begins the first line.
            for (_, text) in ended.stdout.lines().filter_map(|line| line.split_once("# ")) {
                println!("{test}: {text}");
            }
        }
    }

    /// In the parent: runs the child and says how it ended. In the child: runs `body`, and `None`.
    pub fn run(self, body: impl FnOnce()) -> Option<Ended> {
        match std::env::var(SCENARIO) {
            Ok(name) => {
                assert_eq!(name, self.test, "another scenario's child");
                leave_on_panic();
                // The harness has still to note the thread that it started, in memory of its own.
                while !super::kernel::main_thread_sleeps() {
                    std::thread::yield_now();
                }
                body();
                say(format_args!("{DONE}\n"));
                None
            }
            Err(_) => Some(self.spawn()),
        }
    }

    fn spawn(self) -> Ended {
        let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (mut stdout, mut stderr) = (memory_file(), memory_file());
        let mut command = Command::new(std::env::current_exe().expect("own path"));
        command
            .args([self.test, "--exact", "--nocapture", "--test-threads=1"])
            .env(SCENARIO, self.test)
            .env("RUST_MIN_STACK", "262144")
            .env_remove("RUST_BACKTRACE")
            .envs(self.variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(stdout.try_clone().expect("a descriptor"))
            .stderr(stderr.try_clone().expect("a descriptor"))
            .process_group(0);
        // SAFETY: between fork and exec the closure makes plain system calls alone.
        unsafe {
            command.pre_exec(move || {
                limit(libc::RLIMIT_CORE, 0);
                if let Some(bytes) = self.address_space {
                    limit(libc::RLIMIT_AS, bytes as u64);
                }
                if let Some(signal) = self.blocked {
                    block(signal);
                }
                libc::alarm(self.seconds);
                Ok(())
            });
        }
        let mut child = command.spawn().expect("the scenario's child");
        // Files, not pipes, and the whole group killed while its leader still holds the number: a grandchild that
        // hangs holds up nobody.
        let pid = child.id();
        // SAFETY: waits for our own child without reaping it; then signals the group that it leads.
        unsafe {
            let mut info: libc::siginfo_t = core::mem::zeroed();
            while libc::waitid(libc::P_PID, pid, &mut info, libc::WEXITED | libc::WNOWAIT) != 0 {}
            libc::kill(-(pid as libc::pid_t), libc::SIGKILL);
        }
        Ended {
            status: child.wait().expect("the child's status"),
            stdout: text(&mut stdout),
            stderr: text(&mut stderr),
        }
    }
}

impl Ended {
    pub fn how(&self) -> String {
        match self.status.signal() {
            Some(libc::SIGALRM) => "hung: its watchdog killed it".into(),
            Some(signal) => format!("was killed by signal {signal}"),
            None => format!("ended with {:?}", self.status.code()),
        }
    }
}

/// A panic in any thread ends the scenario: others may be waiting for the one that panicked.
fn leave_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        // SAFETY: leaves.
        unsafe { libc::_exit(101) };
    }));
}

fn memory_file() -> File {
    // SAFETY: a fresh descriptor, checked, owned by the file from here on.
    unsafe {
        let descriptor = libc::memfd_create(c"output".as_ptr(), libc::MFD_CLOEXEC);
        assert!(descriptor >= 0, "memfd_create");
        File::from_raw_fd(descriptor)
    }
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().expect("a file");
    file.read_to_end(&mut bytes).expect("a file");
    String::from_utf8_lossy(&bytes).into_owned()
}

fn limit(resource: Resource, bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: a valid limit.
    unsafe { libc::setrlimit(resource, &limit) };
}

/// Blocks `signal` in the calling thread.
pub fn block(signal: c_int) {
    mask(libc::SIG_BLOCK, signal);
}

pub fn unblock(signal: c_int) {
    mask(libc::SIG_UNBLOCK, signal);
}

fn mask(how: c_int, signal: c_int) {
    // SAFETY: the set is initialised by `sigemptyset`.
    unsafe {
        let mut set: libc::sigset_t = core::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal);
        libc::pthread_sigmask(how, &set, core::ptr::null_mut());
    }
}

/// Text on the stack.
struct Line {
    bytes: [u8; 512],
    len: usize,
}

impl std::fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let part = text.len().min(self.bytes.len() - self.len);
        self.bytes[self.len..self.len + part].copy_from_slice(&text.as_bytes()[..part]);
        self.len += part;
        Ok(())
    }
}

fn write_to(descriptor: c_int, text: std::fmt::Arguments<'_>) {
    let mut line = Line { bytes: [0; 512], len: 0 };
    let _ = line.write_fmt(text);
    // SAFETY: writes from a buffer of that length.
    unsafe { libc::write(descriptor, line.bytes.as_ptr().cast(), line.len) };
}

/// Writes to stdout, neither allocating nor locking.
pub fn say(text: std::fmt::Arguments<'_>) {
    write_to(1, text);
}

/// Writes to stderr and leaves the process at once, neither allocating nor locking.
pub fn fail(text: std::fmt::Arguments<'_>) -> ! {
    write_to(2, text);
    write_to(2, format_args!("\n"));
    // SAFETY: leaves.
    unsafe { libc::_exit(1) }
}
