//! The map of a heap: each address told once, what is told is what the statistics say, and the pictures show it all.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(millpond_forward)))]

mod common;

use common::random::Random;
use common::{KIB, MIB};
use millpond::{Heap, Mode, Region, Stats, Use};
use std::alloc::Layout;
use std::fmt::Write;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).expect("valid")
}

/// What is allocated and dropped: of all classes, runs of pages, and mappings of their own.
struct Held<'a>(&'a Heap, Vec<(NonNull<u8>, usize)>);

impl Held<'_> {
    fn take(&mut self, size: usize) {
        self.1.push((self.0.alloc(layout(size)).expect("memory"), size));
    }

    fn give(&mut self, at: usize) {
        let (block, size) = self.1.swap_remove(at);
        // SAFETY: from this heap with this size; taken from the list, so freed once.
        unsafe { self.0.free(block, layout(size)) };
    }

    /// Takes many, and gives most of them.
    fn scatter(&mut self, random: &mut Random) {
        for round in 0..6000 {
            self.take(random.size(1, if round % 16 == 0 { 200 * KIB } else { 2 * KIB }));
        }
        for size in [300 * KIB, MIB, 5 * MIB, 40 * MIB, 3 * MIB] {
            self.take(size);
        }
        while self.1.len() > 2000 {
            self.give(random.below(self.1.len()));
        }
        for size in [40 * MIB, 5 * MIB, 64 * MIB, 2 * MIB, MIB] {
            self.take(size);
        }
        // The last stay free, or kept.
        self.give(self.1.len() - 1);
        self.give(self.1.len() - 1);
    }
}

fn regions(heap: &Heap) -> Vec<Region> {
    let mut all = Vec::new();
    heap.map().visit(|region| all.push(region));
    all
}

/// Bytes of regions of a use.
fn bytes(all: &[Region], of: impl Fn(Use) -> bool) -> usize {
    all.iter().filter(|region| of(region.used_for)).map(|region| region.bytes).sum()
}

/// Of all spans.
fn spans(all: &[Region], count: impl Fn(usize, [usize; 4]) -> usize) -> usize {
    let each = all.iter().map(|region| match region.used_for {
        Use::Span { chunk_size, live, cached, free, purged, .. } => count(chunk_size, [live, cached, free, purged]),
        _ => 0,
    });
    each.sum()
}

/// What each holds, but for what follows: mappings that are kept, which no region shows.
fn adds_up(all: &[Region], stats: &Stats) {
    let large = bytes(all, |of| matches!(of, Use::Large | Use::Huge));
    let live = spans(all, |size, [live, ..]| size * live) + large;
    assert_eq!(live, stats.live + stats.quarantine, "{stats:?}");
    assert_eq!(spans(all, |size, [_, cached, ..]| size * cached), stats.thread_cached + stats.pooled);
    let purged = spans(all, |_, [.., purged]| purged);
    assert_eq!(purged, stats.purged);
    let inside = bytes(all, |of| matches!(of, Use::Span { .. }));
    let tails = stats.span_free + stats.tails;
    assert_eq!(inside, live - large + stats.thread_cached + stats.pooled + tails + purged, "{stats:?}");
    let free = bytes(all, |of| matches!(of, Use::Dirty | Use::Kept));
    assert!(free <= stats.dirty, "{free} of {} free bytes", stats.dirty);
}

#[test]
fn at_rest_it_is_what_the_statistics_say() {
    for mode in [Mode::Fast, Mode::Tracked, Mode::Hardened] {
        let heap = Heap::builder().mode(mode).build().expect("memory");
        assert_eq!(regions(&heap), [], "nothing has been allocated");
        let mut held = Held(&heap, Vec::new());
        let mut random = Random::new(7);
        for _ in 0..3 {
            held.scatter(&mut random);
            adds_up(&regions(&heap), &heap.check().expect("sound"));
            heap.trim();
            let (all, stats) = (regions(&heap), heap.check().expect("sound"));
            adds_up(&all, &stats);
            assert_eq!(bytes(&all, |of| matches!(of, Use::Dirty | Use::Kept)), stats.dirty);
        }
        while !held.1.is_empty() {
            held.give(0);
        }
        heap.trim();
        adds_up(&regions(&heap), &heap.check().expect("sound"));
    }
}

