// Reductions of vec4 over LANES_N neighbouring lanes, those that share four rows, through workgroup memory. Every
// invocation must call them; every lane of a group gets the result.
override LANES: u32 = 128u;

struct LaneIds {
    @builtin(local_invocation_index) index: u32,
}

var<workgroup> shared_values: array<vec4<f32>, LANES>;

fn lane_index(ids: LaneIds) -> u32 {
    return ids.index;
}

fn group_max4(ids: LaneIds, value: vec4<f32>) -> vec4<f32> {
    shared_values[ids.index] = value;
    workgroupBarrier();
    let first = ids.index / LANES_N * LANES_N;
    var result = shared_values[first];
    for (var n = first + 1u; n < first + LANES_N; n += 1u) {
        result = max(result, shared_values[n]);
    }
    workgroupBarrier();
    return result;
}

fn group_sum4(ids: LaneIds, value: vec4<f32>) -> vec4<f32> {
    shared_values[ids.index] = value;
    workgroupBarrier();
    let first = ids.index / LANES_N * LANES_N;
    var result = vec4<f32>(0.0);
    for (var n = first; n < first + LANES_N; n += 1u) {
        result += shared_values[n];
    }
    workgroupBarrier();
    return result;
}
