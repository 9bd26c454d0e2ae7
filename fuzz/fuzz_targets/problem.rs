//! Any attention, recurrence or cache, recorded without a device.
#![no_main]

#[path = "../../tests/it/hostile/bounds.rs"]
mod bounds;
#[path = "../../tests/it/hostile/problems.rs"]
#[allow(dead_code)]
mod problems;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    problems::problem(data);
});
