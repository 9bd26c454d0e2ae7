//! The ways of computing that a device has, and which of them are taken for typical problems: all asked of the planner.

use regard::Result;
use regard::attention::{Algorithm, Attention, AttentionInputs, Causal, Score};
use regard::device::Caps;
use regard::plan::{AttentionPlan, Form, FusedPlan, RnnPlan, Tuning};
use regard::problem::{AttentionProblem, RnnProblem};
use regard::rnn::{Cell, Reset, Rnn, RnnAlgorithm, RnnInputs, RnnWeights};
use regard::tensor::DType;
use serde_json::{Value, json};

use crate::explain;

/// Units up to which recurrences are tried.
const MOST_UNITS: usize = 16_384;

/// Everything that the planner says of one device.
pub(super) struct Ways {
    attention: Vec<Way>,
    attention_taken: Vec<Taken>,
    recurrent: Vec<Reach>,
    recurrent_taken: Vec<Taken>,
}

/// A way to compute attention.
struct Way {
    name: String,
    /// Element types that it runs in; none if it does not run here.
    types: Vec<DType>,
    /// The cuts that the planner has for it, each once.
    cuts: Vec<String>,
}

/// How far a path of a recurrence goes.
struct Reach {
    cell: &'static str,
    path: &'static str,
    /// Most hidden units; none if it does not run at all.
    units: Option<usize>,
    /// Why not one quad more; none where it was not tried.
    reason: Option<String>,
}

/// What is taken for a problem.
struct Taken {
    problem: String,
    /// Element types for which it is that.
    types: Vec<DType>,
    /// Path and its cut, or why nothing can run.
    plan: std::result::Result<Plan, String>,
}

/// A path, and how it is cut or why it is no other.
#[derive(PartialEq)]
struct Plan {
    path: String,
    about: String,
    tuned: bool,
}

impl Ways {
    /// Of a device: `takes` and `tuning` are what commands go by, `has` what it could do if everything were switched on.
    pub(super) fn of(has: &Caps, takes: &Caps, tuning: &Tuning) -> Result<Self> {
        let types = if takes.f16 { vec![DType::F32, DType::F16] } else { vec![DType::F32] };
        let typical = attentions()?;
        let taken = |(name, options, problem): &(String, Attention, AttentionProblem)| {
            let mut taken: Vec<Taken> = Vec::new();
            for &dtype in &types {
                let plan = attention_plan(options, problem, dtype, takes, tuning);
                match taken.last_mut().filter(|last| last.plan == plan) {
                    Some(last) => last.types.push(dtype),
                    None => taken.push(Taken { problem: name.clone(), types: vec![dtype], plan }),
                }
            }
            taken
        };
        let attention_taken = typical.iter().flat_map(taken).collect();
        let recurrences = recurrences()?;
        let recurrent_taken =
            recurrences.iter().map(|(name, options, problem)| recurrent(name, options, problem, takes));
        Ok(Self {
            attention: attention(has, &types, &typical),
            attention_taken,
            recurrent_taken: recurrent_taken.collect(),
            recurrent: reaches(takes)?,
        })
    }

    /// Rows of a table: heading and text.
    pub(super) fn rows(&self) -> Vec<(String, String)> {
        let runs = |way: &Way| format!("{} ({})", way.name, names(&way.types).join(", "));
        let (there, lacking): (Vec<_>, Vec<_>) = self.attention.iter().partition(|way| !way.types.is_empty());
        let mut text = there.into_iter().map(runs).collect::<Vec<_>>().join(", ");
        if !lacking.is_empty() {
            let names: Vec<_> = lacking.iter().map(|way| way.name.as_str()).collect();
            text.push_str(&format!("; not {}", names.join(", ")));
        }
        let mut rows = vec![("attention".to_owned(), text)];
        rows.extend(self.attention_taken.iter().map(Taken::row));
        for reach in self.recurrent.chunk_by(|a, b| a.cell == b.cell) {
            let heading = format!("recurrent {}", reach[0].cell);
            rows.push((heading, reach.iter().map(Reach::text).collect::<Vec<_>>().join(", ")));
        }
        rows.extend(self.recurrent_taken.iter().map(Taken::row));
        rows
    }

