// Matrix product, y = x·wᵀ, by cooperative matrices of SIDE × SIDE: f16 operands, f32 accumulators. Four subgroups, two by two,
// compute a tile of 2 · MATRICES · SIDE rows and columns of y, MATRICES × MATRICES matrices each.
//
//   accumulator = 0
//   for each K_QUADS quads of the depth:
//     stage: x [rows, depth] and w [columns, depth] in workgroup memory
//     for each SIDE steps of the depth: accumulator += x·wᵀ
//   for each two matrices of a subgroup: through `sums` to the lanes; epilogue: bias, sum of earlier products, residual,
//     activation; store
override LANES: u32 = 32u;   // 4 times the largest subgroup; smaller ones leave some idle
override MATRICES: u32 = 2u; // 2 or 4
override K_QUADS: u32 = 16u; // a power of two, at least SIDE / 4
override TILE_QUADS: u32 = MATRICES * SIDE / 2u;
override TILE_ROWS: u32 = 2u * MATRICES * SIDE;
// Quads between rows: two more than a row has, so that rows start in different banks, and matrices at 16 bytes.
override K_STRIDE: u32 = K_QUADS + 2u;
override SUM_STRIDE: u32 = SIDE / 2u + 2u;

var<workgroup> x_tile: array<vec4<f16>, 2u * MATRICES * SIDE * K_STRIDE>;
var<workgroup> w_tile: array<vec4<f16>, 2u * MATRICES * SIDE * K_STRIDE>;
var<workgroup> sums: array<vec4<f32>, 4u * SIDE * SUM_STRIDE>; // two matrices of each subgroup, side by side

alias Accumulators = array<matrix_c, 16>; // [MATRICES, 4]

struct LaneIds {
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) id: u32,
}

fn stage_x(lane: u32, tile: Tile, k: u32) {
    let quad = lane % K_QUADS;
    for (var first = 0u; first < TILE_ROWS; first += LANES / K_QUADS) {
        let m = first + lane / K_QUADS;
        let start = x_row_offset(tile.batch, tile.row * TILE_ROWS + m);
        x_tile[m * K_STRIDE + quad] = vec4<f16>(load_x(start, k + quad));
    }
}

fn stage_w(lane: u32, tile: Tile, k: u32) {
    let quad = lane % K_QUADS;
    for (var n = lane / K_QUADS; n < TILE_QUADS; n += LANES / K_QUADS) {
        let w4 = transpose(load_w(w_column_offsets(tile.batch, tile.column * TILE_QUADS + n), k + quad));
        let index = 4u * n * K_STRIDE + quad;
        w_tile[index] = vec4<f16>(w4[0]);
        w_tile[index + K_STRIDE] = vec4<f16>(w4[1]);
        w_tile[index + 2u * K_STRIDE] = vec4<f16>(w4[2]);
        w_tile[index + 3u * K_STRIDE] = vec4<f16>(w4[3]);
    }
}

// A row of a subgroup's matrices.
fn add_products(acc: ptr<function, Accumulators>, m: u32, a: matrix_a, b: ptr<function, array<matrix_b, 4>>) {
    (*acc)[4u * m] = coopMultiplyAdd(a, (*b)[0], (*acc)[4u * m]);
    (*acc)[4u * m + 1u] = coopMultiplyAdd(a, (*b)[1], (*acc)[4u * m + 1u]);
    if (MATRICES > 2u) {
        (*acc)[4u * m + 2u] = coopMultiplyAdd(a, (*b)[2], (*acc)[4u * m + 2u]);
        (*acc)[4u * m + 3u] = coopMultiplyAdd(a, (*b)[3], (*acc)[4u * m + 3u]);
    }
}

