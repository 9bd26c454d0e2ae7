//! Running sums of alignments and what they cost.

use super::Random;
use crate::coverage::CoverageCost;
use crate::tensor::Array;

/// One step of coverage.
#[derive(Debug, Clone)]
pub struct CoverageCase {
    /// Unique in the table.
    pub name: String,
    /// [B, Nk].
    pub alignment: Array<f32>,
    /// [B, Nk].
    pub before: Option<Array<f32>>,
    /// Of each row, if asked for.
    pub cost: Option<CoverageCost>,
}

/// Rows around the width of a workgroup, with and without a sum before them, every cost.
pub fn coverage() -> Vec<CoverageCase> {
    let costs = [None, Some(CoverageCost::Overlap), Some(CoverageCost::DoublyStochastic { factor: 0.7 })];
    let mut table = Vec::new();
    for keys in [1, 7, 64, 65, 300, 1100] {
        for (k, cost) in costs.into_iter().enumerate() {
            for given in [false, true] {
                let name = format!("coverage of {keys} keys, cost {k}, before {given}");
                let mut random = Random::new(&name);
                let mut row = |size: f32| random.array(&[3, keys]).map(|x| x.abs() * size);
                let (alignment, before) = (row(1.0 / keys as f32), given.then(|| row(2.0 / keys as f32)));
                table.push(CoverageCase { name, alignment, before, cost });
            }
        }
    }
    table
}
