// Matrix product by tiles of both operands in workgroup memory: 64 lanes, 8 × 8 of them, compute a tile of
// 4·QUADS × 4·QUADS of y, each a block of 8 × 8 or 4 × 4 in registers.
//
//   for each slice of the depth: every lane reads a 4 × 4 block of x and one of w and puts them into workgroup memory;
//     for each quad of the slice: read one or two blocks of either; y += x·w
//   bias, residual, activation; store
//
// A block has one vec4 beside it, so that neighbouring lanes read different banks. Indices within a block are constant.
override QUADS: u32 = 16u; // 16 or 8

const LANES = 64u;

// Four rows (or columns of y) by four steps of the depth: a column of the matrix is a step.
struct Block {
    steps: mat4x4<f32>,
    pad: vec4<f32>,
}

var<workgroup> x_blocks: array<Block, 64>; // [depth quads of a slice, QUADS]
var<workgroup> w_blocks: array<Block, 64>;

@compute @workgroup_size(LANES)
fn main(here: Invocation, @builtin(local_invocation_index) lane: u32) {
    let number = workgroup_number(here);
    if (number >= params.tiles) {
        return;
    }
    let tile = tile_of(number);
    let slice = LANES / QUADS; // depth quads
    // What this lane reads: neighbours follow each other along the depth.
    let own = lane / slice;
    let step = lane % slice;
    let row = 4u * (tile.row * QUADS + own);
    let rows = vec4<u32>(
        x_row(tile.batch, row), x_row(tile.batch, row + 1u), x_row(tile.batch, row + 2u), x_row(tile.batch, row + 3u),
    );
    let columns = columns_of(tile.batch, tile.column * QUADS + own);
    let place = step * QUADS + own;
    // What it computes: blocks m and m + 8 by n and n + 8.
    let m = lane / 8u;
    let n = lane % 8u;
    var s00 = mat4x4<f32>();
    var s01 = s00;
    var s10 = s00;
    var s11 = s00;
    let slices = (tile.last - tile.first + slice - 1u) / slice;
    for (var turn = 0u; turn < slices; turn += 1u) {
        let k = tile.first + turn * slice + step;
        let x_block = transpose(mat4x4<f32>(x_at(rows.x, k), x_at(rows.y, k), x_at(rows.z, k), x_at(rows.w, k)));
        let w_block = w_at(columns, k);
        workgroupBarrier();
        x_blocks[place].steps = x_block;
        w_blocks[place].steps = w_block;
        workgroupBarrier();
        for (var quad = 0u; quad < slice; quad += 1u) {
            let x0 = quad * QUADS + m;
            let w0 = quad * QUADS + n;
            let x1 = x0 + QUADS / 2u;
            let w1 = w0 + QUADS / 2u;
            s00 = add_step(s00, w_blocks[w0].steps[0], x_blocks[x0].steps[0]);
            if (QUADS == 16u) {
                s01 = add_step(s01, w_blocks[w1].steps[0], x_blocks[x0].steps[0]);
                s10 = add_step(s10, w_blocks[w0].steps[0], x_blocks[x1].steps[0]);
                s11 = add_step(s11, w_blocks[w1].steps[0], x_blocks[x1].steps[0]);
            }
            s00 = add_step(s00, w_blocks[w0].steps[1], x_blocks[x0].steps[1]);
            if (QUADS == 16u) {
                s01 = add_step(s01, w_blocks[w1].steps[1], x_blocks[x0].steps[1]);
                s10 = add_step(s10, w_blocks[w0].steps[1], x_blocks[x1].steps[1]);
                s11 = add_step(s11, w_blocks[w1].steps[1], x_blocks[x1].steps[1]);
            }
            s00 = add_step(s00, w_blocks[w0].steps[2], x_blocks[x0].steps[2]);
            if (QUADS == 16u) {
                s01 = add_step(s01, w_blocks[w1].steps[2], x_blocks[x0].steps[2]);
                s10 = add_step(s10, w_blocks[w0].steps[2], x_blocks[x1].steps[2]);
                s11 = add_step(s11, w_blocks[w1].steps[2], x_blocks[x1].steps[2]);
            }
            s00 = add_step(s00, w_blocks[w0].steps[3], x_blocks[x0].steps[3]);
            if (QUADS == 16u) {
                s01 = add_step(s01, w_blocks[w1].steps[3], x_blocks[x0].steps[3]);
                s10 = add_step(s10, w_blocks[w0].steps[3], x_blocks[x1].steps[3]);
                s11 = add_step(s11, w_blocks[w1].steps[3], x_blocks[x1].steps[3]);
            }
        }
    }
    let first_row = 4u * (tile.row * QUADS + m);
    let first = tile.column * QUADS + n;
    finish_block(tile, first_row, first, s00, bias_of(first));
    if (QUADS == 16u) {
        let second = first + 8u;
        finish_block(tile, first_row + 32u, first, s10, bias_of(first));
        finish_block(tile, first_row, second, s01, bias_of(second));
        finish_block(tile, first_row + 32u, second, s11, bias_of(second));
    }
}

// sums += w·xᵀ of one step; a column of `sums` is a row of y.
fn add_step(sums: mat4x4<f32>, w: vec4<f32>, x: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        fma(w, vec4<f32>(x.x), sums[0]), fma(w, vec4<f32>(x.y), sums[1]),
        fma(w, vec4<f32>(x.z), sums[2]), fma(w, vec4<f32>(x.w), sums[3]),
    );
}
