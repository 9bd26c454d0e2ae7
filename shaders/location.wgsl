// Keys of a location-sensitive score: y[b,h,j,a] = k[b,h,j,a] + Σ_n f[a,n] · previous[b,h,j + n − left], where f is U·F,
// the filter after the projection of its channels. An invocation computes four units of one key.
override LANES: u32 = 64u;
override KEY_LENGTHS: bool = false;

struct Params {
    key: View,      // [B, Hkv, Nk, A]
    filters: View,  // [1, 1, A, W]
    previous: View, // [B, Hq, 1, Nk], 0 past the batch row's keys
    output: View,   // [B, Hq, Nk, A]
    group: u32,
    left: u32, // ⌊(W − 1) / 2⌋
    quads: u32, // ⌈A / 4⌉
    elements: u32, // B · Hq · Nk · quads
    kv_lengths: vec2<u32>, // in `vectors`: index of the first, words between neighbours
}

@group(0) @binding(1) var<storage, read> key: array<f32>;
@group(0) @binding(2) var<storage, read> filters: array<f32>;
@group(0) @binding(3) var<storage, read> previous: array<f32>;
@group(0) @binding(4) var<storage, read> vectors: array<u32>;
@group(0) @binding(5) var<storage, read_write> output: array<f32>;

@compute @workgroup_size(LANES)
fn main(wg: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(wg) * LANES + lane;
    if (index >= params.elements) {
        return;
    }
    let first_unit = (index % params.quads) * 4u;
    let keys = params.output.shape.z;
    let j = (index / params.quads) % keys;
    let bh = index / params.quads / keys;
    let b = bh / params.output.shape.y;
    let h = bh % params.output.shape.y;
    let units = min(vec4<u32>(first_unit) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.output.shape.w - 1u));

    let k = element(params.key, b, h / params.group, j, 0u) + units * params.key.strides.w;
    var y = vec4<f32>(key[k.x], key[k.y], key[k.z], key[k.w]);
    let f = params.filters.offset + units * params.filters.strides.z;
    let p = element(params.previous, b, h, 0u, 0u);
    var end = keys;
    if (KEY_LENGTHS) {
        end = min(vectors[params.kv_lengths.x + b * params.kv_lengths.y], keys);
    }
    // n runs over the taps of the filter that fall on keys.
    let first = max(params.left, j) - j;
    let last = min(params.filters.shape.w, max(end + params.left, j) - j);
    for (var n = first; n < last; n += 1u) {
        let f_at = f + n * params.filters.strides.w;
        let weight = previous[p + (j + n - params.left) * params.previous.strides.w];
        y += weight * vec4<f32>(filters[f_at.x], filters[f_at.y], filters[f_at.z], filters[f_at.w]);
    }
    for (var c = 0u; c < 4u; c += 1u) {
        if (first_unit + c < params.output.shape.w) {
            output[element(params.output, b, h, j, first_unit + c)] = y[c];
        }
    }
}
