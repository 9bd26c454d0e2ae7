//! Choices that were measured on a device, which take the place of the table's.

use super::FusedPlan;
use crate::attention::Score;
use crate::problem::AttentionProblem;
use crate::tensor::DType;

/// Problems that one measured choice serves: powers of two, rounded up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
            additive: matches!(score, Score::Additive | Score::Concat),
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

/// Measured choices by bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tuning {
    choices: std::collections::BTreeMap<Bucket, FusedPlan>,
}

impl Tuning {
    /// Nothing measured yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes the fastest plan of a bucket, in place of an earlier one.
    pub fn insert(&mut self, bucket: Bucket, plan: FusedPlan) {
        self.choices.insert(bucket, plan);
    }

    /// What was fastest for a bucket.
    pub fn get(&self, bucket: &Bucket) -> Option<&FusedPlan> {
        self.choices.get(bucket)
    }

    /// Every choice, by bucket.
    pub fn iter(&self) -> impl Iterator<Item = (&Bucket, &FusedPlan)> {
        self.choices.iter()
    }
}
