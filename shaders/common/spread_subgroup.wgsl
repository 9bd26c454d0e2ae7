// The 16 rows that all lanes of a workgroup need at the same time: each of 8 lanes of a subgroup reads two, and tells the
// others. For subgroups of 8 lanes or more. Software drivers take nearly as long for one value that all lanes read as
// for one of their own.
override LANES: u32 = 8u;

struct Lane {
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) id: u32,
}

fn number_of(lane: Lane) -> u32 {
    return lane.subgroup * lane.size + lane.id;
}

// 16 vec4, four in a matrix.
struct Fours {
    a: mat4x4<f32>,
    b: mat4x4<f32>,
    c: mat4x4<f32>,
    d: mat4x4<f32>,
}

// Where the two rows that this lane reads begin.
alias QueryRows = vec2<u32>;

// Rows past the last one repeat it.
fn query_rows(lane: Lane, start: u32, step: u32, first: u32, last: u32) -> QueryRows {
    return start + step * min(vec2<u32>(first + lane.id % 8u) + vec2<u32>(0u, 8u), vec2<u32>(last - 1u));
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

// A quad of dimensions of all rows: a column is a row.
fn query_fours(lane: Lane, rows: QueryRows, quad: u32) -> Fours {
    let low = vec4<f32>(query[rows.x + quad]);
    let high = vec4<f32>(query[rows.y + quad]);
    return Fours(first_four(low), next_four(low), first_four(high), next_four(high));
}

// The weights of four keys from key n on: a column is a key, each matrix has four of the rows.
fn weight_fours(lane: Lane, n: u32) -> Fours {
    let low = weights[4u * n + lane.id % 8u];
    let high = weights[4u * n + 8u + lane.id % 8u];
    let a = first_four(low); // of key n
    let b = next_four(low);
    let c = first_four(high);
    let d = next_four(high);
    return Fours(
        mat4x4<f32>(a[0], b[0], c[0], d[0]),
        mat4x4<f32>(a[1], b[1], c[1], d[1]),
        mat4x4<f32>(a[2], b[2], c[2], d[2]),
        mat4x4<f32>(a[3], b[3], c[3], d[3]),
    );
}
