// Weights of any strides.
override W_LAYOUT: u32 = 0u;
@group(0) @binding(2) var<storage, read> w: array<w_elem>;

// Where the weights of four columns of y begin.
struct Columns {
    offsets: vec4<u32>,
}

// Columns past the last one repeat it.
fn w_column_offsets(batch: u32, quad: u32) -> Columns {
    let n = min(vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.w.shape.z - 1u));
    let start = element(params.w, batch / params.w.shape.y, batch % params.w.shape.y, 0u, 0u);
    return Columns(vec4<u32>(start) + n * params.w.strides.z);
}

fn load_w4(offsets: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(f32(w[offsets.x]), f32(w[offsets.y]), f32(w[offsets.z]), f32(w[offsets.w]));
}

// A quad of the depth of four columns of y: column k of the matrix is step k of the depth, its components are the columns
// of y.
fn load_w(columns: Columns, quad: u32) -> mat4x4<f32> {
    let k = min(vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.w.shape.w - 1u));
    let k_offsets = k * params.w.strides.w;
    let w4 = mat4x4<f32>(
        load_w4(columns.offsets + k_offsets.x), load_w4(columns.offsets + k_offsets.y),
        load_w4(columns.offsets + k_offsets.z), load_w4(columns.offsets + k_offsets.w),
    );
    if (TAIL) {
        return w_within_depth(quad, w4);
    }
    return w4;
}
