// y and the residual whose neighbours lie along the columns, in whole quads: one load or store.
override Y_LAYOUT: u32 = 1u;
@group(0) @binding(4) var<storage, read> residual: array<vec4<r_elem>>;
@group(0) @binding(5) var<storage, read_write> y: array<vec4<out_elem>>;

fn y_place(row: u32, quad: u32) -> u32 {
    return start_of(params.y, row) / 4u + quad;
}

fn y_at(at: u32) -> vec4<f32> {
    return vec4<f32>(y[at]);
}

fn residual_at(row: u32, quad: u32) -> vec4<f32> {
    return vec4<f32>(residual[start_of(params.residual, row) / 4u + quad]);
}

fn y_store(at: u32, quad: u32, s: vec4<f32>) {
    y[at] = vec4<out_elem>(s);
}
