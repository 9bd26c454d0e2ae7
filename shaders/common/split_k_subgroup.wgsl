// Split-K within a subgroup: K_SPLITS neighbouring lanes each compute a slice of the depth of the same register tile, and
// the partial sums are added up by shuffles.
override LANES: u32 = 64u;  // a multiple of the subgroup's size
override K_SPLITS: u32 = 1u; // a power of two, at most the subgroup's size

struct LaneIds {
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) id: u32,
}

// The lane's number in its workgroup, which has whole subgroups. Nothing says so, hence the modulus: it is no index out of
// bounds even if they were not.
fn lane_index(ids: LaneIds) -> u32 {
    return (ids.subgroup * ids.size + ids.id) % LANES;
}

// Which of the workgroup's LANES / K_SPLITS register tiles this lane computes.
fn column_index(ids: LaneIds) -> u32 {
    return lane_index(ids) / K_SPLITS;
}

// Which slice of the depth.
fn k_split(ids: LaneIds) -> u32 {
    return ids.id % K_SPLITS;
}

// The sum over the slices, in every lane. All lanes must call it.
fn sum_splits(ids: LaneIds, tile: mat4x4<f32>) -> mat4x4<f32> {
    var a = tile[0];
    var b = tile[1];
    var c = tile[2];
    var d = tile[3];
    for (var xor_mask = 1u; xor_mask < K_SPLITS; xor_mask = xor_mask * 2u) {
        a += subgroupShuffleXor(a, xor_mask);
        b += subgroupShuffleXor(b, xor_mask);
        c += subgroupShuffleXor(c, xor_mask);
        d += subgroupShuffleXor(d, xor_mask);
    }
    return mat4x4<f32>(a, b, c, d);
}
