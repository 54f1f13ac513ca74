//! Operation streams over heaps as values, of every kind that the builder makes.
#![no_main]

#[path = "../../tests/streams/mod.rs"]
mod streams;
mod tell;

#[global_allocator]
static GLOBAL: millpond::Millpond = millpond::Millpond;

libfuzzer_sys::fuzz_target!(init: tell::operations_at_the_end(), |stream: &[u8]| streams::heap(stream));
