// x of any strides.
override X_LAYOUT: u32 = 0u;
@group(0) @binding(1) var<storage, read> x: array<elem>;

// Where a row of a batch begins; rows past the last one repeat it.
fn x_row_offset(batch: u32, row: u32) -> u32 {
    return row_offset(params.x, batch * params.rows + min(row, params.rows - 1u));
}

// A quad of the depth of a row.
fn load_x(start: u32, quad: u32) -> vec4<f32> {
    let k = min(vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.x.shape.w - 1u));
    let offsets = vec4<u32>(start) + k * params.x.strides.w;
    let four = vec4<f32>(f32(x[offsets.x]), f32(x[offsets.y]), f32(x[offsets.z]), f32(x[offsets.w]));
    if (TAIL) {
        return within_depth(quad, four);
    }
    return four;
}
