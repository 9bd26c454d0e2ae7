// Four neighbouring elements of `value`, counted in quads; in blocks of `q8.wgsl`.
@group(0) @binding(3) var<storage, read> value: array<u32>;

fn value_at(quad: u32) -> vec4<f32> {
    return bitcast<f32>(value[scale_of(4u * quad)]) * unpacked(value[bytes_of(4u * quad)]);
}
