// Rows of x that all lanes of a workgroup need at the same time: each of 8 lanes of a subgroup reads one, and tells the
// others. For subgroups of 8 lanes or more, of drivers that take nearly as long for one value that all lanes read as for
// one of their own. The depth is not split over lanes.
override LANES: u32 = 8u; // one subgroup
override PARTS: u32 = 1u;

struct Lane {
    @builtin(subgroup_invocation_id) id: u32,
}

// Where the row begins that this lane reads.
struct Rows8 {
    at: u32,
}

// Where four rows begin.
struct Rows {
    at: vec4<u32>,
}

// A quad of the depth of eight rows: a column is a row.
struct Eight {
    a: mat4x4<f32>,
    b: mat4x4<f32>,
}

fn column_of(lane: Lane) -> u32 {
    return lane.id;
}

fn part_of(lane: Lane) -> u32 {
    return 0u;
}

fn join(lane: Lane, tile: mat4x4<f32>) -> mat4x4<f32> {
    return tile;
}

fn rows_of(batch: u32, row: u32) -> Rows {
    return Rows(vec4<u32>(x_row(batch, row), x_row(batch, row + 1u), x_row(batch, row + 2u), x_row(batch, row + 3u)));
}

fn four_rows(rows: Rows, quad: u32) -> mat4x4<f32> {
    return mat4x4<f32>(x_at(rows.at.x, quad), x_at(rows.at.y, quad), x_at(rows.at.z, quad), x_at(rows.at.w, quad));
}

fn rows8_of(lane: Lane, batch: u32, row: u32) -> Rows8 {
    return Rows8(x_row(batch, row + lane.id % 8u));
}

fn eight_rows(rows: Rows8, quad: u32) -> Eight {
    let own = x_at(rows.at, quad);
    return Eight(
        mat4x4<f32>(
            subgroupBroadcast(own, 0u), subgroupBroadcast(own, 1u), subgroupBroadcast(own, 2u), subgroupBroadcast(own, 3u),
        ),
        mat4x4<f32>(
            subgroupBroadcast(own, 4u), subgroupBroadcast(own, 5u), subgroupBroadcast(own, 6u), subgroupBroadcast(own, 7u),
        ),
    );
}
