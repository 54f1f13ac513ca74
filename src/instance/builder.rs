//! What a heap is to be like: each wish is checked when the heap is built.

use super::{Fallback, Heap, Inner, UNSERVED, map};
use crate::bitset::Bitset;
use crate::closure::Closure;
use crate::config::{ADDRESS_BITS, CLASS_MAX, PAGE};
use crate::global::{HEAP, HEAPS};
use crate::log::Log;
use crate::modes::Hear;
use crate::report::{Freed, Mode};
use crate::size_class::{self, CLASSES};
use crate::sync::{AtomicU64, Counter, Ordering};
use core::fmt;
use core::mem::MaybeUninit;

/// Which chunk sizes a heap serves; what is larger gets whole pages of 64 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoolTable<'a> {
    /// All classes: 8 B apart up to 48 B, then 64 B and four to a doubling, up to 256 KiB.
    #[default]
    Default,
    /// Eight pools: 32 B, 64 B, 256 B, 1 KiB, 4 KiB, 16 KiB, 64 KiB and 256 KiB. Easy to follow; loses up to three quarters
    /// of a chunk to rounding.
    Classic,
    /// Sizes of your own, in bytes and rising, up to 256 KiB; each is rounded up to the next class of `Default`.
    Sizes(&'a [usize]),
}

const CLASSIC: [usize; 8] = [32, 64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10];

/// Why a heap cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildError {
    /// This capacity, in bytes, is less than one page of 64 KiB, or more than there are addresses.
    Capacity(usize),
    /// This soft limit, in bytes, is less than one page of 64 KiB, or not below the capacity.
    SoftLimit(usize),
    /// The table of pools is empty, or its size at this index is zero, above 256 KiB, or does not lie above the class of the
    /// one before.
    Pools(usize),
    /// The system has no memory for the heap's tables.
    Memory,
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Capacity(bytes) if bytes < PAGE => {
                write!(f, "a capacity of {bytes} bytes is less than a page of {PAGE}")
            }
            Self::Capacity(bytes) => write!(f, "a capacity of {bytes} bytes is more than there are addresses"),
            Self::SoftLimit(bytes) if bytes < PAGE => {
                write!(f, "a soft limit of {bytes} bytes is less than a page of {PAGE}")
            }
            Self::SoftLimit(bytes) => {
                write!(f, "a soft limit of {bytes} bytes, in whole pages of {PAGE}, is not below the heap's capacity")
            }
            Self::Pools(at) => write!(
                f,
                "the table of pools is empty, or its size at index {at} is zero, above {CLASS_MAX}, or not above the class of the one before"
            ),
            Self::Memory => f.write_str("there is no memory for the heap's tables"),
        }
    }
}

impl core::error::Error for BuildError {}

/// How many heaps there have been: their numbers are never used again.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// In whose heap an address lies, in words.
#[unsafe(link_section = ".millpond_cold")]
fn whose(address: usize) -> Option<&'static str> {
    match HEAP.has(address) {
        true => Some("the program's heap"),
        false => HEAPS.have(address).then_some("another heap"),
    }
}

/// That zeros mean none.
const _: () = {
    let fallback = MaybeUninit::<Option<Fallback>>::zeroed();
    let soft = MaybeUninit::<Option<Tell>>::zeroed();
    let hear = MaybeUninit::<Option<Hear>>::zeroed();
    // SAFETY: a pointer that is not null is in each, and none is where it is null: were it not so, this would not compile.
    unsafe {
        assert!(fallback.assume_init_ref().is_none());
        assert!(soft.assume_init_ref().is_none() && hear.assume_init_ref().is_none());
    }
};

/// Who is told of a soft limit: the heap, and the bytes in use.
#[derive(Clone)]
pub(super) struct Tell(Closure<unsafe fn(*const (), &Heap, usize)>);

