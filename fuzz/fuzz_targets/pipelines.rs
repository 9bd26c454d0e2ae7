//! Any bytes as kept pipelines: nothing but what was sealed for the same device is ever handed to a driver.
#![no_main]

#[path = "../../src/gpu/seal.rs"]
#[allow(dead_code)]
mod seal;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Some(opened) = seal::unseal("a card", data) {
        assert_eq!(seal::seal("a card", opened), data);
    }
    let (damaged, sealed) = (data.first().map_or(0, |&n| usize::from(n)), seal::seal("a card", data));
    assert_eq!(seal::unseal("a card", &sealed), Some(data));
    assert_eq!(seal::unseal("another", &sealed), None);
    let mut damage = sealed.clone();
    let at = damaged % damage.len();
    damage[at] ^= 1;
    assert_eq!(seal::unseal("a card", &damage), None);
});
