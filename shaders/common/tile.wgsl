// Register tiles: 4 batch rows (columns of the matrix) × 4 neighbouring units (their components).

// Column `row`, without indexing a variable, which would move the whole tile to memory.
fn column(tile: mat4x4<f32>, row: u32) -> vec4<f32> {
    let low = select(tile[0], tile[1], row == 1u);
    let high = select(tile[2], tile[3], row == 3u);
    return select(low, high, row >= 2u);
}
