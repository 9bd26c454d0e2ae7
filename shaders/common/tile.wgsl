// Register tiles: 4 batch rows (columns of the matrix) × 4 neighbouring units (their components).

// sum += w·xᵀ is one step of a product: `w` has four units' weights, `x` four rows' inputs.
fn outer(w: vec4<f32>, x: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(w * x.x, w * x.y, w * x.z, w * x.w);
}

// Column `row`, without indexing a variable, which would move the whole tile to memory.
fn column(tile: mat4x4<f32>, row: u32) -> vec4<f32> {
    let low = select(tile[0], tile[1], row == 1u);
    let high = select(tile[2], tile[3], row == 3u);
    return select(low, high, row >= 2u);
}
