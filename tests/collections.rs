//! Collections that live in a heap, and statistics as JSON: with the features `allocator-api2` and `serde`.
#![cfg(feature = "allocator-api2")]

use allocator_api2::alloc::Allocator;
use allocator_api2::boxed::Box;
use allocator_api2::vec::Vec;
use hashbrown::{DefaultHashBuilder, HashMap};
use millpond::{Heap, Millpond, Mode};

#[global_allocator]
static GLOBAL: Millpond = Millpond;

#[test]
fn collections_live_in_a_heap_and_leave_nothing() {
    let heap = Heap::new().unwrap();
    let mut map = HashMap::with_hasher_in(DefaultHashBuilder::default(), &heap);
    for key in 0..10_000usize {
        let mut list = Vec::new_in(&heap);
        list.extend(0..key % 50);
        map.insert(key, Box::new_in(list, &heap));
    }
    map.retain(|key, _| key % 3 == 0);
    assert!(map.iter().all(|(key, list)| list.iter().copied().eq(0..key % 50)));
    assert!(heap.stats().live > 100_000);
    drop(map);
    assert_eq!(heap.check().unwrap().live, 0);
}

#[test]
fn a_vector_grows_in_place_or_moves_and_shrinks() {
    let heap = Heap::new().unwrap();
    let mut list: Vec<u64, _> = Vec::new_in(&heap);
    for value in 0..3_000_000 {
        list.push(value);
    }
    list.truncate(1000);
    list.shrink_to_fit();
    assert!(list.iter().copied().eq(0..1000));
    assert_eq!(heap.usable_size(list.as_ptr().cast()), Some(8192));
    let mut zeroed: Vec<u8, _> = Vec::new_in(&heap);
    zeroed.resize(100, 0);
    zeroed.resize(600_000, 0);
    assert!(zeroed.iter().all(|byte| *byte == 0));
}

/// The program's allocator as a value: what grows stays where there is room, and nothing takes no memory.
#[test]
fn collections_live_in_the_programs_allocator() {
    let mut map = HashMap::with_hasher_in(DefaultHashBuilder::default(), Millpond);
    for key in 0..1000usize {
        let mut list = Vec::new_in(Millpond);
        list.extend(0..key % 50);
        map.insert(key, Box::new_in(list, Millpond));
    }
    assert!(map.iter().all(|(key, list)| list.iter().copied().eq(0..key % 50)));
    drop(map);

    let [few, more, much] = [100, 112, 200].map(|size| std::alloc::Layout::from_size_align(size, 8).unwrap());
    let [large, larger] = [300_000, 320_000].map(|size| std::alloc::Layout::from_size_align(size, 8).unwrap());
    let [nothing, wide] =
        [(0, 1), (300, 4096)].map(|(size, align)| std::alloc::Layout::from_size_align(size, align).unwrap());
    // SAFETY: each allocation with its own layout, which the next call takes.
    unsafe {
        let first = Millpond.allocate_zeroed(few).unwrap();
        assert_eq!((first.len(), millpond::usable_size(first.as_ptr().cast())), (100, Some(112)));
        first.cast::<u8>().write_bytes(7, 100);
        // Within the class it stays.
        let grown = Millpond.grow_zeroed(first.cast(), few, more).unwrap();
        assert_eq!((grown.cast::<u8>(), grown.len()), (first.cast(), 112));
        let moved = Millpond.grow_zeroed(grown.cast(), more, much).unwrap();
        let bytes = moved.as_ref();
        assert!(bytes[..100].iter().all(|byte| *byte == 7) && bytes[100..].iter().all(|byte| *byte == 0));
        let back = Millpond.shrink(moved.cast(), much, nothing).unwrap();
        assert_eq!((back.len(), millpond::owns(back.as_ptr().cast())), (0, false));
        let back = Millpond.grow(back.cast(), nothing, wide).unwrap();
        assert_eq!(back.cast::<u8>().addr().get() % 4096, 0);
        Millpond.deallocate(back.cast(), wide);
        let first = Millpond.allocate(large).unwrap().cast::<u8>();
        assert_eq!(Millpond.grow(first, large, larger).unwrap().cast(), first);
        assert_eq!(Millpond.shrink(first, larger, large).unwrap().cast(), first);
        Millpond.deallocate(first, large);
        let most = std::alloc::Layout::from_size_align(isize::MAX as usize, 1).unwrap();
        assert!(Millpond.allocate(most).is_err() && Millpond.allocate_zeroed(most).is_err());
    }
}