impl Tell {
    fn new<F: Fn(&Heap, usize) + Clone + Send + Sync + 'static>(tell: F) -> Self {
        /// # Safety
        /// An `F` lies there.
        unsafe fn call<F: Fn(&Heap, usize)>(at: *const (), heap: &Heap, bytes: usize) {
            // SAFETY: the caller's word.
            unsafe { (*at.cast::<F>())(heap, bytes) }
        }
        // SAFETY: the function shares the closure, which is `Sync`.
        Self(unsafe { Closure::new(tell, call::<F> as unsafe fn(*const (), &Heap, usize)) })
    }

    pub(super) fn tell(&self, heap: &Heap, bytes: usize) {
        let (call, at) = self.0.parts();
        // SAFETY: borrowed, so that it stays until the call returns.
        unsafe { call(at, heap, bytes) }
    }
}

/// Describes a heap and makes it: see [`Heap::builder`]. By default: all pools, no limit, no fallback, no bits, [`Mode::Fast`].
///
/// Every wish, with what it takes:
///
/// ```
/// use core::alloc::Layout;
/// use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
/// use millpond::{BuildError, Freed, Heap, Log, Mode, PoolTable};
///
/// static PASSED: AtomicUsize = AtomicUsize::new(0);
/// static MISUSED: AtomicUsize = AtomicUsize::new(0);
///
/// fn passed(heap: &Heap, bytes: usize) {
///     println!("{bytes} bytes of {:?} are in use", heap.capacity());
///     PASSED.fetch_add(1, Relaxed);
/// }
///
/// fn misused(what: &str) {
///     println!("{what}");
///     MISUSED.fetch_add(1, Relaxed);
/// }
///
/// let heap = Heap::builder()
///     .capacity(4 << 20)                     // bytes: usize
///     .soft_limit(1 << 20, passed)           // bytes: usize, and Fn(&Heap, usize)
///     .pools(PoolTable::Sizes(&[64, 1024]))  // or PoolTable::Default, PoolTable::Classic
///     .fallback(&std::alloc::System)         // &'static (dyn GlobalAlloc + Sync)
///     .bits(100)                             // usize
///     .mode(Mode::Hardened)                  // or Mode::Fast, Mode::Tracked
///     .ids(true)                             // bool: at least Mode::Tracked
///     .backtrace(4)                          // callers a record: usize
///     .guard(1000)                           // one allocation in so many: u32
///     .quarantine(64 << 10)                  // bytes: usize
///     .freed(Freed::Zero)                    // or Freed::Junk, Freed::Keep
///     .timing(true)                          // bool
///     .profiled(true)                        // bool
///     .log(Log::Off)                         // or Log::Os, Arena, Span, Pool, Cache
///     .on_misuse(misused)                    // Fn(&str)
///     .build()?;                             // Result<Heap, BuildError>
///
/// assert_eq!(heap.set_bit(42, true), Ok(false));
/// let (small, large) = (Layout::new::<[u64; 8]>(), Layout::new::<[u64; 1 << 18]>());
/// let [first, second, third] = [small, large, large].map(|layout| heap.alloc(layout).expect("memory"));
/// assert_eq!(heap.id_of(first.as_ptr()), Some(1));
/// // Two MiB more than the soft limit, and the third does not fit: it is the system's.
/// assert_eq!((PASSED.load(Relaxed), heap.stats().fallbacks), (1, 1));
/// // SAFETY: each once, with its layout; and once more, which is heard of, and is no free.
/// unsafe {
///     heap.free(first, small);
///     heap.free(first, small);
///     heap.free(second, large);
///     heap.free(third, large);
/// }
/// assert_eq!(MISUSED.load(Relaxed), 1);
///
/// assert_eq!(Heap::builder().capacity(0).build().unwrap_err(), BuildError::Capacity(0));
/// # Ok::<(), BuildError>(())
/// ```
///
/// # Closures
/// What [`soft_limit`](Self::soft_limit) and [`on_misuse`](Self::on_misuse) are given is kept in the heap itself, without an
/// allocation.
///
/// * **What it captures** takes up to 8 words (64 bytes) aligned to 16 bytes, which the compiler checks when it generates code, and
///   can be cloned, as the builder can: an `Arc`, a `Sender`, a `String`. Of what is larger, or cannot be cloned, capture an `Arc`.
/// * **Calls** come from whichever thread has the occasion, from several at the same time, and from inside a call: nothing is locked
///   meanwhile, and nobody waits. But the program is in the middle of an allocation or a free: the closure is not to take a lock
///   under which the program uses the heap. There are no calls once the heap's drop has begun.
/// * **Its end**: it is dropped once, when the heap has given its memory back, or, where another thread's search for leaks is looking
///   at the heap, before that; or with a builder that builds none; or when another
///   replaces it. One that owns its own heap keeps it for ever: it is to take the heap from its argument, or hold a `Weak`.
///
/// ```compile_fail,E0080
/// # use millpond::Heap;
/// let words = [0usize; 9];
/// let _ = Heap::builder().on_misuse(move |what| println!("{what} {words:?}")).build();
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct HeapBuilder<'a> {
    capacity: Option<usize>,
    soft: Option<(usize, Tell)>,
    pools: PoolTable<'a>,
    fallback: Option<Fallback>,
    bits: usize,
    mode: Mode,
    callers: usize,
    guard: u32,
    quarantine: Option<usize>,
    freed: Option<Freed>,
    timing: bool,
    profiled: bool,
    log: Option<Log>,
    on_misuse: Option<Hear>,
}

