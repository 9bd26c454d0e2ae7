//! What a device takes over from earlier runs: measured plans, compiled pipelines.

use regard::attention::{Algorithm, Attention, AttentionInputs, Score};
use regard::cases::AttentionCase;
use regard::device::{Caps, DeviceKind, Registers};
use regard::gpu::{Gpu, Kept, Open, Run};
use regard::plan::{AttentionPlan, Bucket, Choice, Form, FusedPlan, Tuning};
use regard::problem::{AttentionProblem, Storage};
use regard::tensor::{Array, DType};
use regard::{Error, Result, cases, validate};

use crate::gpu::{all, attention, cards, gpu, minimal_gpu, whole};

fn problem(options: &Attention, keys: usize) -> AttentionProblem {
    let (query, key) = ([2, 8, 1, 64], [2, 2, keys, 64]);
    AttentionProblem::new(options, &AttentionInputs::new(&query[..], &key[..], &key[..])).unwrap()
}

#[test]
fn a_measured_plan_takes_the_place_of_the_tables() {
    let options = Attention::default();
    let software = Caps::of(DeviceKind::Software).with(|caps| {
        caps.workers = 4;
        caps.max_storage_buffers = 16;
    });
    let tuned_plan = |options: &Attention, keys: usize, dtype: DType, caps: &Caps, tuning: &Tuning| {
        AttentionPlan::tuned(options, &problem(options, keys), dtype, caps, tuning).unwrap()
    };
    let plan = |options: &Attention, keys: usize, dtype: DType, tuning: &Tuning| {
        tuned_plan(options, keys, dtype, &software, tuning)
    };
    let candidates = AttentionPlan::candidates(&options, &problem(&options, 1000), DType::F32, &software).unwrap();
    assert!(candidates.len() > 2);
    let table = plan(&options, 1000, DType::F32, &Tuning::new());
    assert_eq!((table.fused, table.tuned), (Ok(candidates[0]), false));
    for chosen in &candidates {
        let bucket = Bucket::new(Score::ScaledDot, &problem(&options, 1000), DType::F32);
        let tuned = Tuning::from_iter([(bucket, *chosen)]);
        let found = plan(&options, 1000, DType::F32, &tuned);
        assert_eq!((found.fused, found.tuned), (Ok(*chosen), true));
        // Near it in the bucket, beside it in no other.
        assert_eq!(plan(&options, 900, DType::F32, &tuned).fused.unwrap().tile, chosen.tile);
        for (keys, dtype) in [(1025, DType::F32), (512, DType::F32), (1000, DType::F16)] {
            assert!(!plan(&options, keys, dtype, &tuned).tuned, "{keys} {dtype}");
        }
        let staged = Attention { path: Algorithm::Staged, ..options.clone() };
        let staged = plan(&staged, 1000, DType::F32, &tuned);
        assert!(staged.path == Algorithm::Staged && !staged.tuned);
    }
    // Staged, where the planner may choose.
    let bucket = Bucket::new(Score::ScaledDot, &problem(&options, 1000), DType::F32);
    let tuned = Tuning::from_iter([(bucket, Choice::Staged)]);
    let found = plan(&options, 1000, DType::F32, &tuned);
    assert!(found.path == Algorithm::Staged && found.tuned && found.fused.is_err());
    let asked = Attention { path: Algorithm::Split, ..options.clone() };
    assert!(plan(&asked, 1000, DType::F32, &tuned).path == Algorithm::Split);
    // Where the scores of a query fit no binding, not even then.
    let narrow = software.with(|caps| caps.max_binding_bytes = 32 << 10);
    assert!(tuned_plan(&options, 1000, DType::F32, &narrow, &tuned).fused.is_ok());
    // A tile that the device has not.
    let mut strange = candidates[0];
    strange.tile.lanes = 7;
    let bucket = Bucket::new(Score::ScaledDot, &problem(&options, 1000), DType::F32);
    let tuned = Tuning::from_iter([(bucket, strange)]);
    assert_eq!(plan(&options, 1000, DType::F32, &tuned), table);
}

/// The tile of a prefill by head dim and device: as large as a lane's registers allow, with few rows and many keys where they
/// are few, and without subgroup operations where those are slow.
#[test]
fn tiles_of_cards_go_by_their_registers() {
    let card = Caps::default().with(|caps| {
        caps.max_workgroup_bytes = 32 << 10;
        caps.subgroups = true;
        (caps.min_subgroup, caps.max_subgroup) = (32, 32);
    });
    let tile = |caps: &Caps, dim: usize| {
        let shape = [1, 8, 1024, dim];
        let inputs = AttentionInputs::new(&shape[..], &shape[..], &shape[..]);
        let problem = AttentionProblem::new(&Attention::default(), &inputs).unwrap();
        let candidates = AttentionPlan::candidates(&Attention::default(), &problem, DType::F32, caps).unwrap();
        let tile = candidates[0].tile;
        assert_eq!(tile.form, Form::Tiled);
        (tile.queries, tile.keys, tile.subgroups)
    };
    let apple = card.with(|caps| caps.registers = Registers::APPLE);
    let slow = apple.with(|caps| caps.slow_subgroups = true);
    let dims = [64, 80, 128, 256];
    assert_eq!(dims.map(|dim| tile(&card, dim)).map(|(m, n, _)| (m, n)), [(128, 32), (128, 32), (64, 64), (32, 64)]);
    assert_eq!(dims.map(|dim| tile(&apple, dim)).map(|(m, n, _)| (m, n)), [(32, 64), (32, 64), (32, 64), (16, 128)]);
    for dim in dims {
        assert!(tile(&card, dim).2 && tile(&apple, dim).2 && !tile(&slow, dim).2);
    }
}

