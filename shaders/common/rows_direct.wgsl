// Rows of x that all lanes of a workgroup need at the same time: each lane reads them for itself.
override SPREAD: u32 = 0u;

// Where four rows begin.
struct Rows {
    at: vec4<u32>,
}

// Eight of them.
struct Rows8 {
    a: Rows,
    b: Rows,
}

// A quad of the depth of eight rows: a column is a row.
struct Eight {
    a: mat4x4<f32>,
    b: mat4x4<f32>,
}

fn rows_of(batch: u32, row: u32) -> Rows {
    return Rows(vec4<u32>(x_row(batch, row), x_row(batch, row + 1u), x_row(batch, row + 2u), x_row(batch, row + 3u)));
}

fn rows8_of(lane: Lane, batch: u32, row: u32) -> Rows8 {
    return Rows8(rows_of(batch, row), rows_of(batch, row + 4u));
}

fn four_rows(rows: Rows, quad: u32) -> mat4x4<f32> {
    return mat4x4<f32>(x_at(rows.at.x, quad), x_at(rows.at.y, quad), x_at(rows.at.z, quad), x_at(rows.at.w, quad));
}

fn eight_rows(rows: Rows8, quad: u32) -> Eight {
    return Eight(four_rows(rows.a, quad), four_rows(rows.b, quad));
}

// One row by four columns over a range of the depth; a part of it, a quad at a time in turn with the others.
fn row_product(lane: Lane, columns: Columns, start: u32, first: u32, last: u32) -> vec4<f32> {
    var sum = vec4<f32>(0.0);
    let turns = (last - first + PARTS - 1u) / PARTS;
    for (var turn = 0u; turn < turns; turn += 1u) {
        let k = first + turn * PARTS + part_of(lane);
        sum = add_row(sum, w_at(columns, k), x_at(start, k));
    }
    return sum;
}
