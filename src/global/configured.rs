//! What is to be in force: what the program has chosen, and over that what the environment says, taken over once, at the first
//! allocation; and what is told at the program's end.
//!
//! Several threads may be the first: where no code of this crate has made them, they come here at the same time. Each takes over by
//! itself what bears on its allocations, which is the same for all, and one of them the rest.
//!
//! Invariant: the mode is chosen before there is a record or a free that goes by one, and before any allocation that need not have
//! one, but for those that come before the environment is there.

use super::{
    ALL, BEGUN, CONFIGURED, ENTERED, HEAP, LATE, Millpond, TRACKER, fill, is_late, mode_word, seal, set_thp, tracked,
    watch,
};
use crate::config::{CALLERS, REPORTS};
use crate::environment::{self, Leaking, Settings, Sizes};
use crate::leaks;
use crate::log::{self, Log};
use crate::map::HeapMap;
use crate::os;
use crate::report::{Mode, Stats, Thp};
use crate::sync::{AtomicU32, Ordering};
use core::alloc::{GlobalAlloc, Layout};

/// One more than the mode that the program's allocator was made with; zero if it was made with none.
static WANTED: AtomicU32 = AtomicU32::new(0);
/// And the callers that it was to keep, and how often it was to guard.
static WANTED_CALLERS: AtomicU32 = AtomicU32::new(0);
static WANTED_GUARD: AtomicU32 = AtomicU32::new(0);

/// What may be wished for the program's end: a bit each in the word of the mode.
const PROFILE: u32 = 1 << 16;
const MAP: u32 = 1 << 17;
const STATS: u32 = 1 << 18;
const LEAKS: u32 = 1 << 19;
const CHECK: u32 = 1 << 20;

/// In the order in which they are entered with libc. The last comes first: so those before it tell of memory that is sound. Where
/// there are no reports, nothing leads to their code, and no program has it.
const ENDS: &[(u32, extern "C" fn())] = if REPORTS {
    &[
        (PROFILE, watch::write_at_exit),
        (MAP, show_map),
        (STATS, show_stats),
        (LEAKS, show_leaks),
        (CHECK, check_at_exit),
    ]
} else {
    &[(STATS, show_stats), (CHECK, check_at_exit)]
};

/// Millpond in a mode of the program's choice, unless `MILLPOND_MODE` names another: see [`Millpond::with_mode`].
#[derive(Clone, Copy, Debug)]
#[must_use = "it does nothing unless it is the program's allocator"]
pub struct WithMode {
    mode: Mode,
    callers: u32,
    guard: u32,
}

impl Millpond {
    /// The allocator in a mode, for a program that always runs in it. `MILLPOND_MODE` overrides it.
    ///
    /// With the features `malloc` and `prefixed`, by which C may allocate before Rust does, what was allocated before the first
    /// call of Rust's has no record, and variables that are for a mode have been called unused on stderr by then, though they are heeded
    /// from there on. If other threads have allocated before, the mode is [`Mode::Fast`], and a line says so.
    ///
    /// ```
    /// use millpond::{Millpond, Mode, WithMode};
    ///
    /// #[global_allocator]
    /// static GLOBAL: WithMode = Millpond::with_mode(Mode::Tracked);
    ///
    /// let first = Box::new(1);
    /// let second = Box::new(2);
    /// let ids = [&first, &second].map(|value| millpond::id_of((&raw const **value).cast()));
    /// assert!(ids[0] < ids[1]);
    /// ```
    pub const fn with_mode(mode: Mode) -> WithMode {
        WithMode { mode, callers: 0, guard: 0 }
    }
}

impl WithMode {
    /// Has each record keep the addresses of up to `most` callers, 32 at most, unless `MILLPOND_BACKTRACE` says otherwise: see
    /// [`callers`](crate::callers). Costs two loads a caller at each allocation.
    pub const fn backtrace(self, most: usize) -> Self {
        Self { callers: if most < CALLERS { most } else { CALLERS } as u32, ..self }
    }

    /// In the mode [`Mode::Hardened`], guards one allocation in `one_in`, or none if zero, unless `MILLPOND_GUARD` says otherwise:
    /// see [`HeapBuilder::guard`](crate::HeapBuilder::guard).
    pub const fn guard(self, one_in: u32) -> Self {
        Self { guard: one_in, ..self }
    }

    #[inline]
    fn settle(&self) {
        // Relaxed: who finds it set need not look behind it, but in `wanted`.
        if WANTED.load(Ordering::Relaxed) == 0 {
            self.want();
        }
    }

    #[cold]
    #[inline(never)]
    fn want(&self) {
        WANTED_CALLERS.store(self.callers, Ordering::Relaxed);
        WANTED_GUARD.store(self.guard, Ordering::Relaxed);
        // ORDERING: Release pairs with `wanted`: who sees the mode sees the numbers.
        if WANTED.swap(1 + self.mode as u32, Ordering::Release) == 0 {
            choose_late();
        }
    }
}