/// A builder is plain wishes. What its closures have captured is not looked at.
impl core::panic::UnwindSafe for HeapBuilder<'_> {}
impl core::panic::RefUnwindSafe for HeapBuilder<'_> {}

impl fmt::Debug for HeapBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeapBuilder")
            .field("capacity", &self.capacity)
            .field("soft_limit", &self.soft.as_ref().map(|(bytes, _)| bytes))
            .field("pools", &self.pools)
            .field("fallback", &self.fallback.is_some())
            .field("bits", &self.bits)
            .field("mode", &self.mode)
            .field("backtrace", &self.callers)
            .field("guard", &self.guard)
            .field("quarantine", &self.quarantine)
            .field("freed", &self.freed)
            .field("timing", &self.timing)
            .field("profiled", &self.profiled)
            .field("log", &self.log)
            .field("on_misuse", &self.on_misuse.is_some())
            .finish()
    }
}

impl<'a> HeapBuilder<'a> {
    pub(super) fn new() -> Self {
        Self {
            capacity: None,
            soft: None,
            pools: PoolTable::Default,
            fallback: None,
            bits: 0,
            mode: Mode::Fast,
            callers: 0,
            guard: 0,
            quarantine: None,
            freed: None,
            timing: false,
            profiled: false,
            log: None,
            on_misuse: None,
        }
    }

    /// The most bytes that the heap may use: a hard limit, rounded down to whole pages of 64 KiB and exact. It counts the pages of
    /// spans, cached chunks included, and of larger allocations; free pages go back to the system where they would hold more memory
    /// than the limit leaves.
    ///
    /// What describes them comes on top, and serves again but does not go back before the heap's end: some thousandths of that, a
    /// sixtieth where all is chunks of 8 bytes; 8 bytes for each free chunk that threads and pools keep, a few MiB at most, but as much
    /// again as a heap of 1 MiB has where all of it was chunks of 8 bytes; and, in the modes with records, up to some 80 bytes an
    /// allocation, which is several times as much as chunks of 8 bytes take. In [`Mode::Hardened`] each allocation needs a canary's
    /// room beside it, so that one of the whole capacity fails.
    ///
    /// What other threads have in their loaded magazines, at most 16 KiB of each size, serves these alone until they flush them or end:
    /// a heap of few pages for many threads may have nothing for one that asks for another size. (A thread has ended when it is
    /// joined; `std::thread::scope` by itself returns a little before.)
    pub fn capacity(mut self, bytes: usize) -> Self {
        self.capacity = Some(bytes);
        self
    }