// x·wᵀ of what is staged, of the subgroup in row m and column n of the four.
fn add_tile(acc: ptr<function, Accumulators>, m: u32, n: u32) {
    let step = SIDE * K_STRIDE;
    for (var k = 0u; k < K_QUADS; k += SIDE / 4u) {
        let x = m * MATRICES * step + k;
        let w = n * MATRICES * step + k;
        var b = array<matrix_b, 4>();
        b[0] = coopLoad<matrix_b>(&w_tile[w], K_STRIDE);
        b[1] = coopLoad<matrix_b>(&w_tile[w + step], K_STRIDE);
        if (MATRICES > 2u) {
            b[2] = coopLoad<matrix_b>(&w_tile[w + 2u * step], K_STRIDE);
            b[3] = coopLoad<matrix_b>(&w_tile[w + 3u * step], K_STRIDE);
        }
        add_products(acc, 0u, coopLoadT<matrix_a>(&x_tile[x], K_STRIDE), &b);
        add_products(acc, 1u, coopLoadT<matrix_a>(&x_tile[x + step], K_STRIDE), &b);
        if (MATRICES > 2u) {
            add_products(acc, 2u, coopLoadT<matrix_a>(&x_tile[x + 2u * step], K_STRIDE), &b);
            add_products(acc, 3u, coopLoadT<matrix_a>(&x_tile[x + 3u * step], K_STRIDE), &b);
        }
    }
}

// The epilogue of two neighbouring matrices of each subgroup: those of row m, columns n and n + 1.
fn store_pair(acc: ptr<function, Accumulators>, m: u32, n: u32, tile: Tile, ids: LaneIds) {
    workgroupBarrier();
    if (ids.subgroup < 4u) {
        // naga 30 wants the arguments of a store to be variables.
        let stride = SUM_STRIDE;
        let offset_0 = ids.subgroup * SIDE * SUM_STRIDE;
        let offset_1 = offset_0 + SIDE / 4u;
        let c0 = (*acc)[4u * m + n];
        let c1 = (*acc)[4u * m + n + 1u];
        coopStoreT(c0, &sums[offset_0], stride);
        coopStoreT(c1, &sums[offset_1], stride);
    }
    workgroupBarrier();
    for (var e = ids.subgroup * ids.size + ids.id; e < 2u * SIDE * SIDE; e += LANES) {
        let quad = e % (SIDE / 2u);
        let r = e / (SIDE / 2u); // of the rows of all subgroups
        let subgroup = r / SIDE;
        let row = tile.row * TILE_ROWS + (subgroup / 2u * MATRICES + m) * SIDE + r % SIDE;
        let column = tile.column * TILE_QUADS + (subgroup % 2u * MATRICES + n) * (SIDE / 4u) + quad;
        if (row < params.rows && 4u * column < params.y.shape.w) {
            epilogue(tile.partial * params.rows + row, column, sums[r * SUM_STRIDE + quad], bias_of(column));
        }
    }
}

@compute @workgroup_size(LANES)
fn main(wg: Workgroup, ids: LaneIds) {
    let tile_index = workgroup_index(wg);
    if (tile_index >= params.tiles) {
        return;
    }
    let tile = tile_of(tile_index);
    let lane = ids.subgroup * ids.size + ids.id;
    var acc = Accumulators();
    for (var k = tile.first; k < tile.last; k += K_QUADS) {
        workgroupBarrier();
        stage_x(lane, tile, k);
        stage_w(lane, tile, k);
        workgroupBarrier();
        if (ids.subgroup < 4u) {
            add_tile(&acc, ids.subgroup / 2u, ids.subgroup % 2u);
        }
    }
    store_pair(&acc, 0u, 0u, tile, ids);
    store_pair(&acc, 1u, 0u, tile, ids);
    if (MATRICES > 2u) {
        store_pair(&acc, 0u, 2u, tile, ids);
        store_pair(&acc, 1u, 2u, tile, ids);
        store_pair(&acc, 2u, 0u, tile, ids);
        store_pair(&acc, 2u, 2u, tile, ids);
        store_pair(&acc, 3u, 0u, tile, ids);
        store_pair(&acc, 3u, 2u, tile, ids);
    }
}
