//! Blocks of 8-bit numbers: what tensors of [`DType::Q8`](crate::tensor::DType::Q8) hold.
//!
//! 32 neighbours along the last axis share a scale. A block is nine words of 32 bits: the scale as f32, then 32 signed bytes,
//! the first one lowest (`q8_0` of ggml, but for its scale in f16).
//! ```text
//! scale = max |x| · f32(1 / 127)
//! q     = ± the largest n ≤ 127 with (n − ½) · scale ≤ |x|      x / scale to the nearest, half away from 0
//! x     ≈ scale · q                                            off by at most scale / 2
//! ```
//! The rule is made of products and comparisons, which are exact to the last bit in WGSL; its division is not. So a device
//! (`shaders/common/write_q8.wgsl`) stores the same bits as the host. Two cases apart:
//! - A block whose largest element is below 1e-35 is all 0: devices may flush what is smaller than normal numbers.
//! - A block with a NaN or an infinity in it is NaN throughout.

/// Elements that share a scale.
pub const BLOCK: usize = 32;
/// Words of a block: its scale, then four elements each.
pub const WORDS: usize = 1 + BLOCK / 4;

/// 1 / 127, rounded down: 127 · scale does not overflow.
const STEP: f32 = 1.0 / 127.0;
/// The least largest element of a block that is not all 0: half a step of it is a normal number.
const LEAST: f32 = 1e-35;

/// The words of whole blocks; what is left over at the end of `values` counts as a block filled up with zeros.
pub fn quantize(values: &[f32]) -> Vec<u32> {
    let mut words = Vec::with_capacity(values.len().div_ceil(BLOCK) * WORDS);
    for block in values.chunks(BLOCK) {
        let scale = scale(block);
        words.push(scale.to_bits());
        let byte = |k: usize| block.get(k).map_or(0, |&x| step(x, scale) as u8);
        words.extend((0..BLOCK).step_by(4).map(|k| u32::from_le_bytes([0, 1, 2, 3].map(|n| byte(k + n)))));
    }
    words
}

/// The elements of whole blocks.
pub fn dequantize(words: &[u32]) -> Vec<f32> {
    let block = |words: &[u32]| {
        let scale = f32::from_bits(words[0]);
        let quads: Vec<[u8; 4]> = words[1..].iter().map(|word| word.to_le_bytes()).collect();
        quads.into_iter().flatten().map(move |byte| scale * f32::from(byte as i8))
    };
    words.chunks_exact(WORDS).flat_map(block).collect()
}

fn scale(block: &[f32]) -> f32 {
    let largest = block.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    match block.iter().all(|x| x.is_finite()) {
        false => f32::NAN,
        true if largest < LEAST => 0.0,
        true => largest * STEP,
    }
}

/// q of an element.
fn step(x: f32, scale: f32) -> i8 {
    if scale == 0.0 || scale.is_nan() {
        return 0;
    }
    let size = x.abs();
    let mut n = (size / scale).round().min(127.0);
    if (n - 0.5) * scale > size {
        n -= 1.0;
    } else if n < 127.0 && (n + 0.5) * scale <= size {
        n += 1.0;
    }
    (if x < 0.0 { -n } else { n }) as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(values: &[f32]) -> Vec<f32> {
        dequantize(&quantize(values))
    }

    fn block(f: impl Fn(usize) -> f32) -> Vec<f32> {
        (0..BLOCK).map(f).collect()
    }

    #[test]
    fn whole_steps_are_kept_and_others_go_to_the_nearest() {
        // The scale of 127/127 is exactly 1.
        let whole = block(|k| k as f32 * 8.0 - 121.0 - if k == 0 { 6.0 } else { 0.0 });
        assert_eq!(whole[0], -127.0);
        assert_eq!(f32::from_bits(quantize(&whole)[0]), 1.0);
        assert_eq!(kept(&whole), whole);
        let halves = block(|k| [127.0, 0.5, -0.5, 0.499_999_97, 63.5, -63.499_996, 1.5, 126.5][k % 8]);
        let nearest = block(|k| [127.0, 1.0, -1.0, 0.0, 64.0, -63.0, 2.0, 127.0][k % 8]);
        assert_eq!(kept(&halves), nearest);
        // Bytes lie lowest first.
        assert_eq!(quantize(&halves)[1], u32::from_le_bytes([127, 1, 255, 0]));
    }

    #[test]
    fn no_element_is_off_by_more_than_half_a_step() {
        for size in [1e-34f32, 1e-20, 0.37, 1.0, 65_504.0, 1e30, f32::MAX] {
            let values = block(|k| ((k * k + 1) as f32 * 0.7).sin() * if k == 9 { 0.0 } else { size });
            let largest = values.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
            for (x, kept) in values.iter().zip(kept(&values)) {
                let off = (f64::from(*x) - f64::from(kept)).abs();
                assert!(off <= f64::from(largest) / 254.0 * (1.0 + 1e-6), "{size}: {x} became {kept}");
            }
        }
        assert!(kept(&block(|_| f32::MAX)).iter().all(|x| x.is_finite()));
        assert_eq!(kept(&kept(&block(|k| (k as f32).sin()))), kept(&block(|k| (k as f32).sin())), "once is enough");
    }

    #[test]
    fn the_smallest_are_zero_and_what_is_not_finite_shows() {
        assert_eq!(kept(&block(|_| 0.0)), block(|_| 0.0));
        assert_eq!(kept(&block(|_| 9.9e-36)), block(|_| 0.0));
        assert!(kept(&block(|_| 1e-35)).iter().all(|&x| x > 0.0));
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let two = [block(|k| if k == 17 { odd } else { 1.0 }), block(|_| 1.0)].concat();
            let kept = kept(&two);
            assert!(kept[..BLOCK].iter().all(|x| x.is_nan()) && kept[BLOCK..].iter().all(|&x| x == 1.0));
        }
    }

    #[test]
    fn an_unfinished_block_ends_in_zeros() {
        let kept = kept(&[1.0, -1.0]);
        assert_eq!((kept.len(), &kept[..3]), (BLOCK, &[1.0, -1.0, 0.0][..]));
    }
}
