//! What the kernel maps into each process for calls that need no change of mode: the vDSO, a small shared library.
//!
//! libc's `clock_gettime` and `sched_getcpu` call it, but a program's calls of libc may be somebody else's: a library that fakes the
//! time puts itself in between, and allocates at its first call, which comes from within an allocation. So a process's `malloc` asks
//! for the functions themselves, by the vDSO's own table of names (`vdso(7)`, and the kernel's `Documentation/vDSO/parse_vdso.c`).
//!
//! Nothing is kept here. The image is the kernel's: it is read, and never changes.

use core::ptr::with_exposed_provenance;

/// Types of program headers, and tags of the dynamic section.
const LOADED: u32 = 1;
const DYNAMIC: u32 = 2;
const HASH: u64 = 4;
const NAMES: u64 = 5;
const SYMBOLS: u64 = 6;

/// # Safety
/// The image has a `T` there.
unsafe fn read<T: Copy>(at: usize) -> T {
    // SAFETY: the caller's.
    unsafe { with_exposed_provenance::<T>(at).read_unaligned() }
}

/// The address of the function of this name, which ends in zero; `None`: there is none, or the image is of an unknown form.
///
/// # Safety
/// At `image` lies the vDSO, as `AT_SYSINFO_EHDR` says.
pub(super) unsafe fn find(image: usize, name: &[u8]) -> Option<usize> {
    // SAFETY: an ELF image of 64 bits is as these offsets say, and lies whole in memory; each table in it ends where another
    // says, or at its own zero.
    unsafe {
        let (headers, size, count): (u64, u16, u16) = (read(image + 32), read(image + 54), read(image + 56));
        // Where the image lies, above the addresses that are written in it; and its dynamic section.
        let (mut above, mut dynamic) = (None, None);
        for nth in 0..usize::from(count) {
            let header = image + headers as usize + nth * usize::from(size);
            let [offset, address]: [u64; 2] = read(header + 8);
            match read::<u32>(header) {
                LOADED if above.is_none() => {
                    above = Some(image.wrapping_add(offset as usize).wrapping_sub(address as usize))
                }
                DYNAMIC => dynamic = Some(address as usize),
                _ => {}
            }
        }
        let above = above?;
        let (mut hash, mut names, mut symbols) = (None, None, None);
        let mut entry = above.wrapping_add(dynamic?);
        loop {
            let [tag, value]: [u64; 2] = read(entry);
            let at = Some(above.wrapping_add(value as usize));
            match tag {
                0 => break,
                HASH => hash = at,
                NAMES => names = at,
                SYMBOLS => symbols = at,
                _ => {}
            }
            entry += size_of::<[u64; 2]>();
        }
        let (names, symbols) = (names?, symbols?);
        // Without the older table of hashes nothing says how many there are, but that their names lie behind them.
        let count = match hash {
            Some(hash) => read::<u32>(hash + 4) as usize,
            None => names.checked_sub(symbols)? / SYMBOL,
        };
        (0..count).map(|nth| symbols + nth * SYMBOL).find_map(|symbol| {
            let (text, section): (u32, u16) = (read(symbol), read(symbol + 6));
            let has_name =
                || name.iter().enumerate().all(|(nth, byte)| read::<u8>(names + text as usize + nth) == *byte);
            (section != 0 && has_name()).then(|| above.wrapping_add(read::<u64>(symbol + 8) as usize))
        })
    }
}

/// Bytes of a symbol: name, kind, section, address, size.
const SYMBOL: usize = 24;

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;

    fn image() -> Option<usize> {
        // SAFETY: asks for a number.
        let image = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) } as usize;
        (image != 0).then_some(image)
    }

    #[test]
    fn the_processor_is_told() {
        let Some(image) = image() else { return std::println!("no vDSO here") };
        // SAFETY: what the kernel says.
        let found = unsafe { find(image, b"__vdso_getcpu\0") }.unwrap();
        // SAFETY: the function of that name is of this type.
        let tell = unsafe {
            core::mem::transmute::<*const (), unsafe extern "C" fn(*mut u32, *mut u32, *mut ()) -> libc::c_long>(
                with_exposed_provenance(found),
            )
        };
        let (mut processor, none) = (u32::MAX, core::ptr::null_mut());
        // SAFETY: `processor` is ours to write.
        assert_eq!(unsafe { tell(&mut processor, none, core::ptr::null_mut()) }, 0);
        // SAFETY: zeros are an empty set, of the size that is told.
        let may_be = unsafe {
            let mut set: libc::cpu_set_t = core::mem::zeroed();
            libc::sched_getaffinity(0, size_of_val(&set), &mut set) != 0 || libc::CPU_ISSET(processor as usize, &set)
        };
        assert!(may_be, "on processor {processor}");
    }

    #[test]
    fn the_clock_is_there_and_goes_as_libcs() {
        let Some(image) = image() else { return std::println!("no vDSO here") };
        // SAFETY: what the kernel says.
        let found =
            unsafe { ["__vdso_clock_gettime\0", "__vdso_clock\0", "\u{1}\0"].map(|name| find(image, name.as_bytes())) };
        assert!(found[0].is_some() && found[1..] == [None, None], "{found:x?}");
        // SAFETY: the function of that name is of this type.
        let clock = unsafe {
            core::mem::transmute::<*const (), unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> i32>(
                with_exposed_provenance(found[0].unwrap()),
            )
        };
        let now = |clock: unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> i32| {
            let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: `now` is ours to write.
            assert_eq!(unsafe { clock(libc::CLOCK_MONOTONIC, &mut now) }, 0);
            (now.tv_sec, now.tv_nsec)
        };
        let times = [now(libc::clock_gettime), now(clock), now(libc::clock_gettime)];
        assert!(times.is_sorted(), "{times:?}");
    }
}
