//! How attention is run: staged, with scores in memory, or fused, without.

use super::{Bucket, Caps};
use crate::attention::{Attention, Normalize, Path, Score};
use crate::error::{Error, Result};
use crate::problem::AttentionProblem;
use crate::tensor::DType;

/// A way to compute attention without scores in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    /// An invocation owns whole query rows and keeps them in registers; neither workgroup memory nor barriers.
    Rows,
    /// A workgroup owns a tile of queries; keys and values pass through workgroup memory.
    Tiled,
    /// As `Tiled`, products by cooperative matrices.
    Cooperative,
    /// Few queries, the query heads of one key head as rows; ranges of keys side by side, joined by their log-sum-exp.
    Split,
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Rows => "rows",
            Self::Tiled => "tiled",
            Self::Cooperative => "cooperative",
            Self::Split => "split",
        })
    }
}

/// How a fused form is cut into workgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Which kernel.
    pub form: Form,
    /// Invocations in a workgroup.
    pub lanes: u32,
    /// Query rows of a workgroup.
    pub queries: u32,
    /// Keys that a workgroup takes at a time.
    pub keys: u32,
    /// Neighbouring lanes that share the dot product of a query and a key; a power of two.
    pub parts: u32,
    /// Whether lanes talk through subgroup operations.
    pub subgroups: bool,
}

/// How a fused attention is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FusedPlan {
    /// Kernel and tile.
    pub tile: Tile,
    /// Keys of one range; ranges are computed side by side and joined by their log-sum-exp. Nk or more for one range.
    pub range: usize,
}

impl Tile {
    /// Queries and keys of one entry of the map of a mask.
    pub fn of_mask(&self) -> [usize; 2] {
        [self.queries as usize, (self.keys as usize).next_multiple_of(32)]
    }
}

impl FusedPlan {
    /// Ranges of keys.
    pub fn ranges(&self, keys: usize) -> usize {
        keys.div_ceil(self.range.max(1)).max(1)
    }

    /// Loop iterations of one invocation, all its loops together, at most.
    pub fn iterations(&self, options: &Attention, problem: &AttentionProblem) -> u64 {
        let Tile { queries, keys, .. } = self.tile;
        let steps = self.range.min(problem.keys).div_ceil(keys as usize) as u64 + 1;
        // Finding the sequence of a query takes up to 33 turns.
        let reach = u64::from(queries) * if problem.sequences.is_some() { 34 } else { 1 };
        steps * self.step_iterations(options) + reach + 200
    }

    /// Loop iterations of one step over `keys` keys.
    fn step_iterations(&self, options: &Attention) -> u64 {
        let Tile { form, queries, keys, .. } = self.tile;
        // Looking for a visible block among those that the tile touches.
        let blocks = |n: u32, size: usize| u64::from(n).div_ceil(size.max(1) as u64) + 2;
        let looked = options.block_size.map_or(0, |[q, k]| blocks(queries, q) * blocks(keys, k));
        let own = match form {
            Form::Rows => 2 * u64::from(keys) + 3,
            _ => u64::from(keys),
        };
        own + looked
    }
}

/// Tiles by form, best guess first, and where they belong.
const TILES: [(Where, Tile); 2] = [
    // Eight lanes fill the vector unit of software drivers; with 8 keys a step the outputs are rescaled rarely, and
    // the loops over them, which are not unrolled, turn seldom.
    (Where::Software, Tile { form: Form::Rows, lanes: 8, queries: 32, keys: 8, parts: 1, subgroups: false }),
    // Where workgroup memory is short on a card.
    (Where::Card, Tile { form: Form::Rows, lanes: 32, queries: 128, keys: 8, parts: 1, subgroups: false }),
];

/// Devices that a tile is meant for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Where {
    Software,
    Card,
}

/// How an attention problem is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttentionPlan {
    /// Which kernels.
    pub path: Path,
    /// How they are fused, or why they are not.
    pub fused: std::result::Result<FusedPlan, String>,
    /// Staged: ranges of queries, run one after the other so that their scores fit the device's largest binding.
    pub query_ranges: Vec<(usize, usize)>,
    /// Staged: bytes of scores held at a time.
    pub score_bytes: u64,
    /// Multiplications and additions of the whole problem (masked pairs counted in).
    pub flops: u64,
    /// Bytes of inputs and outputs, each counted once.
    pub bytes: u64,
}

/// The longest head dim of a fused kernel: both it and the value's are kept in registers or workgroup memory.
pub const LONGEST_HEAD: usize = 256;

