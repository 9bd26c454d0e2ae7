// Writes one element of a row into a cache of f32 or f16.
const UNIT = 1u;

@group(0) @binding(4) var<storage, read_write> cache: array<out_elem>;
@group(0) @binding(5) var<storage, read_write> value_cache: array<out_elem>;

fn write_unit(value: bool, target_index: u32, source_index: u32, step: u32) {
    if (value) {
        value_cache[target_index] = out_elem(value_rows[source_index]);
    } else {
        cache[target_index] = out_elem(rows[source_index]);
    }
}