/// A collection may have a heap of its own, which goes with it and is moved with it.
#[test]
fn a_collection_has_its_heap() {
    let mut list = Vec::new_in(Heap::builder().capacity(1 << 20).build().unwrap());
    list.extend(0..10_000u32);
    let mut list = std::thread::spawn(move || list).join().unwrap();
    list.extend(0..10_000u32);
    assert!(list.iter().copied().eq((0..10_000).chain(0..10_000)));
    assert!(list.try_reserve(1 << 20).is_err());
    assert!(list.allocator().owns(list.as_ptr().cast()) && list.allocator().stats().live >= 80_000);
    let one = Box::new_in(5, Heap::new().unwrap());
    assert_eq!(*one, 5);
}

#[test]
fn a_collection_meets_the_limit() {
    let heap = Heap::builder().capacity(1 << 20).build().unwrap();
    let mut list: Vec<u8, _> = Vec::new_in(&heap);
    list.extend(std::iter::repeat_n(1, 1000));
    assert!(list.try_reserve(2 << 20).is_err());
    assert!(list.iter().all(|byte| *byte == 1) && list.len() == 1000);
}

/// What a vector gets when it shrinks to nothing it may never give back: so it gets no memory.
#[test]
fn nothing_takes_no_memory() {
    for mode in [Mode::Fast, Mode::Tracked, Mode::Hardened] {
        let heap = Heap::builder().mode(mode).build().unwrap();
        let mut list: Vec<u64, _> = Vec::new_in(&heap);
        for round in 0..100 {
            list.extend(0..round);
            list.clear();
            list.shrink_to_fit();
        }
        let heap = &heap;
        let [nothing, wide, some] = [(0, 1), (0, 1 << 17), (300, 1 << 17)]
            .map(|(size, align)| std::alloc::Layout::from_size_align(size, align).unwrap());
        let at = Allocator::allocate(&heap, nothing).unwrap().cast();
        // SAFETY: each allocation with its own layout, which the next call takes.
        unsafe {
            let at = Allocator::grow_zeroed(&heap, at, nothing, some).unwrap();
            assert!(at.cast::<u8>().addr().get() % some.align() == 0 && at.as_ref().iter().all(|byte| *byte == 0));
            let at = Allocator::shrink(&heap, at.cast(), some, wide).unwrap().cast::<u8>();
            assert_eq!(at.addr().get() % wide.align(), 0);
            Allocator::deallocate(&heap, at, wide);
        }
        heap.trim();
        assert_eq!(heap.check().unwrap().live, 0, "{mode:?}");
    }
}

#[cfg(feature = "serde")]
#[test]
fn statistics_are_data() {
    let heap = Heap::new().unwrap();
    let list: Vec<[u8; 100], _> = Vec::with_capacity_in(1, &heap);
    let json = serde_json::to_value(heap.stats()).unwrap();
    assert!(json.get("timing").is_none(), "told only where it is asked for: {json}");
    let timed = serde_json::to_value(Heap::builder().timing(true).build().unwrap().stats()).unwrap();
    assert_eq!(timed["timing"]["alloc"]["timed"], 0);
    assert_eq!(json["live"], 112);
    assert_eq!(json["pools"][0]["chunk_size"], 112);
    assert_eq!(json["pools"].as_array().unwrap().len(), 1);
    drop(list);
}
