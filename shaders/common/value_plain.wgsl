// Four neighbouring elements of `value`, counted in quads.
@group(0) @binding(3) var<storage, read> value: array<vec4<v_elem>>;

fn value_at(quad: u32) -> vec4<f32> {
    return vec4<f32>(value[quad]);
}