/// Regions in order, none beside another that is alike but for spans and allocations.
fn follow_each_other(all: &[Region]) {
    let huge = all.iter().position(|region| region.used_for == Use::Huge).unwrap_or(all.len());
    assert!(all[huge..].iter().all(|region| region.used_for == Use::Huge));
    let mut arenas = Vec::new();
    for pair in all[..huge].windows(2) {
        let [before, after] = pair else { unreachable!() };
        if before.address + before.bytes == after.address {
            let alone = matches!(after.used_for, Use::Span { .. } | Use::Large);
            assert!(alone || before.used_for != after.used_for, "{before:?} {after:?}");
        } else {
            arenas.push(after.address);
        }
    }
    let mut ranges: Vec<_> = all.iter().map(|region| (region.address, region.address + region.bytes)).collect();
    ranges.sort_unstable();
    assert!(ranges.iter().all(|(start, end)| start < end && start % 4096 == 0 && end % 4096 == 0));
    assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "told twice");
}

#[test]
fn each_allocation_lies_where_the_map_says() {
    let heap = Heap::builder().build().expect("memory");
    let mut held = Held(&heap, Vec::new());
    held.scatter(&mut Random::new(3));
    let all = regions(&heap);
    follow_each_other(&all);
    for (block, size) in &held.1 {
        let at = block.addr().get();
        let region = all.iter().find(|region| (region.address..region.address + region.bytes).contains(&at));
        let region = region.expect("told");
        assert!(at + size <= region.address + region.bytes);
        match region.used_for {
            Use::Span { chunk_size, live, .. } => {
                assert!(*size <= chunk_size && live > 0 && (at - region.address) % chunk_size == 0)
            }
            // Longer, where it is one that was kept.
            Use::Large | Use::Huge => {
                assert!(at == region.address && size + size / 4 > region.bytes, "{size}: {region:?}")
            }
            other => panic!("{size} bytes in {other:?}"),
        }
    }
}

#[test]
fn it_is_drawn_while_others_go_on() {
    struct Ends<'a>(&'a AtomicBool);
    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let heap = Heap::builder().build().expect("memory");
    let mut lasting = Held(&heap, Vec::new());
    lasting.scatter(&mut Random::new(5));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = Ends(&is_over);
        for seed in 0..4 {
            let (heap, is_over) = (&heap, &is_over);
            scope.spawn(move || {
                let (mut held, mut random) = (Held(heap, Vec::new()), Random::new(100 + seed));
                while !is_over.load(Ordering::Relaxed) {
                    let most = if random.below(50) == 0 { 2 * MIB } else { 3000 };
                    held.take(random.size(1, most));
                    if held.1.len() > 500 {
                        held.give(random.below(held.1.len()));
                    }
                }
                while !held.1.is_empty() {
                    held.give(0);
                }
            });
        }
        for round in 0..40 {
            let all = regions(&heap);
            follow_each_other(&all);
            for (block, _) in lasting.1.iter().step_by(7) {
                let at = block.addr().get();
                let region = all.iter().find(|region| (region.address..region.address + region.bytes).contains(&at));
                assert!(
                    matches!(region.expect("told").used_for, Use::Span { .. } | Use::Large | Use::Huge),
                    "{region:?}"
                );
            }
            let (text, picture) = (heap.map().to_string(), heap.map().svg().to_string());
            assert!(text.starts_with("map of ") && picture.ends_with("</svg>\n"));
            if round % 8 == 0 {
                heap.trim();
            }
        }
    });
    while !lasting.1.is_empty() {
        lasting.give(0);
    }
    heap.check().expect("sound");
}

/// The signs of a map in text, by address; `None`: not drawn, since it is clean.
fn signs(text: &str) -> (usize, Vec<(usize, String)>) {
    let mut lines = text.lines();
    let head = lines.next().expect("a line");
    let unit = head.rsplit_once("a sign is ").expect("its size").1;
    let (number, unit) = unit.split_once(' ').expect("a unit");
    let bytes = number.parse::<usize>().expect("whole") * if unit == "KiB" { KIB } else { MIB };
    let rows = lines.filter_map(|line| line.strip_prefix("0x")?.split_once("  "));
    let rows = rows.filter(|(_, signs)| !signs.contains("allocation"));
    (bytes, rows.map(|(at, signs)| (usize::from_str_radix(at, 16).expect("an address"), signs.into())).collect())
}

