// Reductions over a workgroup of LANES invocations (a power of two) through workgroup memory.
// Every invocation must call them; every invocation gets the result, which is uniform: control flow may depend on it.
override LANES: u32 = 64u;

var<workgroup> shared_value: array<f32, LANES>;
var<workgroup> shared_index: array<u32, LANES>;

fn reduce_sum(lane: u32, value: f32) -> f32 {
    shared_value[lane] = value;
    workgroupBarrier();
    for (var step = LANES / 2u; step > 0u; step = step / 2u) {
        if (lane < step) {
            shared_value[lane] = shared_value[lane] + shared_value[lane + step];
        }
        workgroupBarrier();
    }
    return workgroupUniformLoad(&shared_value[0]);
}

fn reduce_max(lane: u32, value: f32) -> f32 {
    shared_value[lane] = value;
    workgroupBarrier();
    for (var step = LANES / 2u; step > 0u; step = step / 2u) {
        if (lane < step) {
            shared_value[lane] = max(shared_value[lane], shared_value[lane + step]);
        }
        workgroupBarrier();
    }
    return workgroupUniformLoad(&shared_value[0]);
}

// Index of the largest value, the smallest such index on ties.
fn reduce_argmax(lane: u32, value: f32, index: u32) -> u32 {
    shared_value[lane] = value;
    shared_index[lane] = index;
    workgroupBarrier();
    for (var step = LANES / 2u; step > 0u; step = step / 2u) {
        if (lane < step) {
            let other = shared_value[lane + step];
            let other_index = shared_index[lane + step];
            let mine = shared_value[lane];
            if (other > mine || (other == mine && other_index < shared_index[lane])) {
                shared_value[lane] = other;
                shared_index[lane] = other_index;
            }
        }
        workgroupBarrier();
    }
    return workgroupUniformLoad(&shared_index[0]);
}
