// y and the residual of any strides.
override Y_LAYOUT: u32 = 0u;
@group(0) @binding(4) var<storage, read> residual: array<r_elem>;
@group(0) @binding(5) var<storage, read_write> y: array<out_elem>;

// Columns past the last one repeat it.
fn column_offsets(view: View, row: u32, quad: u32) -> vec4<u32> {
    let n = min(vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(view.shape.w - 1u));
    return vec4<u32>(row_offset(view, row)) + n * view.strides.w;
}

fn y_offset(row: u32, quad: u32) -> vec4<u32> {
    return column_offsets(params.y, row, quad);
}

fn load_y(offset: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(f32(y[offset.x]), f32(y[offset.y]), f32(y[offset.z]), f32(y[offset.w]));
}

fn load_residual(row: u32, quad: u32) -> vec4<f32> {
    let offset = column_offsets(params.residual, row, quad);
    return vec4<f32>(f32(residual[offset.x]), f32(residual[offset.y]), f32(residual[offset.z]), f32(residual[offset.w]));
}

fn store_y(offset: vec4<u32>, quad: u32, s: vec4<f32>) {
    let left = params.y.shape.w - 4u * quad;
    y[offset.x] = out_elem(s.x);
    if (left > 1u) { y[offset.y] = out_elem(s.y); }
    if (left > 2u) { y[offset.z] = out_elem(s.z); }
    if (left > 3u) { y[offset.w] = out_elem(s.w); }
}
