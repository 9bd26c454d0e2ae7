// Outputs y[i,d] = Σ_j w[i,j]·v[j,d] for every batch row and query head.
//
// A workgroup computes 4 queries × 4 · LANES dimensions; workgroups go over tiles of dimensions, then of queries, then
// heads. A lane has a register tile of 4 queries × 4 dimensions, LANES apart. A weight of exactly 0 contributes nothing, so
// that NaN and infinities in hidden values do not reach the output; keys that are visible to none of the four queries are
// not read.
override LANES: u32 = 64u;
override ROWS: u32 = 4u;
override ACCUMULATE: bool = false; // adds to the output: a later dispatch of several over ranges of the keys

struct Params {
    weights: View, // [B, Hq, Nq', Nk]
    value: View,   // [B, Hkv, Nk, Dv], or pages [pages, Hkv, page size, Dv]
    output: View,  // [B, Hq, Nq', Dv]
    positions: Positions,
    blocks: Blocks,
    pages: Pages,
    group: u32,
    first_key: u32,
    last_key: u32, // one past the end
    row_tiles: u32,
    column_tiles: u32,
    tiles: u32,
    first_query: u32, // number of the view's first query in the whole problem
}

@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read> value: array<elem>;
@group(0) @binding(3) var<storage, read> vectors: array<u32>;
@group(0) @binding(4) var<storage, read> block_mask: array<u32>;
@group(0) @binding(5) var<storage, read_write> output: array<out_elem>;

fn store(b: u32, h: u32, i: u32, d: vec4<u32>, sum: vec4<f32>) {
    for (var c = 0u; c < 4u; c += 1u) {
        if (i < params.output.shape.z && d[c] < params.output.shape.w) {
            let index = element(params.output, b, h, i, d[c]);
            if (ACCUMULATE) {
                output[index] = out_elem(f32(output[index]) + sum[c]);
            } else {
                output[index] = out_elem(sum[c]);
            }
        }
    }
}

fn weighted(w: f32, v: vec4<f32>) -> vec4<f32> {
    return select(w * v, vec4<f32>(0.0), w == 0.0);
}

@compute @workgroup_size(LANES)
fn main(wg: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let tile = workgroup_index(wg);
    if (tile >= params.tiles) {
        return;
    }
    let rest = tile / params.column_tiles;
    let i = (rest % params.row_tiles) * 4u;
    let heads = params.output.shape.y;
    let bh = rest / params.row_tiles;
    let b = bh / heads;
    let h = bh % heads;
    let d = vec4<u32>((tile % params.column_tiles) * LANES * 4u + lane) + LANES * vec4<u32>(0u, 1u, 2u, 3u);

    let i_rows = min(
        vec4<u32>(i) + select(vec4<u32>(0u), vec4<u32>(0u, 1u, 2u, 3u), ROWS == 4u),
        vec4<u32>(params.output.shape.z - 1u),
    );
    let d_columns = min(d, vec4<u32>(params.output.shape.w - 1u));
    let w = element(params.weights, b, h, 0u, 0u) + i_rows * params.weights.strides.z;
    let d_offsets = d_columns * params.value.strides.w;
    let v_head = h / params.group;

    // The keys that are visible to any of the four queries: sink tokens, then the window.
    let query_index = params.first_query + i;
    var visible = key_range(b, query_index);
    if (ROWS == 4u) {
        visible = enclosing_range(
            enclosing_range(visible, key_range(b, query_index + 1u)),
            enclosing_range(key_range(b, query_index + 2u), key_range(b, query_index + 3u)),
        );
    }
    let sinks_end = min(visible.sinks_end, params.last_key);
    let firsts = vec2<u32>(max(visible.start, params.first_key), max(max(visible.first, sinks_end), params.first_key));
    let lasts = vec2<u32>(sinks_end, min(visible.end, params.last_key));

    var acc0 = vec4<f32>(0.0);
    var acc1 = vec4<f32>(0.0);
    var acc2 = vec4<f32>(0.0);
    var acc3 = vec4<f32>(0.0);
    for (var range = select(1u, 0u, WINDOW); range < 2u; range += 1u) {
        var j = firsts[range];
        while (j < lasts[range]) {
            var stop = lasts[range];
            if (BLOCKS) {
                stop = min(stop, (j / params.blocks.keys + 1u) * params.blocks.keys);
                if (!any_block_visible(b, h, query_index, query_index + ROWS, j, stop)) {
                    j = stop;
                    continue;
                }
            }
            for (; j < stop; j += 1u) {
                let kv_row = locate(b, j);
                let w_index = w + j * params.weights.strides.w;
                let v_index = element(params.value, kv_row.x, v_head, kv_row.y, 0u) + d_offsets;
                let vj = vec4<f32>(
                    f32(value[v_index.x]), f32(value[v_index.y]), f32(value[v_index.z]), f32(value[v_index.w]),
                );
                acc0 += weighted(weights[w_index.x], vj);
                acc1 += weighted(weights[w_index.y], vj);
                acc2 += weighted(weights[w_index.z], vj);
                acc3 += weighted(weights[w_index.w], vj);
            }
        }
    }
    store(b, h, i, d, acc0);
    if (ROWS == 4u) {
        store(b, h, i + 1u, d, acc1);
        store(b, h, i + 2u, d, acc2);
        store(b, h, i + 3u, d, acc3);
    }
}
