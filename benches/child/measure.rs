//! What a piece of work costs, and how much memory the process holds.

use super::usage::usage;
use std::time::Instant;

/// The cost of what ran between two readings.
pub struct Cost {
    pub wall_ns: u64,
    pub cpu_ns: u64,
    pub minor_faults: u64,
    pub context_switches: u64,
}

/// Runs `work` and says what it cost the whole process.
pub fn measure<R>(work: impl FnOnce() -> R) -> (R, Cost) {
    let (before, cpu_before) = (usage(libc::RUSAGE_SELF), cpu_ns());
    let start = Instant::now();
    let result = work();
    let wall_ns = start.elapsed().as_nanos() as u64;
    let (after, cpu_after) = (usage(libc::RUSAGE_SELF), cpu_ns());
    let switches = |usage: &libc::rusage| usage.ru_nvcsw + usage.ru_nivcsw;
    let cost = Cost {
        wall_ns,
        cpu_ns: cpu_after - cpu_before,
        minor_faults: (after.ru_minflt - before.ru_minflt) as u64,
        context_switches: (switches(&after) - switches(&before)) as u64,
    };
    (result, cost)
}

/// A line of `/proc/self/status` such as `VmHWM` (peak) or `VmRSS` (now), in bytes; 0 where the system has none.
///
/// Not `ru_maxrss`: that one survives `exec`, so a child would report its driver's peak.
pub fn status_bytes(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|line| {
        let value = line.strip_prefix(field)?.strip_prefix(':')?;
        value.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    });
    kib.unwrap_or(0) * 1024
}

fn cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a live timespec for the call to fill.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    assert_eq!(status, 0, "no processor clock");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
