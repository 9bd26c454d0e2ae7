//! How attention is run: staged, with scores in memory, or fused, without.

use super::{Bucket, Choice, Tuning, Unfused, cooperative};
use crate::attention::{Attention, Normalize, Path, Score};
use crate::device::Caps;
use crate::error::{Error, Result};
use crate::problem::{AttentionProblem, Storage};
use crate::tensor::DType;
use crate::wgsl::ParamsSpace;

/// A way to compute attention without scores in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "seq2seq", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Form {
    /// For processors' vector units: eight lanes share 16 or 32 query rows; a lane owns keys, then dimensions, in registers.
    Rows,
    /// A workgroup owns a tile of queries; keys and values pass through workgroup memory.
    Tiled,
    /// As `Tiled`, products by cooperative matrices.
    Cooperative,
    /// Few queries, the query heads of one key head as rows; ranges of keys side by side, joined by largest score and sum.
    Split,
}

impl Form {
    /// Every form.
    pub const ALL: [Self; 4] = [Self::Rows, Self::Tiled, Self::Cooperative, Self::Split];
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
#[cfg_attr(feature = "seq2seq", derive(serde::Serialize, serde::Deserialize))]
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
#[cfg_attr(feature = "seq2seq", derive(serde::Serialize, serde::Deserialize))]
pub struct FusedPlan {
    /// Kernel and tile.
    pub tile: Tile,
    /// Keys of one range; ranges are computed side by side and joined. Nk or more for one range.
    pub range: usize,
}

impl Tile {
    /// Queries and keys of one entry of the map of a mask.
    pub fn of_mask(&self) -> [usize; 2] {
        // The rows of `Split` are not neighbouring queries only.
        let queries = if self.form == Form::Split { 1 } else { self.queries as usize };
        [queries, self.keys as usize]
    }

    /// Bytes of workgroup memory.
    pub fn workgroup_bytes(&self) -> u64 {
        const ROW: u64 = 16; // four f32
        let (lanes, keys) = (u64::from(self.lanes), u64::from(self.keys));
        let reduction = lanes * ROW;
        match self.form {
            // Weights of the rows, what each of 32 rows sees (five words), a word.
            Form::Rows => keys * u64::from(self.queries / 4) * ROW + 32 * 20 + reduction + 4,
            // Weights of four rows; a matrix a lane for the outputs, and one for the parts of scores.
            Form::Split => keys * ROW + lanes * 4 * ROW * (2 - u64::from(self.subgroups)) + reduction,
            Form::Tiled => {
                let [left, right] = self.staging().map(u64::from);
                (left + right) * ROW + 4 + if self.subgroups { 0 } else { reduction }
            }
            Form::Cooperative => 0,
        }
    }

    /// `Rows`: times that a step goes through its values, 64 dimensions at a time: 1, 2 or 4.
    pub fn passes(problem: &AttentionProblem) -> usize {
        problem.value_dim.div_ceil(64).next_power_of_two()
    }

    /// `Tiled`: entries of the two staging areas, four f32 each.
    pub fn staging(&self) -> [u32; 2] {
        let (group, groups) = (self.keys / 4, self.queries / 4);
        [(group * (self.queries + 1)).max(self.keys * groups), (group * (self.keys + 1)).max(self.keys * group)]
    }

    /// Rows of all workgroups, those past the end of a tile too: `Split` fills its tiles with all the rows of a key head,
    /// the others with those of a query head.
    fn rows(&self, problem: &AttentionProblem) -> usize {
        let p = problem;
        let tile = (self.queries as usize).max(1);
        let (heads, rows) = match self.form {
            Form::Split => (p.kv_heads, p.queries.saturating_mul(p.group())),
            _ => (p.query_heads, p.queries),
        };
        p.batch.saturating_mul(heads).saturating_mul(rows.div_ceil(tile).saturating_mul(tile))
    }

    /// Whether the problem is too small to repay this tile's longer compilation.
    fn is_too_long(&self, problem: &AttentionProblem) -> bool {
        let axes = [problem.batch, problem.query_heads, problem.queries, problem.keys];
        let pairs = axes.into_iter().fold(1, usize::saturating_mul);
        self.form == Form::Rows && self.queries > 16 && pairs < MANY_PAIRS
    }

