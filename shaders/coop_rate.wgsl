// Measures the rate of multiply-adds of cooperative matrices: independent chains of c = a · b + c, whose operands are
// loaded once.
override LANES: u32 = 64u;    // SUBGROUPS times the largest subgroup: smaller ones leave some without work
override SUBGROUPS: u32 = 2u; // of a workgroup

struct Params {
    iterations: u32, // each does 16 products
}

@group(0) @binding(1) var<storage, read_write> output: array<f32>; // SIDE² for each subgroup

// Two matrices a, four matrices b, row-major.
var<workgroup> operands: array<f16, 6u * SIDE * SIDE>;

@compute @workgroup_size(LANES)
fn main(
    wg: Workgroup,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
) {
    let area = SIDE * SIDE;
    for (var k = lane; k < 6u * area; k += LANES) {
        operands[k] = f16(k % 3u);
    }
    workgroupBarrier();
    if (subgroup < SUBGROUPS) {
        let a0 = coopLoadT<matrix_a>(&operands[0u * area], SIDE);
        let a1 = coopLoadT<matrix_a>(&operands[1u * area], SIDE);
        let b0 = coopLoadT<matrix_b>(&operands[2u * area], SIDE);
        let b1 = coopLoadT<matrix_b>(&operands[3u * area], SIDE);
        let b2 = coopLoadT<matrix_b>(&operands[4u * area], SIDE);
        let b3 = coopLoadT<matrix_b>(&operands[5u * area], SIDE);
        var s0 = matrix_c();
        var s1 = matrix_c();
        var s2 = matrix_c();
        var s3 = matrix_c();
        var s4 = matrix_c();
        var s5 = matrix_c();
        var s6 = matrix_c();
        var s7 = matrix_c();
        for (var iteration = 0u; iteration < params.iterations; iteration += 1u) {
            s0 = coopMultiplyAdd(a0, b0, s0); s1 = coopMultiplyAdd(a0, b1, s1);
            s2 = coopMultiplyAdd(a0, b2, s2); s3 = coopMultiplyAdd(a0, b3, s3);
            s4 = coopMultiplyAdd(a1, b0, s4); s5 = coopMultiplyAdd(a1, b1, s5);
            s6 = coopMultiplyAdd(a1, b2, s6); s7 = coopMultiplyAdd(a1, b3, s7);
            s0 = coopMultiplyAdd(a0, b0, s0); s1 = coopMultiplyAdd(a0, b1, s1);
            s2 = coopMultiplyAdd(a0, b2, s2); s3 = coopMultiplyAdd(a0, b3, s3);
            s4 = coopMultiplyAdd(a1, b0, s4); s5 = coopMultiplyAdd(a1, b1, s5);
            s6 = coopMultiplyAdd(a1, b2, s6); s7 = coopMultiplyAdd(a1, b3, s7);
        }
        let all = ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7));
        let index = (workgroup_index(wg) * SUBGROUPS + subgroup) * area;
        let stride = SIDE;
        coopStoreT(all, &output[index], stride);
    }
}
