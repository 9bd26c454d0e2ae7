// The 16 rows that all lanes of a workgroup need at the same time, read by every lane.
override LANES: u32 = 8u;

struct Lane {
    @builtin(local_invocation_index) index: u32,
}

fn number_of(lane: Lane) -> u32 {
    return lane.index;
}

// 16 vec4, four in a matrix.
struct Fours {
    a: mat4x4<f32>,
    b: mat4x4<f32>,
    c: mat4x4<f32>,
    d: mat4x4<f32>,
}

// Where the rows of a tile of queries begin.
struct QueryRows {
    a: vec4<u32>,
    b: vec4<u32>,
    c: vec4<u32>,
    d: vec4<u32>,
}

// Rows past the last one repeat it.
fn query_rows(lane: Lane, start: u32, step: u32, first: u32, last: u32) -> QueryRows {
    let most = vec4<u32>(last - 1u);
    let row = vec4<u32>(first) + vec4<u32>(0u, 1u, 2u, 3u);
    return QueryRows(
        start + step * min(row, most),
        start + step * min(row + 4u, most),
        start + step * min(row + 8u, most),
        start + step * min(row + 12u, most),
    );
}

fn query_quads(at: vec4<u32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        vec4<f32>(query[at.x]), vec4<f32>(query[at.y]), vec4<f32>(query[at.z]), vec4<f32>(query[at.w]),
    );
}

// A quad of dimensions of all rows: a column is a row.
fn query_fours(lane: Lane, rows: QueryRows, quad: u32) -> Fours {
    return Fours(
        query_quads(rows.a + quad), query_quads(rows.b + quad), query_quads(rows.c + quad), query_quads(rows.d + quad),
    );
}

fn weight_four(at: u32) -> mat4x4<f32> {
    return mat4x4<f32>(weights[at], weights[at + 4u], weights[at + 8u], weights[at + 12u]);
}

// The weights of four keys from key n on: a column is a key, each matrix has four of the rows.
fn weight_fours(lane: Lane, n: u32) -> Fours {
    return Fours(weight_four(4u * n), weight_four(4u * n + 1u), weight_four(4u * n + 2u), weight_four(4u * n + 3u));
}