/// Tiles are filled with the rows of a query head, or in the split form of a key head: which is taken goes by how full they
/// are, on cards and CPU drivers alike.
#[test]
fn forms_are_chosen_by_how_full_their_tiles_are() {
    let card = Caps::default().with(|caps| caps.max_workgroup_bytes = 32 << 10);
    let software = card.with(|caps| {
        caps.software = true;
        caps.workers = 4;
        caps.max_storage_buffers = 16;
    });
    let path = |caps: &Caps, [batch, heads, kv_heads, queries, keys]: [usize; 5]| {
        let (query, key) = ([batch, heads, queries, 64], [batch, kv_heads, keys, 64]);
        let problem =
            AttentionProblem::new(&Attention::default(), &AttentionInputs::new(&query[..], &key[..], &key[..]))
                .unwrap();
        AttentionPlan::new(&Attention::default(), &problem, DType::F32, caps).unwrap().path
    };
    for caps in [&card, &software] {
        // One query for each of many heads on one key head, few or many; a step over a group of 4 and of 16.
        for shape in [[1, 66_000, 1, 1, 32], [1, 66_000, 1, 1, 4096], [1, 32, 8, 1, 4096], [1, 32, 2, 1, 1024]] {
            assert_eq!(path(caps, shape), Algorithm::Split, "{shape:?}");
        }
        for shape in [[1, 8, 8, 64, 64], [1, 8, 8, 1024, 1024], [1, 32, 1, 512, 512]] {
            assert_eq!(path(caps, shape), Algorithm::Fused, "{shape:?}");
        }
    }
    // A tile of a card has more rows to fill.
    for (queries, on_card) in [(1, Algorithm::Split), (4, Algorithm::Split), (8, Algorithm::Fused)] {
        assert_eq!(path(&card, [1, 8, 8, queries, 1024]), on_card, "{queries}");
        assert_eq!(path(&software, [1, 8, 8, queries, 1024]), Algorithm::Fused, "{queries}");
    }
}

/// Scores of a tanh for each pair and unit: in memory on a CPU driver, unless asked for otherwise or too many.
#[test]
fn additive_scores_are_staged_on_a_cpu_driver() {
    let card = Caps::default().with(|caps| caps.max_workgroup_bytes = 32 << 10);
    let software = card.with(|caps| {
        caps.software = true;
        caps.workers = 4;
        caps.max_storage_buffers = 16;
    });
    let plan = |caps: &Caps, path: Algorithm, keys: usize| {
        let options = Attention { score: Score::Additive, path, ..Attention::default() };
        let (query, key) = ([2, 1, 4, 64], [2, 1, keys, 64]);
        let problem = AttentionProblem::new(&options, &AttentionInputs::new(&query[..], &key[..], &key[..])).unwrap();
        AttentionPlan::new(&options, &problem, DType::F32, caps).unwrap()
    };
    for keys in [1, 64, 5000] {
        assert_eq!(plan(&software, Algorithm::Auto, keys).path, Algorithm::Staged);
        assert_eq!(plan(&software, Algorithm::Split, keys).path, Algorithm::Split);
        assert_eq!(plan(&card, Algorithm::Auto, keys).path, Algorithm::Split);
    }
    let narrow = software.with(|caps| caps.max_binding_bytes = 64 << 10);
    assert_eq!(plan(&narrow, Algorithm::Auto, 9000).path, Algorithm::Split, "the scores of a query do not fit");
}

