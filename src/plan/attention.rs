//! How attention is run: staged, with scores in memory, or fused, without.

use super::{Bucket, Choice, Tiling, Tuning, Unfused, cooperative};
use crate::attention::{Algorithm, Attention, Normalize, Score};
use crate::device::{Caps, Registers};
use crate::error::{Error, Result};
use crate::problem::{AttentionProblem, Storage};
use crate::tensor::DType;
use crate::wgsl::ParamsSpace;

/// A way to compute attention without scores in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "seq2seq", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Form {
    /// For drivers that run on the CPU: a workgroup of eight lanes computes 16 or 32 query rows, all of them in each lane's
    /// register tile, over eight keys a lane and then eight dimensions.
    Rows,
    /// For cards: a workgroup computes a tile of queries; tiles of queries, keys and values are staged in workgroup memory.
    Tiled,
    /// As `Tiled`, with products by cooperative matrices, whose outputs are summed in each lane's registers.
    Cooperative,
    /// As `Cooperative`, with outputs that stay in matrices from tile to tile of the keys.
    Carried,
    /// For few queries, split-KV: the query heads of one key head are the rows of a tile, and splits of the keys have
    /// workgroups of their own, merged by row max and row sum.
    Split,
}

impl Form {
    /// Every form.
    pub const ALL: [Self; 5] = [Self::Rows, Self::Tiled, Self::Cooperative, Self::Carried, Self::Split];
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Rows => "rows",
            Self::Tiled => "tiled",
            Self::Cooperative => "cooperative",
            Self::Carried => "carried",
            Self::Split => "split",
        })
    }
}

/// The tile of a workgroup of a fused form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "seq2seq", derive(serde::Serialize, serde::Deserialize))]
pub struct Tile {
    /// Which kernel.
    pub form: Form,
    /// Invocations in a workgroup.
    pub lanes: u32,
    /// Query rows of a workgroup.
    pub queries: u32,
    /// Keys of a tile: what a workgroup processes in one iteration.
    pub keys: u32,
    /// Split-K: neighbouring lanes that share the dot product of a query and a key, each with a slice of its dimensions; a
    /// power of two. Of `Cooperative`, the lanes that share a row's softmax.
    #[cfg_attr(feature = "seq2seq", serde(rename = "parts"))]
    pub k_splits: u32,
    /// Whether reductions and broadcasts use subgroup operations instead of workgroup memory.
    pub subgroups: bool,
}

/// How a fused attention is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "seq2seq", derive(serde::Serialize, serde::Deserialize))]
pub struct FusedPlan {
    /// Kernel and tile.
    pub tile: Tile,
    /// Keys of a split. Splits (split-KV) have workgroups of their own and are merged; Nk or more for a single split.
    #[cfg_attr(feature = "seq2seq", serde(rename = "range"))]
    pub split_keys: usize,
}

impl Tile {
    /// Queries and keys of one entry of the map of a mask.
    pub fn of_mask(&self) -> [usize; 2] {
        // The rows of `Split` are queries of several heads, so that its map has an entry for each query.
        let queries = if self.form == Form::Split { 1 } else { self.queries as usize };
        [queries, self.keys as usize]
    }

    /// Bytes of workgroup memory.
    pub fn workgroup_bytes(&self, problem: &AttentionProblem) -> u64 {
        const ROW: u64 = 16; // four f32
        let (lanes, keys) = (u64::from(self.lanes), u64::from(self.keys));
        let reduction = lanes * ROW;
        match self.form {
            // `p_tile`, the key ranges of 32 rows (five words each) and `has_non_finite`.
            Form::Rows => keys * u64::from(self.queries / 4) * ROW + 32 * 20 + reduction + 4,
            // `q_tile`; `p_tile`; a matrix a lane for the accumulators, and one for the partial sums of split-K.
            Form::Split => {
                let quads = problem.score_dim.div_ceil(4).next_multiple_of(self.k_splits.max(1) as usize) as u64;
                quads * 5 * ROW + keys * ROW + lanes * 4 * ROW * (2 - u64::from(self.subgroups)) + reduction
            }
            Form::Tiled => Tiling::new(*self, problem).bytes() + if self.subgroups { 0 } else { reduction },
            Form::Cooperative | Form::Carried => 0,
        }
    }

    /// `Rows`: tiles of 64 dimensions of a value: 1, 2 or 4.
    pub fn passes(problem: &AttentionProblem) -> usize {
        problem.value_dim.div_ceil(64).next_power_of_two()
    }

