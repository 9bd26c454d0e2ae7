//! The case table itself: accepted, well conditioned, quick, and judged rightly.

use std::collections::BTreeSet;
use std::time::Instant;

use regard::attention::{Normalize, Score, ScoreStage};
use regard::compare::judge;
use regard::reference::{self, gumbel};
use regard::rnn::{Cell, Direction, Merge, NormOver, Reset, Steps};
use regard::tensor::{Array, DType};
use regard::{cases, problem};

fn cast(a: &Array<f32>) -> Array<f64> {
    a.map(|&x| f64::from(x))
}

/// The baseline judged against the oracle says how hard a case is: more than a thousandth of the tensor's size and the
/// tolerance drawn from it would let anything through.
fn well_conditioned(name: &str, tensor: &str, baseline: &Array<f32>, oracle: &Array<f64>) {
    let verdict = judge(tensor, baseline, oracle, baseline, DType::F32).unwrap();
    assert!(verdict.passed(), "{name}: {tensor}: {verdict:?}");
    let size = oracle.data().iter().filter(|x| x.is_finite()).fold(0.0, |size: f64, x| size.max(x.abs()));
    assert!(verdict.baseline <= 1e-3 * size, "{name}: {tensor}: f32 is off by {:e} of {size:e}", verdict.baseline);
    // NaN that is in sight must show, and not everywhere.
    let nan = oracle.data().iter().filter(|x| x.is_nan()).count();
    match name.contains("NaN in") {
        true => assert!(0 < nan && nan < oracle.data().len(), "{name}: {tensor} has {nan} NaN"),
        false => assert_eq!(nan, 0, "{name}: {tensor} has NaN"),
    }
}

#[test]
fn the_attention_table_is_sound() {
    let table = cases::attention();
    let names: BTreeSet<_> = table.iter().map(|case| case.name.clone()).collect();
    assert_eq!(names.len(), table.len(), "names are unique");
    for case in &table {
        let oracle = reference::attention(&case.options, &case.inputs.map_numbers(cast)).unwrap();
        let baseline = reference::attention(&case.options, &case.inputs).unwrap();
        assert_eq!(baseline.named().count(), oracle.named().count());
        for ((tensor, baseline), (_, oracle)) in baseline.named().zip(oracle.named()) {
            well_conditioned(&case.name, tensor, baseline, oracle);
        }
    }
}

#[test]
fn the_recurrent_table_is_sound() {
    let table = cases::recurrent();
    let names: BTreeSet<_> = table.iter().map(|case| case.name.clone()).collect();
    assert_eq!(names.len(), table.len(), "names are unique");
    for case in &table {
        let wide = case.stack.iter().map(|layer| layer.iter().map(|w| w.map(cast)).collect()).collect();
        let oracle = reference::rnn(&case.options, &wide, &case.inputs.map_numbers(cast)).unwrap();
        let baseline = reference::rnn(&case.options, &case.stack, &case.inputs).unwrap();
        well_conditioned(&case.name, "output", &baseline.output, &oracle.output);
        well_conditioned(&case.name, "final_h", &baseline.final_h, &oracle.final_h);
        if let (Some(baseline), Some(oracle)) = (&baseline.final_c, &oracle.final_c) {
            well_conditioned(&case.name, "final_c", baseline, oracle);
        }
    }
}

/// A draw whose two best keys lie closer than a device's logarithm is exact would be no test.
#[test]
fn drawn_keys_win_clearly() {
    for case in cases::attention() {
        let Normalize::Sample { seed } = case.options.normalize else { continue };
        let temperature = f64::from(case.options.temperature.unwrap_or(1.0));
        let mut options = case.options.clone();
        options.scores = Some(ScoreStage::Masked);
        let scores = reference::attention(&options, &case.inputs.map_numbers(cast)).unwrap().scores.unwrap();
        let keys = scores.shape()[3];
        for (row, scores) in scores.data().chunks_exact(keys).enumerate() {
            let noise = |j: usize| f64::from(gumbel(seed, row as u32, j as u32));
            let noisy = scores.iter().enumerate().map(|(j, s)| s / temperature + noise(j));
            let mut noisy: Vec<f64> = noisy.collect();
            if noisy.iter().any(|x| x.is_nan()) {
                continue;
            }
            noisy.sort_by(f64::total_cmp);
            let [.., second, first] = noisy[..] else { continue };
            assert!(first == f64::NEG_INFINITY || first - second > 1e-3, "{} row {row}: {first} {second}", case.name);
        }
    }
}

#[test]
fn the_oracle_answers_the_whole_table_quickly() {
    let start = Instant::now();
    for case in cases::attention() {
        reference::attention(&case.options, &case.inputs.map_numbers(cast)).unwrap();
    }
    let attention = start.elapsed();
    for case in cases::recurrent() {
        let stack = case.stack.iter().map(|layer| layer.iter().map(|w| w.map(cast)).collect()).collect();
        reference::rnn(&case.options, &stack, &case.inputs.map_numbers(cast)).unwrap();
    }
    println!("attention {attention:?}, with recurrent {:?}", start.elapsed());
    assert!(start.elapsed().as_secs_f64() < 10.0);
}