    /// One name for each way that runs, with its element type.
    pub(super) fn paths(&self) -> Vec<String> {
        let attention = self
            .attention
            .iter()
            .flat_map(|way| way.types.iter().map(|dtype| format!("{} attention {dtype}", way.name)));
        let recurrent = self.recurrent.iter().filter(|reach| reach.units.is_some());
        attention.chain(recurrent.map(|reach| format!("{} {}", reach.path, reach.cell))).collect()
    }

    /// For `--json`: ways and what is taken, of attention and of recurrences.
    pub(super) fn json(&self) -> [Value; 2] {
        let way = |way: &Way| json!({ "way": way.name, "types": names(&way.types), "cuts": way.cuts });
        let reach = |r: &Reach| json!({ "cell": r.cell, "path": r.path, "most_units": r.units, "reason": r.reason });
        let taken = |taken: &[Taken]| Value::Array(taken.iter().map(Taken::json).collect());
        [
            json!({ "ways": self.attention.iter().map(way).collect::<Vec<_>>(), "auto": taken(&self.attention_taken) }),
            json!({ "paths": self.recurrent.iter().map(reach).collect::<Vec<_>>(), "auto": taken(&self.recurrent_taken) }),
        ]
    }
}

impl Taken {
    fn row(&self) -> (String, String) {
        let what = format!("{}, {}", self.problem, names(&self.types).join(", "));
        let text = match &self.plan {
            Ok(plan) => {
                let tuned = if plan.tuned { ", measured" } else { "" };
                format!("{what}: {} ({}{tuned})", plan.path, plan.about)
            }
            Err(reason) => format!("{what}: {reason}"),
        };
        ("  auto takes".to_owned(), text)
    }

    fn json(&self) -> Value {
        let plan = self.plan.as_ref();
        json!({
            "problem": self.problem,
            "types": names(&self.types),
            "path": plan.ok().map(|plan| &plan.path),
            "about": plan.map_or_else(|reason| reason, |plan| &plan.about),
            "tuned": plan.is_ok_and(|plan| plan.tuned),
        })
    }
}

fn names(types: &[DType]) -> Vec<String> {
    types.iter().map(ToString::to_string).collect()
}

impl Reach {
    fn text(&self) -> String {
        match (self.units, &self.reason) {
            (None, _) => format!("no {}", self.path),
            (Some(units), Some(_)) => format!("{} to {units} units", self.path),
            (Some(units), None) => format!("{} to {units} units and more", self.path),
        }
    }
}

/// Typical problems with their names.
fn attentions() -> Result<Vec<(String, Attention, AttentionProblem)>> {
    let plain = Attention::default;
    let causal = Attention { causal: Some(Causal::TopLeft), ..plain() };
    let additive = Attention { score: Score::Additive, ..plain() };
    let problem = |name: &str, options: Attention, [batch, heads, kv, queries, keys, dim]: [usize; 6]| {
        let (query, key) = ([batch, heads, queries, dim], [batch, kv, keys, dim]);
        let problem = AttentionProblem::new(&options, &AttentionInputs::new(&query[..], &key[..], &key[..]))?;
        let name = format!("{name} (batch {batch}, heads {heads} on {kv}, {queries} × {keys}, D {dim})");
        Ok((name, options, problem))
    };
    [
        problem("encoder", plain(), [8, 12, 12, 512, 512, 64]),
        problem("prefill, causal", causal.clone(), [1, 32, 8, 4096, 4096, 128]),
        problem("decode, causal", causal, [1, 32, 8, 1, 4096, 128]),
        problem("additive", additive, [16, 1, 1, 1, 64, 256]),
        problem("with the weights", Attention { weights: true, ..plain() }, [8, 12, 12, 128, 128, 64]),
    ]
    .into_iter()
    .collect()
}

