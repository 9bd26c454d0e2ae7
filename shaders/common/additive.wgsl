// Additive scores (Bahdanau et al. 2015), Σ v·tanh(q + k) over quads of units, beside dot products. A kernel that includes
// this file includes fused.wgsl.
override SCORE: u32 = 0u; // 0 dot, 1 additive
override HAS_V: bool = false;
override NORMED: bool = false; // v is g · v / ‖v‖

// A power of two that brings v near 1 before it is divided by its norm.
var<private> v_scale: f32 = 1.0;

// v of four neighbouring units; 0 for the units that pad the last quad.
fn v_of(quad: u32) -> vec4<f32> {
    let unit = vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u);
    var v = vec4<f32>(1.0);
    if (HAS_V) {
        let index = min(unit, vec4<u32>(params.units - 1u));
        v = vec4<f32>(
            bitcast<f32>(word(params.v, index.x)),
            bitcast<f32>(word(params.v, index.y)),
            bitcast<f32>(word(params.v, index.z)),
            bitcast<f32>(word(params.v, index.w)),
        );
    }
    if (NORMED) {
        v *= v_scale;
    }
    return select(vec4<f32>(0.0), v, unit < vec4<u32>(params.units));
}

// The additive scores of one key with four queries, the columns of q.
fn additive(q: mat4x4<f32>, k: vec4<f32>, v: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(
        dot(v, tanh4(q[0] + k)), dot(v, tanh4(q[1] + k)), dot(v, tanh4(q[2] + k)), dot(v, tanh4(q[3] + k)),
    );
}

// The factor g / ‖v‖ of the scores. To be called before the first of them, as it sets `v_scale`.
fn v_norm_factor() -> f32 {
    if (!NORMED) {
        return 1.0;
    }
    var largest = vec4<f32>(0.0);
    for (var quad = 0u; quad < params.head_quads; quad += 1u) {
        largest = max(largest, abs(v_of(quad)));
    }
    v_scale = scale_of1(max(max(largest.x, largest.y), max(largest.z, largest.w)));
    var sum = 0.0;
    for (var quad = 0u; quad < params.head_quads; quad += 1u) {
        let v = v_of(quad);
        sum += dot(v, v);
    }
    let norm = sqrt(sum);
    return select(bitcast<f32>(vectors[params.g]) / norm, 0.0, norm == 0.0);
}

// Adds to the scores of four queries with four keys (the columns of k) what a quad of dimensions adds: column c of the sums
// is key c, its components are the queries. A column of q is a dimension.
fn score_tile(sums: mat4x4<f32>, q: mat4x4<f32>, k: mat4x4<f32>, quad: u32) -> mat4x4<f32> {
    if (SCORE == 1u) {
        let queries = transpose(q);
        let v = v_of(quad);
        // Columns rotate through the first place: 64 tanh side by side would want more registers than a lane has.
        var s = sums;
        var keys = k;
        for (var c = 0u; c < 4u; c += 1u) {
            s = mat4x4<f32>(s[1], s[2], s[3], s[0] + additive(queries, keys[0], v));
            keys = mat4x4<f32>(keys[1], keys[2], keys[3], keys[0]);
        }
        return s;
    }
    return mat4x4<f32>(
        multiply_add4(sums[0], q, k[0]), multiply_add4(sums[1], q, k[1]),
        multiply_add4(sums[2], q, k[2]), multiply_add4(sums[3], q, k[3]),
    );
}
