// A product's depth split over PARTS groups of lanes of one subgroup, of whatever size, joined by shuffles.
override LANES: u32 = 64u;  // a multiple of the subgroup's size
override PARTS: u32 = 1u;   // a power of two, at most the subgroup's size

// Where an invocation stands in its workgroup.
struct Lane {
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) id: u32,
}

// The lane's number in its workgroup.
fn number_of(lane: Lane) -> u32 {
    return lane.subgroup * lane.size + lane.id;
}

// Which of the LANES / PARTS columns of tiles this lane computes. The parts of a column are neighbours.
fn column_of(lane: Lane) -> u32 {
    return (lane.subgroup * lane.size + lane.id) / PARTS;
}

// Which part of the depth.
fn part_of(lane: Lane) -> u32 {
    return lane.id % PARTS;
}

// The sum over the parts, for every part. All lanes must call it.
fn join(lane: Lane, tile: mat4x4<f32>) -> mat4x4<f32> {
    var a = tile[0];
    var b = tile[1];
    var c = tile[2];
    var d = tile[3];
    for (var reach = 1u; reach < PARTS; reach = reach * 2u) {
        a += subgroupShuffleXor(a, reach);
        b += subgroupShuffleXor(b, reach);
        c += subgroupShuffleXor(c, reach);
        d += subgroupShuffleXor(d, reach);
    }
    return mat4x4<f32>(a, b, c, d);
}
