// A product's depth split over PARTS groups of lanes of one subgroup, of whatever size, joined by shuffles.
override LANES: u32 = 64u;  // a multiple of the subgroup's size
override PARTS: u32 = 1u;   // a power of two, at most the subgroup's size

// Where an invocation stands in its workgroup.
struct Lane {
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) id: u32,
}

// Which of the LANES / PARTS columns of tiles this lane computes.
fn column_of(lane: Lane) -> u32 {
    let columns = lane.size / PARTS;
    return lane.subgroup * columns + lane.id % columns;
}

// Which part of the depth.
fn part_of(lane: Lane) -> u32 {
    return lane.id / (lane.size / PARTS);
}

// The sum over the parts, for every part. All lanes must call it.
fn join(lane: Lane, tile: mat4x4<f32>) -> mat4x4<f32> {
    var a = tile[0];
    var b = tile[1];
    var c = tile[2];
    var d = tile[3];
    let columns = lane.size / PARTS;
    for (var reach = 1u; reach < PARTS; reach = reach * 2u) {
        let mask = reach * columns;
        a += subgroupShuffleXor(a, mask);
        b += subgroupShuffleXor(b, mask);
        c += subgroupShuffleXor(c, mask);
        d += subgroupShuffleXor(d, mask);
    }
    return mat4x4<f32>(a, b, c, d);
}
