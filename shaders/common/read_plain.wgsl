// An element of `source`, as it is.
@group(0) @binding(1) var<storage, read> source: array<elem>;

fn source_at(at: u32) -> elem {
    return source[at];
}