// SAFETY: as `Millpond`.
unsafe impl GlobalAlloc for WithMode {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.settle();
        // SAFETY: the caller's.
        unsafe { Millpond.alloc(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { Millpond.dealloc(ptr, layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.settle();
        // SAFETY: the caller's.
        unsafe { Millpond.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe { Millpond.realloc(ptr, layout, new_size) }
    }
}

/// What is done when the C library is loaded.
#[allow(dead_code, reason = "only the C library calls it")]
pub(crate) fn begin() {
    // An OS page that is read before it is written to takes two faults.
    mode_word().fetch_or(BEGUN, Ordering::Relaxed);
    configure();
    enter_ends();
}

/// How many callers a record keeps, and one in how many allocations is guarded: as the environment says, else the program.
fn wanted_numbers(settings: &Settings) -> [u32; 2] {
    [(settings.backtrace, &WANTED_CALLERS), (settings.guard, &WANTED_GUARD)]
        .map(|(said, wanted)| said.unwrap_or_else(|| wanted.load(Ordering::Relaxed)))
}

/// Tells what is in force: not what is said of a mode that is not, or of reports that are not there.
#[cold]
#[inline(never)]
#[unsafe(link_section = ".millpond_cold")]
fn show_config(said: Settings, mode: Mode) {
    let mut settings = Settings { mode: Some(mode), ..said };
    if mode == Mode::Fast {
        settings = Settings { backtrace: None, guard: None, quarantine: None, freed: None, sizes: None, ..settings };
    } else {
        let [callers, guard] = wanted_numbers(&said).map(|number| Some(number).filter(|number| *number > 0));
        settings = Settings { backtrace: callers, guard: guard.filter(|_| mode == Mode::Hardened), ..settings };
    }
    if !REPORTS {
        settings = Settings { profile: None, leaks: Leaking::default(), show_map: false, ..settings };
    }
    os::say(format_args!("{settings}"));
}

/// The mode that the program's allocator was made with.
fn wanted() -> Option<Mode> {
    // ORDERING: Acquire pairs with `settle`.
    match WANTED.load(Ordering::Acquire) {
        2 => Some(Mode::Tracked),
        3 => Some(Mode::Hardened),
        _ => None,
    }
}

/// Reads the environment, once it is there; second readers at the same time do no harm.
#[cold]
pub(crate) fn configure() {
    if take_over() {
        enter_ends();
    }
}

/// The same for an allocation of `calloc`'s: it may be that of `atexit`, which libc makes so while it holds the lock under which functions
/// are entered. What is wished for the program's end is then left to [`begin`].
#[cold]
#[allow(dead_code, reason = "only the C library calls it")]
pub(crate) fn configure_within_calloc() {
    take_over();
}

/// Enters what is wished for the program's end with libc, once. May allocate.
#[cold]
fn enter_ends() {
    // ORDERING: Acquire pairs with the exchange in `take_over`: the wishes are there.
    if mode_word().load(Ordering::Acquire) & CONFIGURED == 0 {
        return;
    }
    let word = mode_word().fetch_or(ENTERED, Ordering::Relaxed);
    let mut wished = ENDS.iter().filter(|(bit, _)| word & (bit | ENTERED) == *bit).peekable();
    // Most programs wish for none, and touch nothing for it.
    if wished.peek().is_some() {
        enter(wished.map(|(_, last)| *last));
    }
}

fn enter(ends: impl IntoIterator<Item = extern "C" fn()>) {
    os::enter_code();
    ends.into_iter().for_each(os::at_exit);
    os::keep_no_stderr_in_children();
}

/// What is wished for the program's end, as bits.
fn ends(settings: &Settings, mode: Mode) -> u32 {
    let wished = [
        (settings.profile.is_some(), PROFILE),
        (settings.show_map, MAP),
        (settings.show_stats, STATS),
        (settings.leaks.is_wished(), LEAKS),
        (mode == Mode::Hardened, CHECK),
    ];
    wished.iter().fold(0, |bits, (is_wished, bit)| if *is_wished { bits | bit } else { bits })
}

/// Takes over what the environment says. Whether the caller, and nobody else, has taken over what is done once.
fn take_over() -> bool {
    // ORDERING: Acquire pairs with the exchange below: what goes with the mode is set.
    if mode_word().load(Ordering::Acquire) & CONFIGURED != 0 {
        return false;
    }
    let Some(settings) = environment::read() else {
        mode_word().fetch_or(LATE, Ordering::Relaxed);
        return false;
    };
    let mode = settings.mode.or(wanted()).unwrap_or_default();
    // Each of several does this, before it allocates.
    choose(&settings, mode);
    // ORDERING: Release pairs with the load above.
    if mode_word().fetch_or(CONFIGURED | ends(&settings, mode), Ordering::Release) & CONFIGURED != 0 {
        return false;
    }
    if settings.log != Log::Off {
        let file = settings.log_file.unwrap_or_default();
        if let Err(refused) = if file.is_empty() { Ok(()) } else { os::keep_path(file).and_then(log::set_file) } {
            os::say(format_args!("the log's file {} cannot be opened, {refused}: told here", file.escape_ascii()));
        }
        log::set(settings.log);
    }
    settings.tell_unused(mode);
    if settings.timing {
        watch::time_calls();
    }
    if let Some(profile) = settings.profile.filter(|_| REPORTS) {
        watch::begin_profile(profile);
    }
    if settings.thp != Thp::Default {
        set_thp(settings.thp);
    }
    if settings.show_config {
        show_config(settings, mode);
    }
    // Where the program itself has chosen the mode, it knows its stderr.
    let is_told = settings.show_stats || settings.mode == Some(Mode::Hardened);
    if is_told || REPORTS && (settings.show_map || settings.leaks.is_wished() || settings.profile.is_some()) {
        os::keep_stderr();
    }
    if !REPORTS && (settings.profile.is_some() || settings.leaks.is_wished() || settings.show_map) {
        os::say(format_args!("no profile, no leaks and no map are told: built without the feature `reports`"));
    }
    if REPORTS && settings.leaks.is_wished() {
        leaks::wish(&settings.leaks);
    }
    true
}

/// Takes over the mode that the program's allocator was made with, where the environment has been read before that is known: libc's
/// `malloc` is this crate's too, and came first. What was allocated until now has no records.
#[cold]
fn choose_late() {
    // ORDERING: Acquire pairs with the exchange in `take_over`.
    if mode_word().load(Ordering::Acquire) & CONFIGURED == 0 {
        return;
    }
    let Some(mode) = wanted().filter(|mode| *mode != Mode::Fast) else { return };
    let Some(settings) = environment::read_again().filter(|settings| settings.mode.is_none()) else { return };
    // Others that have a cache would go on without records.
    if !os::is_alone() && HEAP.caches.iter().filter(|cache| cache.owner().is_some()).count() > 1 {
        return os::say(format_args!("the mode that the program chose is not in force: other threads came before it"));
    }
    mode_word().fetch_or(LATE, Ordering::Relaxed);
    choose(&settings, mode);
    if mode == Mode::Hardened && mode_word().fetch_or(CHECK, Ordering::Relaxed) & ENTERED != 0 {
        enter([check_at_exit as extern "C" fn()]);
    }
    if settings.show_config {
        show_config(settings, mode);
    }
}

/// Takes a mode over, with what goes with it.
fn choose(settings: &Settings, mode: Mode) {
    if mode != Mode::Fast {
        // Before the first record, and the first free.
        if is_late() {
            TRACKER.begin_late();
        }
        TRACKER.quarantine.set(settings.quarantine, settings.freed);
        let [callers, guard] = wanted_numbers(settings);
        TRACKER.keep_callers(callers as usize);
        TRACKER.guard(guard);
        if settings.sizes == Some(Sizes::Any) {
            TRACKER.take_any_size();
        }
        HEAP.keep_no_mapping();
    }
    match mode {
        Mode::Fast => {}
        Mode::Tracked => seal(1),
        Mode::Hardened => {
            HEAP.spans.arenas.seal();
            seal(2);
        }
    }
}

#[unsafe(link_section = ".millpond_cold")]
extern "C" fn show_stats() {
    os::restore_stderr();
    let mut stats = Stats::default();
    fill(&mut stats);
    // What stands above its columns begins a line.
    os::say(format_args!("statistics of process {}\n{stats}", os::process_id()));
}

/// What nobody freed, and what is free, page by page.
#[unsafe(link_section = ".millpond_cold")]
extern "C" fn show_map() {
    os::restore_stderr();
    os::say(format_args!("process {}: {}", os::process_id(), HeapMap::of(&HEAP)));
}

#[unsafe(link_section = ".millpond_cold")]
extern "C" fn check_at_exit() {
    os::restore_stderr();
    match tracked().map_or(0, |tracked| tracked.check_memory(true)) {
        0 => {}
        1 => os::die(format_args!("the above was found at the program's end")),
        count => os::die(format_args!("{count} were found at the program's end")),
    }
}

/// With as little as can be of its own on the stack, which is looked at from here on.
#[inline(never)]
extern "C" fn show_leaks() {
    let own = os::registers();
    os::restore_stderr();
    leaks::at_exit(ALL, &own);
}
