//! The models: scenarios of a few threads that run the shipped code under loom. Each has *twins*, the same with one fault
//! planted, which must fail, or the model would prove nothing. Run by `cargo loom`, or `cargo loom FILTER` for those whose names
//! contain the filter; `cargo loom --list` names them.
//!
//! Each model and each twin runs in a process of its own, as many at a time as there are processors: a twin may
//! abort as well as panic, and takes nothing down with it.
#![deny(dead_code)] // A model that the table does not name.

use std::prelude::v1::*;
use std::process::{Command, Output};
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;
use std::{env, eprintln, format, println, process, thread};

use crate::os::fake;
use crate::size_class::{Class, INFO};
use crate::sync::{Fault, Thread, begin};

mod arena;
mod bitset;
mod floors;
mod heap;
mod heaps;
mod lease;
mod modes;
mod page_map;
mod pool;
mod sampler;
mod single;
mod slab;
mod span;
mod stack;
mod stock;
mod sync;
mod thread_cache;

/// Every model: its function, the files of `src` that it is about, the bound on preemptions (`None` explores
/// everything), and its twins: a name, the planted fault, and words of the panic that it must cause.
const MODELS: &[Model] = &[
    model!(
        arena::claim_across_words,
        "arena/region.rs arena/mod.rs arena/bits.rs arena/longest.rs arena/search.rs",
        Some(3),
        [
            ("no_rollback", Fault::ClaimRollback, "claims and counts agree"),
            ("stores", Fault::ClaimStore, "Causality violation")
        ]
    ),
    model!(
        arena::give_against_claim,
        "arena/region.rs arena/mod.rs arena/longest.rs arena/search.rs",
        Some(3),
        [
            ("relaxed", Fault::GiveRelaxed, "Causality violation"),
            ("raises_not", Fault::RaiseNot, "claims and counts agree"),
            ("lowers_blindly", Fault::LowerBlindly, "claims and counts agree")
        ]
    ),
    model!(
        arena::give_in_a_word_against_claim,
        "arena/region.rs arena/mod.rs arena/longest.rs arena/search.rs",
        Some(3),
        [("relaxed", Fault::GiveRelaxed, "Causality violation")]
    ),
    model!(
        arena::give_a_page_against_claim,
        "arena/region.rs arena/mod.rs",
        None,
        [("relaxed", Fault::GiveRelaxed, "Causality violation")]
    ),
    model!(
        arena::purge_a_page_against_claim,
        "arena/region.rs arena/mod.rs arena/purge.rs",
        None,
        [("unclaimed", Fault::PurgeUnclaimed, "Causality violation")]
    ),
    model!(
        arena::charge_against_discharge,
        "arena/budget.rs",
        None,
        [("stores", Fault::ChargeStore, "what was charged is used")]
    ),
    model!(
        arena::two_give_neighbours,
        "arena/region.rs arena/longest.rs arena/mod.rs arena/search.rs",
        Some(3),
        [("looks_relaxed", Fault::LookRelaxed, "claims and counts agree")]
    ),
    model!(
        arena::refused_against_claim,
        "arena/region.rs arena/mod.rs",
        Some(3),
        [("stores", Fault::ClaimStore, "claims and counts agree")]
    ),
    model!(
        arena::purge_against_claim,
        "arena/region.rs arena/mod.rs arena/purge.rs",
        Some(3),
        [("unclaimed", Fault::PurgeUnclaimed, "Causality violation")]
    ),
    model!(
        arena::visit_against_claim,
        "arena/region.rs arena/mod.rs arena/purge.rs",
        Some(3),
        [("unclaimed", Fault::PurgeUnclaimed, "Causality violation")]
    ),
    model!(
        arena::visit_against_give,
        "arena/region.rs arena/mod.rs arena/purge.rs",
        None,
        [("relaxed", Fault::GiveRelaxed, "Causality violation")]
    ),
    model!(
        arena::purge_against_purge,
        "arena/region.rs arena/mod.rs arena/purge.rs",
        Some(3),
        [("unclaimed", Fault::PurgeUnclaimed, "Causality violation")]
    ),
    model!(
        arena::purge_against_first_claim,
        "arena/region.rs arena/mod.rs arena/purge.rs",
        Some(3),
        [("stores", Fault::GiveStore, "claims and counts agree")]
    ),
    model!(
        arena::give_zeros_against_claim,
        "arena/region.rs arena/mod.rs",
        None,
        [("stores", Fault::GiveStore, "claims and counts agree")]
    ),
    model!(
        arena::extend_against_claim,
        "arena/region.rs arena/mod.rs",
        None,
        [("stores", Fault::ClaimStore, "Causality violation")]
    ),
    model!(
        arena::abandon_against_claim,
        "arena/region.rs arena/mod.rs",
        Some(3),
        [
            ("unclaimed", Fault::AbandonUnclaimed, "Causality violation"),
            ("relaxed", Fault::GoneRelaxed, "Causality violation")
        ]
    ),
    model!(
        arena::abandon_in_vain_against_claim,
        "arena/region.rs arena/mod.rs",
        Some(2),
        [("unclaimed", Fault::AbandonUnclaimed, "pages given back twice")]
    ),
    model!(
        arena::two_revive_an_arena,
        "arena/region.rs arena/mod.rs",
        None,
        [("both", Fault::ReviveBoth, "what is reserved is the arenas'")]
    ),
    model!(
        arena::take_back_against_charge,
        "arena/budget.rs",
        None,
        [("stores", Fault::UnsayStore, "it is told, once")]
    ),
    model!(
        arena::charge_against_refusal,
        "arena/budget.rs",
        None,
        [("stores", Fault::ChargeStore, "who is refused sees that it may change")]
    ),
    model!(
        arena::return_against_reclaim,
        "arena/budget.rs",
        None,
        [("relaxed", Fault::ChangeRelaxed, "what was not found was counted")]
    ),
    model!(
        arena::two_charge_a_budget,
        "arena/budget.rs",
        None,
        [("stores", Fault::ChargeStore, "no more than the limit")]
    ),
    model!(
        arena::revive_against_take,
        "arena/mod.rs arena/region.rs",
        Some(3),
        [("relaxed", Fault::GiveRelaxed, "Causality violation")]
    ),
    model!(
        arena::two_add_an_arena,
        "arena/mod.rs arena/region.rs",
        Some(3),
        [("relaxed", Fault::ArenaPublish, "Causality violation")]
    ),
    model!(
        arena::two_add_two_arenas,
        "arena/mod.rs arena/region.rs",
        Some(3),
        [("relaxed", Fault::ArenaPublish, "Causality violation")]
    ),
    model!(
        bitset::two_set_bits_of_a_word,
        "bitset.rs",
        None,
        [("relaxed", Fault::BitRelaxed, "Causality violation"), ("stores", Fault::BitStore, "both are set")]
    ),
    model!(bitset::two_clear_bits_of_a_word, "bitset.rs", None, [("stores", Fault::BitStore, "one is set")]),
    model!(bitset::two_set_the_same_bit, "bitset.rs", None, [("relaxed", Fault::BitRelaxed, "Causality violation")]),
    model!(
        floors::one_frees_one_allocates_one_purges,
        "heap/mod.rs span/restore.rs span/carve.rs span/purge.rs span/store.rs pool/mod.rs",
        Some(3),
        [
            ("relaxed_bit", Fault::RestoreBit, "Causality violation"),
            ("unheld", Fault::PurgeUnheld, "Causality violation")
        ]
    ),
    model!(
        heap::chunks_are_freed_by_another,
        "heap/mod.rs pool/mod.rs thread_cache.rs thread_cache/spares.rs thread_cache/charge.rs thread_cache/bin.rs",
        None,
        [("push", Fault::StackPush, "Causality violation")]
    ),
    model!(
        heap::two_are_born,
        "heap/adopt.rs thread_cache.rs thread_cache/spares.rs thread_cache/bin.rs",
        Some(3),
        [("relaxed", Fault::HearRelaxed, "Causality violation")]
    ),
    model!(
        heap::two_free_the_last_of_a_span,
        "heap/mod.rs span/restore.rs span/carve.rs span/store.rs pool/mod.rs arena/region.rs",
        Some(3),
        [("relaxed_bit", Fault::RestoreBit, "Causality violation"), ("closes_blindly", Fault::CloseGives, "sound")]
    ),
    model!(
        heap::look_up_against_large,
        "heap/large.rs page_map.rs",
        None,
        [("relaxed", Fault::MapPublish, "Causality violation")]
    ),
    model!(
        heap::look_up_against_huge,
        "heap/large.rs heap/huge.rs page_map.rs",
        None,
        [("relaxed", Fault::MapPublish, "Causality violation")]
    ),
    model!(
        heap::large_is_freed_against_allocated,
        "heap/large.rs page_map.rs arena/mod.rs",
        Some(3),
        [("relaxed", Fault::GiveRelaxed, "Causality violation")]
    ),
    model!(
        heap::shelf_is_cleared_against_taken,
        "heap/shelf.rs heap/large.rs",
        Some(3),
        [
            ("relaxed", Fault::ShelfPut, "Causality violation"),
            ("stores", Fault::ShelfTake, "each large node is in use")
        ]
    ),
    model!(
        heap::kept_is_cleared_against_taken,
        "heap/shelf.rs heap/huge.rs",
        Some(3),
        [("relaxed", Fault::ShelfPut, "Causality violation"), ("stores", Fault::ShelfTake, "Causality violation")]
    ),
    model!(
        heap::two_want_what_is_kept,
        "heap/shelf.rs heap/huge.rs",
        Some(3),
        [("stores", Fault::ShelfTake, "Causality violation")]
    ),
    model!(heap::two_map_huge, "heap/huge.rs", Some(3), [("stores", Fault::HugeStore, "the heap is sound")]),
    model!(
        heap::resize_against_alloc,
        "heap/large.rs arena/region.rs",
        Some(3),
        [("stores", Fault::ClaimStore, "Causality violation")]
    ),
    model!(
        heap::trim_against_leave,
        "heap/trim.rs heap/upkeep.rs heap/mod.rs thread_cache.rs thread_cache/spares.rs thread_cache/bin.rs",
        Some(3),
        [("copies", Fault::StealCopies, "Causality violation")]
    ),
    model!(
        heap::rob_against_adopt,
        "heap/adopt.rs heap/upkeep.rs thread_cache.rs thread_cache/spares.rs thread_cache/bin.rs",
        Some(3),
        [("copies", Fault::StealCopies, "Causality violation")]
    ),
    model!(
        heap::join_against_leave,
        "heap/adopt.rs thread_cache.rs thread_cache/spares.rs thread_cache/bin.rs slab.rs heap/mod.rs",
        None,
        [("early", Fault::LeaveEarly, "bins lie in their magazines")]
    ),
    model!(
        heap::two_adopt,
        "heap/adopt.rs thread_cache.rs thread_cache/spares.rs thread_cache/bin.rs",
        Some(3),
        [("both", Fault::AdoptBoth, "Causality violation")]
    ),
    model!(
        heap::settle_against_join,
        "heap/adopt.rs thread_cache.rs thread_cache/spares.rs thread_cache/bin.rs",
        Some(3),
        [("early", Fault::HeardEarly, "each chunk is in one place")]
    ),
    model!(
        heap::trim_against_owner,
        "heap/trim.rs heap/upkeep.rs heap/mod.rs thread_cache.rs thread_cache/spares.rs thread_cache/bin.rs",
        Some(3),
        [("copies", Fault::StealCopies, "Causality violation")]
    ),
    model!(
        heaps::leave_against_look,
        "heaps.rs",
        None,
        [
            ("holds_left", Fault::HoldsLeft, "Causality violation"),
            ("leaves_relaxed", Fault::LeaveRelaxed, "Causality violation"),
            ("lets_go_relaxed", Fault::LetGoRelaxed, "Causality violation")
        ]
    ),
    model!(
        heaps::leave_and_enter_against_look,
        "heaps.rs",
        None,
        [("enters_relaxed", Fault::EnterRelaxed, "Causality violation")]
    ),
    model!(
        heaps::leave_against_two_looks,
        "heaps.rs",
        Some(3),
        [("lets_go_relaxed", Fault::LetGoRelaxed, "Causality violation")]
    ),
    model!(
        lease::flush_against_end_and_claim,
        "heap/lease.rs thread_cache.rs thread_cache/spares.rs thread_cache/bin.rs slab.rs",
        Some(3),
        [("blindly", Fault::ClaimsBlindly, "each chunk is in one place")]
    ),
    model!(
        lease::two_claim,
        "heap/lease.rs thread_cache.rs thread_cache/spares.rs slab.rs",
        Some(3),
        [("relaxed", Fault::ReachedRelaxed, "Causality violation")]
    ),
    model!(
        lease::claim_against_adopt,
        "thread_cache.rs thread_cache/spares.rs",
        None,
        [("blindly", Fault::ClaimsBlindly, "Causality violation"), ("both", Fault::AdoptBoth, "Causality violation")]
    ),
    model!(
        lease::two_flush,
        "heap/lease.rs thread_cache.rs thread_cache/spares.rs thread_cache/bin.rs",
        None,
        [("both", Fault::AdoptBoth, "Causality violation")]
    ),
    model!(
        modes::find_against_insert,
        "modes/index.rs",
        None,
        [("relaxed", Fault::IndexRelaxed, "Causality violation")]
    ),
    model!(
        modes::find_against_insert_further_down,
        "modes/index.rs",
        None,
        [("relaxed", Fault::IndexRelaxed, "Causality violation")]
    ),
    model!(
        modes::unbind_against_begin,
        "modes/mod.rs modes/places.rs modes/record.rs heap/unbind.rs span/visit.rs span/purge.rs",
        Some(3),
        [("unheld", Fault::PurgeUnheld, "each has a record of its own")]
    ),
    model!(
        modes::two_make_it_grow,
        "modes/index.rs",
        Some(3),
        [("uses_the_loser", Fault::IndexGrow, "each entry is found")]
    ),
    model!(modes::two_mark, "modes/ids.rs thread_cache/lot.rs", None, [("goes_back", Fault::MarkStore, "after")]),
    model!(
        modes::find_id_against_begin,
        "modes/mod.rs modes/ids.rs thread_cache/lot.rs",
        None,
        [("relaxed", Fault::IssueRelaxed, "no segment")]
    ),
    model!(
        modes::read_against_begin,
        "modes/record.rs",
        None,
        [("relaxed", Fault::RecordRelaxed, "callers of two allocations")]
    ),
    model!(
        modes::read_against_resize,
        "modes/record.rs",
        Some(3),
        [("relaxed", Fault::SizeRelaxed, "a free of two allocations")]
    ),
    model!(
        modes::read_against_end,
        "modes/record.rs",
        Some(3),
        [("relaxed", Fault::RecordRelaxed, "a free of two allocations")]
    ),
    model!(
        modes::forget_all_against_remember,
        "modes/recent.rs",
        None,
        [("relaxed", Fault::RememberRelaxed, "Causality violation")]
    ),
    model!(
        modes::forget_runs_against_remember,
        "modes/recent.rs",
        None,
        [("relaxed", Fault::RememberRelaxed, "Causality violation")]
    ),
    model!(
        modes::forget_stuck_against_keep_further,
        "modes/recent.rs",
        None,
        [("relaxed", Fault::RememberRelaxed, "Causality violation")]
    ),
    model!(
        modes::keep_further_against_remember,
        "modes/recent.rs",
        None,
        [
            ("relaxed", Fault::RememberRelaxed, "Causality violation"),
            ("stores", Fault::FurtherStore, "each free is had once")
        ]
    ),
    model!(modes::two_remember, "modes/recent.rs", None, [("stores", Fault::TurnStore, "there is room for two")]),
    model!(
        modes::two_remember_too_much,
        "modes/recent.rs",
        None,
        [("relaxed", Fault::RememberRelaxed, "Causality violation")]
    ),
    model!(
        modes::two_remember_too_many_runs,
        "modes/recent.rs",
        None,
        [("relaxed", Fault::RememberRelaxed, "Causality violation")]
    ),
    model!(
        modes::look_against_remember,
        "modes/recent.rs",
        None,
        [
            ("relaxed", Fault::RememberRelaxed, "Causality violation"),
            ("puts_back_relaxed", Fault::PutBackRelaxed, "Causality violation"),
            ("puts_back_blindly", Fault::PutBackStore, "each free is had once")
        ]
    ),
    model!(
        modes::look_against_forget_all,
        "modes/recent.rs",
        None,
        [("puts_back_relaxed", Fault::PutBackRelaxed, "Causality violation")]
    ),
    model!(
        modes::end_against_begin,
        "modes/record.rs",
        None,
        [("relaxed", Fault::LiveRelaxed, "what is ended is one allocation")]
    ),
    model!(
        modes::forget_against_begin,
        "modes/record.rs",
        None,
        [("stores", Fault::ForgetStore, "the second is there")]
    ),
    model!(modes::two_are_guarded, "modes/mod.rs", None, [("stores", Fault::GuardStore, "there is room for two")]),
    model!(modes::two_remove, "modes/index.rs", None, [("stores", Fault::IndexStore, "one has removed it")]),
    model!(modes::two_end, "modes/record.rs", None, [("stores", Fault::EndStore, "one has freed it")]),
    model!(
        modes::end_against_resize,
        "modes/record.rs modes/resize.rs modes/mod.rs",
        Some(3),
        [
            ("stores", Fault::ResizeStore, "it ends with the size that it has"),
            ("early", Fault::SizeEarly, "it ends with the size that it has"),
            ("unnamed", Fault::HeldRelaxed, "it ends with the size that it has"),
            ("relaxed", Fault::ResizeRelaxed, "it ends with the size that it has")
        ]
    ),
    model!(
        modes::two_resize,
        "modes/record.rs modes/resize.rs",
        Some(2),
        [("stores", Fault::ResizeStore, "each goes on from the other")]
    ),
    model!(
        modes::walk_against_resize,
        "modes/record.rs modes/resize.rs modes/mod.rs",
        Some(3),
        [("once", Fault::ReadOnce, "what lives throughout is walked over")]
    ),
    model!(
        modes::two_end_what_is_left,
        "modes/record.rs modes/resize.rs modes/mod.rs",
        Some(1),
        [("stores", Fault::EndStore, "one has freed it")]
    ),
    model!(
        modes::two_lose_their_records,
        "modes/places.rs",
        None,
        [("stores", Fault::UncountStore, "each is counted once")]
    ),
    model!(
        modes::two_make_places,
        "modes/places.rs",
        None,
        [("uses_the_loser", Fault::PlotStore, "each place has its word")]
    ),
    model!(
        modes::find_against_begin,
        "modes/mod.rs modes/record.rs modes/places.rs",
        None,
        [("relaxed", Fault::PlaceRelaxed, "no segment")]
    ),
    model!(
        modes::find_against_reuse,
        "modes/mod.rs modes/record.rs modes/places.rs modes/ids.rs thread_cache/lot.rs",
        Some(3),
        [("relaxed", Fault::RecordRelaxed, "a record of two allocations")]
    ),
    model!(
        modes::ids_against_each_other,
        "modes/ids.rs thread_cache/lot.rs modes/index.rs",
        Some(3),
        [("store", Fault::BlockStore, "an ID is found while it lives")]
    ),
    model!(
        modes::two_open_without_memory,
        "modes/ids.rs modes/index.rs",
        Some(3),
        [("late", Fault::OpenLate, "an ID is found while it lives")]
    ),
    model!(
        modes::ids_against_the_last,
        "modes/ids.rs thread_cache/lot.rs",
        None,
        [("early", Fault::BlockEarly, "an ID is found while it lives")]
    ),
    model!(
        modes::forget_against_remember,
        "modes/recent.rs",
        None,
        [("stores", Fault::ForgetStore, "Causality violation")]
    ),
    model!(
        modes::forget_elsewhere_against_remember,
        "modes/recent.rs",
        None,
        [("stores", Fault::ForgetStore, "each free is had once")]
    ),
    model!(page_map::two_make_a_leaf, "page_map.rs", None, [("uses_the_loser", Fault::MapLeaf, "entries are lost")]),
    model!(
        page_map::look_up_against_open,
        "page_map.rs span/mod.rs span/store.rs span/carve.rs",
        None,
        [("relaxed", Fault::MapPublish, "Causality violation")]
    ),
    model!(
        pool::refill_against_refill_and_drain,
        "pool/mod.rs pool/full.rs pool/magazine.rs stack.rs",
        Some(3),
        [("tag", Fault::StackTag, "Causality violation"), ("push", Fault::StackPush, "Causality violation")]
    ),
    model!(
        pool::two_drain,
        "pool/mod.rs pool/full.rs pool/magazine.rs stack.rs",
        None,
        [("tells_once", Fault::HeightOnce, "heights agree"), ("push", Fault::StackPush, "the pool has room")]
    ),
    model!(
        single::singles_pass_between_threads,
        "heap/mod.rs heap/single.rs pool/full.rs pool/shards.rs pool/magazine.rs stack.rs",
        Some(3),
        [("push", Fault::StackPush, "Causality violation")]
    ),
    model!(
        pool::magazines_pass_between_shards,
        "pool/shards.rs pool/full.rs pool/magazine.rs stack.rs",
        Some(3),
        [("forgets", Fault::ShardForgotten, "heights agree"), ("push", Fault::StackPush, "Causality violation")]
    ),
    model!(
        pool::chunks_pass_between_threads,
        "pool/mod.rs pool/full.rs pool/magazine.rs stack.rs",
        Some(3),
        [("push", Fault::StackPush, "Causality violation")]
    ),
    model!(
        sampler::begin_against_end,
        "sampler/mod.rs sampler/site.rs modes/index.rs",
        None,
        [("unpublished", Fault::IndexRelaxed, "a node that is none")]
    ),
    model!(
        sampler::walk_against_begin,
        "sampler/mod.rs sampler/site.rs",
        None,
        [("relaxed", Fault::SiteRelaxed, "Causality violation")]
    ),
    model!(
        sampler::two_end_a_sample,
        "sampler/mod.rs modes/index.rs",
        None,
        [("stores", Fault::IndexStore, "one has ended it")]
    ),
    model!(
        sampler::two_begin_samples,
        "sampler/mod.rs sampler/site.rs",
        None,
        [("stores", Fault::FilterStore, "each is found")]
    ),
    model!(
        sampler::end_against_begin,
        "sampler/mod.rs modes/index.rs",
        None,
        [("late", Fault::SampleLate, "sums are those of the samples")]
    ),
    model!(
        sampler::two_begin_without_sites,
        "sampler/mod.rs sampler/site.rs",
        None,
        [("late", Fault::SampleLate, "a site of its own")]
    ),
    model!(
        sampler::two_begin_without_samples,
        "sampler/mod.rs",
        Some(3),
        [("stores", Fault::FilterStore, "it is found")]
    ),
    model!(
        sampler::end_against_restart,
        "sampler/mod.rs sampler/site.rs modes/index.rs",
        Some(3),
        [("stores", Fault::IndexStore, "each sample is given back once")]
    ),
    model!(stock::two_take, "os/stock.rs", None, [("stores", Fault::StockTake, "Causality violation")]),
    model!(stock::take_against_give, "os/stock.rs", None, [("relaxed", Fault::StockGive, "Causality violation")]),
    model!(
        stock::take_against_hole,
        "os/stock.rs",
        None,
        [("stores", Fault::HoleTake, "Causality violation"), ("relaxed", Fault::HoleGive, "Causality violation")]
    ),
    model!(stock::two_leave_holes, "os/stock.rs", None, [("stores", Fault::HoleStore, "no hole is lost")]),
    model!(stock::take_against_add, "os/stock.rs", None, [("relaxed", Fault::StockAdd, "Causality violation")]),
    model!(sync::load_against_load_and_store, "", None, [("found", Fault::Outcome, "the outcome is found")]),
    model!(sync::exchange_against_exchange, "", None, [("found", Fault::Outcome, "the outcome is found")]),
    model!(sync::store_buffers, "", None, [("found", Fault::Outcome, "the outcome is found")]),
    model!(sync::message_passes, "", None, [("found", Fault::Outcome, "the outcome is found")]),
    model!(
        thread_cache::two_steal,
        "thread_cache.rs thread_cache/spares.rs thread_cache/bin.rs",
        None,
        [("copies", Fault::StealCopies, "Causality violation")]
    ),
    model!(
        thread_cache::steal_against_put_and_take,
        "thread_cache.rs thread_cache/spares.rs thread_cache/bin.rs",
        None,
        [
            ("copies", Fault::StealCopies, "no spare is left"),
            ("relaxed", Fault::SparePut, "each magazine is in one place")
        ]
    ),
    model!(
        stack::pop_against_pop_pop_push,
        "stack.rs",
        None,
        [("tag", Fault::StackTag, "Causality violation"), ("push", Fault::StackPush, "Causality violation")]
    ),
    model!(stack::pushes_and_pops, "stack.rs", None, [("push", Fault::StackPush, "Causality violation")]),
    model!(stack::two_push_one_pops, "stack.rs", None, [("push", Fault::StackPush, "Causality violation")]),
    model!(slab::two_make_a_segment, "slab.rs", None, [("store", Fault::SlabStore, "a node is not where it was")]),
    model!(slab::reach_against_reach_and_walk, "slab.rs", None, [("segment", Fault::SlabReach, "no segment")]),
    model!(
        slab::two_take_several,
        "slab.rs stack.rs",
        None,
        [("fresh", Fault::SlabFresh, "a node is not where it was")]
    ),
    model!(
        slab::take_against_give,
        "slab.rs stack.rs",
        None,
        [("push", Fault::StackPush, "each node is in one place")]
    ),
    model!(
        slab::take_against_give_elsewhere,
        "slab.rs stack.rs",
        None,
        [("push", Fault::StackPush, "Causality violation")]
    ),
    model!(
        span::restore_near_against_carve,
        "pool/order.rs span/restore.rs span/carve.rs pool/mod.rs",
        None,
        [
            ("counts_first", Fault::RestoreOrder, "fewer chunks"),
            ("relaxed_bit", Fault::RestoreBit, "Causality violation")
        ]
    ),
    model!(
        span::restore_against_carve,
        "span/restore.rs span/carve.rs span/mod.rs pool/mod.rs",
        None,
        [
            ("counts_first", Fault::RestoreOrder, "fewer chunks"),
            ("relaxed_bit", Fault::RestoreBit, "Causality violation"),
            ("takes_bits", Fault::CarveBits, "overflow"),
            ("lists_always", Fault::RestoreListsAlways, "sound"),
            ("holds_blindly", Fault::HoldStore, "sound"),
            ("unholds_blindly", Fault::UnholdStore, "sound")
        ]
    ),
    model!(
        span::carve_against_carve,
        "span/carve.rs pool/mod.rs",
        None,
        [("stays_linked", Fault::HoldLinked, "each node is given back once")]
    ),
    model!(
        span::restore_against_restore,
        "span/restore.rs span/store.rs pool/mod.rs",
        None,
        [("lists_always", Fault::RestoreListsAlways, "sound")]
    ),
    model!(
        span::retire_against_carve,
        "span/carve.rs span/store.rs span/restore.rs pool/mod.rs",
        Some(3),
        [("closes_blindly", Fault::CloseGives, "sound")]
    ),
    model!(
        span::retire_against_pop,
        "span/carve.rs span/store.rs span/restore.rs pool/mod.rs",
        None,
        [("closes_blindly", Fault::CloseGives, "sound")]
    ),
    model!(
        span::purge_against_carve,
        "span/purge.rs span/carve.rs heap/upkeep.rs pool/mod.rs",
        None,
        [("unheld", Fault::PurgeUnheld, "Causality violation")]
    ),
    model!(
        span::visit_against_carve,
        "span/visit.rs span/purge.rs span/carve.rs pool/mod.rs",
        None,
        [("unheld", Fault::PurgeUnheld, "Causality violation")]
    ),
    model!(
        span::visit_against_restore,
        "span/visit.rs span/purge.rs span/restore.rs span/store.rs",
        None,
        [("relaxed_bit", Fault::VisitBit, "Causality violation")]
    ),
    model!(
        span::purge_against_restore,
        "span/purge.rs span/restore.rs span/store.rs heap/upkeep.rs",
        None,
        [("relaxed_bit", Fault::PurgeBit, "Causality violation")]
    ),
    model!(
        span::retire_unpurged_against_take,
        "span/store.rs",
        Some(3),
        [("stores", Fault::RetireStore, "the heap is sound")]
    ),
    model!(
        span::purge_against_pop_and_retire,
        "span/purge.rs span/carve.rs span/store.rs pool/mod.rs",
        Some(3),
        [("unheld", Fault::PurgeUnheld, "Causality violation")]
    ),
    model!(slab::walk_against_take, "slab.rs", None, [("segment", Fault::SlabSegment, "no segment")]),
    model!(
        heap::two_shelve,
        "heap/shelf.rs heap/large.rs",
        Some(3),
        [("relaxed", Fault::ShelfPut, "Causality violation")]
    ),
    model!(
        heap::look_up_against_free,
        "heap/large.rs page_map.rs",
        Some(3),
        [("relaxed", Fault::GiveRelaxed, "Causality violation")]
    ),
    model!(heap::shrink_huge_against_map, "heap/huge.rs", None, [("stores", Fault::HugeStore, "the heap is sound")]),
    model!(
        heap::leave_against_claim,
        "heap/adopt.rs heap/mod.rs thread_cache.rs thread_cache/spares.rs thread_cache/bin.rs",
        None,
        [("early", Fault::LeaveEarly, "what nobody has is empty")]
    ),
    model!(
        heap::settle_against_claim,
        "heap/adopt.rs heap/mod.rs thread_cache.rs thread_cache/spares.rs thread_cache/bin.rs",
        None,
        [("copies", Fault::StealCopies, "what nobody has is empty")]
    ),
    model!(page_map::two_take_an_entry, "page_map.rs", None, [("stores", Fault::MapTake, "one has taken it")]),
    model!(
        heap::stats_against_load,
        "heap/stats.rs thread_cache.rs thread_cache/spares.rs thread_cache/bin.rs slab.rs pool/magazine.rs",
        Some(3),
        [("relaxed", Fault::LoadRelaxed, "no segment")]
    ),
    model!(
        heap::stats_against_drain,
        "heap/stats.rs pool/mod.rs slab.rs stack.rs pool/magazine.rs",
        None,
        [("push", Fault::StackPush, "no segment")]
    ),
    model!(
        heap::stats_against_second_drain,
        "heap/stats.rs pool/mod.rs stack.rs",
        Some(3),
        [("push", Fault::StackPush, "no segment")]
    ),
    model!(
        heap::settle_against_birth,
        "heap/adopt.rs thread_cache.rs thread_cache/spares.rs thread_cache/bin.rs",
        Some(3),
        [("unheard", Fault::JoinUnheard, "is taken from it")]
    ),
    model!(
        span::restore_against_retire_and_purge,
        "span/restore.rs span/store.rs pool/mod.rs arena/region.rs",
        Some(3),
        [("relaxed", Fault::GiveRelaxed, "Causality violation")]
    ),
    model!(
        span::retire_against_reuse,
        "span/carve.rs span/store.rs span/mod.rs pool/mod.rs",
        Some(3),
        [("closes_blindly", Fault::CloseGives, "")]
    ),
    model!(
        span::purge_against_open,
        "span/purge.rs span/carve.rs span/store.rs span/mod.rs",
        None,
        [("unheld", Fault::PurgeUnheld, "Causality violation")]
    ),
    model!(
        thread_cache::walk_against_put_and_take,
        "thread_cache.rs thread_cache/spares.rs thread_cache/bin.rs",
        None,
        [("relaxed", Fault::LinkRelaxed, "no segment")]
    ),
    model!(
        thread_cache::walk_against_put_empty,
        "thread_cache.rs thread_cache/spares.rs thread_cache/bin.rs",
        None,
        [("relaxed", Fault::LinkRelaxed, "no segment")]
    ),
    model!(
        thread_cache::look_against_load,
        "thread_cache.rs thread_cache/spares.rs thread_cache/bin.rs",
        None,
        [("relaxed", Fault::NameRelaxed, "bounds, and no name")]
    ),
    model!(
        thread_cache::look_against_unload,
        "thread_cache.rs thread_cache/spares.rs thread_cache/bin.rs",
        None,
        [("relaxed", Fault::NameRelaxed, "bounds, and no name")]
    ),
    model!(
        thread_cache::recount_against_thefts,
        "thread_cache.rs thread_cache/charge.rs thread_cache/spares.rs",
        None,
        [("stores", Fault::RobbedStore, "what was stolen is charged")]
    ),
    model!(
        thread_cache::mark_against_put_back,
        "thread_cache.rs thread_cache/spares.rs",
        None,
        [("stores", Fault::MarkBack, "spares that no mark tells of")]
    ),
    model!(
        thread_cache::mark_against_put,
        "thread_cache.rs thread_cache/spares.rs",
        None,
        [("stores", Fault::MarkTake, "spares that no mark tells of")]
    ),
    model!(
        thread_cache::look_against_push_and_load,
        "thread_cache.rs thread_cache/spares.rs thread_cache/bin.rs",
        None,
        [("relaxed", Fault::TopRelaxed, "Causality violation")]
    ),
];

