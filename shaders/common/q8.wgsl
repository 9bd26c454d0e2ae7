// Blocks of 32 8-bit numbers along the last axis: 9 words, the scale as f32 and then 4 signed bytes each, the first one
// lowest. An element is scale · byte. `src/q8.rs` has the rule.
const BLOCK = 32u;
const BLOCK_WORDS = 9u;

// The word of the scale of the block that holds an element.
fn scale_of(at: u32) -> u32 {
    return at / BLOCK * BLOCK_WORDS;
}

// The word that holds the bytes of an element and its neighbours.
fn bytes_of(at: u32) -> u32 {
    return scale_of(at) + 1u + at % BLOCK / 4u;
}

// The four bytes of a word, first one first.
fn unpacked(word: u32) -> vec4<f32> {
    return vec4<f32>(bitcast<vec4<i32>>(vec4<u32>(word) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u));
}
