//! A program that allocates almost nothing: it says what memory is resident in it.

/// Prints the resident memory in KiB.
pub fn run() {
    let words: Vec<String> = (0..10).map(|number: u32| number.to_string()).collect();
    // Not `status`: of late the kernel sums that up roughly, to some 100 KiB for each processor.
    let status = std::fs::read_to_string("/proc/self/smaps_rollup").expect("Linux has this file");
    let resident = status.lines().find_map(|line| line.strip_prefix("Rss:")).expect("a line of this name");
    println!("{}", resident.trim().trim_end_matches(" kB"));
    drop(words);
}
