// Rows of x, which all lanes of a workgroup need at the same time: every lane loads all of them.
override BROADCAST: u32 = 0u;

// Where four rows of x begin.
struct RowOffsets4 {
    start: vec4<u32>,
}

// Where eight rows begin.
struct RowOffsets8 {
    a: RowOffsets4,
    b: RowOffsets4,
}

// A quad of the depth of eight rows: a column is a row.
struct Tile8x4 {
    a: mat4x4<f32>,
    b: mat4x4<f32>,
}

fn row_offsets4(batch: u32, row: u32) -> RowOffsets4 {
    return RowOffsets4(vec4<u32>(
        x_row_offset(batch, row), x_row_offset(batch, row + 1u), x_row_offset(batch, row + 2u), x_row_offset(batch, row + 3u),
    ));
}

fn row_offsets8(ids: LaneIds, batch: u32, row: u32) -> RowOffsets8 {
    return RowOffsets8(row_offsets4(batch, row), row_offsets4(batch, row + 4u));
}

fn load_rows4(rows: RowOffsets4, quad: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        load_x(rows.start.x, quad), load_x(rows.start.y, quad), load_x(rows.start.z, quad), load_x(rows.start.w, quad),
    );
}

fn load_rows8(rows: RowOffsets8, quad: u32) -> Tile8x4 {
    return Tile8x4(load_rows4(rows.a, quad), load_rows4(rows.b, quad));
}

// One row by four columns over the quads first .. last (exclusive) of the depth, of which this lane's slice takes every
// K_SPLITS-th.
fn row_product(ids: LaneIds, columns: Columns, start: u32, first: u32, last: u32) -> vec4<f32> {
    var sum = vec4<f32>(0.0);
    let iterations = (last - first + K_SPLITS - 1u) / K_SPLITS;
    for (var iteration = 0u; iteration < iterations; iteration += 1u) {
        let k = first + iteration * K_SPLITS + k_split(ids);
        sum = multiply_add4(sum, load_w(columns, k), load_x(start, k));
    }
    return sum;
}
