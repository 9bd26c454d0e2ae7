// Embedding look-up: out[r, :] = table[ids[r], :]. Ids past the table read its last row.
override LANES: u32 = 64u;

struct Params {
    table: View, // [1, 1, V, D]
    ids: View,   // [1, 1, 1, R]
    output: View, // [.., .., .., D]: R rows over the first three axes, row-major
    elements: u32, // R · D
}

@group(0) @binding(1) var<storage, read> table: array<elem>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read_write> output: array<out_elem>;

@compute @workgroup_size(LANES)
fn main(wg: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(wg) * LANES + lane;
    if (index >= params.elements) {
        return;
    }
    let width = params.output.shape.w;
    let row = index / width;
    let column = index % width;
    let entry = min(ids[params.ids.offset + row * params.ids.strides.w], params.table.shape.z - 1u);
    let source_index = params.table.offset + entry * params.table.strides.z + column * params.table.strides.w;
    output[row_start(params.output, row) + column * params.output.strides.w] = out_elem(f32(table[source_index]));
}
