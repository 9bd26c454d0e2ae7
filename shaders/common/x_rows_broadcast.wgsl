// Rows of x, which all lanes of a workgroup need at the same time: each of 8 lanes of a subgroup (of 8 lanes or more) loads
// one and broadcasts it. For drivers that run on the CPU, which take nearly as long to load one value for all lanes as to
// load one for each. There is no split-K over lanes.
override BROADCAST: u32 = 1u;
override LANES: u32 = 8u; // one subgroup
override K_SPLITS: u32 = 1u;

struct LaneIds {
    @builtin(subgroup_invocation_id) id: u32,
}

// Where the row of x begins that this lane loads.
struct RowOffsets8 {
    start: u32,
}

// A quad of the depth of eight rows: a column is a row.
struct Tile8x4 {
    a: mat4x4<f32>,
    b: mat4x4<f32>,
}

fn column_index(ids: LaneIds) -> u32 {
    return ids.id;
}

fn k_split(ids: LaneIds) -> u32 {
    return 0u;
}

fn sum_splits(ids: LaneIds, tile: mat4x4<f32>) -> mat4x4<f32> {
    return tile;
}

fn row_offsets8(ids: LaneIds, batch: u32, row: u32) -> RowOffsets8 {
    return RowOffsets8(x_row_offset(batch, row + ids.id % 8u));
}

fn load_rows8(rows: RowOffsets8, quad: u32) -> Tile8x4 {
    let x_quad = load_x(rows.start, quad);
    return Tile8x4(
        mat4x4<f32>(
            subgroupBroadcast(x_quad, 0u), subgroupBroadcast(x_quad, 1u),
            subgroupBroadcast(x_quad, 2u), subgroupBroadcast(x_quad, 3u),
        ),
        mat4x4<f32>(
            subgroupBroadcast(x_quad, 4u), subgroupBroadcast(x_quad, 5u),
            subgroupBroadcast(x_quad, 6u), subgroupBroadcast(x_quad, 7u),
        ),
    );
}

// One row by four columns over the quads first .. last (exclusive) of the depth: each of 8 lanes reads every eighth quad of
// the row.
fn row_product(ids: LaneIds, columns: Columns, start: u32, first: u32, last: u32) -> vec4<f32> {
    var sum = vec4<f32>(0.0);
    let whole = first + (last - first) / 8u * 8u;
    for (var k = first; k < whole; k += 8u) {
        let x_quad = load_x(start, k + ids.id % 8u);
        sum = multiply_add4(sum, load_w(columns, k), subgroupBroadcast(x_quad, 0u));
        sum = multiply_add4(sum, load_w(columns, k + 1u), subgroupBroadcast(x_quad, 1u));
        sum = multiply_add4(sum, load_w(columns, k + 2u), subgroupBroadcast(x_quad, 2u));
        sum = multiply_add4(sum, load_w(columns, k + 3u), subgroupBroadcast(x_quad, 3u));
        sum = multiply_add4(sum, load_w(columns, k + 4u), subgroupBroadcast(x_quad, 4u));
        sum = multiply_add4(sum, load_w(columns, k + 5u), subgroupBroadcast(x_quad, 5u));
        sum = multiply_add4(sum, load_w(columns, k + 6u), subgroupBroadcast(x_quad, 6u));
        sum = multiply_add4(sum, load_w(columns, k + 7u), subgroupBroadcast(x_quad, 7u));
    }
    for (var k = whole; k < last; k += 1u) {
        sum = multiply_add4(sum, load_w(columns, k), load_x(start, k));
    }
    return sum;
}
