//! A gigabyte of small chunks, freed in random order, goes back to the system: at once by `trim()`, and within two
//! seconds of light activity without it.

mod common;

use common::block::{give, take};
use common::child::Scenario;
use common::random::Random;
use common::table::Table;
use common::thread::{idle_while, light_activity};
use common::{GIB, KIB, MIB, kernel, law, scaled};
use std::time::{Duration, Instant};

/// Bytes of chunks at the peak; less where nothing is optimised and it is the second time.
const BURST: usize = GIB;
const AGAIN: usize = scaled(GIB, GIB / 4);

/// The sizes of a burst.
#[derive(Clone, Copy)]
enum Sizes {
    Of48,
    Of1000,
    Mixed,
    Of4096,
}

/// What happens after the frees.
#[derive(Clone, Copy)]
enum Then {
    Trim,
    LightActivity,
    /// One chunk at a time, always of one size: the thread's magazine never runs out.
    OneSize,
}

fn size(sizes: Sizes, random: &mut Random) -> usize {
    match sizes {
        Sizes::Of48 => 48,
        Sizes::Of1000 => 1000,
        Sizes::Mixed => 16 + random.below(2048 - 16 + 1),
        Sizes::Of4096 => 4 * KIB,
    }
}

/// An address and a size of up to 16 bits in a word.
fn pack(ptr: *mut u8, size: usize) -> u64 {
    assert!((ptr as usize) < 1 << 48 && size < 1 << 16);
    ptr as u64 | (size as u64) << 48
}

fn free(chunk: u64) {
    let (ptr, size) = ((chunk & ((1 << 48) - 1)) as *mut u8, (chunk >> 48) as usize);
    // SAFETY: a live chunk that `pack` noted; each is freed once. Its last byte was written.
    unsafe {
        assert_eq!(ptr.add(size - 1).read(), 0xa5);
        give(ptr, size, 8);
    }
}

/// Allocates and fills the burst, in a table that is shuffled. Also the resident memory at the peak, less the table.
fn burst(total: usize, sizes: Sizes, random: &mut Random) -> (Table<u64>, usize, usize) {
    let most = match sizes {
        Sizes::Of48 => total / 48 + 1,
        Sizes::Of1000 => total / 1000 + 1,
        Sizes::Mixed => total / 512,
        Sizes::Of4096 => total / (4 * KIB),
    };
    let mut table = Table::new(most);
    let (mut bytes, mut len) = (0, 0);
    while bytes < total {
        let size = size(sizes, random);
        let ptr = take(size, 8);
        assert!(!ptr.is_null());
        // SAFETY: a fresh allocation of that size.
        unsafe { ptr.write_bytes(0xa5, size) };
        table[len] = pack(ptr, size);
        len += 1;
        bytes += size;
    }
    let peak = kernel::resident() - Table::<u64>::bytes(len);
    assert!(peak >= bytes, "{peak} resident for {bytes}");
    random.shuffle(&mut table[..len]);
    (table, len, peak)
}

fn settle(then: Then) {
    match then {
        Then::Trim => {
            let trimmed = millpond::trim();
            println!("{trimmed:?}");
        }
        Then::LightActivity => light_activity(Duration::from_secs(2)),
        Then::OneSize => one_size(Duration::from_secs(2)),
    }
}