/// The candidates in turn, on this device and as on a card, give the oracle's answers, and read keys and values of 8 bits
/// in place.
#[test]
fn candidates_are_right_over_caches_of_every_storage() {
    let plans = |gpu: &Gpu, case: &AttentionCase| {
        let problem = AttentionProblem::new(&case.options, &case.inputs.map(Array::shape, Array::shape)).unwrap();
        AttentionPlan::candidates(&case.options, &problem, DType::F32, gpu.caps()).unwrap_or_default()
    };
    let table: Vec<AttentionCase> =
        cases::attention().into_iter().filter(|c| cases::in_blocks(&[&c.inputs.key, &c.inputs.value])).collect();
    let mut work = Vec::new();
    let devices = [gpu(), cards()[0]].into_iter();
    for (n, (gpu, case)) in devices.flat_map(|gpu| table.iter().map(move |case| (gpu, case))).enumerate() {
        // Tiles for long problems take seconds to compile; `table.rs` has more of them.
        let mut plans = plans(gpu, case);
        plans.retain(|plan| plan.tile.form != Form::Rows || plan.tile.queries == 16 || n % 8 == 0);
        for (k, cache) in [DType::F32, DType::Q8].into_iter().enumerate() {
            if !plans.is_empty() {
                work.push((gpu, case, plans[(work.len() + k) % plans.len()], Storage { element: DType::F32, cache }));
            }
        }
    }
    let mut tiles: Vec<_> = work
        .iter()
        .map(|(_, _, FusedPlan { tile, .. }, _)| (tile.form, tile.lanes, tile.queries, tile.subgroups))
        .collect();
    tiles.sort();
    tiles.dedup();
    println!("{tiles:?}");
    assert!(tiles.len() > 6 && work.len() > 100, "{} runs of {tiles:?}", work.len());
    let name = |(_, case, plan, storage): &(&Gpu, &AttentionCase, FusedPlan, Storage)| {
        format!("{} {storage} {plan:?}", case.name)
    };
    let work = work.into_iter().step_by(if whole() { 1 } else { 9 });
    all("candidates", work, name, |&(gpu, case, plan, storage)| {
        let problem = AttentionProblem::new(&case.options, &case.inputs.map(Array::shape, Array::shape))?;
        let planned = AttentionPlan::new(&case.options, &problem, storage, gpu.caps())?.with_fused(plan);
        let mut run = Run::new(gpu);
        let outputs = case.options.record_planned(&mut run, &case.inputs.upload(gpu, storage)?, &planned)?;
        let in_place = run.recording().dispatches().any(|d| d.variant.aliases.contains(&("v_elem", DType::Q8)));
        assert_eq!(in_place, storage.cache == DType::Q8 && case.inputs.past.is_none(), "{}", case.name);
        run.submit()?;
        let ratios = validate::judge_attention(case, &outputs.download(gpu)?, storage)?;
        let worst = ratios.into_iter().map(|(_, ratio)| ratio).fold(0.0, f64::max);
        match worst <= 1.0 {
            true => Ok(worst),
            false => Err(Error::Tolerance { what: case.name.clone(), error: worst, tolerance: 1.0 }),
        }
    });
}

/// The same adapter, with what was kept.
fn open(open: Open, kept: &Kept) -> Result<Gpu> {
    let adapter = Some(gpu().adapter().name.clone());
    Gpu::open_with(&Open { adapter, ..open }, |_| kept.clone())
}

#[test]
fn pipelines_go_from_one_device_to_the_next() {
    let x = Array::from_fn(&[1, 2, 9, 32], |k| (k as f32 * 0.37).sin());
    let inputs = AttentionInputs::new(x.clone(), x.clone(), x);
    let run = |gpu: &Gpu| attention(gpu, &Attention::default(), &inputs, DType::F32).unwrap();
    let first = open(Open::default(), &Kept::default()).unwrap();
    let want = run(&first);
    let data = first.pipeline_cache_data();
    assert_eq!(data.is_some(), first.adapter().pipeline_cache);
    let damaged = data.as_ref().map(|data| data[..data.len() - 1].to_vec());
    for pipelines in [data.clone(), damaged, Some(b"regard pipes 1\r\nnonsense".to_vec()), Some(Vec::new())] {
        let gpu = open(Open::default(), &Kept { pipelines, ..Kept::default() }).unwrap();
        assert_eq!(run(&gpu), want);
        assert_eq!(gpu.pipeline_cache_data().is_some(), data.is_some());
    }
    // A device without the feature neither takes nor gives any.
    let gpu = open(Open { minimal: true, ..Open::default() }, &Kept { pipelines: data, ..Kept::default() }).unwrap();
    assert!(gpu.pipeline_cache_data().is_none() && minimal_gpu().pipeline_cache_data().is_none());
    run(&gpu);
}

/// An embedder's device takes the same.
#[test]
fn tuning_reaches_the_planner() {
    let options = Attention::default();
    let problem = problem(&options, 300);
    let candidates = AttentionPlan::candidates(&options, &problem, DType::F32, gpu().caps()).unwrap();
    let last = *candidates.last().unwrap();
    let bucket = Bucket::new(options.score, &problem, DType::F32);
    let kept = Kept { tuning: Tuning::from_iter([(bucket, last)]), ..Kept::default() };
    let opened = open(Open::default(), &kept).unwrap();
    let (device, queue) = (opened.device().clone(), opened.queue().clone());
    let mut named = String::new();
    let embedded = Gpu::from_wgpu_with(None, device, queue, |adapter| {
        named = adapter.key();
        kept
    });
    assert_eq!(named, gpu().adapter().key());
    assert!(named.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') && named.len() < 60, "{named}");
    for gpu in [opened, embedded.unwrap()] {
        let plan = AttentionPlan::tuned(&options, &problem, DType::F32, gpu.caps(), gpu.tuning()).unwrap();
        assert_eq!((plan.fused, plan.tuned), (Ok(last), true));
    }
}
