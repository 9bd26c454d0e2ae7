// What the matrix products share: y[b, m, n] = f(Σ_k x[b, m, k]·w[b, n, k] + bias[n] + residual[b, m, n]), tiles and
// epilogue.
//
// A register tile is 4 × 4: four rows of y (the columns of a matrix) by four neighbouring columns of y (its components).
// The depth K goes by in quads of four. Rows, columns and depth are counted in quads where a name says so.
override TAIL: bool = false;       // the last iteration of the loop over the depth goes past its end
override FLAT: bool = false;       // the rows of x, y and residual are evenly spaced
override HAS_BIAS: bool = false;
override HAS_RESIDUAL: bool = false;
override ACCUMULATE: bool = false; // y already holds a sum of products, to which this one is added before the activation
override ACTIVATION: u32 = 0u;     // its number in `activation.wgsl`

struct Params {
    x: View,        // [.., .., M, K]; all leading axes are rows where w has no batch
    w: View,        // [.., .., N, K]
    y: View,        // as x, [.., .., M, N]; of partial sums [1, 1, splits · batches · M, N rounded up to a quad]
    residual: View, // as y
    activation: Activation,
    rows: u32, // of a batch
    batches: u32,
    row_tiles: u32, // of a batch
    column_tiles: u32,
    tiles: u32,      // of all batches and splits: workgroups
    rows_inner: u32, // 1: neighbouring tiles have the same columns, 0: the same rows
    splits: u32,      // split-K: slices of the depth that have workgroups of their own
    split_quads: u32, // quads of the depth in a slice
    bias: u32,  // index of the first bias
    bias_stride: u32,
}

@group(0) @binding(3) var<storage, read> bias: array<f32>;

// What a workgroup computes.
struct Tile {
    row: u32, // tile within the batch
    column: u32,
    batch: u32,
    partial: u32, // split · batches + batch: the first axis of the partial sums
    first: u32,   // quads of the depth
    last: u32,    // exclusive
}

fn tile_of(index: u32) -> Tile {
    let within = index % (params.row_tiles * params.column_tiles);
    let partial = index / (params.row_tiles * params.column_tiles);
    var row = within / params.column_tiles;
    var column = within % params.column_tiles;
    if (params.rows_inner == 1u) {
        row = within % params.row_tiles;
        column = within / params.row_tiles;
    }
    let first = partial / params.batches * params.split_quads;
    let last = min(first + params.split_quads, depth_quads());
    return Tile(row, column, partial % params.batches, partial, first, last);
}

// Where a row of a tensor begins; rows are numbered over the first three axes.
fn row_offset(view: View, row: u32) -> u32 {
    if (FLAT) {
        return view.offset + row * view.strides.z;
    }
    return row_start(view, row);
}

fn depth_quads() -> u32 {
    return (params.w.shape.w + 3u) / 4u;
}

// A quad of the depth with zeros past its end.
fn within_depth(quad: u32, four: vec4<f32>) -> vec4<f32> {
    let k = vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u);
    return select(vec4<f32>(0.0), four, k < vec4<u32>(params.w.shape.w));
}

fn w_within_depth(quad: u32, four: mat4x4<f32>) -> mat4x4<f32> {
    let inside = within_depth(quad, vec4<f32>(1.0));
    let none = vec4<f32>(0.0);
    return mat4x4<f32>(
        select(none, four[0], inside.x > 0.0), select(none, four[1], inside.y > 0.0),
        select(none, four[2], inside.z > 0.0), select(none, four[3], inside.w > 0.0),
    );
}

// sums += w·x; a column of `sums` and of x is a row of y.
fn add_product(sums: mat4x4<f32>, w: mat4x4<f32>, x: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        multiply_add4(sums[0], w, x[0]), multiply_add4(sums[1], w, x[1]),
        multiply_add4(sums[2], w, x[2]), multiply_add4(sums[3], w, x[3]),
    );
}

// The biases of four columns.
fn bias_of(quad: u32) -> vec4<f32> {
    if (!HAS_BIAS) {
        return vec4<f32>(0.0);
    }
    let n = min(vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.w.shape.z - 1u));
    let offset = params.bias + n * params.bias_stride;
    return vec4<f32>(bias[offset.x], bias[offset.y], bias[offset.z], bias[offset.w]);
}

// Epilogue of four columns of one row of y.
fn epilogue(row: u32, quad: u32, sum: vec4<f32>, biases: vec4<f32>) {
    let offset = y_offset(row, quad);
    var s = sum;
    if (HAS_BIAS) {
        s += biases;
    }
    if (ACCUMULATE) {
        s += load_y(offset);
    }
    if (HAS_RESIDUAL) {
        s += load_residual(row, quad);
    }
    if (ACTIVATION != 0u) {
        s = activate(Activation(ACTIVATION, params.activation.alpha, params.activation.beta), s);
    }
    store_y(offset, quad, s);
}

// Epilogue of a register tile, from row m of the batch on.
fn epilogue_block(tile: Tile, m: u32, quad: u32, sums: mat4x4<f32>, biases: vec4<f32>) {
    if (4u * quad >= params.y.shape.w) {
        return;
    }
    let row = tile.partial * params.rows + m;
    if (m < params.rows) { epilogue(row, quad, sums[0], biases); }
    if (m + 1u < params.rows) { epilogue(row + 1u, quad, sums[1], biases); }
    if (m + 2u < params.rows) { epilogue(row + 2u, quad, sums[2], biases); }
    if (m + 3u < params.rows) { epilogue(row + 3u, quad, sums[3], biases); }
}
