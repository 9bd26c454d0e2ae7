// A product's depth split over PARTS neighbouring groups of lanes, joined through workgroup memory.
override LANES: u32 = 64u;
override PARTS: u32 = 1u; // a power of two that divides LANES

// Where an invocation stands in its workgroup.
struct Lane {
    @builtin(local_invocation_id) id: vec3<u32>,
}

var<workgroup> partial: array<mat4x4<f32>, LANES>;

// The lane's number in its workgroup.
fn number_of(lane: Lane) -> u32 {
    return lane.id.x;
}

// Which of the LANES / PARTS columns of tiles this lane computes.
fn column_of(lane: Lane) -> u32 {
    return lane.id.x % (LANES / PARTS);
}

// Which part of the depth.
fn part_of(lane: Lane) -> u32 {
    return lane.id.x / (LANES / PARTS);
}

// The sum over the parts, for every part. All lanes must call it.
fn join(lane: Lane, tile: mat4x4<f32>) -> mat4x4<f32> {
    if (PARTS == 1u) {
        return tile;
    }
    partial[lane.id.x] = tile;
    workgroupBarrier();
    var sum = mat4x4<f32>();
    for (var part = 0u; part < PARTS; part += 1u) {
        sum += partial[part * (LANES / PARTS) + column_of(lane)];
    }
    workgroupBarrier();
    return sum;
}