/// A scenario and the faults it must notice.
struct Model {
    name: &'static str,
    /// Separated by spaces. For a mutant of one of these files the model is run.
    files: &'static str,
    scenario: fn(),
    bound: Option<usize>,
    twins: &'static [(&'static str, Fault, &'static str)],
}

impl Model {
    fn bound(&self) -> String {
        self.bound.map_or("no bound".into(), |bound| format!("bound {bound}"))
    }
}

macro_rules! model {
    ($module:ident :: $name:ident, $files:expr, $bound:expr, $twins:expr) => {
        Model {
            name: concat!(stringify!($module), "::", stringify!($name)),
            files: $files,
            scenario: $module::$name,
            bound: $bound,
            twins: &$twins,
        }
    };
}
use model;

/// Writes to a chunk, as whoever holds it may.
fn touch(chunk: usize, class: Class) {
    fake::touch(chunk, INFO[class].size);
}

/// For a carve: calls `give` with each chunk of a run.
fn each(class: Class, mut give: impl FnMut(usize)) -> impl FnMut(usize, usize) {
    move |first, run| (0..run).for_each(|at| give(first + at * INFO[class].size))
}

/// Starts a thread of the model with a share in `world`.
fn spawn<T: 'static, R: 'static>(world: &Rc<T>, run: impl FnOnce(&T) -> R + 'static) -> Thread<R> {
    let world = Rc::clone(world);
    crate::sync::spawn(move || run(&world))
}

