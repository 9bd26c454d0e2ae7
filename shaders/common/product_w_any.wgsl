// Weights of any strides.
override W_LAYOUT: u32 = 0u;
@group(0) @binding(2) var<storage, read> w: array<w_elem>;

// Where the weights of four columns of y begin.
struct Columns {
    at: vec4<u32>,
}

// Columns past the last one repeat it.
fn columns_of(batch: u32, quad: u32) -> Columns {
    let n = min(vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.w.shape.z - 1u));
    let start = element(params.w, batch / params.w.shape.y, batch % params.w.shape.y, 0u, 0u);
    return Columns(vec4<u32>(start) + n * params.w.strides.z);
}

fn four_of(at: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(f32(w[at.x]), f32(w[at.y]), f32(w[at.z]), f32(w[at.w]));
}

// A quad of their depth: a column of the matrix is a step of the depth, its components are the columns of y.
fn w_at(columns: Columns, quad: u32) -> mat4x4<f32> {
    let k = min(vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.w.shape.w - 1u));
    let far = k * params.w.strides.w;
    let four = mat4x4<f32>(
        four_of(columns.at + far.x), four_of(columns.at + far.y),
        four_of(columns.at + far.z), four_of(columns.at + far.w),
    );
    if (TAIL) {
        return w_within_depth(quad, four);
    }
    return four;
}
