//! Purge of OS pages inside spans, at each size of OS pages.

use super::super::purge::unit;
use super::world::{Actor, World, class_of};
use crate::config::PAGE;
use crate::os::fake;
use crate::size_class::{CLASSES, INFO};
use crate::sync::Ordering;
use core::ptr;

const OS_PAGES: [usize; 3] = [4096, 16 << 10, 64 << 10];

#[test]
fn units_are_os_pages_that_fill_each_span_and_fit_a_word() {
    for os_page in OS_PAGES {
        let world = World::new(0, os_page);
        for info in &INFO {
            let unit = unit(info);
            assert!(unit % os_page == 0 && info.pages * PAGE % unit == 0 && info.pages * PAGE / unit <= 64);
            assert!(unit == os_page || info.pages * PAGE / unit > 32, "no longer than need be: {info:?}");
        }
        drop(world);
    }
}

/// Of each class and size of OS pages: a span of which one chunk lives, the first, one in the middle or the last.
#[test]
fn all_but_the_units_of_live_chunks_goes_and_comes_back_as_zero() {
    for os_page in OS_PAGES {
        for class in (0..CLASSES).step_by(3).chain([CLASSES - 1]) {
            let info = &INFO[class];
            for live in [0, info.chunks / 2, info.chunks - 1] {
                let mut world = World::new(class, os_page);
                let index = world.open(info.chunks);
                world.keep_only(index, live);
                let span = world.span(index);
                let held = info.pages * PAGE;
                assert_eq!(world.committed(), held);
                world.run(Actor::Visit { index });

                let unit = unit(info);
                let (first, last) = (live * info.size / unit, ((live + 1) * info.size - 1) / unit);
                let gone = held - (last - first + 1) * unit;
                assert_eq!(world.committed(), held - gone);
                let (chunks, tail) = span.purged_bytes();
                assert_eq!(chunks + tail, gone);
                let end = info.chunks * info.size;
                assert_eq!(tail, held - end.max((last + 1) * unit));
                world.check(&[]);
                assert_eq!(world.system.resident_bytes(), (last - first + 1) * unit);

                // Again: there is nothing left to purge, and nothing is counted twice.
                world.run(Actor::Visit { index });
                assert_eq!(world.committed(), held - gone);

                // What is carved again reads as zero where it was purged, and is counted again.
                world.run(Actor::Pop { want: usize::MAX });
                assert_eq!(span.purged_bytes().0, 0);
                assert_eq!(world.committed(), held - span.purged_bytes().1);
                world.check(&[]);
                world.finish();
            }
        }
    }
}

#[test]
fn what_is_carved_from_a_purged_unit_reads_as_zero() {
    let mut world = World::new(class_of(1 << 10), 4096);
    let index = world.open(64);
    world.keep_only(index, 9);
    world.run(Actor::Visit { index });
    let span = world.span(index);
    let read = |chunk: usize| {
        // SAFETY: a chunk of a live span.
        unsafe { ptr::with_exposed_provenance::<u8>(span.head.start() + chunk * 1024).read() }
    };
    for chunk in 0..64 {
        assert_eq!(read(chunk) == 0, !(8..12).contains(&chunk), "the unit of chunk 9 stays as it was");
    }
}

/// A unit is noted only if the system took it, and a span is given back whole even so.
#[test]
fn a_refused_purge_is_not_counted() {
    for retire_too in [false, true] {
        let mut world = World::new(class_of(4 << 10), 4096);
        let index = world.open(16);
        world.keep_only(index, 3);
        let failing = world.system.failing(1, if retire_too { u64::MAX } else { 2 });
        world.run(Actor::Visit { index });
        assert_eq!(failing.seen(), 2, "what lies before the live chunk, and what lies behind");
        assert_eq!(world.committed(), PAGE - 3 * 4096);
        world.check(&[]);
        world.free(index, 1);
        drop(failing);
        assert_eq!(world.committed(), if retire_too { PAGE } else { 0 });
        world.check(&[]);
        world.run(Actor::Pop { want: 0 });
        world.finish();
    }
}

/// Once the system purges again, so does the next visit, though nothing in the span has changed.
#[test]
fn a_refused_purge_is_tried_again() {
    let mut world = World::new(class_of(4 << 10), 4096);
    let index = world.open(16);
    world.keep_only(index, 3);
    let failing = world.system.failing(0, u64::MAX);
    world.run(Actor::Visit { index });
    drop(failing);
    assert_eq!(world.committed(), PAGE);
    world.run(Actor::Visit { index });
    assert_eq!(world.committed(), 4096);
    world.finish();
}

#[test]
fn units_that_were_purged_to_junk_are_not_said_to_be_zero() {
    let mut world = World::new(class_of(4 << 10), 4096);
    world.system.set_purges_to_junk(true);
    let index = world.open(16);
    world.keep_only(index, 3);
    world.run(Actor::Visit { index });
    assert_eq!(world.committed(), 4096);
    world.free(index, 1);
    assert_eq!(world.committed(), PAGE, "the run is dirty");
    world.check(&[]);
    let run = world.spans.arenas.take_run(1, 1, crate::arena::Fill::Zero).unwrap();
    // SAFETY: a run that is the test's.
    let bytes = unsafe { core::slice::from_raw_parts(ptr::with_exposed_provenance::<u8>(run.page * PAGE), PAGE) };
    assert!(bytes == [0; PAGE]);
    world.spans.arenas.give_run(run.page, run.pages);
    world.run(Actor::Pop { want: 0 });
    world.finish();
    assert_eq!(fake::page_size(), 4096);
}
