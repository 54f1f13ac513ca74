//! Records: IDs that rise and are found, tags, what is live since a mark; and bad use, named and ended.

mod common;

use common::child::{Scenario, say};
use common::fork::{fork, join};
use common::random::Random;
use common::thread::together;
use common::{KIB, MIB, scaled};
use core::alloc::Layout;
use core::ptr::{NonNull, null_mut};
use millpond::{GroupBy, Heap, HeapBuilder, LeaksUnknown, Mode, SnapshotError, WithMode};
use std::os::unix::process::ExitStatusExt as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, Ordering};

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).expect("valid")
}

fn heap(mode: Mode) -> Heap {
    Heap::builder().mode(mode).build().expect("memory")
}

#[test]
fn ids_rise_and_are_found_until_the_end() {
    for mode in [Mode::Tracked, Mode::Hardened] {
        let heap = heap(mode);
        let mut random = Random::new(1);
        let mut live: Vec<(u64, NonNull<u8>, usize)> = Vec::new();
        let mut last = 0;
        for _ in 0..scaled(20_000, 5_000) {
            if random.below(3) == 0 && !live.is_empty() {
                let (id, ptr, size) = live.swap_remove(random.below(live.len()));
                // SAFETY: allocated below, freed once.
                unsafe { heap.free(ptr, layout(size)) };
                assert_eq!((heap.record(id), heap.ptr_of(id)), (None, None), "a stale ID");
            } else {
                let size = random.size(1, 400 * KIB) - 1;
                let ptr = heap.alloc(layout(size)).expect("memory");
                // SAFETY: ours.
                unsafe { ptr.write_bytes(1, size) };
                let id = heap.id_of(ptr.as_ptr()).expect("live");
                assert!(id > last, "{id} after {last}");
                last = id;
                live.push((id, ptr, size));
            }
            if live.len() > 200 {
                for (_, ptr, size) in live.drain(..100) {
                    // SAFETY: as above.
                    unsafe { heap.free(ptr, layout(size)) };
                }
            }
        }
        let mut times: Vec<(u64, u64)> =
            live.iter().map(|(id, ..)| (*id, heap.record(*id).expect("live").time_ms)).collect();
        times.sort_unstable();
        assert!(times.is_sorted_by_key(|(_, time)| *time), "time goes back: {times:?}");
        for (id, ptr, size) in &live {
            let record = heap.record(*id).expect("live");
            assert_eq!((record.id, record.address, record.size, record.align), (*id, ptr.as_ptr() as usize, *size, 8));
            assert_eq!((heap.ptr_of(*id), heap.id_of(ptr.as_ptr())), (Some(*ptr), Some(*id)));
        }
        let mut walked = Vec::new();
        heap.walk(|record| walked.push(record.id));
        walked.sort_unstable();
        let mut expected: Vec<u64> = live.iter().map(|(id, ..)| *id).collect();
        expected.sort_unstable();
        assert_eq!(walked, expected);
        assert_eq!(heap.id_of(&raw const last as *const u8), None);
        assert!([0, last + 1, u64::MAX].iter().all(|id| heap.record(*id).is_none()));
        for (_, ptr, size) in live {
            // SAFETY: as above.
            unsafe { heap.free(ptr, layout(size)) };
        }
        heap.trim();
        let stats = heap.check().expect("sound");
        assert_eq!((stats.live, stats.accounted()), (0, stats.committed), "{mode:?}");
    }
}