impl AttentionPlan {
    /// Chooses path, kernel and ranges.
    ///
    /// # Errors
    /// [`Error::Option`] when the path that was asked for cannot compute this. Staged: [`Error::Limit`] when one query's
    /// scores alone exceed the device's largest binding, or when the weights are asked for and do not fit in one.
    pub fn new(options: &Attention, problem: &AttentionProblem, element: DType, caps: &Caps) -> Result<Self> {
        let fused = match options.path {
            Path::Staged => Err("`staged` was asked for".to_owned()),
            _ => Self::fused(options, problem, element, caps),
        };
        let path = match (options.path, &fused) {
            (Path::Fused | Path::Split, Err(reason)) => return Err(Error::option("path", reason.clone())),
            (_, Ok(plan)) if plan.tile.form == Form::Split => Path::Split,
            (_, Ok(_)) => Path::Fused,
            (_, Err(_)) => Path::Staged,
        };
        let p = problem;
        let product = |axes: &[usize]| axes.iter().fold(1u64, |all, &n| all.saturating_mul(n as u64));
        let per_query = product(&[p.batch, p.query_heads, p.keys, 4]);
        let all = per_query.saturating_mul(p.queries as u64);
        let allowed = caps.max_binding_bytes.min(caps.max_buffer_bytes);
        let keeps_scores = options.weights || options.scores.is_some();
        if path == Path::Staged && (per_query > allowed || (keeps_scores && all > allowed)) {
            let what = if keeps_scores { "bytes of `weights`" } else { "bytes of the scores of one query" };
            let needed = if keeps_scores { all } else { per_query };
            return Err(Error::Limit { what: what.to_owned(), needed, allowed });
        }
        let chunk = if keeps_scores { p.queries } else { ((allowed / per_query) as usize).clamp(1, p.queries) };
        let staged = path == Path::Staged;
        let queries = product(&[p.batch, p.query_heads, p.queries, p.query_dim + p.value_dim]);
        let keys = product(&[p.batch, p.kv_heads, p.keys, p.key_dim + p.value_dim]);
        let ranges = (0..p.queries).step_by(chunk).map(|i| (i, (i + chunk).min(p.queries)));
        Ok(Self {
            path,
            fused,
            query_ranges: if staged { ranges.collect() } else { Vec::new() },
            score_bytes: if staged { per_query * chunk as u64 } else { 0 },
            flops: (all / 4).saturating_mul(2 * (p.score_dim + p.value_dim) as u64),
            bytes: queries.saturating_add(keys).saturating_mul(element.bytes() as u64),
        })
    }

    /// The fused plan, or why there is none.
    fn fused(
        options: &Attention,
        problem: &AttentionProblem,
        element: DType,
        caps: &Caps,
    ) -> std::result::Result<FusedPlan, String> {
        let candidates = Self::candidates(options, problem, element, caps)?;
        let tuned = caps.tuning.get(&Bucket::new(options.score, problem, element));
        let chosen = tuned.filter(|plan| candidates.contains(plan)).or(candidates.first());
        chosen.copied().ok_or_else(|| "no fused kernel fits this device's limits".to_owned())
    }

    /// Every fused plan worth trying, the one that is taken without a measurement first; or why there is none. Those of
    /// the path that `options` ask for, if it is one of the fused ones.
    ///
    /// # Errors
    /// Why nothing is fused, as a text.
    pub fn candidates(
        options: &Attention,
        problem: &AttentionProblem,
        element: DType,
        caps: &Caps,
    ) -> std::result::Result<Vec<FusedPlan>, String> {
        let _ = element;
        if let Some(reason) = unfused(options, problem) {
            return Err(reason);
        }
        let here = if caps.software { Where::Software } else { Where::Card };
        let additive = matches!(options.score, Score::Additive | Score::Concat);
        let fits = |tile: &Tile| tile.lanes <= caps.max_invocations && !(additive && tile.form == Form::Rows);
        let tiles = TILES.iter().filter(|(at, tile)| *at == here && fits(tile)).map(|(_, tile)| *tile);
        let ranged = |tile: Tile| {
            let mut plan = FusedPlan { tile, range: problem.keys };
            let spare =
                caps.max_iterations.saturating_sub(plan.iterations(options, problem) - steps(&plan, options, problem));
            let most = spare / plan.step_iterations(options) * u64::from(tile.keys);
            if (most as usize) < problem.keys {
                plan.range = most as usize / 32 * 32;
            }
            (plan.range > 0).then_some(plan)
        };
        Ok(tiles.filter_map(ranged).collect())
    }
}

fn steps(plan: &FusedPlan, options: &Attention, problem: &AttentionProblem) -> u64 {
    (plan.range.min(problem.keys).div_ceil(plan.tile.keys as usize) as u64 + 1) * plan.step_iterations(options)
}

/// Why an attention has no running form here, if it has none.
fn unfused(options: &Attention, problem: &AttentionProblem) -> Option<String> {
    let asked = [
        (options.weights, "the weights are asked for"),
        (options.scores.is_some(), "the scores are asked for"),
        (options.entropy, "the entropy is asked for, which needs the weights"),
        (options.normalize != Normalize::Softmax, "only softmax has a running form here"),
        (options.score == Score::Cosine, "a cosine score divides by the norms of whole rows"),
        (options.score == Score::Location, "a location-sensitive score makes keys of its own for each query"),
    ];
    if let Some((_, reason)) = asked.into_iter().find(|(unfit, _)| *unfit) {
        return Some(reason.to_owned());
    }
    let additive = matches!(options.score, Score::Additive | Score::Concat);
    let long = |name: &str, dim: usize| format!("a {name} of {dim} exceeds the {LONGEST_HEAD} of the fused kernels");
    match (problem.score_dim, problem.value_dim) {
        (dim, _) if dim > LONGEST_HEAD && !additive => Some(long("head dim", dim)),
        (_, dim) if dim > LONGEST_HEAD => Some(long("value dim", dim)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::AttentionInputs;

    #[test]
    fn scores_that_do_not_fit_are_computed_in_ranges() {
        let options = Attention { path: Path::Staged, ..Attention::default() };
        let (q, kv) = ([2, 8, 4096, 64], [2, 8, 4096, 64]);
        let problem = AttentionProblem::new(&options, &AttentionInputs::new(&q[..], &kv[..], &kv[..])).unwrap();
        let plan = AttentionPlan::new(&options, &problem, DType::F32, &Caps::default()).unwrap();
        assert!(plan.query_ranges.len() > 1 && plan.score_bytes <= 128 << 20);
        assert_eq!(plan.query_ranges.last().unwrap().1, 4096);
        let wanted = Attention { weights: true, ..options };
        assert!(matches!(
            AttentionPlan::new(&wanted, &problem, DType::F32, &Caps::default()),
            Err(Error::Limit { .. })
        ));
    }
}
