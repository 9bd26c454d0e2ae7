// Weights whose neighbours lie along the depth, as PyTorch has them: four of a column of y are one load.
override W_LAYOUT: u32 = 1u;
@group(0) @binding(2) var<storage, read> w: array<vec4<w_elem>>;

// Where the weights of four columns of y begin.
struct Columns {
    offsets: vec4<u32>,
}

// Columns past the last one repeat it.
fn w_column_offsets(batch: u32, quad: u32) -> Columns {
    let n = min(vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.w.shape.z - 1u));
    let start = element(params.w, batch / params.w.shape.y, batch % params.w.shape.y, 0u, 0u);
    return Columns((vec4<u32>(start) + n * params.w.strides.z) / 4u);
}

// A quad of the depth of four columns of y: column k of the matrix is step k of the depth, its components are the columns
// of y.
fn load_w(columns: Columns, quad: u32) -> mat4x4<f32> {
    let offsets = columns.offsets + quad;
    let w4 = transpose(mat4x4<f32>(
        vec4<f32>(w[offsets.x]), vec4<f32>(w[offsets.y]), vec4<f32>(w[offsets.z]), vec4<f32>(w[offsets.w]),
    ));
    if (TAIL) {
        return w_within_depth(quad, w4);
    }
    return w4;
}
