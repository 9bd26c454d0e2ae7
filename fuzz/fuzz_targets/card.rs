//! Any text as a model card, and the built-in ones with values replaced.
#![no_main]

#[path = "../../tests/it/hostile/any.rs"]
#[allow(dead_code)]
mod any;

const CARDS: [&str; 2] =
    [include_str!("../../models/khmer/model.json"), include_str!("../../models/arabic-names/model.json")];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    any::card(data, include_bytes!("../../models/khmer/weights.safetensors"), &CARDS);
});
