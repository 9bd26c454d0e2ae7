// Rows of x that all lanes of a workgroup need at the same time: each of 8 lanes of a subgroup reads one, and tells the
// others. For subgroups of 8 lanes or more, of drivers that take nearly as long for one value that all lanes read as for
// one of their own. The depth is not split over lanes.
override SPREAD: u32 = 1u;
override LANES: u32 = 8u; // one subgroup
override PARTS: u32 = 1u;

struct Lane {
    @builtin(subgroup_invocation_id) id: u32,
}

// Where the row begins that this lane reads.
struct Rows8 {
    at: u32,
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

// One row by four columns over a range of the depth: each of 8 lanes reads every eighth quad of the row.
fn row_product(lane: Lane, columns: Columns, start: u32, first: u32, last: u32) -> vec4<f32> {
    var sum = vec4<f32>(0.0);
    let whole = first + (last - first) / 8u * 8u;
    for (var k = first; k < whole; k += 8u) {
        let own = x_at(start, k + lane.id % 8u);
        sum = add_row(sum, w_at(columns, k), subgroupBroadcast(own, 0u));
        sum = add_row(sum, w_at(columns, k + 1u), subgroupBroadcast(own, 1u));
        sum = add_row(sum, w_at(columns, k + 2u), subgroupBroadcast(own, 2u));
        sum = add_row(sum, w_at(columns, k + 3u), subgroupBroadcast(own, 3u));
        sum = add_row(sum, w_at(columns, k + 4u), subgroupBroadcast(own, 4u));
        sum = add_row(sum, w_at(columns, k + 5u), subgroupBroadcast(own, 5u));
        sum = add_row(sum, w_at(columns, k + 6u), subgroupBroadcast(own, 6u));
        sum = add_row(sum, w_at(columns, k + 7u), subgroupBroadcast(own, 7u));
    }
    for (var k = whole; k < last; k += 1u) {
        sum = add_row(sum, w_at(columns, k), x_at(start, k));
    }
    return sum;
}
