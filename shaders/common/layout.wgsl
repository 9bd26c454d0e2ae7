// A strided tensor of up to four axes. Strides and offset count elements.
struct View {
    shape: vec4<u32>,
    strides: vec4<u32>,
    offset: u32,
}

fn element(view: View, i0: u32, i1: u32, i2: u32, i3: u32) -> u32 {
    return view.offset + i0 * view.strides.x + i1 * view.strides.y + i2 * view.strides.z + i3 * view.strides.w;
}

// The first three axes as one row index, row-major; the fourth axis at 0.
fn row_start(view: View, row: u32) -> u32 {
    let i2 = row % view.shape.z;
    let rest = row / view.shape.z;
    return element(view, rest / view.shape.y, rest % view.shape.y, i2, 0u);
}

// The workgroup's place in the dispatch. The lane is a separate parameter of `main`: browsers' uniformity analysis takes a
// whole struct for as divergent as its most divergent member, and barriers must be in uniform control flow.
struct Workgroup {
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
}

// A long dispatch is run in several of some workgroups each: the number of the first workgroup of this one.
@group(0) @binding(16) var<uniform> first_workgroup: u32;

// Grids are folded into two dimensions; this is the workgroup's number in the linear grid.
fn workgroup_index(wg: Workgroup) -> u32 {
    return first_workgroup + wg.id.x + wg.id.y * wg.count.x;
}
