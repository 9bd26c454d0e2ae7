//! What is peculiar to attention by products of whole matrices, and the rung below where the adapter lists no cooperative
//! matrices that fit. The case table by matrices is a configuration of `table.rs`.

use regard::attention::{
    Algorithm, Attention, AttentionInputs, AttentionOutputs, Causal, Rotary, RotaryEmbedding, Score, Window,
};
use regard::cases::{self, AttentionCase};
use regard::device::{Caps, Features};
use regard::gpu::{Open, Run};
use regard::ops::attention::record;
use regard::plan::{AttentionPlan, Form};
use regard::problem::{AttentionProblem, Storage};
use regard::tensor::{Array, DType};
use regard::validate::judge_attention;
use regard::{Error, Gpu, Result, Tensor};

use crate::gpu::{all, cooperative_gpu, gpu, open, some};

type Outputs = AttentionOutputs<Array<f32>>;

/// What matrices are made of; f32 where the device has no f16.
fn element(caps: &Caps) -> DType {
    if caps.f16 { DType::F16 } else { DType::F32 }
}

fn plan(case: &AttentionCase, caps: &Caps) -> Result<AttentionPlan> {
    let problem = AttentionProblem::new(&case.options, &case.inputs.map(Array::shape, Array::shape))?;
    AttentionPlan::new(&case.options, &problem, element(caps), caps)
}

fn form(plan: &AttentionPlan) -> Option<Form> {
    plan.fused.as_ref().ok().map(|fused| fused.tile.form)
}

/// The same with outputs that stay in matrices, where there are some.
fn carried(case: &AttentionCase, plan: &AttentionPlan, caps: &Caps) -> Option<AttentionPlan> {
    let problem = AttentionProblem::new(&case.options, &case.inputs.map(Array::shape, Array::shape)).ok()?;
    let candidates = AttentionPlan::candidates(&case.options, &problem, element(caps), caps).ok()?;
    let fused = candidates.into_iter().find(|fused| fused.tile.form == Form::Carried)?;
    Some(plan.clone().with_fused(fused))
}

/// The cases of the table without what asks for scores in memory, as far as they can be fused on these caps.
fn fused(caps: &Caps) -> Vec<(AttentionCase, AttentionPlan)> {
    let without_scores = |mut case: AttentionCase| {
        let options = &mut case.options;
        (options.weights, options.entropy, options.scores, options.path) = (false, false, None, Algorithm::Fused);
        case
    };
    let planned = |case: AttentionCase| plan(&case, caps).ok().map(|plan| (case, plan));
    cases::attention().into_iter().map(without_scores).filter_map(planned).collect()
}

/// As planned.
fn run(gpu: &Gpu, case: &AttentionCase, plan: &AttentionPlan, storage: Storage) -> Result<Outputs> {
    let problem = AttentionProblem::new(&case.options, &case.inputs.map(Array::shape, Array::shape))?;
    let inputs = case.inputs.upload(gpu, storage)?;
    let mut run = Run::new(gpu);
    let shared = std::cell::RefCell::new(&mut run);
    let bind = |name: &'static str, tensor: &Tensor| Ok::<_, Error>(shared.borrow_mut().bind(name, tensor));
    let views = inputs.try_map(bind, bind)?;
    let made = problem
        .outputs(&case.options, storage.element, inputs.past.is_some())
        .try_map(|name, (shape, dtype)| run.output(name, shape, *dtype))?;
    let outputs = made.try_map(|_, (view, _)| Ok::<_, Error>(view.clone()))?;
    record(run.recording_mut(), gpu.caps(), &case.options, &problem, plan, &views, &outputs)?;
    run.submit()?;
    made.try_map(|_, (_, tensor)| tensor.download(gpu))
}

fn judged(case: &AttentionCase, got: &Outputs, storage: Storage) -> Result<f64> {
    let ratios = judge_attention(case, got, storage)?;
    ratios.into_iter().try_fold(0.0f64, |worst, (name, ratio)| match ratio {
        ratio if ratio > 1.0 => Err(Error::Gpu(format!("{name}: {ratio:.2} times the tolerance").into())),
        ratio => Ok(worst.max(ratio)),
    })
}

