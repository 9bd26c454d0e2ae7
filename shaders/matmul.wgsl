// Matrix product in registers: a lane has a tile of 1, 4, 8, 16 or 32 rows × 4 columns of y, its workgroup a tile of the
// same rows and LANES / PARTS times as many columns. Nothing is shared but the sums over the parts of the depth, so that
// a CPU driver meets no barrier; on cards it is the form for few rows, where each weight is read once.
//
//   for each quad of the depth: read 4 × 4 weights and the quad of each row; y += x·w
//   join the sums of the parts; bias, residual, activation; store
override ROWS: u32 = 4u;

@compute @workgroup_size(LANES)
fn main(here: Invocation, lane: Lane) {
    let number = workgroup_number(here);
    if (number >= params.tiles) {
        return;
    }
    let tile = tile_of(number);
    let part = part_of(lane);
    let quad = tile.column * (LANES / PARTS) + column_of(lane);
    let columns = columns_of(tile.batch, quad);
    let row = tile.row * ROWS;
    var s0 = mat4x4<f32>();
    var s1 = s0;
    var s2 = s0;
    var s3 = s0;
    var s4 = s0;
    var s5 = s0;
    var s6 = s0;
    var s7 = s0;
    if (ROWS == 1u) {
        s0[0] = row_product(lane, columns, x_row(tile.batch, row), tile.first, tile.last);
    } else {
        let rows_0 = rows8_of(lane, tile.batch, row);
        let rows_1 = rows8_of(lane, tile.batch, row + 8u);
        let rows_2 = rows8_of(lane, tile.batch, row + 16u);
        let rows_3 = rows8_of(lane, tile.batch, row + 24u);
        // Uniform turns: a part that has none left reads zeros past the depth.
        let turns = (tile.last - tile.first + PARTS - 1u) / PARTS;
        for (var turn = 0u; turn < turns; turn += 1u) {
            let k = tile.first + turn * PARTS + part;
            let w = w_at(columns, k);
            let x_0 = eight_rows(rows_0, k);
            s0 = add_product(s0, w, x_0.a);
            if (ROWS >= 8u) {
                s1 = add_product(s1, w, x_0.b);
            }
            if (ROWS >= 16u) {
                let x_1 = eight_rows(rows_1, k);
                s2 = add_product(s2, w, x_1.a);
                s3 = add_product(s3, w, x_1.b);
            }
            if (ROWS == 32u) {
                let x_2 = eight_rows(rows_2, k);
                let x_3 = eight_rows(rows_3, k);
                s4 = add_product(s4, w, x_2.a);
                s5 = add_product(s5, w, x_2.b);
                s6 = add_product(s6, w, x_3.a);
                s7 = add_product(s7, w, x_3.b);
            }
        }
    }
    if (PARTS > 1u) {
        s0 = join(lane, s0);
        if (ROWS == 8u) {
            s1 = join(lane, s1);
        }
        if (part > 0u) {
            return;
        }
    }
    let biases = bias_of(quad);
    if (ROWS == 1u) {
        if (4u * quad < params.y.shape.w) {
            finish(tile.part * params.rows + row, quad, s0[0], biases);
        }
        return;
    }
    finish_block(tile, row, quad, s0, biases);
    if (ROWS >= 8u) {
        finish_block(tile, row + 4u, quad, s1, biases);
    }
    if (ROWS >= 16u) {
        finish_block(tile, row + 8u, quad, s2, biases);
        finish_block(tile, row + 12u, quad, s3, biases);
    }
    if (ROWS == 32u) {
        finish_block(tile, row + 16u, quad, s4, biases);
        finish_block(tile, row + 20u, quad, s5, biases);
        finish_block(tile, row + 24u, quad, s6, biases);
        finish_block(tile, row + 28u, quad, s7, biases);
    }
}