/// Every way, with what the planner has of it for the typical problems.
fn attention(caps: &Caps, types: &[DType], typical: &[(String, Attention, AttentionProblem)]) -> Vec<Way> {
    let asked = |path: Algorithm| typical.iter().map(move |(_, options, p)| (Attention { path, ..options.clone() }, p));
    let staged = |&dtype: &DType| {
        asked(Algorithm::Staged).any(|(options, p)| AttentionPlan::new(&options, p, dtype, caps).is_ok())
    };
    let mut ways = vec![Way {
        name: Algorithm::Staged.to_string(),
        types: types.iter().copied().filter(staged).collect(),
        cuts: Vec::new(),
    }];
    for form in Form::ALL {
        let mut way = Way { name: form.to_string(), types: Vec::new(), cuts: Vec::new() };
        for &dtype in types {
            for (options, p) in [Algorithm::Auto, Algorithm::Fused, Algorithm::Split].into_iter().flat_map(asked) {
                let plans: Vec<FusedPlan> = AttentionPlan::candidates(&options, p, dtype, caps).unwrap_or_default();
                for plan in plans.into_iter().filter(|plan| plan.tile.form == form) {
                    let cut = explain::fused(&FusedPlan { split_keys: p.keys, ..plan }, p.keys);
                    if !way.cuts.contains(&cut) {
                        way.cuts.push(cut);
                    }
                    if !way.types.contains(&dtype) {
                        way.types.push(dtype);
                    }
                }
            }
        }
        ways.push(way);
    }
    ways
}

fn attention_plan(
    options: &Attention,
    problem: &AttentionProblem,
    dtype: DType,
    caps: &Caps,
    tuning: &Tuning,
) -> std::result::Result<Plan, String> {
    let plan = AttentionPlan::tuned(options, problem, dtype, caps, tuning).map_err(|error| error.to_string())?;
    let about = match &plan.fused {
        Ok(fused) => explain::fused(fused, problem.keys),
        Err(reason) => reason.to_string(),
    };
    Ok(Plan { path: plan.path.to_string(), about, tuned: plan.tuned })
}

/// Cells with the names that `encode --cell` has for them.
const CELLS: [(&str, Cell); 3] = [("lstm", Cell::Lstm), ("gru", Cell::Gru { reset: Reset::After }), ("rnn", Cell::Rnn)];

const PATHS: [(&str, RnnAlgorithm); 3] =
    [("steps", RnnAlgorithm::Steps), ("wavefront", RnnAlgorithm::Wavefront), ("persistent", RnnAlgorithm::Persistent)];

/// A stack of layers with the width of its input, over that many steps.
fn stack(options: &Rnn, [steps, batch, hidden, layers]: [usize; 4]) -> Result<RnnProblem> {
    let rows = options.cell.gates() * hidden;
    let (ih, hh, input) = ([rows, hidden], [rows, hidden], [steps, batch, hidden]);
    let weights = vec![vec![RnnWeights::new(&ih[..], &hh[..])]; layers];
    RnnProblem::new(options, &weights, &RnnInputs::new(&input[..]))
}

/// Typical recurrences with their names.
fn recurrences() -> Result<Vec<(String, Rnn, RnnProblem)>> {
    let lstm = ("lstm", Cell::Lstm);
    let gru = ("gru", Cell::Gru { reset: Reset::After });
    [(lstm, [256, 1, 128, 1]), (gru, [256, 1, 256, 2]), (lstm, [128, 32, 512, 2])]
        .into_iter()
        .map(|((name, cell), sizes)| {
            let options = Rnn::new(cell);
            let [steps, batch, hidden, layers] = sizes;
            let plural = if layers == 1 { "" } else { "s" };
            let name = format!("{name} ({steps} steps, batch {batch}, {hidden} units, {layers} layer{plural})");
            stack(&options, sizes).map(|problem| (name, options, problem))
        })
        .collect()
}

fn recurrent(name: &str, options: &Rnn, problem: &RnnProblem, caps: &Caps) -> Taken {
    let plan = RnnPlan::new(options, problem, DType::F32, caps).map_err(|error| error.to_string());
    let named = |plan: RnnPlan| {
        let path = PATHS.iter().find(|(_, path)| *path == plan.path).map_or("auto", |(name, _)| name);
        Plan { path: path.to_owned(), about: format!("dispatches: {}", plan.dispatches), tuned: false }
    };
    Taken { problem: name.to_owned(), types: vec![DType::F32], plan: plan.map(named) }
}

