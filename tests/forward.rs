//! What must hold wherever the crate compiles, also where it only forwards to the system's allocator
//! (`--cfg millpond_forward` forces that).

use std::alloc::{GlobalAlloc, Layout};

use millpond::Millpond;

#[global_allocator]
static GLOBAL: Millpond = Millpond;

#[test]
fn collections_and_threads_work() {
    let threads: Vec<_> = (0..4_usize)
        .map(|thread| std::thread::spawn(move || (0..10_000).map(|i| format!("{thread}.{i}")).collect::<Vec<_>>()))
        .collect();
    for (thread, handle) in threads.into_iter().enumerate() {
        let strings = handle.join().unwrap();
        assert!(strings.iter().enumerate().all(|(i, string)| *string == format!("{thread}.{i}")));
    }
}

#[test]
fn every_alignment_is_kept_through_realloc() {
    for shift in 0..=16 {
        for size in [1, 7, 64, 1000, 5000, 300_000] {
            let layout = Layout::from_size_align(size, 1 << shift).unwrap();
            // SAFETY: no size is zero, and each call is given the layout that the memory has then.
            unsafe {
                let zeroed = GLOBAL.alloc_zeroed(layout);
                assert!(!zeroed.is_null() && zeroed.addr() % layout.align() == 0, "{layout:?}");
                assert!(std::slice::from_raw_parts(zeroed, size).iter().all(|byte| *byte == 0), "{layout:?}");
                zeroed.write_bytes(0xA5, size);

                let grown = GLOBAL.realloc(zeroed, layout, size * 3);
                assert!(!grown.is_null() && grown.addr() % layout.align() == 0, "{layout:?} grown");
                assert!(std::slice::from_raw_parts(grown, size).iter().all(|byte| *byte == 0xA5), "{layout:?} grown");
                GLOBAL.dealloc(grown, Layout::from_size_align(size * 3, layout.align()).unwrap());
            }
        }
    }
}

#[test]
fn the_rest_of_the_surface_answers() {
    let boxed = Box::new(7_u64);
    let ptr = (&raw const *boxed).cast::<u8>();
    millpond::set_thp(millpond::Thp::Default);
    millpond::flush_thread();
    millpond::trim();
    let stats = millpond::stats();
    assert!(!stats.to_string().is_empty());
    // Known to whoever allocates, and to nobody else.
    assert_eq!(millpond::owns(ptr), stats.committed > 0);
    assert_eq!(millpond::usable_size(ptr).is_some(), stats.committed > 0);
    assert!(!millpond::owns((&raw const ptr).cast()));
    assert_eq!(millpond::usable_size((&raw const ptr).cast()), None);
    // Elsewhere it is exact only while no other thread allocates.
    if stats.committed == 0 {
        assert_eq!(millpond::check().expect("nothing that could be wrong"), stats);
    }
    assert_eq!(*boxed, 7);
}

#[cfg(feature = "allocator-api2")]
#[test]
fn it_is_an_allocator_of_collections() {
    use allocator_api2::{boxed::Box, vec::Vec};

    let mut list = Vec::new_in(Millpond);
    for round in 0..100usize {
        list.extend(0..round);
        list.retain(|number| number % 3 != 0);
        list.shrink_to_fit();
    }
    let boxed = Box::new_in(list, Millpond);
    assert!(boxed.iter().all(|number| number % 3 != 0) && boxed.len() == 3267, "{}", boxed.len());
    let mut zeroed: Vec<u8, _> = Vec::new_in(Millpond);
    zeroed.resize(300_000, 0);
    assert!(zeroed.iter().all(|byte| *byte == 0));
}