    /// `Split`: lanes along the dimensions of a value, so few that each lane still has four keys of a tile.
    pub fn value_lanes(&self, problem: &AttentionProblem) -> u32 {
        let quads = (problem.value_dim as u32).div_ceil(4).next_power_of_two();
        quads.max(4 * self.lanes / self.keys.max(1))
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

    /// Whether the lanes have the registers that the tile takes.
    fn has_registers(&self, additive: bool, problem: &AttentionProblem, caps: &Caps) -> bool {
        match self.form {
            Form::Tiled => Tiling::new(*self, problem).fits_registers(additive, caps),
            // 16 scores with as many tanh at a time, the accumulators, and what is found by them.
            Form::Split => !additive || caps.software || caps.registers.of_lane(self.lanes as usize) > 160,
            _ => true,
        }
    }

    /// What puts a tile behind others, whatever their order: the smallest rank is best.
    ///
    /// - 1: the problem is too small to repay the tile's longer compilation, or half as many rows would do. Or lanes have few
    ///   registers (Apple's, Intel's), where few rows and long blocks of keys are what others take (metal-flash-attention: 32
    ///   rows × 80 keys on M1; llama.cpp: 4 rows on Intel).
    /// - 2: subgroup operations, on devices that are slow at them.
    /// - 4: the tile wants more registers than a lane has, which who asks for its path gets nonetheless.
    fn rank(&self, additive: bool, problem: &AttentionProblem, caps: &Caps) -> u8 {
        let axes = [problem.batch, problem.query_heads, problem.queries, problem.keys];
        let pairs = axes.into_iter().fold(1, usize::saturating_mul);
        let long = match self.form {
            Form::Rows => self.queries > 16 && pairs < MANY_PAIRS,
            Form::Tiled => {
                let few_registers = !caps.software && caps.registers.lane <= Registers::APPLE.lane;
                self.queries > 32 && (few_registers || problem.queries <= self.queries as usize / 2)
            }
            _ => false,
        };
        let spills = !self.has_registers(additive, problem, caps);
        u8::from(long) + 2 * u8::from(self.subgroups && caps.slow_subgroups) + 4 * u8::from(spills)
    }

    /// Whether this kernel can compute the problem on that device.
    fn fits(&self, additive: bool, problem: &AttentionProblem, caps: &Caps) -> bool {
        let lanes = self.lanes as usize;
        let form = match self.form {
            Form::Rows => !additive && (!self.subgroups || caps.min_subgroup >= 8),
            Form::Split => {
                let whole = self.lanes.is_multiple_of(caps.max_subgroup.max(1)) && self.k_splits <= caps.min_subgroup;
                problem.value_dim <= 4 * lanes && (!self.subgroups || whole)
            }
            Form::Tiled => {
                let whole = self.lanes.is_multiple_of(caps.max_subgroup.max(1)) && self.keys / 4 <= caps.min_subgroup;
                let tiling = Tiling::new(*self, problem);
                // A tanh for each pair and unit takes long in any tile, and registers of its own.
                let narrow = !additive || tiling.row_quads == 1;
                tiling.is_possible() && narrow && (!self.subgroups || whole)
            }
            Form::Cooperative | Form::Carried => false,
        };
        form && self.lanes <= caps.max_invocations
            && self.workgroup_bytes(problem) <= u64::from(caps.max_workgroup_bytes)
            && (!self.subgroups || caps.subgroups)
    }
}

impl FusedPlan {
    /// Splits of the keys.
    pub fn splits(&self, keys: usize) -> usize {
        keys.div_ceil(self.split_keys.max(1)).max(1)
    }

    /// Loop iterations of one invocation, all its loops together, at most.
    pub fn iterations(&self, problem: &AttentionProblem) -> u64 {
        let steps = self.split_keys.min(problem.keys).div_ceil(self.tile.keys as usize) as u64 + 1;
        steps * self.tile.step_iterations(problem) + self.tile.fixed_iterations(problem)
    }
}

impl Tile {
    /// Loop iterations before and after the loop over tiles of keys.
    fn fixed_iterations(&self, problem: &AttentionProblem) -> u64 {
        // Finding the sequence of a query takes up to 33 iterations.
        let rows = u64::from(self.queries) * if problem.sequences.is_some() { 34 } else { 1 };
        2 * rows + problem.score_dim as u64 + u64::from(self.lanes) + 200
    }

