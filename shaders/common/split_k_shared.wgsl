// Split-K within a workgroup: K_SPLITS groups of lanes each compute a slice of the depth of the same register tiles, and
// the partial sums are added up through workgroup memory.
override LANES: u32 = 64u;
override K_SPLITS: u32 = 1u; // a power of two that divides LANES

struct LaneIds {
    @builtin(local_invocation_id) id: vec3<u32>,
}

var<workgroup> partial_sums: array<mat4x4<f32>, LANES>;

// The lane's number in its workgroup.
fn lane_index(ids: LaneIds) -> u32 {
    return ids.id.x;
}

// Which of the workgroup's LANES / K_SPLITS register tiles this lane computes.
fn column_index(ids: LaneIds) -> u32 {
    return ids.id.x % (LANES / K_SPLITS);
}

// Which slice of the depth.
fn k_split(ids: LaneIds) -> u32 {
    return ids.id.x / (LANES / K_SPLITS);
}

// The sum over the slices, in every lane. All lanes must call it.
fn sum_splits(ids: LaneIds, tile: mat4x4<f32>) -> mat4x4<f32> {
    if (K_SPLITS == 1u) {
        return tile;
    }
    partial_sums[ids.id.x] = tile;
    workgroupBarrier();
    var sum = mat4x4<f32>();
    for (var split = 0u; split < K_SPLITS; split += 1u) {
        sum += partial_sums[split * (LANES / K_SPLITS) + column_index(ids)];
    }
    workgroupBarrier();
    return sum;
}