/// What loom says where it gave up instead of finding something: no twin may pass for failing in this way.
const NOT_FINDINGS: [&str; 3] = [
    "Model exceeded maximum number of branches",
    "cannot access Loom execution state",
    "threads.len() < self.max_threads",
];

/// A model, or one of its twins, to be run.
#[derive(Clone, Copy)]
struct Task {
    model: &'static Model,
    twin: Option<usize>,
}

/// Runs what the arguments ask for; returns only if nothing failed.
pub fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ok = match arguments[..] {
        ["--one", name] => Task::named(name).run_here(),
        ["--list"] => {
            MODELS.iter().for_each(|model| println!("{}, {}: {}", model.name, model.bound(), model.files));
            true
        }
        [] => run_all(None),
        [filter] if !filter.starts_with('-') => run_all(Some(filter)),
        _ => {
            eprintln!("usage: cargo loom [FILTER | --list]");
            false
        }
    };
    if !ok {
        process::exit(1);
    }
}

fn run_all(filter: Option<&str>) -> bool {
    let tasks: Vec<Task> = Task::all().filter(|task| task.name().contains(filter.unwrap_or(""))).collect();
    let workers = thread::available_parallelism().map_or(1, |processors| processors.get());
    let models = tasks.iter().filter(|task| task.twin.is_none()).count();
    println!("{models} models and {} twins, {workers} at a time", tasks.len() - models);

    let start = Instant::now();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(task) = tasks.get(next.fetch_add(1, Relaxed)) {
                    let result = task.run_apart();
                    results.lock().unwrap().push((*task, result));
                }
            });
        }
    });

    let results = results.into_inner().unwrap();
    let passed = results.iter().filter(|(_, passed)| *passed).count();
    let failed = results.len() - passed;
    let ran = results.iter().filter(|(task, _)| task.twin.is_none()).count();
    println!("{passed} passed, {failed} failed, {:.1} s", start.elapsed().as_secs_f64());
    if ran < MODELS.len() || MODELS.is_empty() {
        println!("filtered: {ran} of {} models ran", MODELS.len());
    }
    let complete = ran == MODELS.len() && ran > 0;
    let partial_is_fine = filter.is_some() && !results.is_empty() && env::var_os("CI").is_none();
    table_is_sound() && failed == 0 && (complete || partial_is_fine)
}

