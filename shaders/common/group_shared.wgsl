// Reductions of four numbers each over GROUP neighbouring lanes (a power of two) through workgroup memory. Every invocation
// must call them; every lane of a group gets the result.
override LANES: u32 = 128u;
override GROUP: u32 = 8u;

struct Lane {
    @builtin(local_invocation_index) index: u32,
}

var<workgroup> shared_values: array<vec4<f32>, LANES>;

fn number_of(lane: Lane) -> u32 {
    return lane.index;
}

fn group_max4(lane: Lane, value: vec4<f32>) -> vec4<f32> {
    shared_values[lane.index] = value;
    workgroupBarrier();
    let first = lane.index / GROUP * GROUP;
    var all = shared_values[first];
    for (var n = first + 1u; n < first + GROUP; n += 1u) {
        all = max(all, shared_values[n]);
    }
    workgroupBarrier();
    return all;
}

fn group_sum4(lane: Lane, value: vec4<f32>) -> vec4<f32> {
    shared_values[lane.index] = value;
    workgroupBarrier();
    let first = lane.index / GROUP * GROUP;
    var all = vec4<f32>(0.0);
    for (var n = first; n < first + GROUP; n += 1u) {
        all += shared_values[n];
    }
    workgroupBarrier();
    return all;
}
