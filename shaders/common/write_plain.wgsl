// One element of `rows` into `cache`, as it is.
const UNIT = 1u;

@group(0) @binding(3) var<storage, read_write> cache: array<out_elem>;

fn write_unit(to_at: u32, from_at: u32, step: u32) {
    cache[to_at] = out_elem(rows[from_at]);
}