    /// Whether this kernel can compute the problem on that device.
    fn fits(&self, additive: bool, problem: &AttentionProblem, caps: &Caps) -> bool {
        let lanes = self.lanes as usize;
        let form = match self.form {
            Form::Rows => !additive && (!self.subgroups || caps.min_subgroup >= 8),
            Form::Split => {
                let whole = self.lanes.is_multiple_of(caps.max_subgroup.max(1)) && self.parts <= caps.min_subgroup;
                problem.value_dim <= 4 * lanes && (!self.subgroups || whole)
            }
            Form::Tiled => {
                let whole = self.lanes.is_multiple_of(caps.max_subgroup.max(1)) && self.keys / 4 <= caps.min_subgroup;
                problem.value_dim <= 8 * self.keys as usize && (!self.subgroups || whole)
            }
            Form::Cooperative => false,
        };
        form && self.lanes <= caps.max_invocations
            && self.workgroup_bytes() <= u64::from(caps.max_workgroup_bytes)
            && (!self.subgroups || caps.subgroups)
    }
}

impl FusedPlan {
    /// Ranges of keys.
    pub fn ranges(&self, keys: usize) -> usize {
        keys.div_ceil(self.range.max(1)).max(1)
    }

    /// Loop iterations of one invocation, all its loops together, at most.
    pub fn iterations(&self, problem: &AttentionProblem) -> u64 {
        let steps = self.range.min(problem.keys).div_ceil(self.tile.keys as usize) as u64 + 1;
        steps * self.tile.step_iterations(problem) + self.tile.fixed_iterations(problem)
    }
}

impl Tile {
    /// Loop iterations before and after the steps.
    fn fixed_iterations(&self, problem: &AttentionProblem) -> u64 {
        // Finding the sequence of a query takes up to 33 turns.
        let rows = u64::from(self.queries) * if problem.sequences.is_some() { 34 } else { 1 };
        2 * rows + problem.score_dim as u64 + u64::from(self.lanes) + 200
    }

    /// Loop iterations of one step over `keys` keys; a loop's last, failing test counts too.
    fn step_iterations(&self, problem: &AttentionProblem) -> u64 {
        let [lanes, keys, parts] = [self.lanes, self.keys, self.parts].map(u64::from);
        let depth = problem.score_dim.div_ceil(4) as u64;
        // Looking for a visible block among those that the tile touches.
        let touched = |n: u32, size: usize| u64::from(n).div_ceil(size.max(1) as u64) + 2;
        let blocks = problem.block.map_or(0, |[q, k]| touched(self.queries, q) * touched(self.keys, k));
        blocks
            + match self.form {
                Form::Rows => {
                    // Looking for values that are not finite, keys one by one where there are some.
                    let per_part = keys + keys / 4 + keys * u64::from(self.queries / 16) + 6;
                    depth + Self::passes(problem) as u64 * per_part + 10 * u64::from(self.queries / 4) + 60
                }
                Form::Split => {
                    let width = problem.value_dim.div_ceil(4).next_power_of_two() as u64;
                    let scores = (keys * parts / (4 * lanes)).max(1) * (depth.div_ceil(parts) + 2 + parts);
                    scores + 2 * keys.div_ceil(lanes) + keys * width / lanes + 3 * blocks + 60
                }
                Form::Tiled => {
                    let slices = problem.value_dim.div_ceil(self.keys as usize) as u64;
                    // Bringing a chunk of queries and keys takes each lane four turns and some.
                    let chunks = depth.div_ceil(keys / 4);
                    chunks * (keys / 4 + 2 + 2 * (5 + keys * keys / 4 / lanes)) + slices * (2 * keys + 4) + 60
                }
                Form::Cooperative => cooperative::iterations(*self, problem),
            }
    }

