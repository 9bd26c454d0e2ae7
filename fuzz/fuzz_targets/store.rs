//! Any bytes as a tensor file.
#![no_main]

#[path = "../../tests/it/hostile/any.rs"]
#[allow(dead_code)]
mod any;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    any::store(data);
});