fn bits(outputs: &Outputs) -> Vec<Vec<u32>> {
    outputs.named().map(|(_, array)| array.data().iter().map(|x| x.to_bits()).collect()).collect()
}

/// Twice, with the same bits; keys and values in blocks of 8 bits too where their rows are made of whole ones.
fn checked(gpu: &Gpu, case: &AttentionCase, plan: &AttentionPlan) -> Result<f64> {
    let blocks = cases::in_blocks(&[&case.inputs.key, &case.inputs.value]).then_some(DType::Q8);
    let mut worst = 0.0f64;
    let element = element(gpu.caps());
    for cache in [Some(element), blocks].into_iter().flatten() {
        let storage = Storage { element, cache };
        let first = run(gpu, case, plan, storage)?;
        if bits(&first) != bits(&run(gpu, case, plan, storage)?) {
            return Err(Error::Gpu(format!("other bits the second time, {:?}", form(plan)).into()));
        }
        worst = worst.max(judged(case, &first, storage)?);
    }
    Ok(worst)
}

/// Says whether there are matrices: without them the tests here are about the rung below.
fn has_matrices(gpu: &Gpu) -> bool {
    match gpu.caps().cooperative {
        Some(side) => println!("matrices of {side} × {side} on {}", gpu.adapter()),
        None => println!("{} lists no cooperative matrices that fit", gpu.adapter()),
    }
    gpu.caps().cooperative.is_some()
}

/// Without matrices the next rung, with the plans and the answers of a device that was never asked for any.
#[test]
fn without_matrices_nothing_changes() {
    let (gpu, plain) = (cooperative_gpu(), self::gpu());
    if has_matrices(gpu) {
        return;
    }
    let cases = fused(gpu.caps());
    assert!(cases.iter().all(|(case, plan)| self::plan(case, plain.caps()).unwrap() == *plan));
    for (case, plan) in cases.into_iter().take(3) {
        let got = [gpu, plain].map(|gpu| run(gpu, &case, &plan, element(gpu.caps()).into()).unwrap());
        assert_eq!(bits(&got[0]), bits(&got[1]), "{}", case.name);
    }
}

/// Numbers of variance 1 or so.
fn numbers(seed: u64, shape: &[usize]) -> Array<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    Array::from_fn(shape, |_| {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / (1 << 22) as f32 - 2.0
    })
}

fn case(name: &str, [heads, kv_heads, queries, keys, dim, value_dim]: [usize; 6]) -> AttentionCase {
    let inputs = AttentionInputs::new(
        numbers(1, &[1, heads, queries, dim]),
        numbers(2, &[1, kv_heads, keys, dim]),
        numbers(3, &[1, kv_heads, keys, value_dim]),
    );
    let options = Attention { path: Algorithm::Fused, lse: true, ..Attention::default() };
    AttentionCase { name: name.to_owned(), options, inputs, f32_only: false }
}

/// Element `d` of every head's row `j`.
fn set(array: &mut Array<f32>, j: usize, d: usize, x: f32) {
    let [heads, rows, width] = [1, 2, 3].map(|axis| array.shape()[axis]);
    (0..heads).for_each(|h| array.data_mut()[(h * rows + j) * width + d] = x);
}