#[test]
fn the_text_has_a_sign_for_each_piece() {
    let heap = Heap::builder().build().expect("memory");
    let mut held = Held(&heap, Vec::new());
    held.scatter(&mut Random::new(11));
    let (text, all) = (heap.map().to_string(), regions(&heap));
    let (bytes, rows) = signs(&text);
    assert!(bytes.is_power_of_two() && rows.len() <= 80, "{text}");
    let mut drawn = 0;
    for region in all.iter().filter(|region| region.bytes >= 2 * bytes && region.used_for != Use::Huge) {
        // A sign that is wholly this region's.
        let at = region.address.next_multiple_of(bytes);
        let row = rows.iter().find(|(start, signs)| (*start..start + signs.len() * bytes).contains(&at));
        let sign = row.map(|(start, signs)| signs.as_bytes()[(at - start) / bytes]);
        let expected = match region.used_for {
            Use::Large => Some(b'L'),
            Use::Dirty => Some(b'~'),
            Use::Kept => Some(b'k'),
            Use::Clean => sign.and(Some(b'.')),
            _ => continue,
        };
        assert_eq!(sign, expected, "{region:?}\n{text}");
        drawn += 1;
    }
    assert!(drawn > 4, "{text}");
    assert!(rows.iter().any(|(_, signs)| signs.contains(|sign: char| sign.is_ascii_digit())), "{text}");
    assert!(["40 MiB", "64 MiB"].iter().all(|size| text.contains(&format!("  {size}, one allocation\n"))), "{text}");
}

/// Where a span's memory has gone back, but for what is in use, it is still a span's: its sign says how many of its chunks are.
#[test]
fn a_span_has_a_digit_whatever_of_it_is_purged() {
    let heap = Heap::builder().capacity(MIB).build().expect("memory");
    let mut held = Held(&heap, Vec::new());
    (0..13).for_each(|_| held.take(4 * KIB));
    for left in [13, 5, 1] {
        while held.1.len() > left {
            held.give(held.1.len() - 1);
        }
        heap.trim();
        let (text, all) = (heap.map().to_string(), regions(&heap));
        let purged = spans(&all, |_, [.., purged]| purged);
        assert!(purged >= (14 - left) * 4 * KIB, "{purged} of {all:?}");
        let at = all.iter().find(|region| matches!(region.used_for, Use::Span { .. })).expect("a span").address;
        let (bytes, rows) = signs(&text);
        let sign = rows[0].1.as_bytes()[(at - rows[0].0) / bytes];
        assert_eq!(usize::from(sign - b'0'), left * 10 / 16, "{text}\n{all:?}");
    }
    while !held.1.is_empty() {
        held.give(0);
    }
}

/// A number in an attribute of an element.
fn attribute(element: &str, name: &str) -> f64 {
    let value = element.split_once(&format!(" {name}=\"")).unwrap_or_else(|| panic!("{name} in {element}")).1;
    value.split_once('"').expect("a quote").0.parse().expect("a number")
}

#[test]
fn the_picture_shows_each_byte() {
    let heap = Heap::builder().build().expect("memory");
    let mut held = Held(&heap, Vec::new());
    held.scatter(&mut Random::new(13));
    let (picture, all) = (heap.map().svg().to_string(), regions(&heap));
    let height = attribute(&picture, "height");
    let mut shown = [0.0; 128];
    for group in picture.split("<g>").skip(1) {
        let group = group.split_once("</g>").expect("closed").0;
        let mut last = None;
        for bar in group.split("<rect").skip(1) {
            let [x, y, width] = ["x", "y", "width"].map(|name| attribute(bar, name));
            assert!(x >= 110.0 && x + width <= 110.0 + 1024.05 && y + 10.0 <= height, "{bar}");
            assert!(last.is_none_or(|(end, row)| row == y && f64::abs(end - x) < 0.15), "{group}");
            last = Some((x + width, y));
            let class = bar.split_once("class=\"").expect("one").1.as_bytes()[0];
            if !group.contains("one allocation") {
                shown[class as usize] += width;
            }
        }
        assert!(last.is_some(), "{group}");
    }
    // A row is 1 MiB.
    assert!(picture.contains(", 1 MiB a row"), "{}", &picture[..1000]);
    let units = |bytes: usize| bytes as f64 / 1024.0;
    for (class, bytes) in [
        (b'u', spans(&all, |size, [live, ..]| size * live)),
        (b'c', spans(&all, |size, [_, cached, ..]| size * cached)),
        (b'l', bytes(&all, |of| of == Use::Large)),
        (b'k', bytes(&all, |of| of == Use::Kept)),
        (b'd', bytes(&all, |of| of == Use::Dirty)),
    ] {
        let (shown, told) = (shown[class as usize], units(bytes));
        assert!(f64::abs(shown - told) <= 0.02 * told + 2.0, "{}: {shown} of {told} units", class as char);
    }
}

