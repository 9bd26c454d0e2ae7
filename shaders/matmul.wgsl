// Matrix product in registers, y = x·wᵀ: a lane has a register tile of TILE_M rows × 4 columns of y, its workgroup the tile
// of the same rows and 4 · LANES / K_SPLITS columns.
//
//   accumulator = 0
//   for each quad of the depth in this lane's slice: load 4 × 4 weights and a quad of each row of x; accumulator += x·w
//   split-K: sum the accumulators of the K_SPLITS slices
//   epilogue: bias, sum of earlier products, residual, activation; store
//
// Operands are not staged in workgroup memory, so that a driver that runs on the CPU has no barrier; on cards this is the
// form for few rows, where each weight is used once. Rows and columns past the end repeat the last one and are not stored.
override TILE_M: u32 = 4u; // 1, 4, 8, 16 or 32

@compute @workgroup_size(LANES)
fn main(wg: Workgroup, ids: LaneIds) {
    let tile_index = workgroup_index(wg);
    if (tile_index >= params.tiles) {
        return;
    }
    let tile = tile_of(tile_index);
    let split = k_split(ids);
    let quad = tile.column * (LANES / K_SPLITS) + column_index(ids);
    let columns = w_column_offsets(tile.batch, quad);
    let row = tile.row * TILE_M;
    var s0 = mat4x4<f32>();
    var s1 = s0;
    var s2 = s0;
    var s3 = s0;
    var s4 = s0;
    var s5 = s0;
    var s6 = s0;
    var s7 = s0;
    if (TILE_M == 1u) {
        s0[0] = row_product(ids, columns, x_row_offset(tile.batch, row), tile.first, tile.last);
    } else {
        let rows_0 = row_offsets8(ids, tile.batch, row);
        let rows_1 = row_offsets8(ids, tile.batch, row + 8u);
        let rows_2 = row_offsets8(ids, tile.batch, row + 16u);
        let rows_3 = row_offsets8(ids, tile.batch, row + 24u);
        // The number of iterations is uniform: a slice that has no quad left loads zeros past the depth.
        let iterations = (tile.last - tile.first + K_SPLITS - 1u) / K_SPLITS;
        for (var iteration = 0u; iteration < iterations; iteration += 1u) {
            let k = tile.first + iteration * K_SPLITS + split;
            let w = load_w(columns, k);
            let x_0 = load_rows8(rows_0, k);
            s0 = add_product(s0, w, x_0.a);
            if (TILE_M >= 8u) {
                s1 = add_product(s1, w, x_0.b);
            }
            if (TILE_M >= 16u) {
                let x_1 = load_rows8(rows_1, k);
                s2 = add_product(s2, w, x_1.a);
                s3 = add_product(s3, w, x_1.b);
            }
            if (TILE_M == 32u) {
                let x_2 = load_rows8(rows_2, k);
                let x_3 = load_rows8(rows_3, k);
                s4 = add_product(s4, w, x_2.a);
                s5 = add_product(s5, w, x_2.b);
                s6 = add_product(s6, w, x_3.a);
                s7 = add_product(s7, w, x_3.b);
            }
        }
    }
    if (K_SPLITS > 1u) {
        s0 = sum_splits(ids, s0);
        if (TILE_M == 8u) {
            s1 = sum_splits(ids, s1);
        }
        if (split > 0u) {
            return;
        }
    }
    let biases = bias_of(quad);
    if (TILE_M == 1u) {
        if (4u * quad < params.y.shape.w) {
            epilogue(tile.partial * params.rows + row, quad, s0[0], biases);
        }
        return;
    }
    epilogue_block(tile, row, quad, s0, biases);
    if (TILE_M >= 8u) {
        epilogue_block(tile, row + 4u, quad, s1, biases);
    }
    if (TILE_M >= 16u) {
        epilogue_block(tile, row + 8u, quad, s2, biases);
        epilogue_block(tile, row + 12u, quad, s3, biases);
    }
    if (TILE_M == 32u) {
        epilogue_block(tile, row + 16u, quad, s4, biases);
        epilogue_block(tile, row + 20u, quad, s5, biases);
        epilogue_block(tile, row + 24u, quad, s6, biases);
        epilogue_block(tile, row + 28u, quad, s7, biases);
    }
}
