// Quantizes 32 elements of a row, `step` apart, into a block of a cache (`q8.wgsl`). `src/q8.rs` has the rule and its
// reasons, and gives the same words, bit for bit.
const UNIT = BLOCK;

const STEP = 0.007874015718698502; // 1 / 127 in f32
const LEAST = 1e-35;

@group(0) @binding(4) var<storage, read_write> cache: array<u32>;
@group(0) @binding(5) var<storage, read_write> value_cache: array<u32>;

fn row_element(value: bool, index: u32) -> f32 {
    if (value) {
        return f32(value_rows[index]);
    }
    return f32(rows[index]);
}

fn store_word(value: bool, index: u32, word: u32) {
    if (value) {
        value_cache[index] = word;
    } else {
        cache[index] = word;
    }
}

// The quantized element. A quotient may be off by some units in the last place on some drivers, products and comparisons
// may not.
fn quantized(x: f32, scale: f32) -> i32 {
    let size = abs(x);
    var n = min(round(size / scale), 127.0);
    if ((n - 0.5) * scale > size) {
        n -= 1.0;
    } else if (n < 127.0 && (n + 0.5) * scale <= size) {
        n += 1.0;
    }
    return select(i32(n), -i32(n), x < 0.0);
}

fn write_unit(value: bool, target_index: u32, source_index: u32, step: u32) {
    let block = scale_of(target_index);
    var largest = 0.0;
    var finite = true;
    for (var k = 0u; k < BLOCK; k += 1u) {
        let x = row_element(value, source_index + k * step);
        // By its bits: compilers may assume that there is no NaN.
        finite = finite && (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
        largest = max(largest, abs(x));
    }
    let scale = largest * STEP;
    let some = finite && largest >= LEAST;
    store_word(value, block, select(select(0x7fc00000u, 0u, finite), bitcast<u32>(scale), some));
    for (var quad = 0u; quad < BLOCK / 4u; quad += 1u) {
        var word = 0u;
        for (var k = 0u; some && k < 4u; k += 1u) {
            let q = quantized(row_element(value, source_index + (quad * 4u + k) * step), scale);
            word |= (bitcast<u32>(q) & 0xffu) << (8u * k);
        }
        store_word(value, block + 1u + quad, word);
    }
}
