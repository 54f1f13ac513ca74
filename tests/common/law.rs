//! The conservation law: each byte that is committed is in exactly one place.

use millpond::Stats;

/// Asserts it, and every structure's own equation. Exact only while no other thread is inside the allocator.
pub fn holds() -> Stats {
    let stats = millpond::stats();
    let places = stats.live
        + stats.quarantine
        + stats.thread_cached
        + stats.pooled
        + stats.span_free
        + stats.tails
        + stats.dirty
        + stats.stranded
        + stats.metadata;
    assert_eq!(stats.committed, places, "the sum is off: {stats:?}");
    assert!(stats.committed <= stats.reserved, "more committed than reserved: {stats:?}");
    // The allocator itself lives somewhere, and so does the test's harness.
    assert!(stats.metadata > 0 && stats.live > 0, "empty: {stats:?}");
    match millpond::check() {
        Ok(checked) => assert_eq!(checked, stats, "check() and stats() disagree"),
        Err(error) => panic!("check(): {error:?} in {stats:?}"),
    }
    stats
}
