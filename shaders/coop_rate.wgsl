// How many multiply-adds the cooperative matrices do: independent chains of sum = left · right + sum, whose factors are
// loaded once.
override LANES: u32 = 64u;    // SUBGROUPS times the longest subgroup: where they are shorter, some are left over
override SUBGROUPS: u32 = 2u; // that work, of a workgroup

struct Params {
    turns: u32, // of the loop; each does 16 products
}

@group(0) @binding(1) var<storage, read_write> output: array<f32>; // SIDE² for each subgroup

// Two left factors, four right ones, row-major.
var<workgroup> factors: array<f16, 6u * SIDE * SIDE>;

@compute @workgroup_size(LANES)
fn main(
    here: Invocation,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
) {
    let area = SIDE * SIDE;
    for (var k = lane; k < 6u * area; k += LANES) {
        factors[k] = f16(k % 3u);
    }
    workgroupBarrier();
    if (subgroup < SUBGROUPS) {
        let a0 = coopLoadT<left_factor>(&factors[0u * area], SIDE);
        let a1 = coopLoadT<left_factor>(&factors[1u * area], SIDE);
        let b0 = coopLoadT<right_factor>(&factors[2u * area], SIDE);
        let b1 = coopLoadT<right_factor>(&factors[3u * area], SIDE);
        let b2 = coopLoadT<right_factor>(&factors[4u * area], SIDE);
        let b3 = coopLoadT<right_factor>(&factors[5u * area], SIDE);
        var s0 = sum_matrix();
        var s1 = sum_matrix();
        var s2 = sum_matrix();
        var s3 = sum_matrix();
        var s4 = sum_matrix();
        var s5 = sum_matrix();
        var s6 = sum_matrix();
        var s7 = sum_matrix();
        for (var turn = 0u; turn < params.turns; turn += 1u) {
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
        let at = (workgroup_number(here) * SUBGROUPS + subgroup) * area;
        let stride = SIDE;
        coopStoreT(all, &output[at], stride);
    }
}
