//! Rows appended to caches, and partial results to be merged.

use super::{POISON, Random};
use crate::tensor::Array;

/// Rows into a cache.
#[derive(Debug, Clone)]
pub struct AppendCase {
    /// Unique in the table.
    pub name: String,
    /// [B, H, C, D], or pages [pages, H, page size, D].
    pub cache: Array<f32>,
    /// [B, H, n, D].
    pub rows: Array<f32>,
    /// `[B]`.
    pub starts: Vec<u32>,
    /// [B, pages] of a cache in pages.
    pub block_table: Option<Array<u32>>,
    /// Past the end comes the front again.
    pub wrap: bool,
}

impl AppendCase {
    /// `cache` as the batch rows have it: [B, H, C, D].
    pub fn in_one_piece(&self, cache: &Array<f32>) -> Array<f32> {
        let Some(table) = &self.block_table else { return cache.clone() };
        let (batch, pages) = (table.shape()[0], table.shape()[1]);
        let (heads, size, dim) = (cache.shape()[1], cache.shape()[2], cache.shape()[3]);
        Array::from_fn(&[batch, heads, pages * size, dim], |k| {
            let (d, j, h, b) =
                (k % dim, k / dim % (pages * size), k / dim / (pages * size) % heads, k / dim / (pages * size) / heads);
            let page = table.data()[b * pages + j / size] as usize;
            cache.data()[((page * heads + h) * size + j % size) * dim + d]
        })
    }
}

/// Caches in one piece and in pages, rows that fit, fall off or wrap around.
pub fn appends() -> Vec<AppendCase> {
    let mut table = Vec::new();
    for (name, starts, wrap) in [
        ("append", [0, 3, 6], false),
        ("append past the end", [9, 7, u32::MAX], false),
        ("append around the end", [9, 7, 100], true),
    ] {
        let mut random = Random::new(name);
        table.push(AppendCase {
            name: name.to_owned(),
            cache: random.array(&[3, 2, 10, 5]),
            rows: random.array(&[3, 2, 4, 5]),
            starts: starts.to_vec(),
            block_table: None,
            wrap,
        });
    }
    for size in [1, 3, 4] {
        let name = format!("append to pages of {size}");
        let mut random = Random::new(&name);
        table.push(AppendCase {
            cache: random.array(&[13, 2, size, 5]),
            rows: random.array(&[2, 2, 3, 5]),
            starts: vec![2, size as u32],
            block_table: Array::new(&[2, 5], vec![12, 0, 7, 3, 4, 9, 11, 1, 5, 10]).ok(),
            wrap: false,
            name,
        });
    }
    for (what, paged) in
        [("usual", true), ("half", false), ("empty", true), ("uneven", true), ("huge", false), ("odd", true)]
    {
        let name = format!("append {what} blocks of 32{}", if paged { " to pages" } else { "" });
        let mut random = Random::new(&name);
        table.push(AppendCase {
            cache: random.array(if paged { &[9, 2, 4, 64] } else { &[2, 2, 10, 64] }),
            rows: blocks(what, &mut random, &[2, 2, 5, 64]),
            starts: vec![1, 7],
            block_table: paged.then(|| Array::from_fn(&[2, 4], |k| (8 - k) as u32)),
            wrap: !paged,
            name,
        });
    }
    table
}

/// Rows whose blocks of 32 are not easily held in 8 bits.
fn blocks(what: &str, random: &mut Random, shape: &[usize]) -> Array<f32> {
    let mut rows = random.array(shape);
    for (n, block) in rows.data_mut().chunks_exact_mut(32).enumerate() {
        match what {
            // Steps of 1, and halves of them.
            "half" => {
                block.iter_mut().for_each(|x| *x = random.below(508) as f32 * 0.5 - 127.0);
                block[n % 32] = -127.0;
            }
            "empty" if n % 2 == 0 => block.fill(0.0),
            "uneven" => {
                let size = 10f32.powi(random.below(40) as i32 - 37);
                block.iter_mut().for_each(|x| *x *= size);
            }
            "huge" => block.iter_mut().for_each(|x| *x *= 1e30),
            "odd" if n % 3 == 0 => block[n % 32] = POISON[n % 3],
            _ => {}
        }
    }
    rows
}

/// Partial outputs, and the statistics of their softmaxes.
#[derive(Debug, Clone)]
pub struct MergeCase {
    /// Unique in the table.
    pub name: String,
    /// [B, H, N, Dv], and log-sum-exps [B, H, N] or largest scores and sums [B, H, N, 2].
    pub partials: Vec<(Array<f32>, Array<f32>)>,
    /// Has numbers that f16 does not hold.
    pub f32_only: bool,
}

/// Two to five partials, some without a visible key and full of poison.
pub fn merges() -> Vec<MergeCase> {
    let partial = |random: &mut Random, spread: f32, level: Option<f32>| {
        // Outputs whose sums f32 does not hold.
        let size = if level == Some(1e4) { 1.9e38 } else { 1.0 };
        let mut output = random.array(&[2, 3, 5, 7]).map(|x| x * size);
        let mut max = random.array(&[2, 3, 5]).map(|x| x * spread);
        let mut sum = max.map(|_| 1.0 + random.below(1000) as f32);
        if let Some(level) = level {
            max.data_mut().iter_mut().for_each(|x| *x = level + x.round());
        }
        for row in 0..30 {
            if random.below(4) == 0 {
                (max.data_mut()[row], sum.data_mut()[row]) = (f32::NEG_INFINITY, 0.0);
                output.data_mut()[row * 7..][..7].iter_mut().enumerate().for_each(|(d, x)| *x = POISON[(row + d) % 5]);
            }
        }
        let pairs = Array::from_fn(&[2, 3, 5, 2], |k| if k % 2 == 0 { max.data()[k / 2] } else { sum.data()[k / 2] });
        (output, if level.is_some() { pairs } else { max })
    };
    let case = |(count, spread, level): (usize, f32, Option<f32>)| {
        let by = level.map_or("log-sum-exp".to_owned(), |level| format!("max and sum near {level:e}"));
        let name = format!("merge of {count} parts by {by}, spread {spread}");
        let mut random = Random::new(&name);
        let partials = (0..count).map(|_| partial(&mut random, spread, level)).collect();
        MergeCase { partials, name, f32_only: level == Some(1e4) }
    };
    let by_lse = [(2, 1.0), (2, 50.0), (3, 1.0), (5, 4.0), (3, 1e4)].map(|(count, spread)| (count, spread, None));
    let by_max_sum = [(2, 1.0, 0.0), (2, 0.0, 1e4), (3, 2.0, -1e6), (5, 4.0, 1e8), (3, 50.0, 0.0), (4, 0.0, f32::MIN)];
    let by_max_sum = by_max_sum.map(|(count, spread, level)| (count, spread, Some(level)));
    by_lse.into_iter().chain(by_max_sum).map(case).collect()
}
