//! One run of one executable, with a limit on its time.

use crate::cargo::{output_within, parse_lines};
use millpond_field_child::{Record, Settled};
use serde::de::DeserializeOwned;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// An executable that runs a workload.
#[derive(Clone, Debug)]
pub struct Child(pub PathBuf);

/// A run that has done its work and is settling down: what is resident after a second is still to come.
pub struct Settling {
    process: std::process::Child,
    output: BufReader<std::process::ChildStdout>,
}

/// Has the system refuse huge pages to this process and to all that it starts.
pub fn refuse_huge_pages() -> io::Result<()> {
    // SAFETY: sets a property of the process, and touches no memory.
    match unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How much of what is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    pub workload: &'a str,
    pub threads: usize,
    /// Share of the full work.
    pub scale: f64,
    /// A run that takes longer is killed.
    pub limit: Duration,
}

impl Child {
    /// Runs a workload in a process of its own.
    pub fn run(&self, task: Task<'_>) -> Result<Record, String> {
        let output = output_within(&mut self.command(task, false), task.limit);
        let Some(output) = output.map_err(|why| self.cannot(why))? else {
            return Err(format!("took more than {} s", task.limit.as_secs()));
        };
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            // The first line has the reason, after the one that names a panic's place.
            let said = said.trim().lines().find(|line| !line.starts_with("thread '")).unwrap_or_default();
            return Err(format!("{} {said}", output.status).trim().to_owned());
        }
        first(&output.stdout)
    }

    /// Runs a workload and returns when it is done, while its process settles.
    pub fn run_and_settle(&self, task: Task<'_>) -> Result<Settling, String> {
        let mut command = self.command(task, true);
        // Nobody reads what a settling run says.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().map_err(|why| self.cannot(why))?;
        let output = process.stdout.take().expect("it is piped");
        let mut output = BufReader::new(output);
        // Ended by the child's own alarm at the latest.
        let mut line = String::new();
        let read = output.read_line(&mut line);
        if read.is_err() || line.is_empty() {
            end(&mut process);
            return Err("ended without a record".into());
        }
        Ok(Settling { process, output })
    }

    fn cannot(&self, why: io::Error) -> String {
        format!("{}: {why}", self.0.display())
    }

    fn command(&self, task: Task<'_>, settle: bool) -> Command {
        let mut command = Command::new(&self.0);
        command.args(["run", "--workload", task.workload, "--threads", &task.threads.to_string()]);
        // The kernel's limit, for when nobody waits: a second later than ours, or two when it settles.
        let limit = task.limit.as_secs() + if settle { 2 } else { 1 };
        command.args(["--scale", &task.scale.to_string(), "--limit", &limit.to_string()]);
        command.args(settle.then_some("--settle"));
        command
    }
}

impl Settling {
    /// Waits for the end, and says how many bytes were resident then.
    pub fn finish(mut self) -> Result<u64, String> {
        let mut rest = Vec::new();
        read(Some(&mut self.output), &mut rest);
        let status = self.process.wait().map_err(|why| why.to_string())?;
        if !status.success() {
            return Err(format!("{status} after its work"));
        }
        first::<Settled>(&rest).map(|settled| settled.settled_rss)
    }
}

/// A child that is not to live on; nothing to do where it has ended by itself.
fn end(process: &mut std::process::Child) {
    let _ = process.kill();
    let _ = process.wait();
}

fn read(from: Option<impl Read>, into: &mut Vec<u8>) {
    if let Some(mut from) = from {
        // What cannot be read is missed where it is looked for.
        let _ = from.read_to_end(into);
    }
}

fn first<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    let records = parse_lines(text).map_err(|why| format!("no record: {why}"))?;
    records.into_iter().next().ok_or_else(|| "no record".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const TASK: Task<'static> = Task { workload: "w", threads: 2, scale: 0.5, limit: Duration::from_secs(20) };

    /// An executable that does what a shell script says.
    fn script(name: &str, text: &str) -> Child {
        let path = std::env::temp_dir().join(format!("millpond-field-{}-{name}", std::process::id()));
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Child(path)
    }

    #[test]
    fn crashes_hangs_and_nonsense_are_told_apart_and_settling_waited_for() {
        let cases = [
            ("crash", "echo 'lost a block' >&2; kill -ABRT $$", "signal: 6"),
            ("message", "echo 'lost a block' >&2; exit 3", "lost a block"),
            ("nonsense", "echo hello", "no record"),
            ("silence", "exit 0", "no record"),
            ("chatter", "head -c 1000000 /dev/zero >&2; exit 3", "exit status: 3"),
        ];
        for (name, text, expected) in cases {
            let child = script(name, text);
            let why = child.run(TASK).unwrap_err();
            std::fs::remove_file(child.0).unwrap();
            assert!(why.contains(expected), "{name}: {why}");
        }
        let child = script("hang", "exec sleep 1000");
        let why = child.run(Task { limit: Duration::from_secs(1), ..TASK }).unwrap_err();
        std::fs::remove_file(child.0).unwrap();
        assert_eq!(why, "took more than 1 s");
        assert!(Child("/nonexistent".into()).run(TASK).unwrap_err().contains("/nonexistent"));

        // Those that are started know of it, where the system has such pages.
        refuse_huge_pages().unwrap();
        let child = script("refused", "echo $(grep -c 'THP_enabled:.0' /proc/self/status) >&2; exit 3");
        let why = child.run(TASK).unwrap_err();
        std::fs::remove_file(child.0).unwrap();
        assert!(why.ends_with(" 1"), "{why}");

        // In the same test: a process that another thread starts meanwhile would inherit the script, open for writing.
        let child = script("settles", "echo '{}'; echo '{\"settled_rss\": 4096}'");
        assert_eq!(child.run_and_settle(TASK).unwrap().finish(), Ok(4096));
        std::fs::remove_file(child.0).unwrap();
        let child = script("dies", "echo '{}'; exit 7");
        assert!(child.run_and_settle(TASK).unwrap().finish().unwrap_err().contains("exit status: 7"));
        std::fs::remove_file(child.0).unwrap();
    }
}
