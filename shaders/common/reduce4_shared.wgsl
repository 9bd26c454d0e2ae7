// Reductions of vec4 over a workgroup of LANES invocations (a power of two) through workgroup memory.
// Every invocation must call them; every invocation gets the result. LaneIds comes with the
// split_k_*.wgsl or query_rows_*.wgsl file.
var<workgroup> shared_values: array<vec4<f32>, LANES>;

fn reduce_max4(ids: LaneIds, value: vec4<f32>) -> vec4<f32> {
    let lane = lane_index(ids);
    shared_values[lane] = value;
    workgroupBarrier();
    for (var step = LANES / 2u; step > 0u; step = step / 2u) {
        if (lane < step) {
            shared_values[lane] = max(shared_values[lane], shared_values[lane + step]);
        }
        workgroupBarrier();
    }
    return workgroupUniformLoad(&shared_values[0]);
}

fn reduce_sum4(ids: LaneIds, value: vec4<f32>) -> vec4<f32> {
    let lane = lane_index(ids);
    shared_values[lane] = value;
    workgroupBarrier();
    for (var step = LANES / 2u; step > 0u; step = step / 2u) {
        if (lane < step) {
            shared_values[lane] = shared_values[lane] + shared_values[lane + step];
        }
        workgroupBarrier();
    }
    return workgroupUniformLoad(&shared_values[0]);
}
