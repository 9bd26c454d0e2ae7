// Tiles of attention by cooperative matrices: staging in workgroup memory, and the products of one subgroup. It declares every
// `override` of the kernel, as naga 30 fails on one that comes after an array whose size is an expression.
override LANES: u32 = 32u;           // SUBGROUPS_M · SUBGROUPS_N times the largest subgroup; smaller ones leave some idle
override SUBGROUPS_M: u32 = 2u;
override SUBGROUPS_N: u32 = 1u;
override TILE_N: u32 = 16u;          // SUBGROUPS_N · SCORE_MATRICES · SIDE, at most LANES
override SCORE_MATRICES: u32 = 1u;   // 1, 2 or 4
override OUTPUT_MATRICES: u32 = 1u;  // up to 8 where they are carried, and 8 blocks
override BLOCK_MATRICES: u32 = 1u;   // that go through `s_tile` at a time, of a subgroup; divides SCORE_MATRICES
override QUERY_MATRICES: u32 = 0u;   // of a row of Q, in registers: D / SIDE, up to 8; 0 where they stay in workgroup memory
override ROW_LANES: u32 = 2u;        // LANES / (SUBGROUPS_M · SIDE), a power of two; neighbours in a subgroup
override HEAD_QUADS: u32 = 8u;       // D / 4, D rounded up to whole matrices
override VALUE_QUADS: u32 = 8u;      // Dv / 4, likewise
override KEY_LANES: u32 = 4u;        // neighbouring lanes that stage a row together; divides HEAD_QUADS and LANES
override Q_ENTRIES: u32 = 160u;      // of `q_tile`: ROWS · D_STRIDE, or 1 where Q goes to registers
override KV_ENTRIES: u32 = 320u;     // of `kv_tile`
override CARRIED: bool = false;

override ROWS: u32 = SUBGROUPS_M * SIDE;
override TILE_QUADS: u32 = TILE_N / 4u;
// A block is what goes through `s_tile` at a time: BLOCK_MATRICES matrices of each subgroup, side by side.
override BLOCK_QUADS: u32 = SUBGROUPS_N * BLOCK_MATRICES * SIDE / 4u; // of a row
override LANE_QUADS: u32 = SUBGROUPS_N * BLOCK_MATRICES * SIDE / 4u / ROW_LANES; // of those, a lane's
override SCORE_BLOCKS: u32 = SCORE_MATRICES / BLOCK_MATRICES;
override OUTPUT_BLOCKS: u32 = (OUTPUT_MATRICES + BLOCK_MATRICES - 1u) / BLOCK_MATRICES;
// Quads between rows: two more than a row has, so that rows start in different banks, and matrices at 16 bytes.
override D_STRIDE: u32 = HEAD_QUADS + 2u; // of queries and keys
override N_STRIDE: u32 = TILE_N / 4u + 2u; // of weights, and of values, which are transposed
override S_STRIDE: u32 = SUBGROUPS_N * BLOCK_MATRICES * SIDE / 4u + 2u;

@group(0) @binding(1) var<storage, read> query: array<vec4<elem>>;

var<workgroup> q_tile: array<vec4<f16>, Q_ENTRIES>;
var<workgroup> kv_tile: array<vec4<f16>, KV_ENTRIES>; // Q, where it goes to registers; K [TILE_N, D], then Vᵀ [Dv, TILE_N]
var<workgroup> p_tile: array<vec4<f16>, SUBGROUPS_M * SIDE * N_STRIDE>;
var<workgroup> s_tile: array<vec4<f32>, SUBGROUPS_M * SIDE * S_STRIDE>; // a block of S, then of P·V
var<workgroup> flags: atomic<u32>;

const RESCALE = 1u;    // flags: O of some row is to be rescaled
const NON_FINITE = 2u; // some value is not finite

alias Accumulators = array<matrix_c, 8>;

struct LaneIds {
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) id: u32,
}

// What a lane works on: matrices with its subgroup, and quads of a row with its neighbours.
struct Lane {
    index: u32,
    has_matrices: bool,
    m: u32,     // of the subgroup
    n: u32,
    r: u32,     // row of the tile; rows past the last query repeat it and are not stored
    quad: u32,  // first quad of the row; the next ones are ROW_LANES apart
    first: u32, // that quad in `s_tile`
}

// A tile of keys.
struct KeyTile {
    b: u32,
    head: u32,  // key head
    j: u32,
    first: u32, // first .. last (exclusive): those of j .. j + TILE_N that belong to the workgroup's split
    last: u32,
}

// A key of the tile, the nearest one of the split in place of those outside: their weights are 0.
fn locate_key(keys: KeyTile, n: u32) -> vec2<u32> {
    return locate(keys.b, clamp(keys.j + n, keys.first, keys.last - 1u));
}