    /// When the pages that the heap uses rise above `bytes`, rounded down to whole pages of 64 KiB, the thread that allocates trims
    /// the heap and calls `tell` with the heap and the bytes that are still in use, which may be fewer than `bytes` by then. Then it trims
    /// once more, so that what `tell` has freed goes back. A later call of this method replaces an earlier one.
    ///
    /// `tell` is a function or a closure; see [closures](Self#closures) for what it may capture. It may allocate from the heap and
    /// free; it is called again only once the heap has been below `bytes` in between, so a panic makes no hard limit of it: that is
    /// [`capacity`](Self::capacity). Should it panic, the heap takes back what it was
    /// about to hand out, and the panic goes on to whoever allocates. The pages are those of whole spans: the first allocation of
    /// 64 KiB takes 256 KiB.
    ///
    /// What is freed may stay in use as pages, until a trim: beyond the limit the heap is trimmed each time that an eighth more is in use
    /// than was since the trim before, and so is found to have been below.
    ///
    /// ```
    /// use core::alloc::Layout;
    /// use millpond::Heap;
    /// use std::sync::mpsc;
    ///
    /// let (sender, passed) = mpsc::channel();
    /// let heap = Heap::builder().soft_limit(1 << 20, move |_, bytes| _ = sender.send(bytes)).build()?;
    /// let layout = Layout::new::<[u8; 2 << 20]>();
    /// let block = heap.alloc(layout)?;
    /// assert_eq!(passed.try_recv(), Ok(2 << 20));
    /// // SAFETY: allocated above.
    /// unsafe { heap.free(block, layout) };
    ///
    /// // The heap's end is that of the closure, and so of the channel.
    /// drop(heap);
    /// assert_eq!(passed.recv(), Err(mpsc::RecvError));
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn soft_limit<F>(mut self, bytes: usize, tell: F) -> Self
    where
        F: Fn(&Heap, usize) + Clone + Send + Sync + 'static,
    {
        self.soft = Some((bytes, Tell::new(tell)));
        self
    }

    /// Which chunk sizes the heap's pools have.
    pub fn pools(mut self, pools: PoolTable<'a>) -> Self {
        self.pools = pools;
        self
    }

    /// Another allocator for requests that the heap cannot serve: counted in [`Stats::fallbacks`](crate::Stats::fallbacks). Without
    /// one, such requests fail. What it has given out is not freed when the heap is dropped.
    pub fn fallback(mut self, fallback: Fallback) -> Self {
        self.fallback = Some(fallback);
        self
    }

    /// How many bits the heap's bitset has, all clear at first: see [`Heap::set_bit`].
    pub fn bits(mut self, bits: usize) -> Self {
        self.bits = bits;
        self
    }

    /// Whether each allocation gets a record with an ID: see [`Heap::id_of`] and [`Heap::record`]. [`Mode::Tracked`], or
    /// [`Mode::Hardened`] where that was wished for before; [`Mode::Fast`] if false.
    pub fn ids(self, ids: bool) -> Self {
        let mode = match self.mode {
            _ if !ids => Mode::Fast,
            Mode::Fast => Mode::Tracked,
            mode => mode,
        };
        self.mode(mode)
    }

    /// How much the heap knows of its allocations, and which misuse it notices. `MILLPOND_MODE` does not change it.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Where there are records, how many callers each keeps, 32 at most; none by default. See [`callers`](crate::callers).
    pub fn backtrace(mut self, most: usize) -> Self {
        self.callers = most;
        self
    }

    /// In the mode [`Mode::Hardened`], guards one in `one_in` of the allocations of up to 16 KiB; none if zero, the default. A guarded
    /// allocation has 64 KiB of addresses to itself, and ends, as near as its alignment allows, where an OS page without access
    /// begins. When it is freed, its addresses stay without access for a while. So any access past its end or after its free ends
    /// the program by a signal at once. Costs some microseconds and some OS pages each; there are 4096 at a time at most.
    pub fn guard(mut self, one_in: u32) -> Self {
        self.guard = one_in;
        self
    }

    /// Where there are records, how many bytes of freed memory are kept back at most; none if zero. Only the last 1024 frees of each
    /// thread are kept, or of those that share one of eight queues; the oldest of the longest queue goes first. By default
    /// [`Mode::Hardened`] keeps back those of them of up to 16 KiB, and [`Mode::Tracked`] none.
    ///
    /// ```
    /// use core::alloc::Layout;
    /// use millpond::{Freed, Heap, Mode};
    ///
    /// let heap = Heap::builder().mode(Mode::Tracked).quarantine(1000).freed(Freed::Zero).build()?;
    /// let layout = Layout::new::<[u64; 50]>();
    /// for _ in 0..10 {
    ///     let block = heap.alloc(layout)?;
    ///     // SAFETY: allocated just now, freed once.
    ///     unsafe { heap.free(block, layout) };
    /// }
    /// // Two of 400 bytes, in chunks of 448.
    /// assert_eq!(heap.stats().quarantine, 896);
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn quarantine(mut self, bytes: usize) -> Self {
        self.quarantine = Some(bytes);
        self
    }

