// x whose neighbours lie along the depth: four of a row are one load.
override X_LAYOUT: u32 = 1u;
@group(0) @binding(1) var<storage, read> x: array<vec4<elem>>;

// Where a row of a batch begins; rows past the last one repeat it.
fn x_row_offset(batch: u32, row: u32) -> u32 {
    return row_offset(params.x, batch * params.rows + min(row, params.rows - 1u)) / 4u;
}

// A quad of the depth of a row.
fn load_x(start: u32, quad: u32) -> vec4<f32> {
    let four = vec4<f32>(x[start + quad]);
    if (TAIL) {
        return within_depth(quad, four);
    }
    return four;
}
