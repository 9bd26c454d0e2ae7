// Outputs y[i,d] = Σ_j w[i,j]·v[j,d] for every batch row and query head.
//
// One invocation computes a tile of 4 queries × 4 dimensions in registers. A weight of exactly 0 contributes nothing,
// so NaN and infinities in hidden values stay where they are; keys that none of the four queries sees are not read.
override LANES: u32 = 64u;
override ROWS: u32 = 4u;
override ACCUMULATE: bool = false; // adds to the output: a later range of keys

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
            let at = element(params.output, b, h, i, d[c]);
            if (ACCUMULATE) {
                output[at] = out_elem(f32(output[at]) + sum[c]);
            } else {
                output[at] = out_elem(sum[c]);
            }
        }
    }
}

fn weighted(w: f32, v: vec4<f32>) -> vec4<f32> {
    return select(w * v, vec4<f32>(0.0), w == 0.0);
}

@compute @workgroup_size(LANES)
fn main(here: Invocation, @builtin(local_invocation_index) lane: u32) {
    let tile = workgroup_number(here);
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
    let d_at = d_columns * params.value.strides.w;
    let v_head = h / params.group;

    // The keys that any of the four queries sees, sinks first.
    let at_query = params.first_query + i;
    var row = row_of(b, at_query);
    if (ROWS == 4u) {
        row = join_rows(join_rows(row, row_of(b, at_query + 1u)), join_rows(row_of(b, at_query + 2u), row_of(b, at_query + 3u)));
    }
    let sinks_last = min(row.sinks_last, params.last_key);
    let firsts = vec2<u32>(max(row.start, params.first_key), max(max(row.first, sinks_last), params.first_key));
    let lasts = vec2<u32>(sinks_last, min(row.last, params.last_key));

    var y0 = vec4<f32>(0.0);
    var y1 = vec4<f32>(0.0);
    var y2 = vec4<f32>(0.0);
    var y3 = vec4<f32>(0.0);
    for (var part = select(1u, 0u, WINDOW); part < 2u; part += 1u) {
        var j = firsts[part];
        while (j < lasts[part]) {
            var stop = lasts[part];
            if (BLOCKS) {
                stop = min(stop, (j / params.blocks.keys + 1u) * params.blocks.keys);
                if (!any_block_visible(b, h, at_query, at_query + ROWS, j, stop)) {
                    j = stop;
                    continue;
                }
            }
            for (; j < stop; j += 1u) {
                let at = place(b, j);
                let w_at = w + j * params.weights.strides.w;
                let v_at = element(params.value, at.x, v_head, at.y, 0u) + d_at;
                let vj = vec4<f32>(f32(value[v_at.x]), f32(value[v_at.y]), f32(value[v_at.z]), f32(value[v_at.w]));
                y0 += weighted(weights[w_at.x], vj);
                y1 += weighted(weights[w_at.y], vj);
                y2 += weighted(weights[w_at.z], vj);
                y3 += weighted(weights[w_at.w], vj);
            }
        }
    }
    store(b, h, i, d, y0);
    if (ROWS == 4u) {
        store(b, h, i + 1u, d, y1);
        store(b, h, i + 2u, d, y2);
        store(b, h, i + 3u, d, y3);
    }
}
