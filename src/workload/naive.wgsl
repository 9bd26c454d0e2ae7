// Attention the way a first port has it: three dispatches, an invocation for each score, each row and each element of the
// output, everything from memory. Behind a header with `alias elem` (f32 or f16).

struct Params {
    batch: u32,
    query_heads: u32,
    kv_heads: u32,
    queries: u32,
    keys: u32,
    dim: u32,
    value_dim: u32,
    scale: f32,
    causal: u32,
    masked: u32,
    additive: u32,
    // Invocations in a row of workgroups.
    width: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> query: array<elem>; // [B, Hq, Nq, D]
@group(0) @binding(2) var<storage, read> key: array<elem>; // [B, Hkv, Nk, D]
@group(0) @binding(3) var<storage, read> value: array<elem>; // [B, Hkv, Nk, Dv]
@group(0) @binding(4) var<storage, read> mask: array<f32>; // [Nq, Nk]
@group(0) @binding(5) var<storage, read> v: array<f32>; // [D]
@group(0) @binding(6) var<storage, read_write> scores: array<f32>; // [B, Hq, Nq, Nk]
@group(0) @binding(7) var<storage, read_write> output: array<elem>; // [B, Hq, Nq, Dv]

const HIDDEN: f32 = -1e30;

fn rows() -> u32 {
    return params.batch * params.query_heads * params.queries;
}

// Key head of a query row, over all batch rows: they lie one behind the other.
fn kv_head(row: u32) -> u32 {
    return row / params.queries / (params.query_heads / params.kv_heads);
}

@compute @workgroup_size(64)
fn score(@builtin(global_invocation_id) id: vec3<u32>) {
    let at = id.y * params.width + id.x;
    if (at >= rows() * params.keys) {
        return;
    }
    let row = at / params.keys;
    let i = row % params.queries;
    let j = at % params.keys;
    if (params.causal != 0u && j > i) {
        scores[at] = HIDDEN;
        return;
    }
    let q = row * params.dim;
    let k = (kv_head(row) * params.keys + j) * params.dim;
    var sum = 0.0;
    if (params.additive != 0u) {
        for (var d = 0u; d < params.dim; d += 1u) {
            sum += v[d] * tanh(f32(query[q + d]) + f32(key[k + d]));
        }
    } else {
        for (var d = 0u; d < params.dim; d += 1u) {
            sum += f32(query[q + d]) * f32(key[k + d]);
        }
    }
    sum *= params.scale;
    if (params.masked != 0u) {
        sum += mask[i * params.keys + j];
    }
    scores[at] = sum;
}

@compute @workgroup_size(64)
fn softmax(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.y * params.width + id.x;
    if (row >= rows()) {
        return;
    }
    let start = row * params.keys;
    var most = HIDDEN;
    for (var j = 0u; j < params.keys; j += 1u) {
        most = max(most, scores[start + j]);
    }
    var sum = 0.0;
    for (var j = 0u; j < params.keys; j += 1u) {
        let weight = exp(scores[start + j] - most);
        scores[start + j] = weight;
        sum += weight;
    }
    for (var j = 0u; j < params.keys; j += 1u) {
        scores[start + j] /= sum;
    }
}

@compute @workgroup_size(64)
fn weigh(@builtin(global_invocation_id) id: vec3<u32>) {
    let at = id.y * params.width + id.x;
    if (at >= rows() * params.value_dim) {
        return;
    }
    let row = at / params.value_dim;
    let column = at % params.value_dim;
    let values = kv_head(row) * params.keys * params.value_dim + column;
    var sum = 0.0;
    for (var j = 0u; j < params.keys; j += 1u) {
        sum += scores[row * params.keys + j] * f32(value[values + j * params.value_dim]);
    }
    output[at] = elem(sum);
}