#[test]
fn threads_share_records() {
    let heap = heap(Mode::Hardened);
    let mark = heap.snapshot();
    let shared: Mutex<Vec<(NonNull<u8>, u64)>> = Mutex::new(Vec::new());
    struct Share<'a>(&'a Mutex<Vec<(NonNull<u8>, u64)>>);
    // SAFETY: whoever takes an entry out has the block.
    unsafe impl Send for Share<'_> {}
    together((0..8).map(|id| {
        let (heap, share) = (&heap, Share(&shared));
        move || {
            let Share(shared) = { share };
            let mut random = Random::new(id);
            for _ in 0..scaled(20_000, 3_000) {
                let taken = shared.lock().unwrap().pop();
                match taken {
                    Some((ptr, id)) if random.below(2) == 0 => {
                        assert_eq!(heap.ptr_of(id), Some(ptr));
                        // SAFETY: allocated below by some thread, freed once.
                        unsafe { heap.free(ptr, layout(100)) };
                        assert_eq!(heap.ptr_of(id), None);
                    }
                    Some(back) => shared.lock().unwrap().push(back),
                    None => {}
                }
                let ptr = heap.alloc(layout(100)).unwrap();
                let id = heap.id_of(ptr.as_ptr()).unwrap();
                shared.lock().unwrap().push((ptr, id));
            }
        }
    }));
    let left = shared.into_inner().unwrap();
    assert_eq!(heap.live_since(mark).unwrap().count(), left.len() as u64);
    for (ptr, _) in left {
        // SAFETY: as above.
        unsafe { heap.free(ptr, layout(100)) };
    }
    heap.trim();
    assert_eq!(heap.check().unwrap().live, 0);
}

/// The forking thread has another number in a child, from its first allocation there on.
#[test]
fn a_child_tells_its_own_thread() {
    Scenario::new("a_child_tells_its_own_thread").variable("MILLPOND_MODE", "tracked").passes(|| {
        let heap = heap(Mode::Tracked);
        // So many that the next ones are in the thread's magazines.
        let blocks: Vec<_> = (0..1000).map(|_| (Box::new([0u8; 100]), take(&heap, 100))).collect();
        for (mine, block) in blocks {
            drop(mine);
            // SAFETY: allocated just now, freed once.
            unsafe { heap.free(block, layout(100)) };
        }
        join(fork(60, || {
            let (mine, block) = (Box::new([0u8; 100]), take(&heap, 100));
            let id = heap.id_of(block.as_ptr()).expect("live");
            let other = millpond::id_of((&raw const *mine).cast()).expect("live");
            let told = [heap.record(id), millpond::record(other)].map(|record| record.expect("live").thread);
            // The first of its process.
            assert_eq!(told, [std::process::id(); 2]);
        }));
    });
}

#[test]
fn tags_nest_and_say_what_is_live() {
    let heap = heap(Mode::Tracked);
    let take = |size: usize| heap.alloc(layout(size)).unwrap();
    take(10);
    let mark = heap.snapshot();
    assert_eq!(heap.live_since(mark).unwrap().count(), 0);
    let outer = millpond::tag("outer");
    take(100);
    {
        let _inner = millpond::tag("in \"quotes\"");
        take(200);
        let gone = take(200);
        // SAFETY: allocated just now.
        unsafe { heap.free(gone, layout(200)) };
    }
    take(100);
    drop(outer);
    take(300);
    let live = heap.live_since(mark).unwrap();
    assert_eq!((live.count(), live.bytes()), (4, 700));
    let groups: Vec<(usize, u64, &str)> =
        live.groups().iter().map(|group| (group.size, group.count, group.tag)).collect();
    assert_eq!(groups, [(300, 1, ""), (100, 2, "outer"), (200, 1, "in \"quotes\"")]);
    assert!(live.to_string().contains("200 bytes in      2 of      100, from id 65, for outer"), "{live}");
    let json: serde_json::Value = serde_json::from_str(&live.json().to_string()).expect("JSON");
    assert_eq!(json["bytes"], 700);
    assert_eq!(json["groups"][2]["tag"], "in \"quotes\"");
}

