//! The files that the loader has loaded, each an *object*: which one an address lies in, what it needs, and what it has under a name.
//!
//! Read from the tables that each object brings, as ELF has them. `dlsym` would do for the names, but it waits for whoever loads a
//! library until that one's constructors have run, allocates, and knows no way from an address to what its object is bound to. Here
//! the loader's lock is held only while it adds or removes an object, and nothing is allocated.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr::{null, with_exposed_provenance};

const DYNAMIC: u32 = 2;
const LOADED: u32 = 1;
/// Words of the dynamic table.
const NEEDED: i64 = 1;
const HASH: i64 = 4;
const STRINGS: i64 = 5;
const SYMBOLS: i64 = 6;
const SONAME: i64 = 14;
const GNU_HASH: i64 = 0x6fff_fef5;

/// How many objects of those that one needs are looked at.
const NEEDS_MAX: usize = 128;

/// An object that is loaded. It stays so while it is looked at: what it belongs to, or needs it, is running; C++ runtimes are not unloaded.
#[derive(Clone, Copy)]
pub(crate) struct Object {
    base: usize,
    path: *const c_char,
    dynamic: *const [i64; 2],
}

impl Object {
    /// The file's name without its folders; empty for the program.
    pub(crate) fn file(&self) -> &[u8] {
        // SAFETY: the loader's, and ends in zero.
        let path = unsafe { CStr::from_ptr(self.path) }.to_bytes();
        path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }

    /// The words of a kind in the dynamic table, in order.
    fn words(&self, kind: i64) -> impl Iterator<Item = usize> {
        let mut at = self.dynamic;
        core::iter::from_fn(move || {
            loop {
                // SAFETY: the table ends in a zero.
                let [tag, word] = unsafe { at.read() };
                if tag == 0 {
                    return None;
                }
                at = at.wrapping_add(1);
                if tag == kind {
                    return Some(word as usize);
                }
            }
        })
    }

    /// What an address in the dynamic table points to: the loader has made most of them absolute.
    fn table<T>(&self, kind: i64) -> Option<*const T> {
        let word = self.words(kind).next()?;
        Some(with_exposed_provenance(if word < self.base { self.base + word } else { word }))
    }

    fn string(&self, offset: usize) -> Option<&[u8]> {
        let strings = self.table::<c_char>(STRINGS)?;
        // SAFETY: an offset of the object's own in its strings, each of which ends in zero.
        Some(unsafe { CStr::from_ptr(strings.add(offset)) }.to_bytes())
    }

    fn is_called(&self, name: &[u8]) -> bool {
        self.file() == name || self.words(SONAME).any(|offset| self.string(offset) == Some(name))
    }

    /// The function that the object has, for all to see, under a name; null: none.
    pub(crate) fn function(&self, name: &CStr) -> *const c_void {
        self.find(name.to_bytes()).unwrap_or(null())
    }

    fn find(&self, name: &[u8]) -> Option<*const c_void> {
        let symbols = self.table::<libc::Elf64_Sym>(SYMBOLS)?;
        let matches = |index: usize| {
            // SAFETY: an index out of the object's own table of names.
            let symbol = unsafe { symbols.add(index).read() };
            let [binding, kind, visibility] = [symbol.st_info >> 4, symbol.st_info & 15, symbol.st_other & 3];
            let is_there = symbol.st_shndx != 0 && symbol.st_value != 0 && kind == 2;
            let is_seen = matches!(binding, 1 | 2 | 10) && matches!(visibility, 0 | 3);
            (is_there && is_seen && self.string(symbol.st_name as usize) == Some(name))
                .then(|| with_exposed_provenance(self.base + symbol.st_value as usize))
        };
        let Some(table) = self.table::<u32>(GNU_HASH) else {
            // SAFETY: the second word of this table is the number of symbols.
            let count = unsafe { self.table::<u32>(HASH)?.add(1).read() };
            return (0..count as usize).find_map(matches);
        };
        let hash = name.iter().fold(5381_u32, |hash, byte| hash.wrapping_mul(33).wrapping_add(u32::from(*byte)));
        // SAFETY: the table as GNU's linkers lay it out: four words, a filter of 64-bit words, where the chain of each remainder
        // begins, and the chains' hashes, the last of each with its lowest bit set.
        unsafe {
            let [buckets, first, filter] = [0, 1, 2].map(|at| table.add(at).read() as usize);
            let starts = table.add(4 + 2 * filter);
            let mut index = starts.add((hash as usize).checked_rem(buckets)?).read() as usize;
            while index >= first && index != 0 {
                let hashed = starts.add(buckets + index - first).read();
                if hashed | 1 == hash | 1 {
                    if let Some(found) = matches(index) {
                        return Some(found);
                    }
                }
                if hashed & 1 == 1 {
                    break;
                }
                index += 1;
            }
        }
        None
    }
}

