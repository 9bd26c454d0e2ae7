// Split-K reduction: adds up the partial sums of the slices of the depth that `matmul` or `matmul_tiled` have computed, in
// order, and does the epilogue. An invocation has four columns of a row.
//
//   sum = Σ_split x[split, row, quad];  epilogue: bias, sum of earlier products, residual, activation; store
//
// x is the partial sums [splits, batches · rows, quads of columns] (f32). w is not bound; its shape tells the columns.
override LANES: u32 = 64u;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> w: array<f32>; // not read; all matrix products have the same bindings

@compute @workgroup_size(LANES)
fn main(wg: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(wg) * LANES + lane;
    let quads = (params.w.shape.z + 3u) / 4u;
    let all = params.batches * params.rows * quads;
    if (index >= all) {
        return;
    }
    var sum = x[params.x.offset / 4u + index];
    for (var split = 1u; split < params.splits; split += 1u) {
        sum += x[params.x.offset / 4u + split * all + index];
    }
    epilogue(index / quads, index % quads, sum, bias_of(index % quads));
}
