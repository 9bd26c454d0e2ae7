// Weights whose neighbours lie along the columns of y: four of a step of the depth are one load.
override W_LAYOUT: u32 = 2u;
@group(0) @binding(2) var<storage, read> w: array<vec4<w_elem>>;

// Where the weights of four columns of y begin.
struct Columns {
    at: u32,
}

// Columns past the last quad repeat it.
fn columns_of(batch: u32, quad: u32) -> Columns {
    let start = element(params.w, batch / params.w.shape.y, batch % params.w.shape.y, 0u, 0u);
    return Columns(start / 4u + min(quad, (params.w.shape.z - 1u) / 4u));
}

// A quad of their depth: a column of the matrix is a step of the depth, its components are the columns of y.
fn w_at(columns: Columns, quad: u32) -> mat4x4<f32> {
    let step = params.w.strides.w / 4u;
    let at = columns.at + 4u * quad * step;
    let four = mat4x4<f32>(
        vec4<f32>(w[at]), vec4<f32>(w[at + step]), vec4<f32>(w[at + 2u * step]), vec4<f32>(w[at + 3u * step]),
    );
    if (TAIL) {
        return w_within_depth(quad, four);
    }
    return four;
}
