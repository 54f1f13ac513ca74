//! Operation streams over the global allocator, which is the program's too.
#![no_main]

#[path = "../../tests/streams/mod.rs"]
mod streams;
mod tell;

#[global_allocator]
static GLOBAL: millpond::Millpond = millpond::Millpond;

libfuzzer_sys::fuzz_target!(init: tell::operations_at_the_end(), |stream: &[u8]| streams::global(stream));
