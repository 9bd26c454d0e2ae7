// Reductions of four numbers each over GROUP neighbouring lanes (a power of two, at most the subgroup's size) by shuffles.
// Every invocation must call them; every lane of a group gets the result.
override LANES: u32 = 128u; // a multiple of the subgroup's size
override GROUP: u32 = 8u;

struct Lane {
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) id: u32,
}

fn number_of(lane: Lane) -> u32 {
    return lane.subgroup * lane.size + lane.id;
}

fn group_max4(lane: Lane, value: vec4<f32>) -> vec4<f32> {
    var all = value;
    for (var reach = 1u; reach < GROUP; reach = reach * 2u) {
        all = max(all, subgroupShuffleXor(all, reach));
    }
    return all;
}

fn group_sum4(lane: Lane, value: vec4<f32>) -> vec4<f32> {
    var all = value;
    for (var reach = 1u; reach < GROUP; reach = reach * 2u) {
        all += subgroupShuffleXor(all, reach);
    }
    return all;
}
