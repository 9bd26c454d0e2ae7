// The sums over ranges of the depth that `matmul` and `matmul_tiled` have computed side by side, added up in order, and
// what follows the last of them. An invocation has four columns of a row. x is the partial sums
// [splits, batches · rows, quads], in f32; there are no weights, whose shape says columns.
override LANES: u32 = 64u;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> w: array<f32>; // not read: the bindings of all products are the same

@compute @workgroup_size(LANES)
fn main(here: Invocation, @builtin(local_invocation_index) lane: u32) {
    let number = workgroup_number(here) * LANES + lane;
    let quads = (params.w.shape.z + 3u) / 4u;
    let all = params.batches * params.rows * quads;
    if (number >= all) {
        return;
    }
    var sum = x[params.x.offset / 4u + number];
    for (var split = 1u; split < params.splits; split += 1u) {
        sum += x[params.x.offset / 4u + split * all + number];
    }
    finish(number / quads, number % quads, sum, bias_of(number % quads));
}
