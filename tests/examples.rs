//! The examples do what they say.

use std::process::Command;

/// Runs an example.
fn run(name: &str, options: &[&str]) -> String {
    both(name, options).0
}

/// What an example writes to stdout, and to stderr.
fn both(name: &str, options: &[&str]) -> (String, String) {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args(["run", "--quiet", "--locked", "--example", name]).args(options);
    let output = cargo.output().expect("cargo runs");
    let (stdout, stderr) = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("text")).into();
    assert!(output.status.success(), "{name}: {:?}\n{stderr}", output.status);
    (stdout, stderr)
}

#[test]
fn classic_pools() {
    let text = run("classic_pools", &[]);
    for part in [
        "24 bytes: a chunk of 32\n",
        "20000 bytes: a chunk of 65536\n",
        "the same chunk again: true",
        "bit 42: true, bit 43: false",
        "there is no bit 64 among 64",
        "thread cache hits",
        "trimmed: ",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    // The pool of 64 B: 60 and 64 bytes, one again, and a thousand, of which half are live.
    let row: Vec<&str> =
        text.lines().find(|line| line.starts_with("      64 ")).expect("a row").split_whitespace().collect();
    assert_eq!((row[1], row[2]), ("1003", "500"), "{text}");
}

#[test]
fn fallback() {
    let text = run("fallback", &[]);
    for part in [
        "without a fallback: 1024 of 2000, then the heap is exhausted",
        "the soft limit is passed: ",
        "with malloc behind it: 2000 of 2000, 976 of them (48.8 %) from malloc",
        "live at the end: 0 bytes",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

#[test]
fn limited_map() {
    let text = run("limited_map", &["--features", "allocator-api2"]);
    assert!(text.contains("entries, then: AllocError") && text.contains("all there: true"), "{text}");
    assert!(text.contains(" KiB live of 4096 KiB") && text.contains("\n0 KiB live once it is dropped"), "{text}");
}

#[test]
fn ids_and_leaks() {
    let text = run("ids_and_leaks", &[]);
    for part in [
        "the block has ID 1, and ID 1 is the block: true",
        "size: 100, align: 8",
        "freed: None, None",
        "3 allocations, 72 bytes",
        "72 bytes in      3 of       24, from id 66, for parser",
        r#"{"count":3,"bytes":72,"others":0,"groups":[{"size":24,"count":3,"bytes":72,"first":66,"younger_ms":0,"#,
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

#[test]
fn double_free() {
    let text = run("double_free", &[]);
    for part in ["double free of 0x", "with a size that is not its own, 50 bytes", ", 8 bytes into the allocation 0x"] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    assert_eq!(text.matches("signal: 6").count(), 5, "{text}");
    assert_eq!(text.matches("100 bytes, id 1, allocated by thread ").count(), 5, "{text}");
    assert!(
        text.contains("write right past the end of 0x") && text.contains("after it was freed, at its beginning"),
        "{text}"
    );
}

#[test]
fn profile() {
    let text = run("profile", &["--", "/dev/null"]);
    for part in ["100000 words, ", " MiB allocated, ", "most is live from ", "/dev/null is for pprof"] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let figures: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    // 100 000 words of 17 B, twice, their text of some 340 B, and tables; a table and half of the words are live.
    let (allocated, live) = (figures[3], figures[4]);
    assert!((40..70).contains(&allocated) && (3..20).contains(&live), "{text}");
}

/// Each floor tells its step, in the order of the floors.
#[test]
fn way_of_a_chunk() {
    let (stdout, stderr) = both("way_of_a_chunk", &[]);
    assert_eq!(stdout, "2 chunks were taken by the other thread; 0 bytes are live\n");
    let mut rest = stderr.as_str();
    for part in [
        "-- the first chunk",
        "cache  1024 B: miss: the thread's magazine is empty",
        "os     64 MiB of addresses reserved at 0x",
        "arena  64 KiB committed",
        "arena  1 page of 64 KiB taken at 0x",
        "span   a span of 64 chunks of 1024 B opened at 0x",
        "pool   1024 B: 1 chunk carved from spans",
        "cache  1024 bytes allocated at 0x",
        "-- the next two",
        "pool   1024 B: 2 chunks carved from spans",
        "the thread's magazine has a chunk",
        ", id 3",
        "-- what is freed goes",
        "cache  1024 bytes freed at 0x",
        "the thread's magazine has a chunk",
        ", id 4",
        "-- what is freed last",
        "span   the span of 1024 B at 0x",
        "arena  1 page given back at 0x",
        "os     64 KiB purged at 0x",
        "-- many chunks",
        "pool   1024 B: 16 chunks carved from spans",
        "-- full magazines",
        "cache  1024 B: no room: the thread's magazine is full",
        "pool   1024 B: the full magazine is kept as a spare",
        "pool   1024 B: the full magazine goes to the pool, by one exchange",
        "-- another thread",
        "pool   1024 B: refilled by a magazine of the pool's, 16 chunks, by one exchange",
        "-- a trim",
        "span   the span of 1024 B at 0x",
    ] {
        let Some((_, after)) = rest.split_once(part) else { panic!("{part} is missing in\n{stderr}") };
        rest = after;
    }
}

#[test]
fn heap_map() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("heap_map.svg");
    let text = run("heap_map", &["--", path.to_str().expect("text")]);
    for part in [
        "all are read: map of ",
        "most are dropped: map of ",
        "after a trim: map of ",
        ": a sign is 64 KiB\n",
        "LLLL",
        "~~~~",
        "999",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let picture = std::fs::read_to_string(&path).expect("written");
    assert!(
        picture.starts_with("<svg ") && picture.ends_with("</svg>\n") && picture.contains(" chunks of "),
        "{picture}"
    );
}