    /// The plans with this tile: all keys at once if the device is busy with that, or ranges that make it so; half and
    /// twice as many where ranges are what the form is about.
    fn plans(self, problem: &AttentionProblem, caps: &Caps, one_range: bool) -> Vec<FusedPlan> {
        let p = problem;
        let step = self.keys as usize;
        let spare = caps.max_iterations.saturating_sub(self.fixed_iterations(p));
        let steps = (spare / self.step_iterations(p)) as usize;
        if steps < 2 {
            return Vec::new();
        }
        // A workgroup is never cut, so its work stays short on the slowest devices too.
        let a_step = 2 * u64::from(self.queries * self.keys) * (p.score_dim + p.value_dim).max(1) as u64;
        let short = (LONGEST_WORKGROUP / a_step).max(1) as usize;
        let longest = (steps - 1).min(short).saturating_mul(step).min(p.keys.next_multiple_of(step));
        let workgroups = match self.form {
            Form::Split => p.batch * p.kv_heads * (p.queries * p.group()).div_ceil(self.queries as usize),
            _ => p.batch * p.query_heads * p.queries.div_ceil(self.queries as usize),
        };
        let range = |ranges: usize| p.keys.div_ceil(ranges.max(1)).next_multiple_of(step).min(longest);
        let wanted = (WORKGROUPS_A_WORKER * caps.workers as usize).div_ceil(workgroups);
        let ranges = match (one_range, self.form) {
            (true, _) => vec![1],
            (false, Form::Split) => vec![wanted, 2 * wanted, wanted / 2],
            (false, _) => vec![wanted],
        };
        // The outputs of all ranges are one tensor of f32.
        let row_bytes = 4 * p.value_dim.next_multiple_of(4) as u64;
        let whole = row_bytes.saturating_mul((p.batch * p.query_heads) as u64).saturating_mul(p.queries as u64);
        let allowed = caps.max_tensor_bytes();
        let mut plans: Vec<FusedPlan> = Vec::new();
        for range in ranges.into_iter().map(range) {
            let plan = FusedPlan { tile: self, range };
            let ranges = plan.ranges(p.keys) as u64;
            if !plans.contains(&plan) && (ranges == 1 || whole.saturating_mul(ranges) <= allowed) {
                plans.push(plan);
            }
        }
        plans
    }
}

/// Workgroups that keep one worker busy: enough to even out those that end early.
const WORKGROUPS_A_WORKER: usize = 4;

/// Multiplications and additions of one workgroup at most: a second or less where a workgroup does six in a ns.
const LONGEST_WORKGROUP: u64 = 1 << 32;

/// Rows of another form that take as long as one of `Split`, which shares what it loads among four only: 5 to 8 on
/// lavapipe 22.3, over one to 66,000 rows; on cards an assumption.
const SPLIT_ROW: usize = 6;

/// Pairs of query and key from which on 32 rows repay their longer compilation.
const MANY_PAIRS: usize = 1 << 20;

/// Tiles by form, best guess first, and where they belong.
const TILES: [(Where, Tile); 17] = [
    // Eight lanes fill the vector unit of software drivers, and 32 rows share each key and value that a lane loads: a
    // quarter less time than 16, for three seconds more of compilation, so long problems only. With subgroups a lane
    // loads some of the rows and tells the others: on Mesa 22.3 a load costs the same whether lanes agree on it or not.
    (Where::Software, Tile { form: Form::Rows, lanes: 8, queries: 32, keys: 64, parts: 1, subgroups: true }),
    (Where::Software, Tile { form: Form::Rows, lanes: 8, queries: 16, keys: 64, parts: 1, subgroups: true }),
    (Where::Software, Tile { form: Form::Rows, lanes: 8, queries: 32, keys: 64, parts: 1, subgroups: false }),
    (Where::Software, Tile { form: Form::Rows, lanes: 8, queries: 16, keys: 64, parts: 1, subgroups: false }),
    // A lane for each four dimensions of a value of 64, 128 and 256.
    (Where::Software, Tile { form: Form::Split, lanes: 16, queries: 4, keys: 64, parts: 1, subgroups: false }),
    (Where::Software, Tile { form: Form::Split, lanes: 32, queries: 4, keys: 128, parts: 1, subgroups: false }),
    (Where::Software, Tile { form: Form::Split, lanes: 64, queries: 4, keys: 256, parts: 1, subgroups: false }),
    // 16 multiply-adds for each pair of vectors from workgroup memory. 128 lanes with 64 rows and 32 keys need 12 KiB, so
    // that several workgroups share a processor; longer tiles read keys and values less often, shorter ones start more
    // workgroups. Eight lanes share a row, which is within every subgroup of 8 or more.
    (Where::Card, Tile { form: Form::Tiled, lanes: 128, queries: 64, keys: 32, parts: 1, subgroups: true }),
    (Where::Card, Tile { form: Form::Tiled, lanes: 128, queries: 64, keys: 32, parts: 1, subgroups: false }),
    (Where::Card, Tile { form: Form::Tiled, lanes: 256, queries: 128, keys: 32, parts: 1, subgroups: true }),
    (Where::Card, Tile { form: Form::Tiled, lanes: 256, queries: 64, keys: 64, parts: 1, subgroups: true }),
    (Where::Card, Tile { form: Form::Tiled, lanes: 64, queries: 32, keys: 32, parts: 1, subgroups: true }),
    (Where::Card, Tile { form: Form::Tiled, lanes: 64, queries: 32, keys: 32, parts: 1, subgroups: false }),
    // Eight lanes read 128 neighbouring bytes of a key in f32. 64 lanes with 128 keys keep 11 KiB.
    (Where::Card, Tile { form: Form::Split, lanes: 64, queries: 4, keys: 128, parts: 8, subgroups: true }),
    (Where::Card, Tile { form: Form::Split, lanes: 64, queries: 4, keys: 128, parts: 8, subgroups: false }),
    (Where::Card, Tile { form: Form::Split, lanes: 128, queries: 4, keys: 256, parts: 8, subgroups: true }),
    (Where::Card, Tile { form: Form::Split, lanes: 64, queries: 4, keys: 64, parts: 4, subgroups: true }),
];

/// Devices that a tile is meant for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Where {
    Software,
    Card,
}

