// Four neighbouring elements of `key`, counted in quads.
@group(0) @binding(2) var<storage, read> key: array<vec4<k_elem>>;

fn key_at(quad: u32) -> vec4<f32> {
    return vec4<f32>(key[quad]);
}