// The rows first_row .. last_row (exclusive) of Q; those past the last query repeat it.
fn stage_queries(lane: u32, b: u32, h: u32, first_i: u32, first_row: u32, last_row: u32) {
    let quad = lane % KEY_LANES;
    for (var r = first_row + lane / KEY_LANES; r < last_row; r += LANES / KEY_LANES) {
        let i = min(first_i + r, params.positions.queries - 1u);
        let offset = element(params.query, b, h, i, quad);
        for (var first = 0u; first < HEAD_QUADS; first += KEY_LANES) {
            let index = (r - first_row) * D_STRIDE + quad + first;
            let x = vec4<f16>(query[offset + first]);
            if (QUERY_MATRICES > 0u) {
                kv_tile[index] = x;
            } else {
                q_tile[index] = x;
            }
        }
    }
}

// Q of one subgroup, from row `row` of `kv_tile` on.
fn load_queries(row: u32) -> array<matrix_a, 8> {
    let start = row * D_STRIDE;
    let step = SIDE / 4u;
    var q = array<matrix_a, 8>();
    q[0] = coopLoadT<matrix_a>(&kv_tile[start], D_STRIDE);
    if (QUERY_MATRICES > 1u) { q[1] = coopLoadT<matrix_a>(&kv_tile[start + step], D_STRIDE); }
    if (QUERY_MATRICES > 2u) { q[2] = coopLoadT<matrix_a>(&kv_tile[start + 2u * step], D_STRIDE); }
    if (QUERY_MATRICES > 3u) { q[3] = coopLoadT<matrix_a>(&kv_tile[start + 3u * step], D_STRIDE); }
    if (QUERY_MATRICES > 4u) { q[4] = coopLoadT<matrix_a>(&kv_tile[start + 4u * step], D_STRIDE); }
    if (QUERY_MATRICES > 5u) { q[5] = coopLoadT<matrix_a>(&kv_tile[start + 5u * step], D_STRIDE); }
    if (QUERY_MATRICES > 6u) { q[6] = coopLoadT<matrix_a>(&kv_tile[start + 6u * step], D_STRIDE); }
    if (QUERY_MATRICES > 7u) { q[7] = coopLoadT<matrix_a>(&kv_tile[start + 7u * step], D_STRIDE); }
    return q;
}

fn stage_keys(lane: u32, keys: KeyTile) {
    let quad = lane % KEY_LANES;
    for (var turn = 0u; turn < TILE_N; turn += LANES / KEY_LANES) {
        let n = turn + lane / KEY_LANES;
        if (LANES / KEY_LANES <= TILE_N || n < TILE_N) {
            let kv_row = locate_key(keys, n);
            let offset = element(params.key, kv_row.x, keys.head, kv_row.y, quad);
            for (var first = 0u; first < HEAD_QUADS; first += KEY_LANES) {
                kv_tile[n * D_STRIDE + quad + first] = vec4<f16>(key_at(offset + first));
            }
        }
    }
}

// Numbers too large for f16 are infinite in it.
fn is_non_finite(x: vec4<f16>) -> vec4<bool> {
    return (bitcast<vec4<u32>>(vec4<f32>(x)) & vec4<u32>(0x7f800000u)) == vec4<u32>(0x7f800000u);
}

// Whether one of 16 numbers is not finite: then so is their sum, which is finite otherwise.
fn any_non_finite(x0: vec4<f16>, x1: vec4<f16>, x2: vec4<f16>, x3: vec4<f16>) -> bool {
    let four = (vec4<f32>(x0) + vec4<f32>(x1)) + (vec4<f32>(x2) + vec4<f32>(x3));
    let sum = (four.x + four.y) + (four.z + four.w);
    return (bitcast<u32>(sum) & 0x7f800000u) == 0x7f800000u;
}

fn only_finite(x: vec4<f16>) -> vec4<f16> {
    return select(x, vec4<f16>(), is_non_finite(x));
}

// Vᵀ: a lane takes four quads of four neighbouring keys, and neighbouring lanes the same keys or the next.
fn stage_values(lane: u32, keys: KeyTile) {
    let n = lane / 4u % TILE_QUADS;
    let row0 = locate_key(keys, 4u * n);
    let row1 = locate_key(keys, 4u * n + 1u);
    let row2 = locate_key(keys, 4u * n + 2u);
    let row3 = locate_key(keys, 4u * n + 3u);
    let offset0 = element(params.value, row0.x, keys.head, row0.y, 0u);
    let offset1 = element(params.value, row1.x, keys.head, row1.y, 0u);
    let offset2 = element(params.value, row2.x, keys.head, row2.y, 0u);
    let offset3 = element(params.value, row3.x, keys.head, row3.y, 0u);
    for (var quad = lane / TILE_N * 4u + lane % 4u; quad < params.value_quads; quad += LANES / TILE_QUADS) {
        var x0 = vec4<f16>(value_at(offset0 + quad));
        var x1 = vec4<f16>(value_at(offset1 + quad));
        var x2 = vec4<f16>(value_at(offset2 + quad));
        var x3 = vec4<f16>(value_at(offset3 + quad));
        if (any_non_finite(x0, x1, x2, x3)) {
            atomicOr(&flags, NON_FINITE);
            x0 = only_finite(x0);
            x1 = only_finite(x1);
            x2 = only_finite(x2);
            x3 = only_finite(x3);
        }
        let index = 4u * quad * N_STRIDE + n;
        kv_tile[index] = vec4<f16>(x0.x, x1.x, x2.x, x3.x);
        kv_tile[index + N_STRIDE] = vec4<f16>(x0.y, x1.y, x2.y, x3.y);
        kv_tile[index + 2u * N_STRIDE] = vec4<f16>(x0.z, x1.z, x2.z, x3.z);
        kv_tile[index + 3u * N_STRIDE] = vec4<f16>(x0.w, x1.w, x2.w, x3.w);
    }
}

