//! Forking, with a watchdog in the child.

use super::child::fail;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Forks. The child runs `body` and leaves with 0, or with another status if it panics; an alarm kills it if it
/// hangs. To the caller the child's number.
pub fn fork(watchdog: u32, body: impl FnOnce()) -> libc::pid_t {
    // SAFETY: the child runs `body` alone and never returns into what its parent's threads left half done.
    unsafe {
        match libc::fork() {
            -1 => panic!("fork"),
            0 => {
                libc::alarm(watchdog);
                let end = catch_unwind(AssertUnwindSafe(body));
                libc::_exit(i32::from(end.is_err()));
            }
            child => child,
        }
    }
}

/// Waits for a child, which must leave with 0.
pub fn join(child: libc::pid_t) {
    if let Err(how) = try_join(child) {
        panic!("forked child {child} {how}");
    }
}

/// The same where panicking is of no use, in children of children.
pub fn join_or_fail(child: libc::pid_t) {
    if let Err(how) = try_join(child) {
        fail(format_args!("forked child {child} {how}"));
    }
}

fn try_join(child: libc::pid_t) -> Result<(), &'static str> {
    let mut status = 0;
    // SAFETY: waits for our own child.
    while unsafe { libc::waitpid(child, &mut status, 0) } != child {}
    if libc::WIFSIGNALED(status) {
        Err(match libc::WTERMSIG(status) {
            libc::SIGALRM => "hung: its watchdog killed it",
            libc::SIGSEGV | libc::SIGBUS => "crashed",
            libc::SIGABRT => "aborted",
            _ => "was killed",
        })
    } else if libc::WEXITSTATUS(status) != 0 {
        Err("failed")
    } else {
        Ok(())
    }
}