/// What a product of whole matrices does to the neighbours of a bad number, and what becomes of sums whose reference
/// moves.
#[test]
fn bad_numbers_stay_in_their_rows_and_growing_scores_are_followed() {
    let gpu = cooperative_gpu();
    has_matrices(gpu);
    let mut cases = Vec::new();

    // Values that some queries of a tile see and others do not.
    let mut poisoned = case("NaN and infinity in values behind the diagonal", [4, 2, 40, 53, 24, 33]);
    poisoned.options.causal = Some(Causal::TopLeft);
    set(&mut poisoned.inputs.value, 20, 3, f32::NAN);
    set(&mut poisoned.inputs.value, 20, 31, f32::INFINITY);
    set(&mut poisoned.inputs.value, 35, 31, f32::NEG_INFINITY);
    set(&mut poisoned.inputs.value, 50, 0, f32::NAN);
    cases.push(poisoned.clone());
    poisoned.name = "the same in a window".to_owned();
    poisoned.options.window = Some(Window::new(Some(9), Some(0)));
    cases.push(poisoned);
    let mut keys = case("NaN in keys behind the diagonal", [2, 2, 40, 40, 24, 70]);
    keys.options.causal = Some(Causal::TopLeft);
    set(&mut keys.inputs.key, 21, 5, f32::NAN);
    cases.push(keys);
    let mut query = case("NaN in one query", [2, 1, 19, 40, 24, 20]);
    set(&mut query.inputs.query, 7, 5, f32::NAN);
    cases.push(query);

    // Each tile of keys outdoes the one before for some rows, by little and by much.
    for (name, factor) in [("scores grow slowly", 0.03), ("scores grow fast", 0.6), ("scores fall", -0.3)] {
        let mut growing = case(name, [2, 1, 33, 150, 64, 40]);
        growing.inputs.query = growing.inputs.query.map(|x| x.abs());
        let rows = growing.inputs.key.shape()[2];
        growing.inputs.key =
            Array::from_fn(&[1, 1, rows, 64], |k| growing.inputs.key.data()[k] * 0.3 + factor * (k / 64) as f32 / 15.0);
        cases.push(growing.clone());
        growing.name = format!("{name}, with sinks and a temperature");
        growing.inputs.sinks = Some(Array::from_fn(&[2], |h| 3.0 * h as f32));
        growing.options.temperature = Some(0.5);
        // Where every row still gives it a weight that f16 can hold.
        let seen = if factor < 0.0 { 3 } else { 140 };
        set(&mut growing.inputs.value, seen, 0, f32::NAN);
        cases.push(growing);
    }
    // Most of the weight is in many small weights.
    let mut flat = case("one key above ten thousand", [1, 1, 3, 10_000, 16, 16]);
    flat.inputs.key = Array::from_fn(&[1, 1, 10_000, 16], |k| if k < 16 { 4.0 } else { 0.01 * (k % 7) as f32 });
    flat.inputs.query = Array::filled(&[1, 1, 3, 16], 0.6);
    cases.push(flat);

    all(
        "bad numbers and growing scores",
        // Without matrices the rung below has its own tests: `tests/run` takes some.
        some(cases, if gpu.caps().cooperative.is_some() { 1 } else { 3 }),
        |case| case.name.clone(),
        |case| {
            let plan = plan(case, gpu.caps())?;
            assert_eq!(form(&plan) == Some(Form::Cooperative), gpu.caps().cooperative.is_some());
            let mut worst = 0.0f64;
            for plan in [Some(plan.clone()), carried(case, &plan, gpu.caps())].into_iter().flatten() {
                worst = worst.max(checked(gpu, case, &plan)?);
                // And in ranges of keys that are joined.
                let mut ranges = plan;
                if let Ok(fused) = &mut ranges.fused {
                    fused.split_keys = fused.tile.keys as usize;
                }
                if case.inputs.key.shape()[2] < 1000 {
                    worst = worst.max(checked(gpu, case, &ranges)?);
                }
            }
            Ok(worst)
        },
    );
}

/// Every tile that the plan lists, so that what measurements choose is tested too.
#[test]
fn every_tile_gives_the_same_answers() {
    let gpu = cooperative_gpu();
    let there = has_matrices(gpu);
    let sizes = [[2, 1, 70, 90, 40, 24], [4, 2, 33, 129, 64, 80], [1, 1, 64, 64, 128, 128], [2, 2, 21, 45, 200, 250]];
    let mut cases = Vec::new();
    for size in sizes {
        let mut case = case(&format!("{size:?}"), size);
        case.options.causal = Some(Causal::BottomRight);
        let problem = AttentionProblem::new(&case.options, &case.inputs.map(Array::shape, Array::shape)).unwrap();
        let candidates = AttentionPlan::candidates(&case.options, &problem, element(gpu.caps()), gpu.caps()).unwrap();
        let tiles = |form| candidates.iter().filter(move |fused| fused.tile.form == form);
        assert!([Form::Cooperative, Form::Carried].into_iter().all(|form| (tiles(form).count() > 1) == there));
        let both = tiles(Form::Cooperative).chain(tiles(Form::Carried));
        let plans: Vec<_> = both.map(|fused| plan(&case, gpu.caps()).unwrap().with_fused(*fused)).collect();
        cases.extend(plans.into_iter().map(|plan| (case.clone(), plan)));
    }
    if there {
        all(
            "tiles",
            cases,
            |(case, plan)| format!("{} {:?}", case.name, plan.fused),
            |(case, plan)| checked(gpu, case, plan),
        );
    }
}