/// How an attention problem is run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AttentionPlan {
    /// Which kernels.
    pub path: Path,
    /// How they are fused, or why they are not.
    pub fused: Result<FusedPlan, Unfused>,
    /// Whether that was measured on the device.
    pub tuned: bool,
    /// Staged: ranges of queries, run one after the other so that their scores fit the device's largest binding.
    pub query_ranges: Vec<(usize, usize)>,
    /// Staged: bytes of scores held at a time.
    pub score_bytes: u64,
    /// Multiplications and additions of the whole problem (masked pairs counted in).
    pub flops: u64,
    /// Bytes of inputs and outputs, each counted once.
    pub bytes: u64,
}

/// Storage buffers of a fused kernel beside its parameters.
const FUSED_BUFFERS: usize = 8;

/// Ranges of queries of a staged attention, each of which is some dispatches.
const MOST_RANGES: usize = 1 << 16;

/// The longest head dim of a fused kernel: both it and the value's are kept in registers or workgroup memory.
pub const LONGEST_HEAD: usize = 256;

impl AttentionPlan {
    /// Chooses path, kernel and ranges by the table of tiles.
    ///
    /// # Errors
    /// As [`AttentionPlan::tuned`].
    pub fn new(
        options: &Attention,
        problem: &AttentionProblem,
        storage: impl Into<Storage>,
        caps: &Caps,
    ) -> Result<Self> {
        Self::tuned(options, problem, storage, caps, &Tuning::default())
    }

