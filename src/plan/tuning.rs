//! Choices that were measured on a device, which replace those of the table.

use super::FusedPlan;
use crate::attention::Score;
use crate::problem::AttentionProblem;
use crate::tensor::DType;

/// Problems that one measured choice serves: powers of two, rounded up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "seq2seq", derive(serde::Serialize, serde::Deserialize))]
pub struct Bucket {
    /// tanh scores: additive, concat.
    pub additive: bool,
    /// Query, key and value are f16.
    pub half: bool,
    /// D or A, at least 32.
    pub score_dim: usize,
    /// Dv, at least 32.
    pub value_dim: usize,
    /// Query heads of one key head.
    pub group: usize,
    /// Batch rows times key heads.
    pub heads: usize,
    /// Nq.
    pub queries: usize,
    /// Nk.
    pub keys: usize,
}

impl Bucket {
    /// The bucket of a problem.
    pub fn new(score: Score, problem: &AttentionProblem, element: DType) -> Self {
        let up = |n: usize| n.next_power_of_two();
        Self {
            additive: score.is_additive(),
            half: element == DType::F16,
            score_dim: up(problem.score_dim.max(32)),
            value_dim: up(problem.value_dim.max(32)),
            group: up(problem.group()),
            heads: up(problem.batch * problem.kv_heads),
            queries: up(problem.queries),
            keys: up(problem.keys),
        }
    }
}

/// How a problem is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "seq2seq", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
pub enum Choice {
    /// Scores in memory.
    Staged,
    /// By a fused kernel.
    #[cfg_attr(feature = "seq2seq", serde(untagged))]
    Fused(FusedPlan),
}

impl From<FusedPlan> for Choice {
    fn from(plan: FusedPlan) -> Self {
        Self::Fused(plan)
    }
}

/// Measured choices by bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tuning {
    choices: std::collections::BTreeMap<Bucket, Choice>,
}

impl Tuning {
    /// Nothing measured yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records what was fastest for a bucket, replacing an earlier choice. A plan with a single split must have one for every
    /// problem of the bucket: its split is of at least `bucket.keys`.
    pub fn insert(&mut self, bucket: Bucket, choice: impl Into<Choice>) {
        self.choices.insert(bucket, choice.into());
    }

    /// What was fastest for a bucket.
    pub fn get(&self, bucket: &Bucket) -> Option<&Choice> {
        self.choices.get(bucket)
    }

    /// What the bucket's choice means for a problem of so many keys: of the candidates with its tile the one whose number of
    /// splits comes closest. None where nothing was measured, or the device no longer has that tile.
    pub fn choose(&self, bucket: &Bucket, candidates: &[FusedPlan], keys: usize) -> Option<Choice> {
        let wanted = match self.get(bucket)? {
            Choice::Staged => return Some(Choice::Staged),
            Choice::Fused(plan) => plan,
        };
        let of_tile = candidates.iter().filter(|plan| plan.tile == wanted.tile);
        of_tile.min_by_key(|plan| plan.splits(keys).abs_diff(wanted.splits(keys))).map(|&plan| plan.into())
    }

    /// How many buckets have a choice.
    pub fn len(&self) -> usize {
        self.choices.len()
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.choices.is_empty()
    }

    /// Every choice, by bucket.
    pub fn iter(&self) -> impl Iterator<Item = (&Bucket, &Choice)> {
        self.choices.iter()
    }
}

impl<C: Into<Choice>> FromIterator<(Bucket, C)> for Tuning {
    fn from_iter<I: IntoIterator<Item = (Bucket, C)>>(choices: I) -> Self {
        Self { choices: choices.into_iter().map(|(bucket, choice)| (bucket, choice.into())).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Form, Tile};

    fn tile(form: Form, lanes: u32) -> Tile {
        Tile { form, lanes, queries: 4, keys: 64, k_splits: 1, subgroups: false }
    }

    fn bucket(keys: usize) -> Bucket {
        Bucket { additive: false, half: false, score_dim: 64, value_dim: 64, group: 4, heads: 8, queries: 1, keys }
    }

    #[test]
    fn a_choice_speaks_for_the_nearest_candidate_of_its_tile() {
        let (split, rows) = (tile(Form::Split, 64), tile(Form::Rows, 8));
        let ranged = |tile, split_keys| FusedPlan { tile, split_keys };
        let candidates = [ranged(rows, 900), ranged(split, 128), ranged(split, 256), ranged(split, 900)];
        let mut tuning = Tuning::new();
        assert_eq!(tuning.choose(&bucket(1024), &candidates, 900), None);
        for (measured, chosen) in [
            (ranged(split, 1024), Some(ranged(split, 900))),
            (ranged(split, 256), Some(ranged(split, 256))),
            (ranged(split, 100), Some(ranged(split, 128))),
            (ranged(rows, 1024), Some(ranged(rows, 900))),
            (ranged(tile(Form::Split, 32), 256), None),
        ] {
            tuning.insert(bucket(1024), measured);
            assert_eq!(tuning.choose(&bucket(1024), &candidates, 900), chosen.map(Choice::Fused));
            assert_eq!(tuning.choose(&bucket(2048), &candidates, 1200), None);
        }
        assert_eq!((tuning.len(), tuning.is_empty()), (1, false));
        tuning.insert(bucket(1024), Choice::Staged);
        assert_eq!(tuning.choose(&bucket(1024), &candidates, 900), Some(Choice::Staged));
        assert_eq!(tuning.iter().map(|(b, p)| (*b, *p)).collect::<Tuning>(), tuning);
    }
}
