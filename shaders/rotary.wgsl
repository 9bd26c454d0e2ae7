// Rotary position embedding: each pair (x_a, x_b) of a head becomes (x_a·cos − x_b·sin, x_b·cos + x_a·sin) with the
// cosine and sine of the row's position; elements past the pairs are copied. One invocation writes one element.
override LANES: u32 = 64u;
override INTERLEAVED: bool = false; // pairs (2n, 2n + 1), else (n, n + width / 2)
override POSITION: u32 = 0u; // 0 of a query, 1 of a key in its sequence, 2 from a list

struct Params {
    x: View,      // [B, H, N, D]
    output: View, // [B, H, N, D]
    cos: View,    // [1, 1, positions, pairs]
    sin: View,
    positions: Positions,
    list: List, // of positions: index of the first word, words between batch rows
    list_step: u32, // words between rows
    first_row: u32, // position of the first key
    offset: u32, // added to every position
    elements: u32,
}

@group(0) @binding(1) var<storage, read> x: array<elem>;
@group(0) @binding(2) var<storage, read> cosines: array<f32>;
@group(0) @binding(3) var<storage, read> sines: array<f32>;
@group(0) @binding(4) var<storage, read> vectors: array<u32>;
@group(0) @binding(5) var<storage, read_write> output: array<out_elem>;

fn position(b: u32, n: u32) -> u32 {
    if (POSITION == 2u) {
        return vectors[params.list.x + b * params.list.y + n * params.list_step];
    }
    if (POSITION == 0u) {
        let row = key_range(b, n);
        return u32(max(row.position - i32(row.start), 0));
    }
    if (SEQUENCES) {
        let start = word(params.positions.cu_seqlens_k, sequence_of(params.positions.cu_seqlens_k, n));
        return n - min(start, n);
    }
    return params.first_row + n;
}

@compute @workgroup_size(LANES)
fn main(wg: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(wg) * LANES + lane;
    if (index >= params.elements) {
        return;
    }
    let width = params.x.shape.w;
    let d = index % width;
    let row = index / width;
    let n = row % params.x.shape.z;
    let b = row / params.x.shape.z / params.x.shape.y;
    let source_index = row_start(params.x, row);
    let target_index = row_start(params.output, row) + d * params.output.strides.w;

    let pairs = params.cos.shape.w;
    var y = f32(x[source_index + d * params.x.strides.w]);
    if (d < 2u * pairs) {
        var pair = d / 2u;
        var second = d % 2u == 1u;
        var other = d ^ 1u;
        if (!INTERLEAVED) {
            pair = d % pairs;
            second = d >= pairs;
            other = select(d + pairs, d - pairs, second);
        }
        // Positions past the tables read the last row; the sum may not fit in 32 bits.
        let last = params.cos.shape.z - 1u;
        let offset = min(params.offset, last);
        let angle = min(position(b, n), last - offset) + offset;
        let c = cosines[element(params.cos, 0u, 0u, angle, pair)];
        let s = sines[element(params.sin, 0u, 0u, angle, pair)];
        y = y * c + f32(x[source_index + other * params.x.strides.w]) * select(-s, s, second);
    }
    output[target_index] = out_elem(y);
}