    /// Chooses path, kernel and ranges, by what was measured on the device where there is something.
    ///
    /// # Errors
    /// [`Error::Option`] when the path that was asked for cannot compute this. Staged: [`Error::Limit`] when one query's
    /// scores alone exceed the device's largest binding, or when the weights are asked for and do not fit in one.
    pub fn tuned(
        options: &Attention,
        problem: &AttentionProblem,
        storage: impl Into<Storage>,
        caps: &Caps,
        tuning: &Tuning,
    ) -> Result<Self> {
        let Storage { element, cache } = storage.into();
        let (fused, tuned) = match options.path {
            Path::Staged => (Err(Unfused::Asked), false),
            _ => Self::fused(options, problem, element, caps, tuning),
        };
        let path = match (options.path, &fused) {
            (asked @ (Path::Fused | Path::Split), Err(reason)) => {
                return Err(Error::option("path", format!("`{asked}` cannot run this: {reason}")));
            }
            (Path::Auto | Path::Split, Ok(plan)) if plan.tile.form == Form::Split => Path::Split,
            (_, Ok(_)) => Path::Fused,
            (_, Err(_)) => Path::Staged,
        };
        let p = problem;
        let staged = path == Path::Staged;
        let chunk = if staged { staged_chunk(options, p, caps)? } else { p.queries.max(1) };
        let per_query = product(&[p.batch, p.query_heads, p.keys, 4]);
        let all = per_query.saturating_mul(p.queries as u64);
        let queries = product(&[p.batch, p.query_heads, p.queries, p.query_dim + p.value_dim]);
        let keys = product(&[p.batch, p.kv_heads, p.keys, p.key_dim + p.value_dim]);
        let bytes =
            |dtype: DType, elements: u64| dtype.bytes_of(usize::try_from(elements).unwrap_or(usize::MAX)) as u64;
        let ranges = (0..p.queries).step_by(chunk).map(|i| (i, (i + chunk).min(p.queries)));
        Ok(Self {
            path,
            fused,
            tuned,
            query_ranges: if staged { ranges.collect() } else { Vec::new() },
            score_bytes: if staged { per_query * chunk as u64 } else { 0 },
            flops: (all / 4).saturating_mul(2 * (p.score_dim + p.value_dim) as u64),
            bytes: bytes(element, queries).saturating_add(bytes(cache, keys)),
        })
    }

    /// The same problem by a fused plan of the caller's, one of [`AttentionPlan::candidates`].
    pub fn with_fused(self, plan: FusedPlan) -> Self {
        let path = if plan.tile.form == Form::Split { Path::Split } else { Path::Fused };
        Self { path, fused: Ok(plan), tuned: false, query_ranges: Vec::new(), score_bytes: 0, ..self }
    }

    /// The fused plan, or why there is none; and whether that was measured.
    fn fused(
        options: &Attention,
        problem: &AttentionProblem,
        element: DType,
        caps: &Caps,
        tuning: &Tuning,
    ) -> (Result<FusedPlan, Unfused>, bool) {
        let candidates = match Self::candidates(options, problem, element, caps) {
            Ok(candidates) => candidates,
            Err(reason) => return (Err(reason), false),
        };
        let bucket = Bucket::new(options.score, problem, element);
        let (auto, additive) = (options.path == Path::Auto, options.score.is_additive());
        match tuning.choose(&bucket, &candidates, problem.keys) {
            Some(Choice::Fused(plan)) => return (Ok(plan), true),
            Some(Choice::Staged) if auto && staged_chunk(options, problem, caps).is_ok() => {
                return (Err(Unfused::Measured), true);
            }
            _ => {}
        }
        // The tanh of each pair and unit is most of the work, and `Split` alone knows it here: lanes that wait for one
        // another at every step cost a CPU driver more than scores in memory do. Half to a third of the time on lavapipe
        // 22.3, from a few hundred pairs on.
        if auto && caps.software && additive && staged_chunk(options, problem, caps).is_ok() {
            return (Err(Unfused::AdditiveOnCpu), false);
        }
        (candidates.first().copied().ok_or(Unfused::Limits), false)
    }

