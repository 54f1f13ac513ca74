//! Atomics and cells. The only module that knows about loom.
//!
//! All modules above take their shared state from here, so that the models in `loom_tests` check the code that is
//! shipped. Two types need a word:
//!
//! * [`Slot`] holds what a node carries: the addresses in a magazine, its count. Its owner is whoever holds the node.
//!   Shipped, it is a relaxed atomic (statistics and the child of a fork may read another's magazine); under loom it
//!   is an `UnsafeCell`, so a hand-over whose ordering is too weak fails the model.
//! * [`Fault`] names a fault that a model's twin plants: the proof that the model can fail. Shipped, [`planted`] is
//!   `false` at compile time.
//!
//! [`point`] names the middle of slow paths, for a test that stops threads there; shipped, it is nothing.

mod counter;
#[cfg(millpond_loom)]
mod model;
#[cfg(not(millpond_loom))]
mod native;
pub(crate) mod points;
mod raw;
#[cfg(all(test, not(millpond_loom)))]
pub(crate) mod stepped;

pub(crate) use counter::{Counter, Quiet};
#[cfg(millpond_loom)]
pub(crate) use model::*;
#[cfg(not(millpond_loom))]
pub(crate) use native::*;
pub(crate) use points::{Point, point};
pub(crate) use raw::Raw;