/// Whatever is in a tag, a line about it stays one, and a terminal as it is: in JSON and in the record the tag is what it was.
#[test]
fn a_tag_ends_no_line() {
    const TAG: &str = "first\n9 leaks\r\t\u{1b}[2J\u{85}\0 é";
    const SHOWN: &str = r"for first\n9 leaks\r\t\u{1b}[2J\u{85}\u{0} é";
    let (tell, said) = std::sync::mpsc::channel();
    let heap = Heap::builder().ids(true).on_misuse(move |what: &str| tell.send(what.to_owned()).expect("heard"));
    let heap = heap.build().expect("memory");
    let since = heap.snapshot();
    let _tag = heap.tag(TAG);
    let [freed, lost] = [8, 16].map(|size| heap.alloc(layout(size)).expect("memory"));
    // SAFETY: the first time right, the second time the misuse under test.
    unsafe { (heap.free(freed, layout(8)), heap.free(freed, layout(8))) };
    assert!(said.recv().is_ok_and(|line| line.contains(SHOWN)));
    assert_eq!(heap.record(heap.id_of(lost.as_ptr()).expect("live")).map(|record| record.tag), Some(TAG));
    let live = heap.live_since(since).expect("a mark of this heap's");
    std::thread::scope(|scope| {
        let lose = || {
            let _tag = heap.tag(TAG);
            (0..100).for_each(|_| _ = heap.alloc(layout(24)).expect("memory"));
        };
        scope.spawn(lose).join().expect("lost")
    });
    let leaks = heap.leaks_since(since).expect("a look");
    assert!(leaks.to_string().contains(SHOWN), "{leaks}");
    for (text, json) in [(live.to_string(), live.json().to_string()), (leaks.to_string(), leaks.json().to_string())] {
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let groups = json["groups"].as_array().expect("groups");
        assert!(groups.iter().all(|group| group["tag"] == TAG), "{json}");
        assert!(!text.contains(|letter: char| letter != '\n' && letter.is_control()), "{text}");
        assert_eq!(text.lines().count(), 1 + groups.len(), "{text}");
    }
    assert!(live.to_string().ends_with(SHOWN), "{live}");
}

/// A tag may be replaced by the next one, and end before one that began after it: the latest in force counts.
#[test]
fn tags_end_in_any_order() {
    let heap = heap(Mode::Tracked);
    let tag = || {
        let block = heap.alloc(layout(8)).unwrap();
        heap.record(heap.id_of(block.as_ptr()).expect("live")).expect("live").tag
    };
    let mut phase = millpond::tag("first");
    for name in ["second", "third"].repeat(100) {
        phase = millpond::tag(name);
        assert_eq!(tag(), name);
    }
    drop(phase);
    assert_eq!(tag(), "");
    let (outer, inner) = (millpond::tag("outer"), millpond::tag("inner"));
    drop(outer);
    assert_eq!(tag(), "inner");
    drop(inner);
    assert_eq!(tag(), "");
    // What a thread forgets to end, the next one with its index does not begin with.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| std::mem::forget(millpond::tag("forgotten"))).join().unwrap();
            let next = scope.spawn(|| {
                let own = millpond::tag("own");
                drop(own);
                tag()
            });
            assert_eq!(next.join().unwrap(), "");
        }
    });
}

