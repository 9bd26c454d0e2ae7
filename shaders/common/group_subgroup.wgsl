// Reductions of vec4 over LANES_N neighbouring lanes, those that share four rows, by subgroup shuffles. Every invocation
// must call them; every lane of a group gets the result.
override LANES: u32 = 128u; // a multiple of the subgroup's size

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

fn group_max4(ids: LaneIds, value: vec4<f32>) -> vec4<f32> {
    var result = value;
    for (var xor_mask = 1u; xor_mask < LANES_N; xor_mask = xor_mask * 2u) {
        result = max(result, subgroupShuffleXor(result, xor_mask));
    }
    return result;
}

fn group_sum4(ids: LaneIds, value: vec4<f32>) -> vec4<f32> {
    var result = value;
    for (var xor_mask = 1u; xor_mask < LANES_N; xor_mask = xor_mask * 2u) {
        result += subgroupShuffleXor(result, xor_mask);
    }
    return result;
}
