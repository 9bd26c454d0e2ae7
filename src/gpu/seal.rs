//! A seal on data that is kept in a file, by which it is known again whole and for the same device.

/// Stands in front of pipelines, and changes with the layout of what follows: a hash of the adapter, the length and a
/// hash of the data, as u64 each (little-endian), and the data.
const MAGIC: &[u8; 16] = b"regard pipes 1\r\n";
/// Bytes in front of the data.
const HEADER: usize = MAGIC.len() + 3 * 8;

/// FNV-1a of 64 bits (Fowler, Noll, Vo).
pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

fn header(key: &str, data: &[u8]) -> Vec<u8> {
    let numbers = [hash(key.as_bytes()), data.len() as u64, hash(data)];
    [MAGIC.to_vec(), numbers.iter().flat_map(|n| n.to_le_bytes()).collect()].concat()
}

/// The data behind a header that says for whom it is, and that it is whole.
pub(super) fn seal(key: &str, data: &[u8]) -> Vec<u8> {
    [header(key, data), data.to_vec()].concat()
}

/// The data of what [`seal`] gave for the same key; `None` for anything else.
pub(super) fn unseal<'a>(key: &str, sealed: &'a [u8]) -> Option<&'a [u8]> {
    let data = sealed.get(HEADER..)?;
    (sealed[..HEADER] == header(key, data)).then_some(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sealed_for_the_same_key_is_opened() {
        let sealed = seal("a card", b"pipelines");
        assert_eq!(unseal("a card", &sealed), Some(&b"pipelines"[..]));
        assert_eq!(unseal("a card", &seal("a card", b"")), Some(&b""[..]));
        assert_eq!(unseal("another card", &sealed), None);
        for length in 0..sealed.len() {
            assert_eq!(unseal("a card", &sealed[..length]), None, "{length} bytes");
        }
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 4;
            assert_eq!(unseal("a card", &damaged), None, "byte {at}");
        }
        assert_eq!(unseal("a card", &[&sealed[..], b"x"].concat()), None);
    }
}
