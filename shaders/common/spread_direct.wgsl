// The rows that all lanes of a workgroup need at the same time, read by every lane.
const LANES = 8u;

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

// Of two bands of 16 rows.
struct Bands {
    a: Fours,
    b: Fours,
}

// Where the rows of a band begin: a column of four rows.
struct Starts {
    a: vec4<u32>,
    b: vec4<u32>,
    c: vec4<u32>,
    d: vec4<u32>,
}

// Of both bands.
struct QueryRows {
    a: Starts,
    b: Starts,
}

// Rows past the last one repeat it.
fn starts(start: u32, step: u32, first: u32, last: u32) -> Starts {
    let most = vec4<u32>(last - 1u);
    let row = vec4<u32>(first) + vec4<u32>(0u, 1u, 2u, 3u);
    return Starts(
        start + step * min(row, most),
        start + step * min(row + 4u, most),
        start + step * min(row + 8u, most),
        start + step * min(row + 12u, most),
    );
}

fn query_rows(lane: Lane, start: u32, step: u32, first: u32, last: u32) -> QueryRows {
    return QueryRows(starts(start, step, first, last), starts(start, step, first + 16u, last));
}

fn query_quads(at: vec4<u32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        vec4<f32>(query[at.x]), vec4<f32>(query[at.y]), vec4<f32>(query[at.z]), vec4<f32>(query[at.w]),
    );
}

// A quad of dimensions of the rows of a band: a column is a row.
fn query_fours(rows: Starts, quad: u32) -> Fours {
    return Fours(
        query_quads(rows.a + quad), query_quads(rows.b + quad), query_quads(rows.c + quad), query_quads(rows.d + quad),
    );
}

fn weight_fours(at: u32) -> Fours {
    return Fours(stored(at), stored(at + 1u), stored(at + 2u), stored(at + 3u));
}

// The weights of four keys from key n on: a column is a key, each matrix has four of the rows.
fn weight_bands(lane: Lane, n: u32) -> Bands {
    let band = weight_fours(FOURS * n);
    if (BANDS == 1u) {
        return Bands(band, band);
    }
    return Bands(band, weight_fours(FOURS * n + 4u));
}
