// One element of a row into a cache, as it is.
const UNIT = 1u;

@group(0) @binding(4) var<storage, read_write> cache: array<out_elem>;
@group(0) @binding(5) var<storage, read_write> value_cache: array<out_elem>;

fn write_unit(value: bool, to_at: u32, from_at: u32, step: u32) {
    if (value) {
        value_cache[to_at] = out_elem(value_rows[from_at]);
    } else {
        cache[to_at] = out_elem(rows[from_at]);
    }
}
