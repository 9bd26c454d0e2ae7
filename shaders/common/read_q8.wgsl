// An element of `source`, which is in blocks of `q8.wgsl`.
@group(0) @binding(1) var<storage, read> source: array<u32>;

fn source_at(at: u32) -> f32 {
    let byte = bitcast<i32>(source[bytes_of(at)] << (24u - at % 4u * 8u)) >> 24u;
    return bitcast<f32>(source[scale_of(at)]) * f32(byte);
}
