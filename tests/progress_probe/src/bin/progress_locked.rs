//! The harness over an allocator that takes a spin lock around the system's: it must fail, or it proves nothing. Whoever
//! finds the lock held by a thread that is stopped, or has vanished, would wait for ever; it says so and leaves.

#[cfg(millpond_points)]
mod locked {
    use millpond::Point;
    use millpond_progress_probe::{fail, reach, stopped};
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::sync::atomic::{AtomicBool, Ordering};

    pub struct Locked(AtomicBool);

    impl Locked {
        pub const fn new() -> Self {
            Self(AtomicBool::new(false))
        }

        fn within<T>(&self, act: impl FnOnce() -> T) -> T {
            while self.0.swap(true, Ordering::Acquire) {
                // No thread stops but with the lock.
                if stopped() > 0 {
                    fail(format_args!("waits for a thread that does not go on"));
                }
                std::thread::yield_now();
            }
            Point::ALL.iter().for_each(|point| reach(*point));
            let result = act();
            self.0.store(false, Ordering::Release);
            result
        }
    }

    // SAFETY: the system's allocator, one call at a time.
    unsafe impl GlobalAlloc for Locked {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // SAFETY: the caller's.
            self.within(|| unsafe { System.alloc(layout) })
        }

        unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
            // SAFETY: the caller's.
            self.within(|| unsafe { System.dealloc(ptr, layout) });
        }
    }
}

#[cfg(millpond_points)]
#[global_allocator]
static GLOBAL: locked::Locked = locked::Locked::new();

#[cfg(millpond_points)]
fn main() {
    use millpond_progress_probe::{Subject, main};
    main(&Subject { tidy: || (), stats: || None, sound: || () });
}

#[cfg(not(millpond_points))]
fn main() {}
