// x of any strides.
override X_LAYOUT: u32 = 0u;
@group(0) @binding(1) var<storage, read> x: array<elem>;

// Where a row of a batch begins; rows past the last one repeat it.
fn x_row(batch: u32, row: u32) -> u32 {
    return start_of(params.x, batch * params.rows + min(row, params.rows - 1u));
}

// A quad of the depth of a row.
fn x_at(start: u32, quad: u32) -> vec4<f32> {
    let k = min(vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.x.shape.w - 1u));
    let at = vec4<u32>(start) + k * params.x.strides.w;
    let four = vec4<f32>(f32(x[at.x]), f32(x[at.y]), f32(x[at.z]), f32(x[at.w]));
    if (TAIL) {
        return within_depth(quad, four);
    }
    return four;
}
