// y[m, n] = Σ_k x[k, m]·w[k, n] + b[n] on dense tensors whose rows are the depth: the product X·W of all steps of a
// sequence before a recurrence. An invocation has a tile of 16 columns × 4 or 8 rows in registers; four rows of x are
// one load that all its lanes share, four columns of w another, and neighbouring lanes have neighbouring columns.
override TALL: bool = false;   // 8 rows instead of 4
override SINGLE: bool = false; // one row: x is [K]
override HAS_BIAS: bool = false;
override ACCUMULATE: bool = false; // adds to what y holds

// Places are counted in vec4.
struct Params {
    rows: u32,
    row_quads: u32, // of x: rows / 4, rounded up, or more
    first: u32,     // range of k
    last: u32,      // one past the end
    quads: u32,     // N / 4
    row_tiles: u32,
    column_tiles: u32,
    tiles: u32,
    x: u32, // places of the first elements
    w: u32,
    bias: u32,
    y: u32,
}

@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;      // [K, 4·row_quads]
@group(0) @binding(2) var<storage, read> w: array<vec4<w_elem>>;   // [K, N]
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>;   // [N]
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>; // [rows, N]

struct Sums {
    a: mat4x4<f32>,
    b: mat4x4<f32>,
    c: mat4x4<f32>,
    d: mat4x4<f32>,
}

fn tile_of(weights: vec4<f32>, rows: vec4<f32>) -> mat4x4<f32> {
    if (SINGLE) {
        let none = vec4<f32>(0.0);
        return mat4x4<f32>(weights * rows.x, none, none, none);
    }
    return outer(weights, rows);
}

fn store(row: u32, quad: u32, sum: vec4<f32>) {
    if (quad >= params.quads) {
        return;
    }
    var s = sum;
    if (HAS_BIAS) {
        s += bias[params.bias + quad];
    }
    let at = params.y + row * params.quads + quad;
    if (ACCUMULATE) {
        s += y[at];
    }
    y[at] = s;
}

fn store_row(row: u32, quad: u32, step: u32, sums: Sums, r: u32) {
    store(row, quad, column(sums.a, r));
    store(row, quad + step, column(sums.b, r));
    store(row, quad + 2u * step, column(sums.c, r));
    store(row, quad + 3u * step, column(sums.d, r));
}

@compute @workgroup_size(LANES)
fn main(here: Invocation, lane: Lane) {
    let tile = workgroup_number(here);
    if (tile >= params.tiles) {
        return;
    }
    let columns = LANES / PARTS;
    let part = part_of(lane);
    let tile_quads = select(1u, 2u, TALL);
    let q = (tile / params.column_tiles) * tile_quads;
    let q1 = min(q + 1u, params.row_quads - 1u);
    let quad = (tile % params.column_tiles) * columns * 4u + column_of(lane);
    let most = params.quads - 1u;
    let w_at = vec4<u32>(params.w) + min(vec4<u32>(quad) + columns * vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(most));
    var s0 = Sums(mat4x4<f32>(), mat4x4<f32>(), mat4x4<f32>(), mat4x4<f32>());
    var s1 = s0;
    let last = params.last;
    for (var k = params.first + part; k < last; k += PARTS) {
        var x0 = vec4<f32>(0.0);
        if (SINGLE) {
            x0.x = x[params.x + k / 4u][k % 4u];
        } else {
            x0 = x[params.x + k * params.row_quads + q];
        }
        let line = k * params.quads;
        let wa = vec4<f32>(w[line + w_at.x]);
        let wb = vec4<f32>(w[line + w_at.y]);
        let wc = vec4<f32>(w[line + w_at.z]);
        let wd = vec4<f32>(w[line + w_at.w]);
        s0.a += tile_of(wa, x0);
        s0.b += tile_of(wb, x0);
        s0.c += tile_of(wc, x0);
        s0.d += tile_of(wd, x0);
        if (TALL) {
            let x1 = x[params.x + k * params.row_quads + q1];
            s1.a += outer(wa, x1);
            s1.b += outer(wb, x1);
            s1.c += outer(wc, x1);
            s1.d += outer(wd, x1);
        }
    }
    if (PARTS > 1u) {
        s0 = Sums(join(lane, s0.a), join(lane, s0.b), join(lane, s0.c), join(lane, s0.d));
        if (TALL) {
            s1 = Sums(join(lane, s1.a), join(lane, s1.b), join(lane, s1.c), join(lane, s1.d));
        }
    }
    for (var r = part; r < 4u * tile_quads; r += PARTS) {
        let row = q * 4u + r;
        if (row < params.rows && !(SINGLE && r > 0u)) {
            if (TALL && r >= 4u) {
                store_row(row, quad, columns, s1, r - 4u);
            } else {
                store_row(row, quad, columns, s0, r);
            }
        }
    }
}