/// The table has what it is for.
#[test]
fn the_table_covers_the_options() {
    let table = cases::attention();
    let problem = |case: &cases::AttentionCase| {
        problem::AttentionProblem::new(&case.options, &case.inputs.map(Array::shape, Array::shape)).unwrap()
    };
    let problems: Vec<_> = table.iter().map(problem).collect();
    for dim in [1, 40, 59, 80, 111, 128, 256] {
        assert!(problems.iter().any(|p| p.query_dim == dim), "head dim {dim}");
    }
    for n in [1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65] {
        assert!(problems.iter().any(|p| p.queries == n), "{n} queries");
        assert!(problems.iter().any(|p| p.keys == n), "{n} keys");
    }
    assert!(problems.iter().any(|p| p.group() > 1) && problems.iter().any(|p| p.value_dim != p.query_dim));
    type Has = fn(&cases::AttentionCase) -> bool;
    let features: [(&str, Has); 12] = [
        ("query lengths", |c| c.inputs.query_lengths.is_some()),
        ("ragged", |c| c.inputs.cu_seqlens.is_some()),
        ("block mask", |c| c.inputs.block_mask.is_some()),
        ("pages", |c| c.inputs.block_table.is_some()),
        ("rotary", |c| c.inputs.rotary.is_some()),
        ("sink tokens", |c| c.options.window.is_some_and(|w| w.sink_tokens > 0)),
        ("temperature", |c| c.options.temperature.is_some()),
        ("entropy", |c| c.options.entropy),
        ("monotonic", |c| matches!(c.options.normalize, Normalize::Monotonic(_))),
        ("location", |c| c.options.score == Score::Location),
        ("alignment before", |c| c.inputs.previous.is_some()),
        ("normalized v", |c| c.inputs.score.g.is_some()),
    ];
    for (feature, has) in features {
        let count = table.iter().filter(|case| has(case)).count();
        println!("{feature}: {count} cases");
        assert!(count >= 3, "{feature}: {count} cases");
    }
    let all_zero = |case: &cases::AttentionCase| {
        let lse = reference::attention(&case.options, &case.inputs.map_numbers(cast)).unwrap().lse;
        lse.is_some_and(|lse| lse.data().contains(&f64::NEG_INFINITY))
    };
    assert!(table.iter().filter(|case| all_zero(case)).count() >= 10);
}

/// The recurrent table has what it is for.
#[test]
fn the_recurrent_table_covers_the_options() {
    let table = cases::recurrent();
    let units = |case: &cases::RnnCase| case.stack[0][0].weight_ih.shape()[0] / case.options.cell.gates();
    let cells = [Cell::Lstm, Cell::Gru { reset: Reset::After }, Cell::Gru { reset: Reset::Before }, Cell::Rnn];
    for cell in cells {
        let of: Vec<_> = table.iter().filter(|case| case.options.cell == cell).collect();
        for n in [1, 7, 8, 9, 31, 32, 33, 63, 64, 65, 128, 129] {
            assert!(of.iter().any(|case| units(case) == n), "{cell:?}: {n} units");
        }
        for n in [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33] {
            assert!(of.iter().any(|case| case.inputs.input.shape()[1] == n), "{cell:?}: {n} rows");
        }
        type Has = fn(&cases::RnnCase) -> bool;
        let features: [(&str, Has, usize); 7] = [
            ("lengths", |c| c.inputs.lengths.as_ref().is_some_and(|lengths| lengths.data().contains(&0)), 10),
            ("3 or more layers forward", |c| c.stack.len() > 2 && c.options.direction == Direction::Forward, 4),
            ("3 or more layers reverse", |c| c.stack.len() > 2 && c.options.direction == Direction::Reverse, 1),
            ("last step", |c| c.options.steps == Steps::Last, 7),
            ("last step, merged", |c| c.options.steps == Steps::Last && c.options.merge != Merge::Concat, 3),
            ("reverse activations", |c| c.options.reverse_activations.is_some(), 1),
            ("saturated", |c| c.name.contains("saturated"), 1 + cell.gates()),
        ];
        for (feature, has, least) in features {
            let count = of.iter().filter(|case| has(case)).count();
            assert!(count >= least, "{cell:?}, {feature}: {count} cases");
        }
    }
    type Has = fn(&cases::RnnCase) -> bool;
    let features: [(&str, Has); 7] = [
        ("projection", |c| c.stack[0][0].weight_hr.is_some()),
        ("projection clip", |c| c.options.projection_clip.is_some()),
        ("cell clip", |c| c.options.cell_clip.is_some()),
        ("layer norm over products", |c| c.options.layer_norm.is_some_and(|n| n.over == NormOver::Products)),
        ("layer norm over gates", |c| c.options.layer_norm.is_some_and(|n| n.over == NormOver::Gates)),
        ("layer norm without gains", |c| c.options.layer_norm.is_some() && c.stack[0][0].norm_hh.is_none()),
        ("layer norm and projection", |c| c.options.layer_norm.is_some() && c.stack[0][0].weight_hr.is_some()),
    ];
    for (feature, has) in features {
        let count = table.iter().filter(|case| has(case)).count();
        println!("{feature}: {count} cases");
        assert!(count >= 4, "{feature}: {count} cases");
    }
}