// The first key of score matrix m of a subgroup, and the first output column of output matrix m.
fn matrix_start(n: u32, m: u32) -> u32 {
    return ((m / BLOCK_MATRICES * SUBGROUPS_N + n) * BLOCK_MATRICES + m % BLOCK_MATRICES) * SIDE;
}

fn add_score(s: ptr<function, Accumulators>, m: u32, q: matrix_a, n: u32, d: u32) {
    let k = matrix_start(n, m) * D_STRIDE + d;
    (*s)[m] = coopMultiplyAdd(q, coopLoad<matrix_b>(&kv_tile[k], D_STRIDE), (*s)[m]);
}

// S += Q·Kᵀ of one subgroup, over SIDE dimensions from quad d on.
fn add_scores(s: ptr<function, Accumulators>, q: matrix_a, n: u32, d: u32) {
    add_score(s, 0u, q, n, d);
    if (SCORE_MATRICES > 1u) { add_score(s, 1u, q, n, d); }
    if (SCORE_MATRICES > 2u) { add_score(s, 2u, q, n, d); add_score(s, 3u, q, n, d); }
}

fn add_output(acc: ptr<function, Accumulators>, to: u32, m: u32, p: matrix_a, n: u32, k: u32) {
    let v = matrix_start(n, m) * N_STRIDE + k;
    (*acc)[to] = coopMultiplyAdd(p, coopLoad<matrix_b>(&kv_tile[v], N_STRIDE), (*acc)[to]);
}

// P·V of one subgroup over the columns of a block, into accumulators from `base` on.
fn add_outputs(acc: ptr<function, Accumulators>, base: u32, block: u32, lane: Lane) {
    let m = block * BLOCK_MATRICES;
    for (var k = 0u; k < TILE_QUADS; k += SIDE / 4u) {
        let p = coopLoadT<matrix_a>(&p_tile[lane.m * SIDE * N_STRIDE + k], N_STRIDE);
        add_output(acc, base, m, p, lane.n, k);
        if (BLOCK_MATRICES > 1u && m + 1u < OUTPUT_MATRICES) { add_output(acc, base + 1u, m + 1u, p, lane.n, k); }
        if (BLOCK_MATRICES > 2u && m + 2u < OUTPUT_MATRICES) { add_output(acc, base + 2u, m + 2u, p, lane.n, k); }
        if (BLOCK_MATRICES > 3u && m + 3u < OUTPUT_MATRICES) { add_output(acc, base + 3u, m + 3u, p, lane.n, k); }
    }
}

// Where matrix m of a subgroup's matrices of a block lies in `s_tile`.
fn block_offset(lane: Lane, m: u32) -> u32 {
    return lane.m * SIDE * S_STRIDE + (lane.n * BLOCK_MATRICES + m) * (SIDE / 4u);
}

fn store_matrix(acc: ptr<function, Accumulators>, base: u32, m: u32, lane: Lane) {
    // naga 30 wants the arguments of a store to be variables.
    let stride = S_STRIDE;
    let offset = block_offset(lane, m);
    let c = (*acc)[base + m];
    coopStoreT(c, &s_tile[offset], stride);
}

fn load_matrix(acc: ptr<function, Accumulators>, base: u32, m: u32, lane: Lane) {
    (*acc)[base + m] = coopLoadT<matrix_c>(&s_tile[block_offset(lane, m)], S_STRIDE);
}

// Stores a subgroup's matrices of a block into `s_tile`: up to `count`, those from `base` on.
fn store_block(acc: ptr<function, Accumulators>, base: u32, count: u32, lane: Lane) {
    store_matrix(acc, base, 0u, lane);
    if (BLOCK_MATRICES > 1u && count > 1u) { store_matrix(acc, base, 1u, lane); }
    if (BLOCK_MATRICES > 2u && count > 2u) { store_matrix(acc, base, 2u, lane); }
    if (BLOCK_MATRICES > 3u && count > 3u) { store_matrix(acc, base, 3u, lane); }
}

fn load_block(acc: ptr<function, Accumulators>, base: u32, count: u32, lane: Lane) {
    load_matrix(acc, base, 0u, lane);
    if (BLOCK_MATRICES > 1u && count > 1u) { load_matrix(acc, base, 1u, lane); }
    if (BLOCK_MATRICES > 2u && count > 2u) { load_matrix(acc, base, 2u, lane); }
    if (BLOCK_MATRICES > 3u && count > 3u) { load_matrix(acc, base, 3u, lane); }
}
