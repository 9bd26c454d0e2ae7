// y and the residual of any strides.
override Y_LAYOUT: u32 = 0u;
@group(0) @binding(4) var<storage, read> residual: array<r_elem>;
@group(0) @binding(5) var<storage, read_write> y: array<out_elem>;

// Columns past the last one repeat it.
fn four_columns(view: View, row: u32, quad: u32) -> vec4<u32> {
    let n = min(vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(view.shape.w - 1u));
    return vec4<u32>(start_of(view, row)) + n * view.strides.w;
}

fn y_place(row: u32, quad: u32) -> vec4<u32> {
    return four_columns(params.y, row, quad);
}

fn y_at(at: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(f32(y[at.x]), f32(y[at.y]), f32(y[at.z]), f32(y[at.w]));
}

fn residual_at(row: u32, quad: u32) -> vec4<f32> {
    let at = four_columns(params.residual, row, quad);
    return vec4<f32>(f32(residual[at.x]), f32(residual[at.y]), f32(residual[at.z]), f32(residual[at.w]));
}

fn y_store(at: vec4<u32>, quad: u32, s: vec4<f32>) {
    let left = params.y.shape.w - 4u * quad;
    y[at.x] = out_elem(s.x);
    if (left > 1u) { y[at.y] = out_elem(s.y); }
    if (left > 2u) { y[at.z] = out_elem(s.z); }
    if (left > 3u) { y[at.w] = out_elem(s.w); }
}
