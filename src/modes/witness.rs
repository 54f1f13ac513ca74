//! A witness: who hears of misuse, where that is not to end the process.
//!
//! | state | what misuse does |
//! |---|---|
//! | zero | ends the process, with a line on stderr |
//! | the address of a closure | calls it with the line; then what was misused stays as it is, and the call returns |
//!
//! Set before the heap is used, and never again; the closure is the heap's, which drops it at its end.

use crate::closure::Closure;
use crate::os;
use crate::sync::Counter;
use core::fmt::{self, Write as _};
use core::ptr::{self, with_exposed_provenance};

/// Who hears of it: the line, without an end.
#[derive(Clone)]
pub(crate) struct Hear(Closure<unsafe fn(*const (), &str)>);

impl Hear {
    pub(crate) fn new<F: Fn(&str) + Clone + Send + Sync + 'static>(hear: F) -> Self {
        /// # Safety
        /// An `F` lies there.
        unsafe fn call<F: Fn(&str)>(at: *const (), what: &str) {
            // SAFETY: the caller's word.
            unsafe { (*at.cast::<F>())(what) }
        }
        // SAFETY: the function shares the closure, which is `Sync`.
        Self(unsafe { Closure::new(hear, call::<F> as unsafe fn(*const (), &str)) })
    }

    fn hear(&self, what: &str) {
        let (call, at) = self.0.parts();
        // SAFETY: borrowed, so that it stays until the call returns.
        unsafe { call(at, what) }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Witness(Counter);

/// What of a line fits on the stack.
struct Line {
    bytes: [u8; 1024],
    len: usize,
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut len = text.len().min(self.bytes.len() - self.len);
        while !text.is_char_boundary(len) {
            len -= 1;
        }
        self.bytes[self.len..self.len + len].copy_from_slice(&text.as_bytes()[..len]);
        self.len += len;
        if len < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

impl Witness {
    pub(crate) const fn new() -> Self {
        Self(Counter::new())
    }

    /// Names the witness, before the heap is used.
    ///
    /// # Safety
    /// It stays where it is until the heap is used no more.
    pub(crate) unsafe fn set(&self, hear: Option<&Hear>) {
        self.0.set(hear.map_or(0, |hear| ptr::from_ref(hear).expose_provenance() as u64));
    }

    fn get(&self) -> Option<&Hear> {
        // SAFETY: null, or what `set` was given, which is still there.
        unsafe { with_exposed_provenance::<Hear>(self.0.get() as usize).as_ref() }
    }

    /// Whether misuse is heard of, and does not end the process.
    pub(crate) fn hears(&self) -> bool {
        self.get().is_some()
    }

    /// Tells the witness, or stderr without one.
    #[unsafe(link_section = ".millpond_cold")]
    pub(crate) fn say(&self, what: fmt::Arguments<'_>) {
        let Some(hear) = self.get() else { return os::say(what) };
        let mut line = Line { bytes: [0; 1024], len: 0 };
        // What is too long is cut off.
        let _ = line.write_fmt(what);
        hear.hear(core::str::from_utf8(&line.bytes[..line.len]).unwrap_or_default());
    }

    /// Tells the witness of misuse; without one, ends the process.
    #[cold]
    pub(crate) fn accuse(&self, what: fmt::Arguments<'_>) {
        if !self.hears() {
            os::die(what);
        }
        self.say(what);
    }
}