#[test]
fn rungs_are_switched_off_from_outside() {
    let f16 = Features { f16: true, ..Features::default() };
    let subgroups = Features { subgroups: true, ..Features::default() };
    let cooperative = Features { cooperative: true, ..Features::default() };
    let asked = |without: Features| open(Open { cooperative: true, without, ..Open::default() });
    let all = gpu().caps();
    for without in [f16, subgroups, cooperative] {
        let caps = asked(without).caps().clone();
        assert_eq!(caps.cooperative, None);
        assert_eq!((caps.f16, caps.subgroups), (all.f16 && !without.f16, all.subgroups && !without.subgroups));
        assert_eq!(caps, cooperative_gpu().caps().without(without));
    }
    // What was switched off is not there for the caller either.
    let device = asked(f16);
    let refused = regard::Tensor::upload(&device, "x", &Array::filled(&[4], 1.0), DType::F16)
        .and_then(|tensor| tensor.download(&device));
    assert!(refused.is_err() || !device.device().features().contains(wgpu::Features::SHADER_F16));
}

/// What the planner does on cards with matrices of 8 and 16, without one.
#[test]
fn plans_take_matrices_for_dot_products_in_f16_alone() {
    let caps = |side: u32, bytes: u32| {
        Caps::default().with(|caps| {
            caps.f16 = true;
            caps.subgroups = true;
            caps.cooperative = Some(side);
            caps.min_subgroup = 32;
            caps.max_subgroup = 32;
            caps.max_workgroup_bytes = bytes;
            caps.max_invocations = 1024;
        })
    };
    let first = |options: &Attention, dims: [usize; 2], rotary: Option<Rotary>, dtype: DType, caps: &Caps| {
        let (q, k, v) = ([1, 8, 512, dims[0]], [1, 2, 1024, dims[0]], [1, 2, 1024, dims[1]]);
        let mut inputs = AttentionInputs::new(&q[..], &k[..], &v[..]);
        inputs.rotary = rotary.map(|rotary| RotaryEmbedding::new(rotary, [&[2048, 8][..]; 2]));
        let problem = AttentionProblem::new(options, &inputs).unwrap();
        AttentionPlan::candidates(options, &problem, dtype, caps).unwrap().first().map(|plan| plan.tile)
    };
    let plain = Attention { path: Algorithm::Fused, ..Attention::default() };
    for side in [8, 16] {
        for bytes in [16 << 10, 32 << 10, 48 << 10] {
            let caps = caps(side, bytes);
            for dims in [[64, 64], [80, 40], [128, 128], [192, 128], [256, 256]] {
                let tile = first(&plain, dims, None, DType::F16, &caps).filter(|tile| tile.form == Form::Cooperative);
                // Rows of 256 leave no room in 16 KiB, and in matrices of 16 not in 32.
                let short = if side == 8 { 16 << 10 } else { 32 << 10 };
                assert_eq!(tile.is_some(), bytes > short || dims[0] < 256, "{side} {dims:?} {tile:?}");
                assert!(tile.is_none_or(|tile| (tile.queries % side, tile.keys % side) == (0, 0)));
            }
            let on_matrices = |options: &Attention, rotary, dtype: DType| {
                first(options, [64, 64], rotary, dtype, &caps).is_some_and(|tile| tile.form == Form::Cooperative)
            };
            let is_matrices = |options: &Attention, dtype: DType| on_matrices(options, None, dtype);
            assert!(is_matrices(&plain, DType::F16) && !is_matrices(&plain, DType::F32));
            assert!(!is_matrices(&Attention { score: Score::Additive, ..plain.clone() }, DType::F16));
            assert!(!on_matrices(&plain, Some(Rotary::default()), DType::F16));
        }
    }
    // More workgroup memory, larger tiles.
    let keys = |bytes: u32| first(&plain, [128, 128], None, DType::F16, &caps(16, bytes)).unwrap().keys;
    assert_eq!([keys(16 << 10), keys(32 << 10)], [16, 32]);
}