/// The faults that the models' twins plant, one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(millpond_loom), allow(dead_code))]
#[repr(u8)]
pub(crate) enum Fault {
    /// None: the code as it ships.
    None,
    /// A stack's tag stays as it was.
    StackTag,
    /// A stack's push publishes with a relaxed exchange.
    StackPush,
    /// A magazine is told its height once, whatever becomes of the exchange.
    HeightOnce,
    /// Who learns of a shard forgets those after it.
    ShardForgotten,
    /// Carve takes the bits that it sees instead of what the count says.
    CarveBits,
    /// Whoever pops a span holds it by a plain store.
    HoldStore,
    /// Whoever pops a span leaves it marked as listed.
    HoldLinked,
    /// Restore adds to the count before it sets the bits.
    RestoreOrder,
    /// Restore sets a bit with a relaxed operation.
    RestoreBit,
    /// A holder that leaves nothing free unlinks a span by a plain store.
    UnholdStore,
    /// Restore lists a span again without looking at whether it is listed.
    RestoreListsAlways,
    /// Free OS pages of a span are purged without holding it.
    PurgeUnheld,
    /// Whoever visits free chunks looks at a span's bits with a relaxed load.
    VisitBit,
    /// Purge looks at a span's bits with a relaxed load.
    PurgeBit,
    /// A retired span's node is given back although a stack still has it.
    CloseGives,
    /// What was purged of a span whose rest cannot be is counted by load and store.
    RetireStore,
    /// A claim of a run that failed half-way is not rolled back.
    ClaimRollback,
    /// A claim takes a word by load and store.
    ClaimStore,
    /// A run is given back by a relaxed operation.
    GiveRelaxed,
    /// Whoever frees pages does not say how long the free run is.
    RaiseNot,
    /// Whoever frees pages looks at the words beside them without a fence.
    LookRelaxed,
    /// A search that lowers a bound does not look again.
    LowerBlindly,
    /// An index's level that lost the race is used all the same.
    IndexGrow,
    /// An index publishes an entry by a relaxed exchange.
    IndexRelaxed,
    /// An entry of an index is removed by load and store.
    IndexStore,
    /// A record is written by relaxed stores.
    RecordRelaxed,
    /// Where a record lies is said before the record is made.
    PlaceRelaxed,
    /// A table of places that lost the race is used all the same.
    PlotStore,
    /// That a place has no record any more is counted by load and store.
    UncountStore,
    /// A block of IDs is taken over by load and store.
    BlockStore,
    /// A block of IDs is said to be through before it is.
    BlockEarly,
    /// A free is taken out, or forgotten, by load and store.
    ForgetStore,
    /// A free that was looked at is put back by a store.
    PutBackStore,
    /// A free that was looked at is put back by a relaxed exchange.
    PutBackRelaxed,
    /// Turns in a queue are counted by load and store.
    TurnStore,
    /// What is needed of a record for a free is read by relaxed loads.
    LiveRelaxed,
    /// What is said of the pages that are given back as zeros is said by load and store.
    GiveStore,
    /// What a freed allocation is kept back as is published by a relaxed exchange.
    RememberRelaxed,
    /// What has to be kept back further is put back by load and store.
    FurtherStore,
    /// An ID's record is named by a relaxed store.
    IssueRelaxed,
    /// A block of IDs that could not be begun loses its number after it was given back.
    OpenLate,
    /// A mark is set by load and store.
    MarkStore,
    /// Guarded allocations are counted by load and store.
    GuardStore,
    /// Bytes of huge allocations are counted by load and store.
    HugeStore,
    /// Samples are counted by load and store.
    FilterStore,
    /// A sample's address is cleared after the sample was given back.
    SampleLate,
    /// The frames of a sampler's site are published by a relaxed store.
    SiteRelaxed,
    /// A record is ended by load and store.
    EndStore,
    /// A record is taken in hand for a resize by load and store.
    ResizeStore,
    /// Who resizes a record is not published with that.
    HeldRelaxed,
    /// A resize ends, and a free goes on from it, by relaxed exchanges.
    ResizeRelaxed,
    /// The size that a resize gives is written by a relaxed store.
    SizeRelaxed,
    /// A free goes by the size that it has seen before.
    SizeEarly,
    /// Whoever reads a record does not look again when a resize began or ended.
    ReadOnce,
    /// A bit of a bitset is set by a relaxed operation.
    BitRelaxed,
    /// A bit of a bitset is set by load and store.
    BitStore,
    /// A budget is charged by load and store.
    ChargeStore,
    /// A change of what a reclaim finds is counted by a relaxed operation.
    ChangeRelaxed,
    /// That a soft limit was passed is taken back by a store.
    UnsayStore,
    /// An arena is published by a relaxed exchange.
    ArenaPublish,
    /// An arena's address space is given up without claiming its pages.
    AbandonUnclaimed,
    /// Whoever sees that an arena was abandoned revives it, without an exchange.
    ReviveBoth,
    /// That an arena's address space was given up is said by a relaxed store.
    GoneRelaxed,
    /// A page is purged without being claimed.
    PurgeUnclaimed,
    /// A page-map entry is published by a relaxed store before its span is made.
    MapPublish,
    /// A page-map leaf that lost the race is used all the same.
    MapLeaf,
    /// A page-map entry is taken by load and store.
    MapTake,
    /// How far another thread's magazine is filled is read by a relaxed load.
    TopRelaxed,
    /// The mark that there are spares is taken by load and store.
    MarkTake,
    /// That mark is put back by a store.
    MarkBack,
    /// The mark that spares were stolen is taken by a store.
    RobbedStore,
    /// A thief leaves the spare in place when it takes it.
    StealCopies,
    /// A bin's loaded magazine is named by a relaxed store.
    LoadRelaxed,
    /// Whether a bin's magazine is named is read by relaxed loads.
    NameRelaxed,
    /// A spare, or an empty magazine, is linked by a relaxed store.
    LinkRelaxed,
    /// The owner's spare is published by a relaxed store.
    SparePut,
    /// A run is put on the shelf by a relaxed exchange.
    ShelfPut,
    /// A run is taken from the shelf by load and store.
    ShelfTake,
    /// A thread that leaves hands over its block before its bins are empty.
    LeaveEarly,
    /// A thread that joins is alive before it has been heard of.
    JoinUnheard,
    /// Whoever looked at a vanished thread's cache adopts it, without an exchange.
    AdoptBoth,
    /// A thread claims a cache of a heap without an exchange.
    ClaimsBlindly,
    /// A forking thread is heard of in the child before its cache names it.
    HeardEarly,
    /// The words by which a child tells itself from its parent are published by a relaxed exchange.
    HearRelaxed,
    /// A piece of the stock is added by a relaxed exchange.
    StockAdd,
    /// Bytes are taken from the stock by load and store.
    StockTake,
    /// Bytes go back to the stock by a relaxed exchange.
    StockGive,
    /// A hole in the stock is taken by load and store.
    HoleTake,
    /// A hole in the stock is left by a relaxed exchange.
    HoleGive,
    /// A hole in the stock is left by load and store.
    HoleStore,
    /// A slab hands out an index before its segment is in place.
    SlabSegment,
    /// A slab says that an index is there before its segments are.
    SlabReach,
    /// Whether a node is made is seen by a relaxed load.
    ReachedRelaxed,
    /// A slab's segment that lost the race is used all the same.
    SlabStore,
    /// What is fresh is taken without an exchange.
    SlabFresh,
    /// A heap is entered by a relaxed store.
    EnterRelaxed,
    /// A heap is left by a relaxed operation.
    LeaveRelaxed,
    /// A heap that was left is held.
    HoldsLeft,
    /// A heap is let go by a relaxed operation.
    LetGoRelaxed,
    /// An outcome that must be found is forbidden: for the models of the tools themselves.
    Outcome,
}

const _: () = assert!(Fault::None as u8 == 0);
