// Four neighbouring elements of `key`, counted in quads; in blocks of `q8.wgsl`.
@group(0) @binding(2) var<storage, read> key: array<u32>;

fn key_at(quad: u32) -> vec4<f32> {
    return bitcast<f32>(key[scale_of(4u * quad)]) * unpacked(key[bytes_of(4u * quad)]);
}