    /// Loop iterations of one tile of keys; a loop's last, failing test counts too.
    fn step_iterations(&self, problem: &AttentionProblem) -> u64 {
        let [lanes, keys, k_splits] = [self.lanes, self.keys, self.k_splits].map(u64::from);
        let depth = problem.score_dim.div_ceil(4) as u64;
        // The search for a visible block among those that the tile overlaps.
        let touched = |n: u32, size: usize| u64::from(n).div_ceil(size.max(1) as u64) + 2;
        let blocks = problem.block.map_or(0, |[q, k]| touched(self.queries, q) * touched(self.keys, k));
        blocks
            + match self.form {
                Form::Rows => {
                    // The search for values that are not finite, and the loop over single keys where there are some.
                    let per_value_tile = keys + keys / 4 + keys * u64::from(self.queries / 16) + 6;
                    depth + Self::passes(problem) as u64 * per_value_tile + 10 * u64::from(self.queries / 4) + 60
                }
                Form::Split => {
                    let width = u64::from(self.value_lanes(problem));
                    let scores = (keys * k_splits / (4 * lanes)).max(1) * (depth.div_ceil(k_splits) + 2 + k_splits);
                    scores + 2 * keys.div_ceil(lanes) + keys * width / lanes + 3 * blocks + 60
                }
                Form::Tiled => Tiling::new(*self, problem).iterations(problem),
                Form::Cooperative | Form::Carried => cooperative::iterations(*self, problem),
            }
    }

