//! Any text as a score function.
#![no_main]

#[path = "../../tests/it/hostile/any.rs"]
#[allow(dead_code)]
mod any;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        any::score_mod(text);
    }
});