/// What one request has left behind is told from what came before and after it, by whatever is asked for.
#[test]
fn what_is_live_between_two_marks_is_grouped() {
    let heap = heap(Mode::Tracked);
    let take = |size: usize, tag: &'static str| {
        let _tag = millpond::tag(tag);
        heap.alloc(layout(size)).unwrap()
    };
    take(50, "before");
    let from = heap.snapshot();
    let gone = take(70, "one");
    for (size, tag) in [(100, "one"), (100, "other"), (100, "other"), (30, "one")] {
        take(size, tag);
    }
    let to = heap.snapshot();
    take(500, "after");
    // SAFETY: allocated above, freed once.
    unsafe { heap.free(gone, layout(70)) };
    let groups = |by: GroupBy| -> Vec<(usize, &str, u64, u64, u64)> {
        let live = heap.diff(from, to, by).unwrap();
        assert_eq!((live.count(), live.bytes()), (4, 330), "{by:?}");
        live.groups().iter().map(|group| (group.size, group.tag, group.count, group.bytes, group.first)).collect()
    };
    // A thread takes 64 IDs at once, and begins anew behind a mark.
    assert_eq!(
        groups(GroupBy::SizeAndTag),
        [(100, "other", 2, 200, 67), (100, "one", 1, 100, 66), (30, "one", 1, 30, 69)]
    );
    assert_eq!(groups(GroupBy::Size), [(100, "", 3, 300, 66), (30, "", 1, 30, 69)]);
    assert_eq!(groups(GroupBy::Tag), [(0, "other", 2, 200, 67), (0, "one", 2, 130, 66)]);
    let by_age = heap.diff(from, to, GroupBy::Age).unwrap();
    assert_eq!(by_age.groups().iter().map(|group| group.count).sum::<u64>(), 4);
    for group in by_age.groups() {
        assert!(group.age_ms < group.younger_ms && (group.size, group.tag) == (0, ""), "{group:?}");
    }
    assert!(by_age.to_string().contains(", younger than "), "{by_age}");
    assert!(
        heap.diff(from, to, GroupBy::Tag).unwrap().to_string().contains("200 bytes in      2, from id 67, for other")
    );
    let json: serde_json::Value = serde_json::from_str(&by_age.json().to_string()).expect("JSON");
    assert_eq!(json["groups"][0]["younger_ms"], by_age.groups()[0].younger_ms);
    assert_eq!(heap.diff(to, from, GroupBy::Size).unwrap().count(), 0);
}

/// A mark is of one heap, also after that heap is gone, and in all modes: no other heap takes it for one of its own.
#[test]
fn a_snapshot_of_another_heap_is_refused() {
    let [own, other, fast] = [Mode::Tracked, Mode::Hardened, Mode::Fast].map(heap);
    let (mark, program) = (own.snapshot(), millpond::snapshot());
    take(&own, 100);
    take(&other, 100);
    assert_eq!((own.live_since(mark).unwrap().count(), other.snapshot() == own.snapshot()), (1, false));
    for heap in [&other, &fast] {
        for mark in [mark, program] {
            assert_eq!(heap.live_since(mark).unwrap_err(), SnapshotError);
            assert_eq!(heap.diff(mark, heap.snapshot(), GroupBy::Size).unwrap_err(), SnapshotError);
            assert_eq!(heap.diff(heap.snapshot(), mark, GroupBy::Size).unwrap_err(), SnapshotError);
            assert_eq!(heap.leaks_since(mark).unwrap_err(), LeaksUnknown::Snapshot);
        }
        assert_eq!(heap.live_since(heap.snapshot()).unwrap().count(), 0);
        assert!(heap.leaks_since(heap.snapshot()).is_ok());
    }
    assert_eq!(millpond::live_since(mark).unwrap_err(), SnapshotError);
    assert_eq!(program.diff(mark, GroupBy::Tag).unwrap_err(), SnapshotError);
    assert_eq!(mark.diff(millpond::snapshot(), GroupBy::Tag).unwrap_err(), SnapshotError);
    assert_eq!(millpond::leaks_since(mark).unwrap_err(), LeaksUnknown::Snapshot);
    assert_eq!(program.diff(millpond::snapshot(), GroupBy::Tag).unwrap().count(), 0);
    drop(own);
    // As likely as not in the same place.
    let next = heap(Mode::Tracked);
    assert_eq!(next.live_since(mark).unwrap_err().to_string(), "the snapshot is of another heap");
}

/// Of more sizes than there are groups the rest is told too, in text and in JSON.
#[test]
fn what_is_in_no_group_is_counted() {
    let heap = heap(Mode::Tracked);
    let mark = heap.snapshot();
    (1..=70).for_each(|size| _ = (take(&heap, size), take(&heap, size)));
    let live = heap.live_since(mark).unwrap();
    assert_eq!((live.count(), live.groups().len(), live.others()), (140, 64, 12));
    assert!(live.to_string().ends_with("\nand 12 in other groups"), "{live}");
    let json: serde_json::Value = serde_json::from_str(&live.json().to_string()).expect("JSON");
    assert_eq!((&json["count"], &json["others"]), (&140.into(), &12.into()));
    assert_eq!(heap.live_since(heap.snapshot()).unwrap().others(), 0);
}

