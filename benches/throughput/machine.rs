//! How busy other programs kept the machine while the benches ran: wall-clock figures suffer from it.

use crate::usage::usage;
use std::time::Instant;

/// The processor time that the whole machine and our own processes had used when it was read.
pub struct Reading {
    at: Instant,
    machine: Option<f64>,
    ours: f64,
}

impl Reading {
    pub fn now() -> Self {
        Self {
            at: Instant::now(),
            machine: machine_seconds(),
            ours: our_seconds(libc::RUSAGE_SELF) + our_seconds(libc::RUSAGE_CHILDREN),
        }
    }

    /// The share of all processors' time since then that went to others; `None` where the system does not say.
    pub fn share_of_others(&self, processors: usize) -> Option<f64> {
        let now = Self::now();
        let others = (now.machine? - self.machine?) - (now.ours - self.ours);
        let available = (now.at - self.at).as_secs_f64() * processors as f64;
        Some((others / available).clamp(0.0, 1.0))
    }
}

/// All time that was neither idle nor waiting for a disk, what a hypervisor took away included.
fn machine_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let ticks = stat.lines().next()?.strip_prefix("cpu")?.split_whitespace();
    let ticks: Vec<f64> = ticks.map(|field| field.parse().unwrap_or(0.0)).collect();
    // user nice system idle iowait irq softirq steal; guests are counted in user already.
    let busy = ticks.get(..3)?.iter().chain(ticks.get(5..8)?);
    // SAFETY: asks for a number.
    let ticks_a_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Some(busy.sum::<f64>() / ticks_a_second as f64)
}

fn our_seconds(who: libc::c_int) -> f64 {
    let usage = usage(who);
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}
