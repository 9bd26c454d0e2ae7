// Measures the cost of a workgroup barrier: lanes pass numbers round a ring, with two barriers an iteration.
override LANES: u32 = 64u;

struct Params {
    iterations: u32,
}

@group(0) @binding(1) var<storage, read_write> output: array<f32>;

var<workgroup> even: array<u32, LANES>;
var<workgroup> odd: array<u32, LANES>;

@compute @workgroup_size(LANES)
fn main(wg: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let next = select(lane + 1u, 0u, lane + 1u == LANES);
    even[lane] = lane;
    workgroupBarrier();
    for (var iteration = 0u; iteration < params.iterations; iteration += 1u) {
        odd[lane] = even[next] + 1u;
        workgroupBarrier();
        even[lane] = odd[next] + 1u;
        workgroupBarrier();
    }
    output[lane] = f32(even[lane]);
}
