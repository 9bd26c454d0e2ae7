// Paged attention: key and value rows are contiguous, or in the pages of a cache, by a block table. A kernel that includes
// this file has the member `pages: Pages` in its `params`, and binds `vectors`.
override PAGED: bool = false;

struct Pages {
    @align(16) start: u32, // of the block table [B, pages] in `vectors`
    row_step: u32,
    page_step: u32,
    size: u32,  // keys in a page
    count: u32, // pages in the pool; entries past them read the last one
}

// The page of key j; past the pool where there is none.
fn page_of(b: u32, j: u32) -> u32 {
    return vectors[params.pages.start + b * params.pages.row_step + (j / params.pages.size) * params.pages.page_step];
}

// First and third index of key row j of batch row b: [b, head, j, dim], or [page, head, row in the page, dim].
fn locate(b: u32, j: u32) -> vec2<u32> {
    if (!PAGED) {
        return vec2<u32>(b, j);
    }
    return vec2<u32>(min(page_of(b, j), params.pages.count - 1u), j % params.pages.size);
}
