// Query rows and softmax weights, which all lanes of a workgroup need at the same time: every lane loads all of them.

struct LaneIds {
    @builtin(local_invocation_index) index: u32,
}

fn lane_index(ids: LaneIds) -> u32 {
    return ids.index;
}

// Where the 16 rows of a block begin.
struct RowOffsets16 {
    a: vec4<u32>,
    b: vec4<u32>,
    c: vec4<u32>,
    d: vec4<u32>,
}

// Of both blocks.
struct QueryOffsets {
    a: RowOffsets16,
    b: RowOffsets16,
}

// Rows past the last one repeat it.
fn row_offsets16(start: u32, row_stride: u32, first: u32, last: u32) -> RowOffsets16 {
    let last_row = vec4<u32>(last - 1u);
    let row = vec4<u32>(first) + vec4<u32>(0u, 1u, 2u, 3u);
    return RowOffsets16(
        start + row_stride * min(row, last_row),
        start + row_stride * min(row + 4u, last_row),
        start + row_stride * min(row + 8u, last_row),
        start + row_stride * min(row + 12u, last_row),
    );
}

fn query_row_offsets(ids: LaneIds, start: u32, row_stride: u32, first: u32, last: u32) -> QueryOffsets {
    return QueryOffsets(row_offsets16(start, row_stride, first, last), row_offsets16(start, row_stride, first + 16u, last));
}

fn load_query_rows(offsets: vec4<u32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        vec4<f32>(query[offsets.x]), vec4<f32>(query[offsets.y]), vec4<f32>(query[offsets.z]), vec4<f32>(query[offsets.w]),
    );
}

// A quad of dimensions of the rows of a block: a column is a row.
fn load_query16(rows: RowOffsets16, quad: u32) -> Tile16x4 {
    return Tile16x4(
        load_query_rows(rows.a + quad), load_query_rows(rows.b + quad),
        load_query_rows(rows.c + quad), load_query_rows(rows.d + quad),
    );
}

fn load_weights16(index: u32) -> Tile16x4 {
    return Tile16x4(load_p(index), load_p(index + 1u), load_p(index + 2u), load_p(index + 3u));
}

// The softmax weights of the rows with the four keys from n on: a column is a key, its components four rows.
fn load_weights(ids: LaneIds, n: u32) -> Tile32x4 {
    let block = load_weights16(ROW_QUADS * n);
    if (ROW_BLOCKS == 1u) {
        return Tile32x4(block, block);
    }
    return Tile32x4(block, load_weights16(ROW_QUADS * n + 4u));
}