    /// The plans with this tile: a single split of the keys if that keeps the device busy, or as many as do; for `Split` half
    /// and twice as many too.
    fn plans(self, problem: &AttentionProblem, caps: &Caps, one_range: bool) -> Vec<FusedPlan> {
        let p = problem;
        let step = self.keys as usize;
        let spare = caps.max_iterations.saturating_sub(self.fixed_iterations(p));
        let steps = (spare / self.step_iterations(p)) as usize;
        if steps < 2 {
            return Vec::new();
        }
        // The work of a workgroup cannot be divided, so it is bounded for the slowest devices.
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
        // The outputs of all splits are one tensor of f32.
        let row_bytes = 4 * p.value_dim.next_multiple_of(4) as u64;
        let whole = row_bytes.saturating_mul((p.batch * p.query_heads) as u64).saturating_mul(p.queries as u64);
        let allowed = caps.max_tensor_bytes();
        let mut plans: Vec<FusedPlan> = Vec::new();
        for range in ranges.into_iter().map(range) {
            let plan = FusedPlan { tile: self, split_keys: range };
            let ranges = plan.splits(p.keys) as u64;
            if !plans.contains(&plan) && (ranges == 1 || whole.saturating_mul(ranges) <= allowed) {
                plans.push(plan);
            }
        }
        plans
    }
}

/// Workgroups that keep one worker busy: enough to balance the load.
const WORKGROUPS_A_WORKER: usize = 4;

/// Multiplications and additions of one workgroup at most: a second or less where a workgroup does six in a ns.
const LONGEST_WORKGROUP: u64 = 1 << 32;

/// Rows of another form that take as long as one of `Split`, which shares what it loads among four only: 5 to 8 on
/// lavapipe 22.3, over one to 66,000 rows; on cards an assumption.
const SPLIT_ROW: usize = 6;

/// Pairs of query and key from which on 32 rows repay their longer compilation.
const MANY_PAIRS: usize = 1 << 20;

/// Tiles by form, best guess first, with the kind of device they are for.
const TILES: [(Where, Tile); 27] = [
    // Eight lanes fill the vector unit of software drivers, and 32 rows share each key and value that a lane loads: a
    // quarter less time than 16, for three seconds more of compilation, so long problems only. With subgroups a lane
    // loads some of the rows and broadcasts them: on Mesa 22.3 a load costs the same whether it is uniform or not.
    (Where::Software, Tile { form: Form::Rows, lanes: 8, queries: 32, keys: 64, k_splits: 1, subgroups: true }),
    (Where::Software, Tile { form: Form::Rows, lanes: 8, queries: 16, keys: 64, k_splits: 1, subgroups: true }),
    (Where::Software, Tile { form: Form::Rows, lanes: 8, queries: 32, keys: 64, k_splits: 1, subgroups: false }),
    (Where::Software, Tile { form: Form::Rows, lanes: 8, queries: 16, keys: 64, k_splits: 1, subgroups: false }),
    // A lane for each four dimensions of a value of 64, 128 and 256.
    (Where::Software, Tile { form: Form::Split, lanes: 16, queries: 4, keys: 64, k_splits: 1, subgroups: false }),
    (Where::Software, Tile { form: Form::Split, lanes: 32, queries: 4, keys: 128, k_splits: 1, subgroups: false }),
    (Where::Software, Tile { form: Form::Split, lanes: 64, queries: 4, keys: 256, k_splits: 1, subgroups: false }),
    (Where::Software, Tile { form: Form::Split, lanes: 64, queries: 4, keys: 128, k_splits: 2, subgroups: false }),
    // A lane has 8 rows × 4 keys, which reads 1.5 bytes of workgroup memory for a multiply-add of the scores and 1 for one of
    // the values, where 4 × 4 read 2: 128 bytes a clock and core bound these loops (RDNA 3, NVIDIA from GeForce Ampere on). The
    // accumulators of long values are spread over more lanes, with 64 keys a tile and then 128.
    tiled(128, 128, 32, true),
    tiled(128, 64, 64, true),
    // 4 rows × 4 keys where a lane has fewer registers, or a problem few queries. 64 rows and 32 keys need 12 KiB.
    tiled(128, 64, 32, true),
    tiled(128, 32, 64, true),
    tiled(128, 16, 128, true),
    tiled(128, 128, 32, false),
    tiled(128, 64, 64, false),
    tiled(128, 64, 32, false),
    tiled(128, 32, 64, false),
    tiled(128, 16, 128, false),
    // Half as many lanes, of which more workgroups share a core.
    tiled(64, 64, 32, true),
    tiled(64, 32, 32, true),
    tiled(64, 16, 64, true),
    tiled(64, 32, 32, false),
    tiled(64, 16, 64, false),
    // Eight lanes read 128 neighbouring bytes of a key in f32. 64 lanes with 128 keys keep 11 KiB.
    (Where::Card, Tile { form: Form::Split, lanes: 64, queries: 4, keys: 128, k_splits: 8, subgroups: true }),
    (Where::Card, Tile { form: Form::Split, lanes: 64, queries: 4, keys: 128, k_splits: 8, subgroups: false }),
    (Where::Card, Tile { form: Form::Split, lanes: 128, queries: 4, keys: 256, k_splits: 8, subgroups: true }),
    (Where::Card, Tile { form: Form::Split, lanes: 64, queries: 4, keys: 64, k_splits: 4, subgroups: true }),
];

const fn tiled(lanes: u32, queries: u32, keys: u32, subgroups: bool) -> (Where, Tile) {
    (Where::Card, Tile { form: Form::Tiled, lanes, queries, keys, k_splits: 1, subgroups })
}

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
    /// Which kernels run: staged, fused, or fused with split-KV.
    pub path: Algorithm,
    /// How they are fused, or why they are not.
    pub fused: Result<FusedPlan, Unfused>,
    /// Whether that was measured on the device.
    pub tuned: bool,
    /// Staged: ranges of queries, one after the other, so that the scores of each fit the device's largest binding.
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

/// The longest head dim of a fused kernel, of keys and of values: tiles of them have to fit registers or workgroup memory.
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
            Algorithm::Staged => (Err(Unfused::Asked), false),
            _ => Self::fused(options, problem, element, caps, tuning),
        };
        let path = match (options.path, &fused) {
            (asked @ (Algorithm::Fused | Algorithm::Split), Err(reason)) => {
                return Err(Error::option("path", format!("`{asked}` cannot run this: {reason}")));
            }
            (Algorithm::Auto | Algorithm::Split, Ok(plan)) if plan.tile.form == Form::Split => Algorithm::Split,
            (_, Ok(_)) => Algorithm::Fused,
            (_, Err(_)) => Algorithm::Staged,
        };
        let p = problem;
        let staged = path == Algorithm::Staged;
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
        let path = if plan.tile.form == Form::Split { Algorithm::Split } else { Algorithm::Fused };
        Self { path, fused: Ok(plan), tuned: false, query_ranges: Vec::new(), score_bytes: 0, ..self }
    }

    /// The fused plan, or the reason why there is none; and whether that was measured.
    fn fused(
        options: &Attention,
        problem: &AttentionProblem,
        element: DType,
        caps: &Caps,
        tuning: &Tuning,
    ) -> (Result<FusedPlan, Unfused>, bool) {
        let mut candidates = match Self::ordered(options, problem, element, caps) {
            Ok(candidates) => candidates,
            Err(reason) => return (Err(reason), false),
        };
        let (auto, additive) = (options.path == Algorithm::Auto, options.score.is_additive());
        let first = candidates.next();
        let measured = (!tuning.is_empty()).then(|| {
            let bucket = Bucket::new(options.score, problem, element);
            let all: Vec<FusedPlan> = first.into_iter().chain(candidates).collect();
            tuning.choose(&bucket, &all, problem.keys)
        });
        match measured.flatten() {
            Some(Choice::Fused(plan)) => return (Ok(plan), true),
            Some(Choice::Staged) if auto && staged_chunk(options, problem, caps).is_ok() => {
                return (Err(Unfused::Measured), true);
            }
            _ => {}
        }
        // The tanh of each pair and unit is most of the work. `Split` is the one form with additive scores here, and its
        // barriers at every tile cost a CPU driver more than scores in memory do: staged takes a half to a third of the time
        // on lavapipe 22.3, from a few hundred pairs on.
        if auto && caps.software && additive && staged_chunk(options, problem, caps).is_ok() {
            return (Err(Unfused::AdditiveOnCpu), false);
        }
        (first.ok_or(Unfused::Limits), false)
    }

    /// Every fused plan worth trying, the best guess first, or the reason why there is none; only those of the path that
    /// `options` ask for, if it is a fused one.
    ///
    /// # Errors
    /// Why nothing is fused.
    pub fn candidates(
        options: &Attention,
        problem: &AttentionProblem,
        element: DType,
        caps: &Caps,
    ) -> Result<Vec<FusedPlan>, Unfused> {
        Self::ordered(options, problem, element, caps).map(Iterator::collect)
    }

    /// The candidates one after the other, so that the first of them costs no more than itself.
    fn ordered(
        options: &Attention,
        problem: &AttentionProblem,
        element: DType,
        caps: &Caps,
    ) -> Result<impl Iterator<Item = FusedPlan>, Unfused> {
        if let Some(reason) = unfused(options, problem) {
            return Err(reason);
        }
        if options.path == Algorithm::Auto
            && ParamsSpace::of(caps, FUSED_BUFFERS) == ParamsSpace::Uniform
            && caps.software
        {
            return Err(Unfused::FewBuffers);
        }
        let here = if caps.software { Where::Software } else { Where::Card };
        let additive = options.score.is_additive();
        let fitting = move |split: bool| {
            let of_form = move |tile: &Tile| (tile.form == Form::Split) == split && tile.fits(additive, problem, caps);
            let tiles = TILES.iter().filter(move |(at, _)| *at == here).map(|(_, tile)| *tile).filter(of_form);
            let ranks = if options.path == Algorithm::Auto { 0..4 } else { 0..8 };
            let tiles =
                ranks.flat_map(move |rank| tiles.clone().filter(move |t| t.rank(additive, problem, caps) == rank));
            // Where one kernel serves both, a single split of the keys is what distinguishes fused from split.
            let one_range = options.path == Algorithm::Fused && split;
            let plans = move |tile: Tile| tile.plans(problem, caps, one_range);
            // Cooperative matrices are opt-in, so they come first.
            let matrices = if split { Vec::new() } else { cooperative::tiles(options, problem, element, caps) };
            matrices.into_iter().chain(tiles).flat_map(plans)
        };
        // `Split` costs more a row, and wins where the tiles of the others are mostly past the end.
        let rows = |split: bool| fitting(split).next().map(|plan| plan.tile.rows(problem));
        let few = rows(true).zip(rows(false)).is_none_or(|(split, others)| others / SPLIT_ROW > split);
        let forms = match options.path {
            Algorithm::Split => [Some(true), None],
            Algorithm::Fused if !additive => [Some(false), Some(true)],
            _ => [Some(few), Some(!few)],
        };
        Ok(forms.into_iter().flatten().flat_map(fitting))
    }
}

fn product(axes: &[usize]) -> u64 {
    axes.iter().fold(1, |all, &n| all.saturating_mul(n as u64))
}

/// Staged: the number of queries whose scores fit the device at a time.
///
/// # Errors
/// [`Error::Limit`] where not even one fits, or not all where all scores are asked for.
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

/// The reason why an attention has no online softmax here, if it has none.
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
        let options = Attention { path: Algorithm::Staged, ..Attention::default() };
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