/// For each cell and path the most units, one quad after the other.
fn reaches(caps: &Caps) -> Result<Vec<Reach>> {
    let mut reaches = Vec::new();
    for (cell_name, cell) in CELLS {
        for (path_name, path) in PATHS {
            let options = Rnn { path, ..Rnn::new(cell) };
            let mut reach = Reach { cell: cell_name, path: path_name, units: None, reason: None };
            for units in (4..=MOST_UNITS).step_by(4) {
                let problem = stack(&options, [16, 1, units, 2])?;
                match RnnPlan::new(&options, &problem, DType::F32, caps) {
                    Ok(_) => reach.units = Some(units),
                    Err(error) => {
                        reach.reason = Some(error.to_string());
                        break;
                    }
                }
            }
            reaches.push(reach);
        }
    }
    Ok(reaches)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(caps: &Caps) -> Ways {
        Ways::of(caps, caps, &Tuning::new()).unwrap()
    }

    fn types(ways: &Ways, name: &str) -> usize {
        ways.attention.iter().find(|way| way.name == name).unwrap().types.len()
    }

    fn most(ways: &Ways, path: &str) -> Option<usize> {
        ways.recurrent.iter().find(|reach| (reach.cell, reach.path) == ("lstm", path)).unwrap().units
    }

    #[test]
    fn ways_follow_from_features_and_limits() {
        let card = Caps::default().with(|caps| {
            caps.f16 = true;
            caps.subgroups = true;
            caps.min_subgroup = 32;
            caps.max_subgroup = 32;
        });
        let plain = ways(&card);
        assert_eq!(
            ["staged", "tiled", "split", "rows", "cooperative"].map(|name| types(&plain, name)),
            [2, 2, 2, 0, 0]
        );
        let matrices = ways(&card.with(|caps| {
            caps.cooperative = Some(16);
            caps.max_workgroup_bytes = 48 << 10;
        }));
        assert_eq!(types(&matrices, "cooperative"), 1, "in f16 alone");
        let software = ways(&card.with(|caps| {
            caps.software = true;
            caps.max_storage_buffers = 32;
        }));
        assert_eq!(["staged", "tiled", "split", "rows"].map(|name| types(&software, name)), [2, 0, 2, 1 + 1]);
        assert!(plain.paths().contains(&"tiled attention f16".to_owned()));
        // Fewer features and lower limits: less.
        let without = ways(&card.with(|caps| {
            caps.f16 = false;
            caps.subgroups = false;
        }));
        assert_eq!(types(&without, "tiled"), 1);
        let cuts = |ways: &Ways| ways.attention.iter().flat_map(|way| way.cuts.clone()).collect::<Vec<_>>();
        assert!(cuts(&plain).iter().any(|cut| cut.contains("subgroups")));
        assert!(!cuts(&without).is_empty() && !cuts(&without).iter().any(|cut| cut.contains("subgroups")));
        let small = ways(&card.with(|caps| caps.max_workgroup_bytes = 4 << 10));
        assert_eq!((types(&small, "tiled"), types(&small, "staged")), (0, 2));
        let path = |ways: &Ways| ways.attention_taken[0].plan.as_ref().unwrap().path.clone();
        assert_eq!((path(&plain).as_str(), path(&small).as_str()), ("fused", "staged"));
    }

    #[test]
    fn units_of_a_recurrence_are_those_that_the_planner_takes() {
        let caps = Caps::default().with(|caps| {
            caps.max_invocations = 1024;
            caps.max_workgroup_bytes = 32 << 10;
        });
        let (plain, narrow) = (ways(&caps), ways(&caps.with(|caps| caps.max_invocations = 64)));
        let (wide, few) = (most(&plain, "persistent").unwrap(), most(&narrow, "persistent").unwrap());
        assert!(few < wide, "{few} {wide}");
        let options = Rnn { path: RnnAlgorithm::Persistent, ..Rnn::new(Cell::Lstm) };
        let takes =
            |units| RnnPlan::new(&options, &stack(&options, [16, 1, units, 2]).unwrap(), DType::F32, &caps).is_ok();
        assert!(takes(wide) && !takes(wide + 4));
        // The recurrent weights of two layers, [8·H, H] each in f32, in one binding.
        assert_eq!(most(&plain, "wavefront"), Some(2048));
        assert_eq!(most(&ways(&caps.with(|caps| caps.max_binding_bytes = 32 << 20)), "wavefront"), Some(1024));
        assert_eq!(most(&plain, "steps"), Some(MOST_UNITS));
        let reasons = |path| plain.recurrent.iter().find(|reach| reach.path == path).unwrap().reason.clone();
        assert!(reasons("wavefront").unwrap().contains("a binding holds") && reasons("steps").is_none());
    }
}
