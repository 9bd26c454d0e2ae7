// Which keys a query can see by position: lengths, sequences of a ragged batch, causal, window. The one place.
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
    offset: i32,       // own position of query 0, where no list says otherwise
    bottom_right: u32, // 1: the last query stands at the last key
    window_left: i32,  // −1 = open
    window_right: i32, // −1 = open
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

// The keys that one query can see: first .. last, and start .. sinks_last before it.
struct Row {
    own: i32, // the query's own position, as the number of a key; may lie outside
    start: u32, // first key of the sequence
    first: u32,
    last: u32,
    sinks_last: u32,
    sequence: u32, // the batch row, or the sequence of a ragged batch
}

// The last sequence that begins at n or before: empty ones in front of it are passed over.
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

// i counts from the first query of the problem.
fn row_of(b: u32, i: u32) -> Row {
    var start = 0u;
    var end = params.positions.keys;
    var local = i;
    var offset = params.positions.offset;
    var real = true;
    var sequence = b;
    if (SEQUENCES) {
        let n = sequence_of(params.positions.cu_seqlens_q, i);
        sequence = n;
        let first_query = word(params.positions.cu_seqlens_q, n);
        let last_query = min(word(params.positions.cu_seqlens_q, n + 1u), params.positions.queries);
        real = first_query <= i && i < last_query;
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
            real = i < count;
        }
        if (KEY_LENGTHS || params.positions.bottom_right == 1u) {
            offset = i32(end) - i32(count);
        }
    }
    let own = i32(start) + i32(local) + offset;
    var first = i32(start);
    var last = i32(end);
    if (CAUSAL) {
        last = min(last, own + 1);
    }
    var sinks_last = first;
    if (WINDOW) {
        sinks_last = min(i32(start + params.positions.sink_tokens), last);
        if (params.positions.window_left >= 0) {
            first = max(first, own - params.positions.window_left);
        }
        if (params.positions.window_right >= 0) {
            last = min(last, own + params.positions.window_right + 1);
        }
    }
    if (!real) {
        last = 0;
        sinks_last = 0;
    }
    return Row(own, start, u32(first), u32(max(last, first)), u32(max(sinks_last, i32(start))), sequence);
}

fn sees(row: Row, j: u32) -> bool {
    return (j >= row.first && j < row.last) || (j >= row.start && j < row.sinks_last);
}

// Whether the row sees any of the keys first .. last.
fn sees_any(row: Row, first: u32, last: u32) -> bool {
    let window = row.first < last && first < row.last && row.first < row.last;
    let sinks = row.start < last && first < row.sinks_last && row.start < row.sinks_last;
    return window || sinks;
}

// The range that holds both of two ranges first .. last; an empty one counts for nothing.
fn both(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let joined = vec2<u32>(min(a.x, b.x), max(a.y, b.y));
    return select(select(joined, b, a.x >= a.y), a, b.x >= b.y);
}

// Every key that one or the other sees, and what lies between.
fn join_rows(a: Row, b: Row) -> Row {
    let window = both(vec2<u32>(a.first, a.last), vec2<u32>(b.first, b.last));
    let sinks = both(vec2<u32>(a.start, a.sinks_last), vec2<u32>(b.start, b.sinks_last));
    return Row(a.own, sinks.x, window.x, window.y, sinks.y, a.sequence);
}