/// Each millisecond one chunk comes and goes.
fn one_size(duration: Duration) {
    let start = Instant::now();
    while start.elapsed() < duration {
        let chunk = take(64, 8);
        assert!(!chunk.is_null());
        // SAFETY: a live allocation of that size.
        unsafe { give(chunk, 64, 8) };
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn within_a_tenth(peak: usize) {
    let resident = kernel::resident();
    let stats = millpond::stats();
    println!("# {} MiB of {} MiB stay", resident / MIB, peak / MIB);
    assert!(resident * 10 <= peak, "{} MiB of {} MiB stay: {stats:?}", resident / MIB, peak / MIB);
}

/// All of it is freed, by so many threads, which stay alive and idle.
fn all_freed(total: usize, sizes: Sizes, freers: usize, then: Then) {
    let mut random = Random::new(42);
    let (table, len, peak) = burst(total, sizes, &mut random);
    if freers == 1 {
        table[..len].iter().copied().for_each(free);
        drop(table);
        settle(then);
        within_a_tenth(peak);
    } else {
        let parts: Vec<Table<u64>> = table[..len].chunks(len.div_ceil(freers)).map(Table::copy).collect();
        drop(table);
        let body = |part: Table<u64>| {
            move || {
                part.iter().copied().for_each(free);
                drop(part);
            }
        };
        idle_while(parts.into_iter().map(body).collect(), || {
            settle(then);
            within_a_tenth(peak);
        });
    }
    law::holds();
}

/// Blocks with a mapping of their own come and go by turns, so that the last is kept for the next at first.
fn a_huge_one(then: Then) {
    let mut peak = 0;
    for _ in 0..3 {
        let block = take(100 * MIB, 8);
        assert!(!block.is_null());
        // SAFETY: a fresh allocation of that size, freed once.
        unsafe {
            block.write_bytes(0xa5, 100 * MIB);
            peak = kernel::resident();
            give(block, 100 * MIB, 8);
        }
    }
    assert!(millpond::stats().dirty >= 100 * MIB, "it is kept");
    settle(then);
    within_a_tenth(peak);
    law::holds();
}

/// All but every 64th, at random.
fn all_but_a_few_freed(total: usize, sizes: Sizes, then: Then) {
    let mut random = Random::new(43);
    let (mut table, len, peak) = burst(total, sizes, &mut random);
    let (gone, kept) = table[..len].split_at_mut(len - len / 64);
    gone.iter().copied().for_each(free);
    settle(then);
    within_a_tenth(peak);
    kept.iter().copied().for_each(free);
    law::holds();
}

fn scenario(test: &'static str, thp: Option<&'static str>, body: impl FnOnce()) {
    let mut scenario = Scenario::new(test);
    if let Some(thp) = thp {
        scenario = scenario.variable("MILLPOND_THP", thp);
    }
    scenario.passes(body);
}

macro_rules! scenarios {
    ($($name:ident: $thp:expr, $body:expr;)*) => {
        $(
            #[test]
            fn $name() {
                scenario(stringify!($name), $thp, || $body);
            }
        )*
    };
}

scenarios! {
    of_48_trim: None, all_freed(BURST, Sizes::Of48, 1, Then::Trim);
    of_48_light_activity: None, all_freed(BURST, Sizes::Of48, 1, Then::LightActivity);
    of_48_by_eight_trim: None, all_freed(BURST, Sizes::Of48, 8, Then::Trim);
    of_48_by_eight_light_activity: None, all_freed(BURST, Sizes::Of48, 8, Then::LightActivity);
    of_1000_then_one_size: None, all_freed(AGAIN / 4, Sizes::Of1000, 1, Then::OneSize);
    a_huge_one_trim: None, a_huge_one(Then::Trim);
    a_huge_one_light_activity: None, a_huge_one(Then::LightActivity);
    a_huge_one_then_one_size: None, a_huge_one(Then::OneSize);
    mixed_trim: None, all_freed(BURST, Sizes::Mixed, 1, Then::Trim);
    mixed_light_activity: None, all_freed(BURST, Sizes::Mixed, 1, Then::LightActivity);
    mixed_by_eight_trim: None, all_freed(BURST, Sizes::Mixed, 8, Then::Trim);
    mixed_by_eight_light_activity: None, all_freed(BURST, Sizes::Mixed, 8, Then::LightActivity);
    of_4096_all_but_a_few_trim: None, all_but_a_few_freed(BURST, Sizes::Of4096, Then::Trim);
    of_4096_all_but_a_few_light_activity: None, all_but_a_few_freed(BURST, Sizes::Of4096, Then::LightActivity);

    huge_pages_of_48_trim: Some("always"), all_freed(AGAIN, Sizes::Of48, 1, Then::Trim);
    huge_pages_of_48_by_eight_light_activity: Some("always"), all_freed(AGAIN, Sizes::Of48, 8, Then::LightActivity);
    huge_pages_mixed_light_activity: Some("always"), all_freed(AGAIN, Sizes::Mixed, 1, Then::LightActivity);
    huge_pages_mixed_by_eight_trim: Some("always"), all_freed(AGAIN, Sizes::Mixed, 8, Then::Trim);
    huge_pages_of_4096_all_but_a_few_trim: Some("always"), all_but_a_few_freed(AGAIN, Sizes::Of4096, Then::Trim);
    huge_pages_of_4096_all_but_a_few_light_activity:
        Some("always"), all_but_a_few_freed(AGAIN, Sizes::Of4096, Then::LightActivity);
}