#[inline(never)]
fn one_site(heap: &Heap) -> NonNull<u8> {
    std::hint::black_box(take(heap, 40))
}

#[inline(never)]
fn other_site(heap: &Heap) -> NonNull<u8> {
    std::hint::black_box(take(heap, 40))
}

#[test]
fn what_is_live_is_grouped_by_who_asked_for_it() {
    let heap = Heap::builder().ids(true).backtrace(3).build().unwrap();
    let from = heap.snapshot();
    for at in 0..30 {
        if at % 3 == 0 {
            one_site(&heap)
        } else {
            other_site(&heap)
        };
    }
    let live = heap.diff(from, heap.snapshot(), GroupBy::Site).unwrap();
    let groups = live.groups();
    assert_eq!(groups.iter().map(|group| group.count).sum::<u64>(), 30, "{live}");
    assert!(groups.iter().all(|group| matches!(group.callers().len(), 1..=3)), "{live}");
    // Without frame pointers the innermost caller alone is sure.
    let json: serde_json::Value = serde_json::from_str(&live.json().to_string()).expect("JSON");
    assert_eq!(json["groups"][0]["callers"][0], groups[0].callers()[0] - 1);
    let location = millpond::Location(groups[0].callers()[0] - 1).to_string();
    assert!(location.starts_with("records-") && json["groups"][0]["locations"][0] == *location, "{json}");
    assert_eq!(json["groups"][0]["locations"].as_array().map(Vec::len), Some(groups[0].callers().len()));
    assert!(live.to_string().contains(", allocated from records-"), "{live}");
    assert!(heap.diff(from, heap.snapshot(), GroupBy::Size).unwrap().groups()[0].callers().is_empty());
}

#[test]
fn a_limited_heap_gives_what_it_keeps_back_when_it_must() {
    let heap = Heap::builder().mode(Mode::Hardened).capacity(MIB).build().unwrap();
    for _ in 0..10_000 {
        let ptr = heap.alloc(layout(3000)).expect("what is kept back comes out");
        // SAFETY: allocated just now.
        unsafe { heap.free(ptr, layout(3000)) };
    }
    let all: Vec<_> = std::iter::from_fn(|| heap.alloc(layout(4000)).ok()).collect();
    assert!(all.len() >= 200, "{}", all.len());
}

/// Runs a misuse in a process of its own, which must end with one line that has all of this in it.
fn ends(test: &'static str, parts: &[&str], misuse: impl FnOnce(&Heap)) {
    let mode = if test.starts_with("hardened") { Mode::Hardened } else { Mode::Tracked };
    let Some(ended) = Scenario::new(test).run(|| {
        misuse(&heap(mode));
        say(format_args!("survived\n"));
    }) else {
        return;
    };
    assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{} {}\n{}", ended.how(), ended.stdout, ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    for part in ["millpond: "].iter().chain(parts) {
        assert!(ended.stderr.contains(part), "`{part}` is not in: {}", ended.stderr);
    }
}

fn take(heap: &Heap, size: usize) -> NonNull<u8> {
    let _tag = millpond::tag("testing");
    heap.alloc(layout(size)).expect("memory")
}

#[test]
fn tracked_names_a_double_free() {
    ends(
        "tracked_names_a_double_free",
        &["double free of 0x", "100 bytes, id 1, allocated by thread ", " for testing", ", freed by thread "],
        |heap| {
            let ptr = take(heap, 100);
            // SAFETY: none: the second is the misuse under test.
            unsafe { (heap.free(ptr, layout(100)), heap.free(ptr, layout(100))) };
        },
    );
}

#[test]
fn tracked_names_a_double_free_long_after() {
    ends("tracked_names_a_double_free_long_after", &["double free of 0x", "id 1,"], |heap| {
        let ptr = take(heap, 100);
        // SAFETY: none: the second is the misuse under test.
        unsafe { heap.free(ptr, layout(100)) };
        for _ in 0..1000 {
            let other = take(heap, 5000);
            // SAFETY: allocated just now.
            unsafe { heap.free(other, layout(5000)) };
        }
        // SAFETY: none: see above.
        unsafe { heap.free(ptr, layout(100)) };
    });
}