/// Each model once, and each with a twin.
fn table_is_sound() -> bool {
    let mut sound = true;
    for (at, model) in MODELS.iter().enumerate() {
        if model.twins.is_empty() {
            println!("model {} has no twin: nothing shows that it can fail", model.name);
            sound = false;
        }
        if MODELS[..at].iter().any(|other| other.name == model.name) {
            println!("model {} stands in the table twice", model.name);
            sound = false;
        }
    }
    sound
}

impl Task {
    fn all() -> impl Iterator<Item = Task> {
        MODELS.iter().flat_map(|model| {
            let twins = (0..model.twins.len()).map(Some);
            [None].into_iter().chain(twins).map(move |twin| Task { model, twin })
        })
    }

    fn named(name: &str) -> Task {
        Task::all().find(|task| task.name() == name).expect("no such model or twin")
    }

    fn name(&self) -> String {
        match self.twin {
            None => self.model.name.into(),
            Some(twin) => format!("{}/{}", self.model.name, self.model.twins[twin].0),
        }
    }

    /// Explores the model in this process and says how many executions that took.
    fn run_here(&self) -> bool {
        static EXECUTIONS: AtomicUsize = AtomicUsize::new(0);
        if let Some(twin) = self.twin {
            crate::sync::plant(self.model.twins[twin].1);
        }
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = self.model.bound;
        builder.max_branches = 10_000;
        // What the environment says must not cut an exploration short.
        builder.max_duration = None;
        builder.max_permutations = None;
        let scenario = self.model.scenario;
        builder.check(move || {
            EXECUTIONS.fetch_add(1, Relaxed);
            begin();
            fake::begin();
            scenario();
        });
        println!("executions: {}", EXECUTIONS.load(Relaxed));
        true
    }

