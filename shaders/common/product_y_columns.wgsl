// y and the residual whose neighbours lie along the columns, in whole quads: one load or store.
override Y_LAYOUT: u32 = 1u;
@group(0) @binding(4) var<storage, read> residual: array<vec4<r_elem>>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<out_elem>>;

fn y_offset(row: u32, quad: u32) -> u32 {
    return row_offset(params.y, row) / 4u + quad;
}

fn load_y(offset: u32) -> vec4<f32> {
    return vec4<f32>(y[offset]);
}

fn load_residual(row: u32, quad: u32) -> vec4<f32> {
    return vec4<f32>(residual[row_offset(params.residual, row) / 4u + quad]);
}

fn store_y(offset: u32, quad: u32, s: vec4<f32>) {
    y[offset] = vec4<out_elem>(s);
}
