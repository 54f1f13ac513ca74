//! What the kernel says of this process, read without allocating.

use core::ffi::CStr;
use core::ops::Range;

pub fn page_size() -> usize {
    // SAFETY: asks for a constant.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

/// Reads a small file whole.
fn read<'a>(path: &CStr, buffer: &'a mut [u8]) -> &'a str {
    // SAFETY: opens and closes its own descriptor, and reads no more than the buffer holds.
    let len = unsafe {
        let file = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        assert!(file >= 0, "{path:?} does not open");
        let mut len = 0;
        loop {
            let rest = &mut buffer[len..];
            let got = libc::read(file, rest.as_mut_ptr().cast(), rest.len());
            if got <= 0 {
                break;
            }
            len += got as usize;
        }
        libc::close(file);
        len
    };
    core::str::from_utf8(&buffer[..len]).expect("text")
}

fn statm(field: usize) -> usize {
    let mut buffer = [0; 256];
    let text = read(c"/proc/self/statm", &mut buffer);
    let pages: usize = text.split(' ').nth(field).and_then(|word| word.parse().ok()).expect("a number");
    pages * page_size()
}

fn status(name: &str) -> usize {
    let mut buffer = [0; 8192];
    kib(read(c"/proc/self/status", &mut buffer), name)
}

/// Bytes from a line like `name:   123 kB`.
fn kib(text: &str, name: &str) -> usize {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a line of that name");
    let kib: usize = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1024
}

/// The letter for what a thread of this process does; none, if there is no such thread.
pub fn state_of(thread: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Whether the process's first thread waits for something.
pub fn main_thread_sleeps() -> bool {
    let mut buffer = [0; 1024];
    let text = read(c"/proc/self/stat", &mut buffer);
    let (_, rest) = text.rsplit_once(") ").expect("a state after the name");
    rest.starts_with('S')
}

/// Bytes of address space.
pub fn address_space() -> usize {
    statm(0)
}

/// Resident bytes.
pub fn resident() -> usize {
    statm(1)
}

/// Resident anonymous bytes.
pub fn resident_anonymous() -> usize {
    status("RssAnon")
}

/// Anonymous bytes in transparent huge pages.
pub fn huge_pages() -> usize {
    let mut buffer = [0; 4096];
    kib(read(c"/proc/self/smaps_rollup", &mut buffer), "AnonHugePages")
}

/// Each mapping, whether it is anonymous memory that may be written, and the advice about huge pages there: asked for (`hg`), or
/// refused (`nh`).
fn advices() -> Vec<(Range<usize>, bool, Option<&'static str>)> {
    let text = std::fs::read_to_string("/proc/self/smaps").expect("Linux has this file");
    let (mut found, mut last) = (Vec::new(), None);
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |text| usize::from_str_radix(text, 16).ok();
        let range = words[0].split_once('-').map(|(start, end)| (number(start), number(end)));
        if let Some((Some(start), Some(end))) = range {
            last = Some((start..end, words[1].starts_with("rw") && words.len() == 5));
        } else if words[0] == "VmFlags:" {
            let (range, anonymous) = last.take().expect("flags follow a mapping");
            found.push((range, anonymous, ["hg", "nh"].into_iter().find(|flag| words.contains(flag))));
        }
    }
    found
}

/// Whether huge pages were asked for (`hg`), or refused (`nh`), where an address is mapped.
pub fn huge_advice(address: usize) -> Option<&'static str> {
    advices().into_iter().find(|(range, ..)| range.contains(&address))?.2
}

/// The same of each anonymous mapping in which a huge page has room.
pub fn advice_for_long_mappings() -> Vec<(Range<usize>, Option<&'static str>)> {
    let long = |range: &Range<usize>| range.start.next_multiple_of(2 << 20) + (2 << 20) <= range.end;
    advices()
        .into_iter()
        .filter(|(range, anonymous, _)| *anonymous && long(range))
        .map(|(range, _, flag)| (range, flag))
        .collect()
}

/// The most that ever was resident.
pub fn peak_resident() -> usize {
    status("VmHWM")
}

/// Page faults of this process that needed no disk.
pub fn minor_faults() -> usize {
    // SAFETY: an all-zero `rusage` is valid and is overwritten.
    unsafe {
        let mut usage: libc::rusage = core::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage.ru_minflt as usize
    }
}
