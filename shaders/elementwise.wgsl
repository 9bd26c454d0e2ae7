// y = f(a op b), element by element; axes that b repeats have strides of 0.
override LANES: u32 = 64u;
override OP: u32 = 0u; // 0 a alone, 1 a + b, 2 a · b

struct Params {
    a: View,
    b: View,
    y: View,
    activation: Activation,
    elements: u32,
}

@group(0) @binding(1) var<storage, read> a: array<elem>;
@group(0) @binding(2) var<storage, read> b: array<b_elem>;
@group(0) @binding(3) var<storage, read_write> y: array<out_elem>;

@compute @workgroup_size(LANES)
fn main(wg: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(wg) * LANES + lane;
    if (index >= params.elements) {
        return;
    }
    let width = params.y.shape.w;
    let row = index / width;
    let column = index % width;
    var x = f32(a[row_start(params.a, row) + column * params.a.strides.w]);
    if (OP > 0u) {
        let other = f32(b[row_start(params.b, row) + column * params.b.strides.w]);
        if (OP == 1u) {
            x += other;
        } else {
            x *= other;
        }
    }
    y[row_start(params.y, row) + column * params.y.strides.w] = out_elem(activate(params.activation, vec4<f32>(x)).x);
}
