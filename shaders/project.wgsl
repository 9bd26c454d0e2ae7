// Linear layer y[m,n] = f(Σ_k x[m,k]·w[n,k] + b[n]): projections, and the product X·W of a whole sequence before a
// recurrence. The rows m are the first three axes of x and y, row-major.
//
// One invocation computes a tile of 4 rows × 4 columns in registers.
override LANES: u32 = 64u;
override ROWS: u32 = 4u;
override HAS_BIAS: bool = false;
override ACCUMULATE: bool = false; // adds to what y holds, before the activation: a further summand
override ACTIVATE: bool = false;

struct Params {
    x: View, // [.., .., .., K]
    w: View, // [1, 1, N, K]
    y: View, // [.., .., .., N]
    activation: Activation,
    rows: u32,
    first: u32, // range of k
    last: u32,  // one past the end
    column_tiles: u32,
    tiles: u32,
    bias: u32, // index of the first bias
    bias_stride: u32,
}

@group(0) @binding(1) var<storage, read> x: array<elem>;
@group(0) @binding(2) var<storage, read> w: array<w_elem>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<out_elem>;

fn store(m: u32, n: vec4<u32>, sum: vec4<f32>) {
    if (m >= params.rows) {
        return;
    }
    let base = row_start(params.y, m);
    let columns = params.y.shape.w;
    let at = base + min(n, vec4<u32>(columns - 1u)) * params.y.strides.w;
    var s = sum;
    if (HAS_BIAS) {
        let c = params.bias + min(n, vec4<u32>(columns - 1u)) * params.bias_stride;
        s += vec4<f32>(bias[c.x], bias[c.y], bias[c.z], bias[c.w]);
    }
    if (ACCUMULATE) {
        s += vec4<f32>(f32(y[at.x]), f32(y[at.y]), f32(y[at.z]), f32(y[at.w]));
    }
    if (ACTIVATE) {
        s = activate(params.activation, s);
    }
    if (n.x < columns) { y[at.x] = out_elem(s.x); }
    if (n.y < columns) { y[at.y] = out_elem(s.y); }
    if (n.z < columns) { y[at.z] = out_elem(s.z); }
    if (n.w < columns) { y[at.w] = out_elem(s.w); }
}

@compute @workgroup_size(LANES)
fn main(here: Invocation, @builtin(local_invocation_index) lane: u32) {
    let tile = workgroup_number(here);
    if (tile >= params.tiles) {
        return;
    }
    let m = (tile / params.column_tiles) * 4u;
    let n = vec4<u32>((tile % params.column_tiles) * LANES * 4u + lane) + LANES * vec4<u32>(0u, 1u, 2u, 3u);
    let last_m = params.rows - 1u;
    let spread = select(0u, 1u, ROWS == 4u);
    let x_rows = vec4<u32>(
        row_start(params.x, min(m, last_m)),
        row_start(params.x, min(m + spread, last_m)),
        row_start(params.x, min(m + 2u * spread, last_m)),
        row_start(params.x, min(m + 3u * spread, last_m)),
    );
    let w_rows = params.w.offset + min(n, vec4<u32>(params.w.shape.z - 1u)) * params.w.strides.z;

    var y0 = vec4<f32>(0.0);
    var y1 = vec4<f32>(0.0);
    var y2 = vec4<f32>(0.0);
    var y3 = vec4<f32>(0.0);
    for (var k = params.first; k < params.last; k += 1u) {
        let x_at = x_rows + k * params.x.strides.w;
        let w_at = w_rows + k * params.w.strides.w;
        let wk = vec4<f32>(f32(w[w_at.x]), f32(w[w_at.y]), f32(w[w_at.z]), f32(w[w_at.w]));
        y0 += f32(x[x_at.x]) * wk;
        y1 += f32(x[x_at.y]) * wk;
        y2 += f32(x[x_at.z]) * wk;
        y3 += f32(x[x_at.w]) * wk;
    }
    store(m, n, y0);
    if (ROWS == 4u) {
        store(m + 1u, n, y1);
        store(m + 2u, n, y2);
        store(m + 3u, n, y3);
    }
}