    /// Every fused plan worth trying, the best guess first; or why there is none. Those of
    /// the path that `options` ask for, if it is one of the fused ones.
    ///
    /// # Errors
    /// Why nothing is fused.
    pub fn candidates(
        options: &Attention,
        problem: &AttentionProblem,
        element: DType,
        caps: &Caps,
    ) -> Result<Vec<FusedPlan>, Unfused> {
        if let Some(reason) = unfused(options, problem) {
            return Err(reason);
        }
        if options.path == Path::Auto && ParamsSpace::of(caps, FUSED_BUFFERS) == ParamsSpace::Uniform && caps.software {
            return Err(Unfused::FewBuffers);
        }
        let here = if caps.software { Where::Software } else { Where::Card };
        let additive = options.score.is_additive();
        let fitting = |split: bool| {
            let of_form = |tile: &Tile| (tile.form == Form::Split) == split;
            let tiles = TILES.iter().filter(|(at, _)| *at == here).map(|(_, tile)| *tile);
            // All keys in one range is what tells fused from split where one kernel serves both.
            let one_range = options.path == Path::Fused && split;
            let plans = move |tile: Tile| tile.plans(problem, caps, one_range);
            let mut tiles: Vec<Tile> =
                tiles.filter(|tile| of_form(tile) && tile.fits(additive, problem, caps)).collect();
            tiles.sort_by_key(|tile| tile.is_too_long(problem));
            // Whoever asks for cooperative matrices gets them.
            let matrices = if split { Vec::new() } else { cooperative::tiles(options, problem, element, caps) };
            matrices.into_iter().chain(tiles).flat_map(plans)
        };
        // Tiles that are mostly past the end lose to rows that cost more each.
        let rows = |split: bool| fitting(split).next().map(|plan| plan.tile.rows(problem));
        let few = rows(true).zip(rows(false)).is_none_or(|(split, others)| others / SPLIT_ROW > split);
        Ok(match options.path {
            Path::Split => fitting(true).collect(),
            Path::Fused if !additive => fitting(false).chain(fitting(true)).collect(),
            _ => fitting(few).chain(fitting(!few)).collect(),
        })
    }
}

fn product(axes: &[usize]) -> u64 {
    axes.iter().fold(1, |all, &n| all.saturating_mul(n as u64))
}

/// Staged: queries whose scores the device can hold at a time.
///
/// # Errors
/// [`Error::Limit`] where it is not one, or not all and they are asked for.
fn staged_chunk(options: &Attention, problem: &AttentionProblem, caps: &Caps) -> Result<usize> {
    let p = problem;
    let per_query = product(&[p.batch, p.query_heads, p.keys, 4]);
    let all = per_query.saturating_mul(p.queries as u64);
    let allowed = caps.max_tensor_bytes();
    let keeps_scores = options.weights || options.scores.is_some();
    if per_query > allowed || (keeps_scores && all > allowed) {
        let what = if keeps_scores { "bytes of `weights`" } else { "bytes of the scores of one query" };
        let needed = if keeps_scores { all } else { per_query };
        return Err(Error::Limit { what: what.to_owned(), needed, allowed });
    }
    // Shaders count the elements of a tensor in 32 bits.
    let scores = allowed.min(4 * u64::from(u32::MAX));
    let chunk = if keeps_scores { p.queries } else { ((scores / per_query) as usize).clamp(1, p.queries) };
    if p.queries / chunk >= MOST_RANGES {
        let what = "ranges of queries whose scores fit the device".to_owned();
        let (needed, allowed) = (p.queries.div_ceil(chunk) as u64, MOST_RANGES as u64);
        return Err(Error::Limit { what, needed, allowed });
    }
    Ok(chunk)
}

/// Why an attention has no running form here, if it has none.
fn unfused(options: &Attention, problem: &AttentionProblem) -> Option<Unfused> {
    let asked = [
        (options.weights, Unfused::Weights),
        (options.scores.is_some(), Unfused::Scores),
        (options.entropy, Unfused::Entropy),
        (options.normalize != Normalize::Softmax, Unfused::Normalize),
        (options.score == Score::Cosine, Unfused::Cosine),
        (options.score == Score::Location, Unfused::Location),
    ];
    if let Some((_, reason)) = asked.into_iter().find(|(unfit, _)| *unfit) {
        return Some(reason);
    }
    let additive = options.score.is_additive();
    match (problem.score_dim, problem.value_dim) {
        (dim, _) if dim > LONGEST_HEAD && !additive => Some(Unfused::HeadDim(dim)),
        (_, dim) if dim > LONGEST_HEAD => Some(Unfused::ValueDim(dim)),
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