#[test]
fn tracked_names_a_double_free_of_a_large_one() {
    ends("tracked_names_a_double_free_of_a_large_one", &["double free of 0x", "41943040 bytes, id 1"], |heap| {
        let ptr = take(heap, 40 * MIB);
        // SAFETY: none: the second is the misuse under test.
        unsafe { (heap.free(ptr, layout(40 * MIB)), heap.free(ptr, layout(40 * MIB))) };
    });
}

#[test]
fn tracked_names_a_wrong_layout() {
    ends("tracked_names_a_wrong_layout", &["with a size that is not its own, 101 bytes", "100 bytes, id 1"], |heap| {
        let ptr = take(heap, 100);
        // SAFETY: none: the misuse under test.
        unsafe { heap.free(ptr, layout(101)) };
    });
}

#[test]
fn tracked_names_an_interior_pointer() {
    ends("tracked_names_an_interior_pointer", &[", 16 bytes into the allocation 0x", "100 bytes, id 1"], |heap| {
        let ptr = take(heap, 100);
        // SAFETY: none: the misuse under test.
        unsafe { heap.free(ptr.add(16), layout(100)) };
    });
}

#[test]
fn tracked_names_a_small_number() {
    ends("tracked_names_a_small_number", &["too small to be an address"], |heap| {
        let ptr = NonNull::new(core::ptr::without_provenance_mut(8usize)).unwrap();
        // SAFETY: none: the misuse under test.
        unsafe { heap.free(ptr, layout(8)) };
    });
}

#[test]
fn tracked_names_an_impossible_address() {
    ends("tracked_names_an_impossible_address", &["not canonical: no address at all"], |heap| {
        let ptr = NonNull::new(core::ptr::without_provenance_mut(1usize << 60)).unwrap();
        // SAFETY: none: the misuse under test.
        unsafe { heap.free(ptr, layout(8)) };
    });
}

#[test]
fn tracked_names_a_foreign_pointer() {
    ends(
        "tracked_names_a_foreign_pointer",
        &["which is not an allocation of this heap's: where nothing is mapped"],
        |heap| {
            let ptr = NonNull::new(core::ptr::without_provenance_mut(1usize << 40)).unwrap();
            // SAFETY: none: the misuse under test.
            unsafe { heap.free(ptr, layout(8)) };
        },
    );
}

#[test]
fn tracked_names_the_stack() {
    ends("tracked_names_the_stack", &["an address of the stack of this thread"], |heap| {
        let mut word = 0u64;
        // SAFETY: none: the misuse under test.
        unsafe { heap.free(NonNull::from(&mut word).cast(), layout(8)) };
    });
}

#[test]
fn hardened_names_a_write_past_the_end() {
    ends("hardened_names_a_write_past_the_end", &["write right past the end of 0x", "100 bytes, id 1"], |heap| {
        let ptr = take(heap, 100);
        // SAFETY: none: the misuse under test.
        unsafe {
            ptr.add(100).write(0);
            heap.free(ptr, layout(100));
        }
    });
}

#[test]
fn hardened_names_a_write_after_free() {
    ends(
        "hardened_names_a_write_after_free",
        &["write to 0x", "after it was freed, 5 bytes into it", "id 1,"],
        |heap| {
            let ptr = take(heap, 100);
            // SAFETY: none: the misuse under test.
            unsafe {
                heap.free(ptr, layout(100));
                ptr.add(5).write(0);
            }
            heap.trim();
        },
    );
}

/// The first allocation of the process, a large one: it chooses the mode.
static FIRST: AtomicPtr<u8> = AtomicPtr::new(null_mut());

extern "C" fn allocate_first() {
    FIRST.store(common::block::take(MIB, 8), Ordering::Relaxed);
}

