// Query rows and softmax weights, which all lanes of a workgroup need at the same time: each of 8 lanes of a subgroup
// (of 8 lanes or more) loads two or four rows and broadcasts them. Drivers that run on the CPU take nearly as long to load
// one value for all lanes as to load one for each.

struct LaneIds {
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) id: u32,
}

// The lane's number in its workgroup, which lies within one subgroup; the modulus keeps it an index whatever the driver says.
fn lane_index(ids: LaneIds) -> u32 {
    return ids.id % LANES;
}

// Where the rows that this lane loads begin: two of each block.
struct QueryOffsets {
    a: vec2<u32>,
    b: vec2<u32>,
}

// Rows past the last one repeat it.
fn query_row_offsets(ids: LaneIds, start: u32, row_stride: u32, first: u32, last: u32) -> QueryOffsets {
    let row = vec2<u32>(first + ids.id) + vec2<u32>(0u, 8u);
    let last_row = vec2<u32>(last - 1u);
    return QueryOffsets(start + row_stride * min(row, last_row), start + row_stride * min(row + 16u, last_row));
}

fn first_four(x: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        subgroupBroadcast(x, 0u), subgroupBroadcast(x, 1u), subgroupBroadcast(x, 2u), subgroupBroadcast(x, 3u),
    );
}

fn next_four(x: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        subgroupBroadcast(x, 4u), subgroupBroadcast(x, 5u), subgroupBroadcast(x, 6u), subgroupBroadcast(x, 7u),
    );
}

// A quad of dimensions of the rows of a block: a column is a row.
fn load_query16(rows: vec2<u32>, quad: u32) -> Tile16x4 {
    let low = vec4<f32>(query[rows.x + quad]);
    let high = vec4<f32>(query[rows.y + quad]);
    return Tile16x4(first_four(low), next_four(low), first_four(high), next_four(high));
}

// Column k of each matrix is one of the four columns of argument k.
fn transpose_blocks(a: mat4x4<f32>, b: mat4x4<f32>, c: mat4x4<f32>, d: mat4x4<f32>) -> Tile16x4 {
    return Tile16x4(
        mat4x4<f32>(a[0], b[0], c[0], d[0]),
        mat4x4<f32>(a[1], b[1], c[1], d[1]),
        mat4x4<f32>(a[2], b[2], c[2], d[2]),
        mat4x4<f32>(a[3], b[3], c[3], d[3]),
    );
}

// The softmax weights of the rows with the four keys from n on: a column is a key, its components four rows.
fn load_weights(ids: LaneIds, n: u32) -> Tile32x4 {
    let index = ROW_QUADS * n + lane_index(ids);
    let w_0 = p_tile[index];
    let w_1 = p_tile[index + 8u];
    if (ROW_BLOCKS == 1u) {
        let block = transpose_blocks(first_four(w_0), next_four(w_0), first_four(w_1), next_four(w_1));
        return Tile32x4(block, block);
    }
    let w_2 = p_tile[index + 16u];
    let w_3 = p_tile[index + 24u];
    return Tile32x4(
        transpose_blocks(first_four(w_0), first_four(w_1), first_four(w_2), first_four(w_3)),
        transpose_blocks(next_four(w_0), next_four(w_1), next_four(w_2), next_four(w_3)),
    );
}