/// A large heap takes some rows more, and no longer ones.
#[test]
fn a_large_heap_has_larger_pieces() {
    let heap = Heap::builder().build().expect("memory");
    let mut held = Held(&heap, Vec::new());
    for _ in 0..60 {
        held.take(20 * MIB);
    }
    let text = heap.map().to_string();
    let (bytes, rows) = signs(&text);
    assert!(bytes >= 512 * KIB && rows.len() <= 80, "{text}");
    assert!(heap.map().svg().to_string().matches("<text").count() <= 600);
    while !held.1.is_empty() {
        held.give(0);
    }
}

/// Of small spans there are as many as a heap of some GiB has pages.
#[test]
fn a_large_heap_has_a_picture_of_some_mib() {
    let heap = Heap::builder().build().expect("memory");
    for _ in 0..5 << 16 {
        // Never written to, and given back with the heap.
        let _ = heap.alloc(layout(16 * KIB)).expect("memory");
    }
    let picture = heap.map().svg().to_string();
    let (rows, bars) = (attribute(&picture, "height") / 12.0, picture.matches("<g>").count());
    assert!(rows > 100.0 && rows < 300.0 && bars > 10_000 && bars < 30_000, "{rows} rows, {bars} bars");
    assert!(picture.len() < 10 * MIB, "{}", picture.len());
}

/// Writes a picture, and once the first large allocation is drawn, puts a span where that and the next were.
struct Changes<'a> {
    held: Held<'a>,
    picture: String,
}

impl std::fmt::Write for Changes<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.picture.push_str(text);
        if self.held.1.len() == 2 && self.picture.ends_with(": large") {
            self.held.give(1);
            self.held.give(0);
            self.held.0.trim();
            (0..4).for_each(|_| self.held.take(256 * KIB));
        }
        Ok(())
    }
}

#[test]
fn no_bar_goes_beyond_its_region() {
    let heap = Heap::builder().build().expect("memory");
    let mut changes = Changes { held: Held(&heap, Vec::new()), picture: String::new() };
    (0..2).for_each(|_| changes.held.take(512 * KIB));
    write!(changes, "{}", heap.map().svg()).expect("written");
    let Changes { mut held, picture } = changes;
    assert!(picture.contains(" KiB: 4 of 4 chunks of 262144 B in use"), "{picture}");
    let bars: Vec<_> = picture.split("<rect").filter(|bar| bar.contains("y=\"58\"")).collect();
    assert_eq!(bars.len(), 3, "a row, and two parts of it: {picture}");
    assert!(bars.iter().all(|bar| attribute(bar, "x") + attribute(bar, "width") <= 110.0 + 1024.0), "{picture}");
    while !held.1.is_empty() {
        held.give(0);
    }
}

/// Where the system gives addresses in ascending order, arenas follow each other without a gap.
#[test]
fn each_arena_is_counted() {
    const CHILD: &str = "MILLPOND_TEST_ASCENDING";
    let heap = Heap::builder().build().expect("memory");
    let mut held = Held(&heap, Vec::new());
    for _ in 0..60 {
        held.take(20 * MIB);
    }
    let text = heap.map().to_string();
    let head = text.split(':').next().expect("a count").to_owned();
    while !held.1.is_empty() {
        held.give(0);
    }
    if std::env::var_os(CHILD).is_some() {
        println!("\n{head}");
        return;
    }
    let mut child = Command::new(std::env::current_exe().expect("a path"));
    child.args(["--exact", "each_arena_is_counted", "--nocapture"]).env(CHILD, "");
    // SAFETY: a system call alone. One that does not allow it changes nothing.
    unsafe {
        child.pre_exec(|| {
            libc::personality(libc::ADDR_COMPAT_LAYOUT as libc::c_ulong);
            Ok(())
        });
    }
    let output = child.output().expect("run");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.lines().any(|line| line == head), "no \"{head}\":\n{told}");
}

#[test]
fn the_picture_says_how_many_mappings_it_leaves_out() {
    let heap = Heap::builder().build().expect("memory");
    let mut held = Held(&heap, Vec::new());
    for count in [64, 70] {
        while held.1.len() < count {
            held.take(32 * MIB);
        }
        let picture = heap.map().svg().to_string();
        assert_eq!(picture.matches("one allocation<").count(), 64);
        assert!(picture.contains(&format!(" in {count} with mappings of their own")));
        assert_eq!(picture.contains(", of which 64 are drawn</text>"), count > 64);
    }
    while !held.1.is_empty() {
        held.give(0);
    }
}