    /// Runs in a process of its own, prints how that went, and says whether it went as it must.
    fn run_apart(&self) -> bool {
        let start = Instant::now();
        let executable = env::current_exe().expect("this executable has a path");
        let output = Command::new(executable).args(["--one", &self.name()]).output().expect("cannot start a process");
        let verdict = match self.twin {
            None => model_verdict(&output),
            Some(twin) => twin_verdict(&output, self.model.twins[twin].2),
        };
        let bound = self.model.bound();
        let seconds = start.elapsed().as_secs_f64();
        let (word, said) = match &verdict {
            Ok(said) => ("ok", said),
            Err(said) => ("FAILED", said),
        };
        // One print a task: the lines of two must not mix.
        println!("{:48} {word:6} {bound}, {seconds:.2} s, {said}", self.name());
        verdict.is_ok()
    }
}

/// A model must come to its end, after more than one execution: else there was nothing to interleave.
fn model_verdict(output: &Output) -> Result<String, String> {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let executions = stdout.lines().find_map(|line| line.strip_prefix("executions: ")?.parse::<usize>().ok());
    match executions {
        Some(executions) if output.status.success() && executions > 1 => Ok(format!("{executions} executions")),
        Some(executions) if output.status.success() => Err(format!("{executions} execution: no concurrency in it")),
        _ => Err(format!("{}\n{}", output.status, everything(output))),
    }
}

/// A twin must end in a panic, or in the abort that a panic amid unwinding makes, that says what was planted.
fn twin_verdict(output: &Output, says: &str) -> Result<String, String> {
    use std::os::unix::process::ExitStatusExt;
    let stderr = String::from_utf8_lossy(&output.stderr);
    // What unwinding breaks after the first panic says nothing.
    let first = stderr.split("panicked at").nth(1).unwrap_or("");
    let panicked = output.status.code() == Some(101) || output.status.signal() == Some(libc::SIGABRT);
    if output.status.success() {
        Err("the twin did not fail".into())
    } else if !panicked || NOT_FINDINGS.iter().any(|words| first.contains(words)) {
        Err(format!("the twin found nothing, {}\n{}", output.status, everything(output)))
    } else if !first.contains(says) {
        Err(format!("the twin failed without saying {says:?}\n{}", everything(output)))
    } else {
        let message = first.lines().skip(1).find(|line| line.contains(says)).unwrap_or("").trim();
        Ok(format!("failed as it must: {message}"))
    }
}

fn everything(output: &Output) -> String {
    let texts = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)];
    let lines = texts.iter().flat_map(|text| text.lines());
    lines.map(|line| format!("    {line}\n")).collect()
}
