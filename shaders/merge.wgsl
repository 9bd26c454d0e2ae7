// Merges the outputs of both directions of a recurrence: sum, product or average.
override LANES: u32 = 64u;
override MERGE: u32 = 0u; // 0 sum, 1 product, 2 average

struct Params {
    source: View,      // [T, B, 2, H]
    target_view: View, // [T, B, 1, H]
    elements: u32,     // T · B · H
}

@group(0) @binding(1) var<storage, read> source: array<f32>;
@group(0) @binding(2) var<storage, read_write> destination: array<out_elem>;

@compute @workgroup_size(LANES)
fn main(wg: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(wg) * LANES + lane;
    if (index >= params.elements) {
        return;
    }
    let width = params.target_view.shape.w;
    let row = index / width;
    let column = index % width;
    let t = row / params.target_view.shape.y;
    let b = row % params.target_view.shape.y;
    let forward = source[element(params.source, t, b, 0u, column)];
    let backward = source[element(params.source, t, b, 1u, column)];
    var merged = forward + backward;
    if (MERGE == 1u) {
        merged = forward * backward;
    } else if (MERGE == 2u) {
        merged = 0.5 * (forward + backward);
    }
    destination[element(params.target_view, t, b, 0u, column)] = out_elem(merged);
}
