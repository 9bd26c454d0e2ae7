// Weights whose neighbours lie along the columns of y: four of a step of the depth are one load.
override W_LAYOUT: u32 = 2u;
@group(0) @binding(2) var<storage, read> w: array<vec4<w_elem>>;

// Where the weights of four columns of y begin.
struct Columns {
    offset: u32,
}

// Columns past the last quad repeat it.
fn w_column_offsets(batch: u32, quad: u32) -> Columns {
    let start = element(params.w, batch / params.w.shape.y, batch % params.w.shape.y, 0u, 0u);
    return Columns(start / 4u + min(quad, (params.w.shape.z - 1u) / 4u));
}

// A quad of the depth of four columns of y: column k of the matrix is step k of the depth, its components are the columns
// of y.
fn load_w(columns: Columns, quad: u32) -> mat4x4<f32> {
    let step = params.w.strides.w / 4u;
    let offset = columns.offset + 4u * quad * step;
    let w4 = mat4x4<f32>(
        vec4<f32>(w[offset]), vec4<f32>(w[offset + step]), vec4<f32>(w[offset + 2u * step]), vec4<f32>(w[offset + 3u * step]),
    );
    if (TAIL) {
        return w_within_depth(quad, w4);
    }
    return w4;
}