/// Where an object lies: from the first address to the last.
type Range = (usize, usize);

/// The first object of which this is true, in the order in which they were loaded.
fn first(mut is_wanted: impl FnMut(&Object, Range) -> bool) -> Option<Object> {
    struct Search<'a> {
        is_wanted: &'a mut dyn FnMut(&Object, Range) -> bool,
        found: Option<Object>,
    }
    unsafe extern "C" fn look(info: *mut libc::dl_phdr_info, _: usize, search: *mut c_void) -> c_int {
        // SAFETY: what the loader hands over, and what was handed to it below.
        let (info, search) = unsafe { (&*info, &mut *search.cast::<Search<'_>>()) };
        let base = info.dlpi_addr as usize;
        // SAFETY: the loader's table of this object, and its length.
        let headers = unsafe { core::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        let Some(dynamic) = headers.iter().find(|header| header.p_type == DYNAMIC) else { return 0 };
        let dynamic = with_exposed_provenance(base + dynamic.p_vaddr as usize);
        let object = Object { base, path: info.dlpi_name, dynamic };
        let loaded = headers.iter().filter(|header| header.p_type == LOADED);
        let range = loaded.fold((usize::MAX, 0), |(start, end), header| {
            let at = base + header.p_vaddr as usize;
            (start.min(at), end.max(at + header.p_memsz as usize))
        });
        if (search.is_wanted)(&object, range) {
            search.found = Some(object);
        }
        c_int::from(search.found.is_some())
    }
    let mut search = Search { is_wanted: &mut is_wanted, found: None };
    // SAFETY: the function takes what it is handed here.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut search).cast()) };
    search.found
}

/// The object in which an address lies, and its own addresses.
pub(crate) fn object_at(address: usize) -> Option<(Object, Range)> {
    let mut found = (0, 0);
    let object = first(|_, range| {
        found = range;
        (range.0..range.1).contains(&address)
    })?;
    Some((object, found))
}

/// Of all objects, in the order in which they were loaded, the first of which this is true.
pub(crate) fn first_object(mut is_wanted: impl FnMut(&Object) -> bool) -> Option<Object> {
    first(|object, _| is_wanted(object))
}

/// Of an object and all that it needs, each before what that one needs, the first of which this is true.
pub(crate) fn first_needed(by: Object, is_wanted: impl Fn(&Object) -> bool) -> Option<Object> {
    let mut objects = [by; NEEDS_MAX];
    let (mut at, mut count) = (0, 1);
    while at < count {
        let object = objects[at];
        if is_wanted(&object) {
            return Some(object);
        }
        at += 1;
        for offset in object.words(NEEDED) {
            let Some(name) = object.string(offset) else { continue };
            let Some(needed) = first(|one, _| one.is_called(name)) else { continue };
            if count < NEEDS_MAX && !objects[..count].iter().any(|known| known.dynamic == needed.dynamic) {
                objects[count] = needed;
                count += 1;
            }
        }
    }
    None
}
