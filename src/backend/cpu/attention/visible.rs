//! Which keys a query sees, as ranges of keys, and the mask that is left beside them.

use crate::attention::{Attention, AttentionInputs, Causal, Window};
use crate::backend::cpu::CpuTensor;
use crate::error::Result;
use crate::problem::AttentionProblem;
use crate::reference::{ends, lengths};
use crate::tensor::Layout;

/// The keys of one query before any mask: those from `low` to `high`, and the sink tokens of a window before them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Span {
    pub(super) low: usize,
    pub(super) high: usize,
    /// Empty where they lie between `low` and `high`.
    pub(super) sinks: [usize; 2],
    /// The key that the query stands at, which need not be there.
    pub(super) own: i64,
    /// Its sequence in a ragged batch.
    pub(super) sequence: usize,
}

/// Where queries stand and what they see: the rules of [`reference::attention`](crate::reference::attention) in closed form.
pub(super) struct Spans {
    causal: bool,
    window: Option<Window>,
    mask_keys: usize,
    of: Of,
}

enum Of {
    /// Each batch row: real queries, real keys, and the own position of query 0.
    Rows(Vec<(usize, usize, i64)>),
    /// Where sequences begin and the last one ends, of queries and of keys; whether diagonals end at the bottom right.
    Ragged { queries: Vec<usize>, keys: Vec<usize>, bottom_right: bool },
}

impl Spans {
    pub(super) fn new(options: &Attention, inputs: &AttentionInputs<CpuTensor>, p: &AttentionProblem) -> Result<Self> {
        let bottom_right = options.causal == Some(Causal::BottomRight);
        let of = if let Some(both) = &inputs.cu_seqlens {
            let queries = ends("cu_seqlens_q", &both.q, p.queries)?;
            Of::Ragged { queries, keys: ends("cu_seqlens_k", &both.k, p.keys)?, bottom_right }
        } else {
            let kv_lengths = lengths("kv_lengths", inputs.kv_lengths.as_ref(), p.keys)?;
            let query_lengths = lengths("query_lengths", inputs.query_lengths.as_ref(), p.queries)?;
            let row = |b: usize| {
                let keys = kv_lengths.as_ref().map_or(p.keys, |lengths| lengths[b]);
                let queries = query_lengths.as_ref().map_or(p.queries, |lengths| lengths[b]);
                let ends_at_last_key = kv_lengths.is_some() || bottom_right;
                (queries, keys, if ends_at_last_key { keys as i64 - queries as i64 } else { p.past as i64 })
            };
            Of::Rows((0..p.batch).map(row).collect())
        };
        Ok(Self { causal: options.causal.is_some(), window: options.window, mask_keys: p.mask_keys, of })
    }

    /// Of query `i` of batch row `b`.
    pub(super) fn of(&self, b: usize, i: usize) -> Span {
        let (first, end, own, sequence) = match &self.of {
            Of::Rows(rows) => {
                let (queries, keys, diagonal) = rows[b];
                (0, if i < queries { keys } else { 0 }, i as i64 + diagonal, 0)
            }
            Of::Ragged { queries, keys, bottom_right } => {
                // The last sequence that begins at or before the query; none of the empty ones before it.
                let n = queries.partition_point(|&start| start <= i);
                if n == 0 || n == queries.len() {
                    return Span::default();
                }
                let n = n - 1;
                let (q, k) = ([queries[n], queries[n + 1]], [keys[n], keys[n + 1]]);
                let diagonal = if *bottom_right { (k[1] - k[0]) as i64 - (q[1] - q[0]) as i64 } else { 0 };
                (k[0], k[1], (i - q[0]) as i64 + diagonal + k[0] as i64, n)
            }
        };
        let within = |key: i64| key.clamp(first as i64, end as i64) as usize;
        let mut high = end.min(self.mask_keys);
        if self.causal {
            high = high.min(within(own.saturating_add(1)));
        }
        let (mut low, mut sinks) = (first, [first; 2]);
        let seen = high;
        if let Some(window) = self.window {
            if let Some(left) = window.left {
                low = within(own.saturating_sub(i64::from(left)));
            }
            if let Some(right) = window.right {
                high = high.min(within(own.saturating_add(i64::from(right)).saturating_add(1)));
            }
            sinks[1] = seen.min(first.saturating_add(window.sink_tokens as usize)).max(first);
        }
        let high = high.max(first);
        if low >= high {
            (low, sinks) = (high, if sinks[1] > sinks[0] { sinks } else { [high; 2] });
        }
        // Sinks that reach the window belong to it.
        if low < high && sinks[1] >= low {
            return Span { low: sinks[0], high: high.max(sinks[1]), sinks: [sinks[0]; 2], own, sequence };
        }
        Span { low, high, sinks, own, sequence }
    }
}

impl Spans {
    /// The position of query `i` in its sequence.
    pub(super) fn of_query(&self, b: usize, i: usize) -> i64 {
        match &self.of {
            Of::Rows(rows) => i as i64 + rows[b].2,
            Of::Ragged { keys, .. } => {
                let span = self.of(b, i);
                span.own - keys.get(span.sequence).map_or(0, |&start| start as i64)
            }
        }
    }

    /// The position of key `j` in its sequence.
    pub(super) fn of_key(&self, j: usize) -> i64 {
        match &self.of {
            Of::Rows(_) => j as i64,
            Of::Ragged { keys, .. } => match keys.partition_point(|&start| start <= j) {
                n if n == 0 || n == keys.len() => 0,
                n => (j - keys[n - 1]) as i64,
            },
        }
    }
}

impl Span {
    pub(super) fn sees(&self, key: usize) -> bool {
        (self.low..self.high).contains(&key) || (self.sinks[0]..self.sinks[1]).contains(&key)
    }
}

/// A mask's or a block mask's numbers under [B, Hq, Nq, Nk] or [B, Hq, blocks, blocks].
pub(super) enum MaskOf<'a> {
    Bool(&'a [u32], Layout),
    Float(&'a [f32], Layout),
    Blocks(&'a [u32], Layout, [usize; 2]),
}

impl MaskOf<'_> {
    /// What it adds to a score; −∞ hides.
    pub(super) fn bias(&self, [b, h, i, j]: [usize; 4]) -> f32 {
        let index =
            |layout: &Layout, at: [usize; 4]| -> usize { at.iter().zip(&layout.strides).map(|(i, s)| i * s).sum() };
        let of = |attend: bool| if attend { 0.0 } else { f32::NEG_INFINITY };
        match self {
            Self::Bool(mask, layout) => of(mask[index(layout, [b, h, i, j])] != 0),
            Self::Float(mask, layout) => mask[index(layout, [b, h, i, j])],
            Self::Blocks(mask, layout, [queries, keys]) => of(mask[index(layout, [b, h, i / queries, j / keys])] != 0),
        }
    }

    /// Whether it is the same for all queries of all heads.
    pub(super) fn is_of_keys(&self) -> bool {
        match self {
            Self::Bool(_, layout) | Self::Float(_, layout) => layout.strides[1] == 0 && layout.strides[2] == 0,
            Self::Blocks(..) => false,
        }
    }
}
