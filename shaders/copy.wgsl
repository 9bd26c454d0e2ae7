// Strided copy of up to four axes, converting the element type. `source_at` is that of `common/read_*.wgsl`.
override LANES: u32 = 64u;

struct Params {
    source: View,
    target_view: View, // same shape
    elements: u32,
}

@group(0) @binding(2) var<storage, read_write> destination: array<out_elem>;

@compute @workgroup_size(LANES)
fn main(wg: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(wg) * LANES + lane;
    if (index >= params.elements) {
        return;
    }
    let width = params.source.shape.w;
    let row = index / width;
    let column = index % width;
    let source_index = row_start(params.source, row) + column * params.source.strides.w;
    let target_index = row_start(params.target_view, row) + column * params.target_view.strides.w;
    destination[target_index] = out_elem(source_at(source_index));
}