    /// Where there are records, what is written over memory when it is freed. By default [`Mode::Hardened`] writes
    /// [`Freed::Junk`] over what it keeps back, and [`Mode::Tracked`] nothing; what is set here applies to all sizes, but
    /// for what goes back to the system at once: allocations from 32 MiB on that are not kept back.
    pub fn freed(mut self, freed: Freed) -> Self {
        self.freed = Some(freed);
        self
    }

    /// Whether calls are timed: see [`Stats::timing`](crate::Stats::timing). Each call then costs some nanoseconds more, and one in 32
    /// two looks at the clock.
    pub fn timing(mut self, timing: bool) -> Self {
        self.timing = timing;
        self
    }

    /// Whether the heap's allocations are in the [`profile`](crate::profile), beside those of the global heap, while one is taken.
    /// Each call costs some nanoseconds more, even while none is.
    pub fn profiled(mut self, profiled: bool) -> Self {
        self.profiled = profiled;
        self
    }

    /// Has `hear` called with the line that names a misuse, instead of ending the process: for tests. An allocation that was to be
    /// freed wrongly is left as it is, and the call returns; one that was overwritten is freed. Lines are cut off after 1 KiB.
    /// `hear` is a function or a closure; see [closures](Self#closures) for what it may capture. It may allocate and free, and be
    /// called again from inside its call, where it misuses the heap itself. It may panic: then what was in hand stays out of use. A
    /// later call of this method replaces an earlier one.
    ///
    /// A heap without records then also looks at each address that it is given, and reports those that are none of its own, those
    /// where no chunk begins, and chunks that have been freed and have left their thread's cache. A chunk that is freed twice while
    /// it lies in a cache is noticed only when that cache goes back to the spans: too late to undo it, so that still ends the
    /// process. Accesses that fault are not reported either.
    ///
    /// ```should_panic
    /// use core::alloc::Layout;
    /// use millpond::{Heap, Mode};
    ///
    /// let heap = Heap::builder().mode(Mode::Tracked).on_misuse(|what| panic!("{what}")).build().unwrap();
    /// let layout = Layout::new::<u64>();
    /// let block = heap.alloc(layout).unwrap();
    /// // SAFETY: none: "double free of 0x…: 8 bytes, id 1, …".
    /// unsafe { (heap.free(block, layout), heap.free(block, layout)) };
    /// ```
    pub fn on_misuse<F>(mut self, hear: F) -> Self
    where
        F: Fn(&str) + Clone + Send + Sync + 'static,
    {
        self.on_misuse = Some(Hear::new(hear));
        self
    }

