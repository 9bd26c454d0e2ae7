// The keys that are visible to a query by its position: lengths, sequences of a ragged batch, causal mask, sliding window
// with sink tokens. Every kernel of attention takes this rule from here.
//
//   position = start of the sequence + i + offset           the diagonal, as the number of a key
//   visible  = [start, sinks_end) ∪ [first, end)
//   causal     end ≤ position + 1
//   window     first ≥ position − window_left, end ≤ position + window_right + 1; sink tokens stay visible
//
// A kernel that includes this file has the member `positions: Positions` in its `params`, and binds `vectors`.
override CAUSAL: bool = false;
override WINDOW: bool = false;
override KEY_LENGTHS: bool = false;
override QUERY_LENGTHS: bool = false;
override SEQUENCES: bool = false;

// One of the short lists that share the binding `vectors`: index of its first word, words between neighbours.
alias List = vec2<u32>;

struct Positions {
    @align(16) queries: u32, // Nq of the whole problem
    keys: u32,         // Nk
    offset: i32,       // position of query 0, where no list says otherwise
    bottom_right: u32, // 1: the position of the last query is the last key
    window_left: i32,  // −1: unlimited
    window_right: i32, // −1: unlimited
    sink_tokens: u32,
    sequences: u32,
    kv_lengths: List,
    query_lengths: List,
    cu_seqlens_q: List,
    cu_seqlens_k: List,
}

fn word(list: List, n: u32) -> u32 {
    return vectors[list.x + n * list.y];
}

// The keys that are visible to one query: [first, end), and the sink tokens [start, sinks_end).
struct KeyRange {
    position: i32, // of the query, as the number of a key; may be negative or past the keys
    start: u32, // first key of the sequence
    first: u32,
    end: u32,
    sinks_end: u32,
    sequence: u32, // the batch row, or the sequence of a ragged batch
}

// The sequence that holds token n: the last one that begins at n or before, so that empty ones are skipped.
fn sequence_of(starts: List, n: u32) -> u32 {
    var low = 0u;
    var high = params.positions.sequences;
    while (low + 1u < high) {
        let middle = (low + high) / 2u;
        if (word(starts, middle) <= n) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

// i is the number of the query in the whole problem.
fn key_range(b: u32, i: u32) -> KeyRange {
    var start = 0u;
    var end = params.positions.keys;
    var local = i;
    var offset = params.positions.offset;
    var is_query = true;
    var sequence = b;
    if (SEQUENCES) {
        let n = sequence_of(params.positions.cu_seqlens_q, i);
        sequence = n;
        let first_query = word(params.positions.cu_seqlens_q, n);
        let last_query = min(word(params.positions.cu_seqlens_q, n + 1u), params.positions.queries);
        is_query = first_query <= i && i < last_query;
        local = i - min(first_query, i);
        start = min(word(params.positions.cu_seqlens_k, n), end);
        end = clamp(word(params.positions.cu_seqlens_k, n + 1u), start, end);
        offset = 0;
        if (params.positions.bottom_right == 1u) {
            offset = i32(end - start) - i32(last_query - min(first_query, last_query));
        }
    } else {
        var count = params.positions.queries;
        if (KEY_LENGTHS) {
            end = min(word(params.positions.kv_lengths, b), end);
        }
        if (QUERY_LENGTHS) {
            count = min(word(params.positions.query_lengths, b), count);
            is_query = i < count;
        }
        if (KEY_LENGTHS || params.positions.bottom_right == 1u) {
            offset = i32(end) - i32(count);
        }
    }
    let position = i32(start) + i32(local) + offset;
    var first = i32(start);
    var last = i32(end);
    if (CAUSAL) {
        last = min(last, position + 1);
    }
    var sinks_end = first;
    if (WINDOW) {
        sinks_end = min(i32(start + params.positions.sink_tokens), last);
        if (params.positions.window_left >= 0) {
            first = max(first, position - params.positions.window_left);
        }
        if (params.positions.window_right >= 0) {
            last = min(last, position + params.positions.window_right + 1);
        }
    }
    if (!is_query) {
        last = 0;
        sinks_end = 0;
    }
    return KeyRange(position, start, u32(first), u32(max(last, first)), u32(max(sinks_end, i32(start))), sequence);
}

fn in_key_range(range: KeyRange, j: u32) -> bool {
    return (j >= range.first && j < range.end) || (j >= range.start && j < range.sinks_end);
}

// Whether any of the keys first .. last (exclusive) is in the range.
fn overlaps(range: KeyRange, first: u32, last: u32) -> bool {
    let window = range.first < last && first < range.end && range.first < range.end;
    let sinks = range.start < last && first < range.sinks_end && range.start < range.sinks_end;
    return window || sinks;
}

// The smallest interval that contains two intervals (first, end), of which an empty one counts for nothing.
fn enclosing(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let hull = vec2<u32>(min(a.x, b.x), max(a.y, b.y));
    return select(select(hull, b, a.x >= a.y), a, b.x >= b.y);
}

// The smallest range that contains both.
fn enclosing_range(a: KeyRange, b: KeyRange) -> KeyRange {
    let window = enclosing(vec2<u32>(a.first, a.end), vec2<u32>(b.first, b.end));
    let sinks = enclosing(vec2<u32>(a.start, a.sinks_end), vec2<u32>(b.start, b.sinks_end));
    return KeyRange(a.position, sinks.x, window.x, window.y, sinks.y, a.sequence);
}
