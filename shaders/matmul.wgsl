// Matrix product in registers: a lane has a tile of 1, 4, 8, 16 or 32 rows × 4 columns of y, its workgroup a tile of the
// same rows and LANES / PARTS times as many columns. Nothing is shared but the sums over the parts of the depth, so that
// a CPU driver meets no barrier; on cards it is the form for few rows, where each weight is read once.
//
//   for each quad of the depth: read 4 × 4 weights and the quad of each row; y += x·w
//   join the sums of the parts; bias, residual, activation; store
override ROWS: u32 = 4u;

// sums += w·x, a row a column.
fn add_product(sums: mat4x4<f32>, w: mat4x4<f32>, x: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        add_row(sums[0], w, x[0]), add_row(sums[1], w, x[1]), add_row(sums[2], w, x[2]), add_row(sums[3], w, x[3]),
    );
}

fn add_row(sum: vec4<f32>, w: mat4x4<f32>, x: vec4<f32>) -> vec4<f32> {
    let a = fma(w[0], vec4<f32>(x.x), sum);
    let b = fma(w[1], vec4<f32>(x.y), a);
    let c = fma(w[2], vec4<f32>(x.z), b);
    return fma(w[3], vec4<f32>(x.w), c);
}

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
    // Uniform turns: a part that has none left reads zeros past the depth.
    let turns = (tile.last - tile.first + PARTS - 1u) / PARTS;
    let first = tile.first + part;
    if (ROWS == 1u) {
        let at = x_row(tile.batch, row);
        for (var turn = 0u; turn < turns; turn += 1u) {
            let k = first + turn * PARTS;
            s0[0] = add_row(s0[0], w_at(columns, k), x_at(at, k));
        }
    } else if (ROWS == 4u) {
        let rows = rows_of(tile.batch, row);
        for (var turn = 0u; turn < turns; turn += 1u) {
            let k = first + turn * PARTS;
            s0 = add_product(s0, w_at(columns, k), four_rows(rows, k));
        }
    } else {
        let rows_0 = rows8_of(lane, tile.batch, row);
        let rows_1 = rows8_of(lane, tile.batch, row + 8u);
        let rows_2 = rows8_of(lane, tile.batch, row + 16u);
        let rows_3 = rows8_of(lane, tile.batch, row + 24u);
        for (var turn = 0u; turn < turns; turn += 1u) {
            let k = first + turn * PARTS;
            let w = w_at(columns, k);
            let x_0 = eight_rows(rows_0, k);
            s0 = add_product(s0, w, x_0.a);
            s1 = add_product(s1, w, x_0.b);
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
    if (ROWS == 1u) {
        if (4u * quad < params.y.shape.w) {
            finish(tile.part * params.rows + row, quad, s0[0]);
        }
        return;
    }
    for (var block = 0u; block < ROWS / 4u; block += 1u) {
        var sums = s0;
        switch block {
            case 1u: { sums = s1; }
            case 2u: { sums = s2; }
            case 3u: { sums = s3; }
            case 4u: { sums = s4; }
            case 5u: { sums = s5; }
            case 6u: { sums = s6; }
            case 7u: { sums = s7; }
            default: {}
        }
        finish_block(tile, tile.row * (ROWS / 4u) + block, quad, sums);
    }
}