// SAFETY: the loader runs it once, before `main`.
#[unsafe(link_section = ".init_array")]
#[used]
static AT_START: extern "C" fn() = allocate_first;

#[test]
fn a_large_allocation_may_be_the_first() {
    let test = Scenario::new("a_large_allocation_may_be_the_first").variable("MILLPOND_MODE", "tracked");
    test.passes(|| {
        let first = FIRST.load(Ordering::Relaxed);
        assert_eq!(millpond::id_of(first), Some(1));
        // SAFETY: allocated before `main`, freed once.
        unsafe { common::block::give(first, MIB, 8) };
        assert_eq!(millpond::ptr_of(1), None);
    });
}

/// The program's own allocator, in a mode that the environment names.
#[test]
fn the_environment_names_a_mode() {
    let test = Scenario::new("the_environment_names_a_mode").variable("MILLPOND_MODE", "hardened");
    test.passes(|| {
        assert_eq!(millpond::mode(), Mode::Hardened);
        let mark = millpond::snapshot();
        let tag = millpond::tag("kept");
        let kept: Vec<Vec<u8>> = (1..100).map(|size| vec![1; size * 100]).collect();
        drop(tag);
        let id = millpond::id_of(kept[7].as_ptr()).expect("live");
        assert_eq!(millpond::ptr_of(id), NonNull::new(kept[7].as_ptr().cast_mut()));
        assert_eq!(millpond::record(id).map(|record| (record.size, record.tag)), Some((800, "kept")));
        let live = millpond::live_since(mark).unwrap();
        assert!(live.groups().iter().filter(|group| group.tag == "kept").count() >= 60, "{live}");
        together((0..8).map(|id| {
            move || {
                let mut random = Random::new(id);
                let mut held: Vec<Vec<u8>> = Vec::new();
                for _ in 0..scaled(10_000, 2_000) {
                    let mut block = vec![id as u8; random.size(1, 2000)];
                    block.extend_from_slice(&[id as u8; 100]);
                    held.push(block);
                    if held.len() > 50 {
                        let block = held.swap_remove(random.below(held.len()));
                        assert!(block.iter().all(|byte| *byte == id as u8));
                    }
                }
            }
        }));
        drop(kept);
        assert_eq!(millpond::record(id), None);
        common::law::holds();
    });
}

/// What a mode does not look at is told, not believed in.
#[test]
fn the_environment_is_told_what_no_mode_looks_at() {
    let test = Scenario::new("the_environment_is_told_what_no_mode_looks_at").variable("MILLPOND_GUARD", "1");
    let ended = test.variable("MILLPOND_FREED", "zero").run(|| drop(vec![1; 100]));
    if let Some(ended) = ended {
        for line in [
            "millpond: MILLPOND_GUARD is for MILLPOND_MODE=hardened: ignored",
            "millpond: MILLPOND_FREED is for MILLPOND_MODE=tracked or hardened: ignored",
        ] {
            assert!(ended.stderr.lines().any(|said| said == line), "{}", ended.stderr);
        }
        assert!(!ended.stderr.contains("BACKTRACE"), "{}", ended.stderr);
    }
}

#[test]
fn the_environment_has_a_double_free_named() {
    let test = Scenario::new("the_environment_has_a_double_free_named").variable("MILLPOND_MODE", "tracked");
    let Some(ended) = test.run(|| {
        let ptr = common::block::take(100, 8);
        // SAFETY: none: the second is the misuse under test.
        unsafe { (common::block::give(ptr, 100, 8), common::block::give(ptr, 100, 8)) };
    }) else {
        return;
    };
    assert_eq!(ended.status.signal(), Some(libc::SIGABRT));
    assert!(
        ended.stderr.starts_with("millpond: double free of 0x") && ended.stderr.contains("100 bytes, id "),
        "{}",
        ended.stderr
    );
}

