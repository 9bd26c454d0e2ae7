// Matrix product, y = x·wᵀ, with tiles of both operands staged in workgroup memory. A workgroup of 8 × 8 lanes computes
// tile_m = tile_n = 4 · TILE_QUADS rows and columns of y; a lane has a register tile of 8 × 8 or 4 × 4.
//
//   accumulator = 0
//   for each tile_k = 4 · 64 / TILE_QUADS steps of the depth:
//     stage: each lane loads a 4 × 4 block of x and one of w
//     for each quad of the depth: accumulator += x·w
//   epilogue: bias, sum of earlier products, residual, activation; store
//
// Lane (m, n) has the quads m and m + 8 of the rows, n and n + 8 of the columns. A block is padded by one vec4, so that
// neighbouring lanes read different banks; indices within a block are constants.
override TILE_QUADS: u32 = 16u; // 16 or 8

const LANES = 64u;

// Four rows (or columns of y) by four steps of the depth: a column of the matrix is a step.
struct Block {
    steps: mat4x4<f32>,
    pad: vec4<f32>,
}

var<workgroup> x_blocks: array<Block, 64>; // [tile_k quads, TILE_QUADS]
var<workgroup> w_blocks: array<Block, 64>;

@compute @workgroup_size(LANES)
fn main(wg: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let tile_index = workgroup_index(wg);
    if (tile_index >= params.tiles) {
        return;
    }
    let tile = tile_of(tile_index);
    let tile_k = LANES / TILE_QUADS; // in quads
    // The block that this lane stages. Neighbouring lanes load neighbouring quads of the depth.
    let quad = lane / tile_k;
    let k_quad = lane % tile_k;
    let row = 4u * (tile.row * TILE_QUADS + quad);
    let rows = vec4<u32>(
        x_row_offset(tile.batch, row), x_row_offset(tile.batch, row + 1u),
        x_row_offset(tile.batch, row + 2u), x_row_offset(tile.batch, row + 3u),
    );
    let columns = w_column_offsets(tile.batch, tile.column * TILE_QUADS + quad);
    let entry = k_quad * TILE_QUADS + quad;
    // The register tile that it computes.
    let m = lane / 8u;
    let n = lane % 8u;
    var s00 = mat4x4<f32>();
    var s01 = s00;
    var s10 = s00;
    var s11 = s00;
    let iterations = (tile.last - tile.first + tile_k - 1u) / tile_k;
    for (var iteration = 0u; iteration < iterations; iteration += 1u) {
        let k = tile.first + iteration * tile_k + k_quad;
        let x_block = transpose(mat4x4<f32>(load_x(rows.x, k), load_x(rows.y, k), load_x(rows.z, k), load_x(rows.w, k)));
        let w_block = load_w(columns, k);
        workgroupBarrier();
        x_blocks[entry].steps = x_block;
        w_blocks[entry].steps = w_block;
        workgroupBarrier();
        for (var quad = 0u; quad < tile_k; quad += 1u) {
            let x0 = quad * TILE_QUADS + m;
            let w0 = quad * TILE_QUADS + n;
            let x1 = x0 + TILE_QUADS / 2u;
            let w1 = w0 + TILE_QUADS / 2u;
            s00 = outer_add4(s00, w_blocks[w0].steps[0], x_blocks[x0].steps[0]);
            if (TILE_QUADS == 16u) {
                s01 = outer_add4(s01, w_blocks[w1].steps[0], x_blocks[x0].steps[0]);
                s10 = outer_add4(s10, w_blocks[w0].steps[0], x_blocks[x1].steps[0]);
                s11 = outer_add4(s11, w_blocks[w1].steps[0], x_blocks[x1].steps[0]);
            }
            s00 = outer_add4(s00, w_blocks[w0].steps[1], x_blocks[x0].steps[1]);
            if (TILE_QUADS == 16u) {
                s01 = outer_add4(s01, w_blocks[w1].steps[1], x_blocks[x0].steps[1]);
                s10 = outer_add4(s10, w_blocks[w0].steps[1], x_blocks[x1].steps[1]);
                s11 = outer_add4(s11, w_blocks[w1].steps[1], x_blocks[x1].steps[1]);
            }
            s00 = outer_add4(s00, w_blocks[w0].steps[2], x_blocks[x0].steps[2]);
            if (TILE_QUADS == 16u) {
                s01 = outer_add4(s01, w_blocks[w1].steps[2], x_blocks[x0].steps[2]);
                s10 = outer_add4(s10, w_blocks[w0].steps[2], x_blocks[x1].steps[2]);
                s11 = outer_add4(s11, w_blocks[w1].steps[2], x_blocks[x1].steps[2]);
            }
            s00 = outer_add4(s00, w_blocks[w0].steps[3], x_blocks[x0].steps[3]);
            if (TILE_QUADS == 16u) {
                s01 = outer_add4(s01, w_blocks[w1].steps[3], x_blocks[x0].steps[3]);
                s10 = outer_add4(s10, w_blocks[w0].steps[3], x_blocks[x1].steps[3]);
                s11 = outer_add4(s11, w_blocks[w1].steps[3], x_blocks[x1].steps[3]);
            }
        }
    }
    let first_row = 4u * (tile.row * TILE_QUADS + m);
    let first = tile.column * TILE_QUADS + n;
    epilogue_block(tile, first_row, first, s00, bias_of(first));
    if (TILE_QUADS == 16u) {
        let second = first + 8u;
        epilogue_block(tile, first_row + 32u, first, s10, bias_of(first));
        epilogue_block(tile, first_row, second, s01, bias_of(second));
        epilogue_block(tile, first_row + 32u, second, s11, bias_of(second));
    }
}
