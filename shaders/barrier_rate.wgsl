// What a workgroup barrier costs where it is needed: lanes pass numbers round a ring, two barriers a turn.
override LANES: u32 = 64u;

struct Params {
    turns: u32, // of the loop
}

@group(0) @binding(1) var<storage, read_write> output: array<f32>;

var<workgroup> even: array<u32, LANES>;
var<workgroup> odd: array<u32, LANES>;

@compute @workgroup_size(LANES)
fn main(here: Invocation, @builtin(local_invocation_index) lane: u32) {
    let next = select(lane + 1u, 0u, lane + 1u == LANES);
    even[lane] = lane;
    workgroupBarrier();
    for (var turn = 0u; turn < params.turns; turn += 1u) {
        odd[lane] = even[next] + 1u;
        workgroupBarrier();
        even[lane] = odd[next] + 1u;
        workgroupBarrier();
    }
    output[lane] = f32(even[lane]);
}