    /// How much the heap logs of what it does, whatever [`set_log`](crate::set_log) and `MILLPOND_LOG` say; these hold for heaps
    /// without a level of their own. Lines go to stderr, or to the file that `MILLPOND_LOG` names.
    ///
    /// ```
    /// use core::alloc::Layout;
    /// use millpond::{Heap, Log};
    ///
    /// // Logs each miss of the thread's cache, each span, and what is asked of the system.
    /// let heap = Heap::builder().log(Log::Cache).build()?;
    /// heap.alloc(Layout::new::<u64>())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn log(mut self, level: Log) -> Self {
        self.log = Some(level);
        self
    }

    /// Makes the heap.
    ///
    /// # Errors
    /// [`BuildError`] names the wish that cannot be met.
    pub fn build(self) -> Result<Heap, BuildError> {
        let serves = self.serves()?;
        let capacity = self.pages()?;
        let limit = capacity.unwrap_or(usize::MAX / PAGE);
        let soft = match &self.soft {
            None => 0,
            Some((bytes, _)) => {
                let (bytes, soft) = (*bytes, *bytes / PAGE);
                let fits = soft > 0 && capacity.is_none_or(|most| soft < most);
                Some(soft).filter(|_| fits).ok_or(BuildError::SoftLimit(bytes))?
            }
        };
        let bits = Bitset::new(self.bits).ok_or(BuildError::Memory)?;
        let mut bits = Some(bits);
        let inner = map(|inner| {
            // SAFETY: fresh memory for it; the core is valid as it is.
            unsafe {
                (&raw mut (*inner).body.mapped).write(size_of::<Inner>());
                (&raw mut (*inner).serves).write(serves);
                // What is none is left as zeros, which mean that: written, it would bring words from the stack, which a search
                // for leaks would take for addresses.
                if self.fallback.is_some() {
                    (&raw mut (*inner).fallback).write(self.fallback);
                }
                (&raw mut (*inner).fallbacks).write(Counter::new());
                if let Some((_, tell)) = self.soft {
                    (&raw mut (*inner).soft).write(Some(tell));
                }
                (&raw mut (*inner).mode).write(self.mode);
                // Valid as zeros.
                // Relaxed: a number, behind which nothing is published.
                (*inner).body.tracker.stand_beside(1 + NUMBERS.fetch_add(1, Ordering::Relaxed));
                (*inner).body.tracker.keep_callers(self.callers);
                (*inner).body.tracker.guard(self.guard);
                let is_heard = self.on_misuse.is_some();
                if is_heard {
                    (&raw mut (*inner).hear).write(self.on_misuse);
                }
                (*inner).body.tracker.witness.set((*inner).hear.as_ref());
                (*inner).body.tracker.quarantine.set(self.quarantine, self.freed);
                let is_watched = self.mode != Mode::Fast || self.timing || self.profiled || is_heard;
                (&raw mut (*inner).plain).write(!is_watched);
                (&raw mut (*inner).timed).write(self.timing);
                (&raw mut (*inner).profiled).write(self.profiled);
                (&raw mut (*inner).capacity).write(capacity.unwrap_or(0) * PAGE);
                if let Some(bits) = bits.take() {
                    (&raw mut (*inner).body.bits).write(bits);
                }
            }
        });
        let Some(inner) = inner else {
            if let Some(bits) = bits {
                // SAFETY: nobody has used them.
                unsafe { bits.dispose() };
            }
            return Err(BuildError::Memory);
        };
        // Dropped, if it cannot be entered.
        let heap = Heap { inner };
        heap.inner().core.spans.arenas.stand_beside(whose);
        if let Some(level) = self.log {
            heap.inner().core.voice().set(level);
        }
        if self.mode != Mode::Fast {
            heap.inner().core.keep_no_mapping();
        }
        if self.mode == Mode::Hardened {
            heap.inner().core.spans.arenas.seal();
        }
        if capacity.is_some() || soft > 0 {
            heap.inner().core.spans.arenas.budget().set(limit, soft);
        }
        let entry = HEAPS.place().ok_or(BuildError::Memory)?;
        // SAFETY: nobody else has the heap.
        unsafe { (&raw mut (*inner.as_ptr()).body.entry).write(entry) };
        HEAPS.enter(entry, inner.as_ptr().expose_provenance());
        Ok(heap)
    }

    /// The capacity in pages.
    fn pages(&self) -> Result<Option<usize>, BuildError> {
        match self.capacity {
            None => Ok(None),
            Some(bytes) if bytes >= PAGE && bytes >> ADDRESS_BITS == 0 => Ok(Some(bytes / PAGE)),
            Some(bytes) => Err(BuildError::Capacity(bytes)),
        }
    }

    /// For each class, the one of the table that serves it.
    fn serves(&self) -> Result<[u16; CLASSES], BuildError> {
        let sizes = match self.pools {
            PoolTable::Default => return Ok(core::array::from_fn(|class| class as u16)),
            PoolTable::Classic => &CLASSIC[..],
            PoolTable::Sizes(sizes) => sizes,
        };
        let mut serves = [UNSERVED; CLASSES];
        let mut next = 0;
        for (at, size) in sizes.iter().enumerate() {
            let class = match *size {
                0 => return Err(BuildError::Pools(at)),
                size if size > CLASS_MAX => return Err(BuildError::Pools(at)),
                size => size_class::compute(size),
            };
            if class < next {
                return Err(BuildError::Pools(at));
            }
            serves[next..=class].fill(class as u16);
            next = class + 1;
        }
        if sizes.is_empty() { Err(BuildError::Pools(0)) } else { Ok(serves) }
    }
}