#[test]
fn without_a_mode_there_are_no_records() {
    let heap = Heap::new().unwrap();
    let ptr = heap.alloc(layout(8)).unwrap();
    assert_eq!((heap.id_of(ptr.as_ptr()), heap.ptr_of(1), heap.record(1)), (None, None, None));
    heap.walk(|record| panic!("{record:?}"));
    assert_eq!((millpond::mode(), millpond::ptr_of(1)), (Mode::Fast, None));
}

/// Of what is right nothing is reported: blocks of all sizes and alignments, resized, handed from thread to thread, some of
/// them guarded, all with their callers.
#[test]
fn valid_programs_hear_nothing() {
    let test = Scenario::new("valid_programs_hear_nothing")
        .variable("MILLPOND_MODE", "hardened")
        .variable("MILLPOND_GUARD", "97")
        .variable("MILLPOND_BACKTRACE", "4");
    test.passes(|| {
        const SLOTS: usize = 512;
        static SLOT: [AtomicPtr<Block>; SLOTS] = [const { AtomicPtr::new(null_mut()) }; SLOTS];
        /// What stands in front of each block's bytes.
        struct Block {
            layout: Layout,
            fill: u8,
        }
        const HEAD: usize = size_of::<Block>();
        /// # Safety
        /// A block that the caller has alone.
        unsafe fn end(block: *mut Block) {
            // SAFETY: written as a whole by whoever made it.
            unsafe {
                let Block { layout, fill } = block.read();
                let bytes = std::slice::from_raw_parts(block.cast::<u8>().add(HEAD), layout.size() - HEAD);
                assert!([bytes.first(), bytes.last()].into_iter().flatten().all(|byte| *byte == fill));
                common::block::give(block.cast(), layout.size(), layout.align());
            }
        }
        together((0..8).map(|id| {
            move || {
                let mut random = Random::new(id);
                for turn in 0..scaled(60_000, 6_000) {
                    let most = if random.below(500) == 0 { MIB } else { 3000 };
                    let size = HEAD + random.size(1, most) - 1;
                    let align = 8 << random.below(if turn % 50 == 0 { 10 } else { 3 });
                    let mut layout = Layout::from_size_align(size, align).expect("valid");
                    let mut at = common::block::take(size, align);
                    if random.below(4) == 0 {
                        let more = HEAD + random.size(1, most);
                        // SAFETY: allocated just now with this layout.
                        at = unsafe { std::alloc::realloc(at, layout, more) };
                        layout = Layout::from_size_align(more, align).expect("valid");
                    }
                    assert!(!at.is_null() && at as usize % align == 0);
                    let (block, fill) = (at.cast::<Block>(), turn as u8);
                    // SAFETY: our own block, of that many bytes.
                    unsafe {
                        at.write_bytes(fill, layout.size());
                        block.write(Block { layout, fill });
                    }
                    let old = SLOT[random.below(SLOTS)].swap(block, Ordering::AcqRel);
                    if !old.is_null() {
                        // SAFETY: taken out by this thread alone.
                        unsafe { end(old) };
                    }
                }
            }
        }));
        for slot in &SLOT {
            let block = slot.swap(null_mut(), Ordering::AcqRel);
            if !block.is_null() {
                // SAFETY: as above.
                unsafe { end(block) };
            }
        }
        common::law::holds();
    });
}

/// The functions for the program's heap take and give what a heap's methods do.
#[test]
fn functions_and_methods_agree() {
    fn same<A, R>(_function: fn(A) -> R, _method: fn(&'static Heap, A) -> R) {}
    same(millpond::id_of, Heap::id_of);
    same(millpond::ptr_of, Heap::ptr_of);
    same(millpond::record, Heap::record);
    same(millpond::usable_size, Heap::usable_size);
    same(millpond::owns, Heap::owns);
    same(millpond::live_since, Heap::live_since);
    same(millpond::leaks_since, Heap::leaks_since);
    fn wish<A>(_mode: fn(WithMode, A) -> WithMode, _heap: fn(HeapBuilder<'static>, A) -> HeapBuilder<'static>) {}
    wish(WithMode::backtrace, HeapBuilder::backtrace);
    wish(WithMode::guard, HeapBuilder::guard);
}
