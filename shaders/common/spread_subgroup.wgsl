// The rows that all lanes of a workgroup need at the same time: each of 8 lanes of a subgroup reads two or four, and tells the
// others. For subgroups of 8 lanes or more. Software drivers take nearly as long for one value that all lanes read as
// for one of their own.
const LANES = 8u;

struct Lane {
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) id: u32,
}

fn number_of(lane: Lane) -> u32 {
    return lane.id;
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

// Where the rows that this lane reads begin: two of each band.
struct QueryRows {
    a: vec2<u32>,
    b: vec2<u32>,
}

// Rows past the last one repeat it.
fn query_rows(lane: Lane, start: u32, step: u32, first: u32, last: u32) -> QueryRows {
    let row = vec2<u32>(first + lane.id) + vec2<u32>(0u, 8u);
    let most = vec2<u32>(last - 1u);
    return QueryRows(start + step * min(row, most), start + step * min(row + 16u, most));
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

// A quad of dimensions of the rows of a band: a column is a row.
fn query_fours(rows: vec2<u32>, quad: u32) -> Fours {
    let low = vec4<f32>(query[rows.x + quad]);
    let high = vec4<f32>(query[rows.y + quad]);
    return Fours(first_four(low), next_four(low), first_four(high), next_four(high));
}

// Column k of each matrix is one of the four columns of argument k.
fn side_by_side(a: mat4x4<f32>, b: mat4x4<f32>, c: mat4x4<f32>, d: mat4x4<f32>) -> Fours {
    return Fours(
        mat4x4<f32>(a[0], b[0], c[0], d[0]),
        mat4x4<f32>(a[1], b[1], c[1], d[1]),
        mat4x4<f32>(a[2], b[2], c[2], d[2]),
        mat4x4<f32>(a[3], b[3], c[3], d[3]),
    );
}

// The weights of four keys from key n on: a column is a key, each matrix has four of the rows.
fn weight_bands(lane: Lane, n: u32) -> Bands {
    let at = FOURS * n + lane.id;
    let w_0 = weights[at];
    let w_1 = weights[at + 8u];
    if (BANDS == 1u) {
        let band = side_by_side(first_four(w_0), next_four(w_0), first_four(w_1), next_four(w_1));
        return Bands(band, band);
    }
    let w_2 = weights[at + 16u];
    let w_3 = weights[at + 24u];
    return Bands(
        side_by_side(first_four(w_0), first_four(w_1), first_four(w_2), first_four(w_3)),
        side_by_side(next_four(w_0), next_four(w_1), next_four(w_2), next_four(w_3)),
    );
}
