//! Threads without the standard library's own allocations, and the light activity of the memory tests.

use super::block::{give, take};
use super::random::Random;
use core::ffi::c_void;
use std::sync::{Barrier, Condvar, Mutex};
use std::time::{Duration, Instant};

/// A bare `pthread`: nothing in it allocates but its body.
pub struct Bare(libc::pthread_t);

pub type Body = extern "C" fn(*mut c_void) -> *mut c_void;

impl Bare {
    pub fn spawn(stack: usize, body: Body, argument: *mut c_void) -> Self {
        Self::try_spawn(stack, body, argument).expect("pthread_create")
    }

    pub fn try_spawn(stack: usize, body: Body, argument: *mut c_void) -> Option<Self> {
        // SAFETY: attributes initialised before use and destroyed after; the thread is joined by `join`.
        unsafe {
            let mut attributes: libc::pthread_attr_t = core::mem::zeroed();
            assert_eq!(libc::pthread_attr_init(&mut attributes), 0);
            assert_eq!(libc::pthread_attr_setstacksize(&mut attributes, stack), 0);
            let mut thread: libc::pthread_t = core::mem::zeroed();
            let error = libc::pthread_create(&mut thread, &attributes, body, argument);
            libc::pthread_attr_destroy(&mut attributes);
            (error == 0).then_some(Self(thread))
        }
    }

    pub fn id(&self) -> libc::pthread_t {
        self.0
    }

    pub fn join(self) -> *mut c_void {
        let mut result = core::ptr::null_mut();
        // SAFETY: a joinable thread, joined once since `self` is consumed.
        let error = unsafe { libc::pthread_join(self.0, &mut result) };
        assert_eq!(error, 0, "pthread_join");
        result
    }
}

/// Runs all bodies at once, and returns when their threads are gone (the end of a scope alone waits for the bodies,
/// not for what threads do as they exit).
pub fn together<F: FnOnce() + Send>(bodies: impl IntoIterator<Item = F>) {
    std::thread::scope(|scope| {
        let threads: Vec<_> = bodies.into_iter().map(|body| scope.spawn(body)).collect();
        for thread in threads {
            thread.join().expect("a thread's work");
        }
    });
}

/// A door that opens once. Waiting at it allocates nothing.
pub struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub const fn new() -> Self {
        Self { open: Mutex::new(false), opened: Condvar::new() }
    }

    pub fn open(&self) {
        *self.open.lock().expect("not poisoned") = true;
        self.opened.notify_all();
    }

    pub fn wait(&self) {
        let open = self.open.lock().expect("not poisoned");
        drop(self.opened.wait_while(open, |open| !*open).expect("not poisoned"));
    }
}

/// Runs all bodies at once; `look` looks when they are done, while their threads stay idle.
pub fn idle_while<F: FnOnce() + Send>(bodies: Vec<F>, look: impl FnOnce()) {
    let (done, end) = (Barrier::new(bodies.len() + 1), Gate::new());
    std::thread::scope(|scope| {
        let threads: Vec<_> = bodies
            .into_iter()
            .map(|body| {
                scope.spawn(|| {
                    body();
                    done.wait();
                    end.wait();
                })
            })
            .collect();
        done.wait();
        look();
        end.open();
        for thread in threads {
            thread.join().expect("a thread's work");
        }
    });
}

/// Chunks of four magazines.
const FOUR_MAGAZINES: usize = 256;

/// Each 10 ms for `length`: allocate and free four magazines' worth of mixed classes.
pub fn light_activity(length: Duration) {
    let mut random = Random::new(7);
    let mut chunks = [(core::ptr::null_mut(), 0); FOUR_MAGAZINES];
    let start = Instant::now();
    while start.elapsed() < length {
        for chunk in &mut chunks {
            let size = random.size(16, 4096);
            *chunk = (take(size, 8), size);
        }
        for (ptr, size) in chunks {
            assert!(!ptr.is_null());
            // SAFETY: taken above, with this size.
            unsafe { give(ptr, size, 8) };
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Does something in a thread that has ended when this returns: nothing of it is left on this one's stack.
pub fn elsewhere(act: impl FnOnce() + Send) {
    std::thread::scope(|scope| scope.spawn(act).join().expect("no panic"));
}

/// Pins the calling thread to one of the processors that it may use; which that is.
pub fn pin_to(nth: usize) -> usize {
    // SAFETY: zeros are an empty set, of the size that is told; both calls are about the calling thread.
    unsafe {
        let mut all: libc::cpu_set_t = core::mem::zeroed();
        assert_eq!(libc::sched_getaffinity(0, size_of_val(&all), &mut all), 0);
        let allowed: Vec<usize> =
            (0..libc::CPU_SETSIZE as usize).filter(|processor| libc::CPU_ISSET(*processor, &all)).collect();
        let processor = allowed[nth % allowed.len()];
        let mut one: libc::cpu_set_t = core::mem::zeroed();
        libc::CPU_SET(processor, &mut one);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&one), &one), 0);
        processor
    }
}
