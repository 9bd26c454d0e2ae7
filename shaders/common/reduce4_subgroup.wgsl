// Reductions of four numbers each over a workgroup of LANES invocations by subgroup operations, joined through workgroup
// memory where there are several subgroups. Every invocation must call them; every invocation gets the result.
override ONE_SUBGROUP: bool = false; // the workgroup is one subgroup, or part of one

// One entry a subgroup, of which there may be as many as lanes.
var<workgroup> shared_values: array<vec4<f32>, LANES>;

fn reduce_max4(lane: Lane, value: vec4<f32>) -> vec4<f32> {
    var all = subgroupMax(value);
    if (!ONE_SUBGROUP) {
        shared_values[lane.subgroup] = all;
        workgroupBarrier();
        for (var other = 0u; other < LANES / lane.size; other += 1u) {
            all = max(all, shared_values[other]);
        }
        workgroupBarrier();
    }
    return all;
}

fn reduce_sum4(lane: Lane, value: vec4<f32>) -> vec4<f32> {
    var all = subgroupAdd(value);
    if (!ONE_SUBGROUP) {
        shared_values[lane.subgroup] = all;
        workgroupBarrier();
        all = vec4<f32>(0.0);
        for (var other = 0u; other < LANES / lane.size; other += 1u) {
            all += shared_values[other];
        }
        workgroupBarrier();
    }
    return all;
}
