// Reductions of vec4 over a workgroup of LANES invocations by subgroup operations, combined through workgroup
// memory where there are several subgroups. Every invocation must call them; every invocation gets the result.
override ONE_SUBGROUP: bool = false; // the workgroup is a subgroup, or lies within one

// One entry a subgroup, of which there may be as many as lanes.
var<workgroup> shared_values: array<vec4<f32>, LANES>;

fn reduce_max4(ids: LaneIds, value: vec4<f32>) -> vec4<f32> {
    var result = subgroupMax(value);
    if (!ONE_SUBGROUP) {
        shared_values[ids.subgroup] = result;
        workgroupBarrier();
        for (var other = 0u; other < LANES / ids.size; other += 1u) {
            result = max(result, shared_values[other]);
        }
        workgroupBarrier();
    }
    return result;
}

fn reduce_sum4(ids: LaneIds, value: vec4<f32>) -> vec4<f32> {
    var result = subgroupAdd(value);
    if (!ONE_SUBGROUP) {
        shared_values[ids.subgroup] = result;
        workgroupBarrier();
        result = vec4<f32>(0.0);
        for (var other = 0u; other < LANES / ids.size; other += 1u) {
            result += shared_values[other];
        }
        workgroupBarrier();
    }
    return result;
}
