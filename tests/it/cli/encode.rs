//! `regard encode` against the reference.

use regard::reference;
use regard::rnn::{
    Activation, Activations, Cell, Direction, LayerNorm, Merge, NormOver, Reset, Rnn, RnnInputs, RnnOutputs, RnnStack,
    RnnWeights, Steps,
};
use regard::tensor::Array;

use super::{DEVICES, Folder, Tensors, judge, numbers};
use crate::gpu::some;

const STEPS: usize = 6;
const BATCH: usize = 3;
const WIDTH: usize = 4;
const HIDDEN: usize = 5;

struct Case {
    args: &'static str,
    options: Rnn,
    stack: RnnStack<Array>,
    inputs: RnnInputs<Array>,
}

/// What a stack's weights have beside matrices and biases.
#[derive(Clone, Copy, Default)]
struct Extras {
    peephole: bool,
    /// P of a projection.
    projection: Option<usize>,
    norms: bool,
}

/// Weights of a stack, each number different.
fn stack(options: &Rnn, layers: usize, extras: Extras) -> RnnStack<Array> {
    let rows = options.cell.gates() * HIDDEN;
    let directions = options.direction.count();
    let state = extras.projection.unwrap_or(HIDDEN);
    let products = options.layer_norm.is_some_and(|norm| norm.over == NormOver::Products);
    (0..layers)
        .map(|l| {
            let width = if l == 0 { WIDTH } else { options.output_width(state) };
            (0..directions)
                .map(|d| {
                    let seed = (100 * l + 10 * d) as u32;
                    let some = |there: bool, shape: &[usize], k: u32| there.then(|| numbers(shape, seed + k));
                    RnnWeights {
                        bias_ih: Some(numbers(&[rows], seed + 3)),
                        bias_hh: Some(numbers(&[rows], seed + 4)),
                        peephole: some(extras.peephole, &[3, HIDDEN], 5),
                        weight_hr: extras.projection.map(|p| numbers(&[p, HIDDEN], seed + 6)),
                        norm_ih: some(extras.norms && products, &[2, rows], 7),
                        norm_hh: some(extras.norms, &[2, rows], 8),
                        norm_c: some(extras.norms, &[2, HIDDEN], 9),
                        ..RnnWeights::new(numbers(&[rows, width], seed + 1), numbers(&[rows, state], seed + 2))
                    }
                })
                .collect()
        })
        .collect()
}

/// Adds the weights by their names.
fn add_weights(mut tensors: Tensors, stack: &RnnStack<Array>, prefix: &str) -> Tensors {
    for (l, layer) in stack.iter().enumerate() {
        for (weights, suffix) in layer.iter().zip(["", "_reverse"]) {
            weights
                .try_map(|stem, array| {
                    let name = format!("{prefix}{stem}_l{l}{suffix}");
                    tensors = std::mem::take(&mut tensors).f32(&name, array);
                    Ok::<_, regard::Error>(())
                })
                .unwrap();
        }
    }
    tensors
}

/// Adds everything that is no weight.
fn add_inputs(mut tensors: Tensors, inputs: &RnnInputs<Array>) -> Tensors {
    let RnnInputs { input, initial_h, initial_c, lengths } = inputs;
    for (name, array) in [("input", Some(input)), ("initial_h", initial_h.as_ref()), ("initial_c", initial_c.as_ref())]
    {
        tensors = array.into_iter().fold(tensors, |tensors, array| tensors.f32(name, array));
    }
    match lengths {
        Some(lengths) => tensors.i64("lengths", &lengths.data().iter().map(|&x| x.into()).collect::<Vec<_>>()),
        None => tensors,
    }
}

fn cases() -> Vec<Case> {
    let with = |args, options: Rnn, layers, extras: Extras, states: bool| {
        let mut inputs = RnnInputs::new(numbers(&[STEPS, BATCH, WIDTH], 7));
        let states_of = |width| [layers * options.direction.count(), BATCH, width];
        if states {
            inputs.initial_h = Some(numbers(&states_of(extras.projection.unwrap_or(HIDDEN)), 8));
            inputs.initial_c = (options.cell == Cell::Lstm).then(|| numbers(&states_of(HIDDEN), 9));
            inputs.lengths = Some(Array::new(&[BATCH], vec![6, 2, 0]).unwrap());
        }
        Case { args, stack: stack(&options, layers, extras), options, inputs }
    };
    let case = |args, options, layers, states| with(args, options, layers, Extras::default(), states);
    let lstm = || Rnn::new(Cell::Lstm);
    let gru = |reset| Rnn::new(Cell::Gru { reset });
    let both = Direction::Bidirectional;
    let relu = Activations::all(Activation::Relu);
    let [affine, clipped, leaky] = [
        Activation::Affine { alpha: 0.5, beta: 0.1 },
        Activation::HardSigmoid { alpha: 0.3, beta: 0.5 },
        Activation::LeakyRelu { alpha: 0.1 },
    ];
    let (sigmoid, tanh, softsign) = (Activation::Sigmoid, Activation::Tanh, Activation::Softsign);
    let norm = |over, carry, epsilon| Some(LayerNorm { over, carry, epsilon });
    let peephole = Extras { peephole: true, ..Extras::default() };
    let projection = Extras { projection: Some(3), ..Extras::default() };
    let norms = Extras { norms: true, ..Extras::default() };
    vec![
        case("--cell lstm", lstm(), 1, false),
        with("--cell lstm", Rnn { direction: both, ..lstm() }, 2, peephole, true),
        case(
            "--cell lstm --forget-bias 1 --clip 0.8 --activations HardSigmoid:0.3,LeakyRelu:0.1,Affine:0.5:0.1",
            Rnn {
                forget_bias: 1.0,
                clip: Some(0.8),
                activations: Activations::onnx(Cell::Lstm, [clipped, leaky, affine]),
                ..lstm()
            },
            2,
            true,
        ),
        case("--cell lstm --input-forget", Rnn { input_forget: true, ..lstm() }, 1, false),
        case("--cell gru", Rnn { direction: both, ..gru(Reset::After) }, 2, true),
        case(
            "--cell gru --reset before --merge sum",
            Rnn { direction: both, merge: Merge::Sum, ..gru(Reset::Before) },
            2,
            false,
        ),
        case("--cell gru --reverse", Rnn { direction: Direction::Reverse, ..gru(Reset::After) }, 1, true),
        case("--cell rnn --activation relu", Rnn { activations: relu, ..Rnn::new(Cell::Rnn) }, 1, false),
        case(
            "--cell rnn --merge average",
            Rnn { direction: both, merge: Merge::Average, ..Rnn::new(Cell::Rnn) },
            1,
            true,
        ),
        case(
            "--cell lstm --activations sigmoid,HardSigmoid:0.3,softsign,Affine:0.5:0.1,LeakyRelu:0.1",
            Rnn { activations: Activations { gates: [sigmoid, clipped, softsign, affine], output: leaky }, ..lstm() },
            1,
            true,
        ),
        case(
            "--cell lstm --activations sigmoid,tanh,tanh,HardSigmoid:0.3,softsign,LeakyRelu:0.1",
            Rnn {
                direction: both,
                reverse_activations: Some(Activations::onnx(Cell::Lstm, [clipped, softsign, leaky])),
                ..lstm()
            },
            2,
            false,
        ),
        case(
            "--cell gru --activations sigmoid,HardSigmoid:0.3,tanh,HardSigmoid:0.3,sigmoid,softsign",
            Rnn {
                direction: both,
                activations: Activations { gates: [sigmoid, clipped, tanh, tanh], output: tanh },
                reverse_activations: Some(Activations {
                    gates: [clipped, sigmoid, softsign, softsign],
                    output: softsign,
                }),
                ..gru(Reset::After)
            },
            1,
            true,
        ),
        case(
            "--cell rnn --activations relu,tanh",
            Rnn {
                direction: both,
                activations: relu,
                reverse_activations: Some(Activations::all(tanh)),
                ..Rnn::new(Cell::Rnn)
            },
            1,
            false,
        ),
        case("--cell lstm --cell-clip 0.3", Rnn { cell_clip: Some(0.3), ..lstm() }, 2, true),
        with("--cell lstm", lstm(), 2, projection, true),
        with(
            "--cell lstm --projection-clip 0.1 --cell-clip 0.4",
            Rnn { direction: both, projection_clip: Some(0.1), cell_clip: Some(0.4), ..lstm() },
            2,
            projection,
            false,
        ),
        with(
            "--cell lstm --layer-norm products",
            Rnn { layer_norm: norm(NormOver::Products, false, 1e-5), ..lstm() },
            2,
            norms,
            true,
        ),
        with(
            "--cell lstm --layer-norm products --layer-norm-carry --layer-norm-epsilon 1e-3",
            Rnn { layer_norm: norm(NormOver::Products, true, 1e-3), ..lstm() },
            1,
            Extras::default(),
            false,
        ),
        with(
            "--cell lstm --layer-norm gates --layer-norm-carry --layer-norm-epsilon 1e-12 --forget-bias 1",
            Rnn { layer_norm: norm(NormOver::Gates, true, 1e-12), direction: both, forget_bias: 1.0, ..lstm() },
            1,
            norms,
            true,
        ),
        case("--cell gru --last", Rnn { direction: both, steps: Steps::Last, ..gru(Reset::After) }, 2, true),
        case(
            "--cell rnn --last --merge mul",
            Rnn { direction: both, merge: Merge::Mul, steps: Steps::Last, ..Rnn::new(Cell::Rnn) },
            1,
            true,
        ),
    ]
}

/// The truth about a case.
fn oracle(case: &Case, options: &Rnn) -> regard::Result<RnnOutputs<Array<f64>>> {
    let wide = case.stack.iter().map(|l| l.iter().map(|w| w.map(widen)).collect()).collect();
    reference::rnn(options, &wide, &case.inputs.map_numbers(widen))
}

/// The file of results against the reference; with `batch_first` the output's first two axes are the other way round.
fn check(case: &Case, folder: &Folder, batch_first: bool) {
    let mut oracle = oracle(case, &case.options).unwrap();
    let mut baseline = reference::rnn(&case.options, &case.stack, &case.inputs).unwrap();
    if batch_first && case.options.steps == Steps::All {
        oracle.output = oracle.output.permute(&[1, 0, 2]).unwrap();
        baseline.output = baseline.output.permute(&[1, 0, 2]).unwrap();
    }
    let out = folder.load("out.safetensors");
    judge(case.args, "output", &out, &oracle.output, &baseline.output);
    judge(case.args, "final_h", &out, &oracle.final_h, &baseline.final_h);
    assert_eq!(out.contains("final_c"), case.options.cell == Cell::Lstm);
    if let (Some(oracle), Some(baseline)) = (&oracle.final_c, &baseline.final_c) {
        judge(case.args, "final_c", &out, oracle, baseline);
    }
}

fn widen(array: &Array) -> Array<f64> {
    array.map(|&x| f64::from(x))
}

#[test]
fn every_option_agrees_with_the_reference_on_both_devices() {
    let folder = Folder::new();
    for case in some(cases(), 3) {
        let tensors = add_inputs(Tensors::default(), &case.inputs);
        folder.tensors("in.safetensors", &add_weights(tensors, &case.stack, ""));
        for device in DEVICES {
            let line = format!("encode in.safetensors -o out.safetensors --device {device} {}", case.args);
            let ran = folder.run(&line).ok();
            assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "{line}");
            check(&case, &folder, false);
            std::fs::remove_file(folder.path("out.safetensors")).unwrap();
        }
    }
}

#[test]
fn every_option_changes_the_answer() {
    for case in cases() {
        let direction = case.options.direction;
        let plain = Rnn { direction, ..Rnn::new(case.options.cell) };
        // Without the options the weights may not even fit.
        let changed = oracle(&case, &plain).ok() != oracle(&case, &case.options).ok();
        assert_eq!(changed, case.options != plain, "{}", case.args);
    }
}

#[test]
fn the_last_step_alone() {
    let folder = Folder::new();
    let case = cases().remove(19);
    assert_eq!(case.args, "--cell gru --last");
    let mut inputs = case.inputs.clone();
    inputs.input = inputs.input.permute(&[1, 0, 2]).unwrap();
    let tensors = add_inputs(Tensors::default(), &inputs);
    folder.tensors("in.safetensors", &add_weights(tensors, &case.stack, ""));
    for device in DEVICES {
        folder.run(&format!("encode in.safetensors -o out.safetensors --batch-first --device {device} {}", case.args));
        check(&case, &folder, true);
        // The top layer's final h of both directions, side by side; the row without steps has the initial one.
        let out = folder.load("out.safetensors");
        let (output, final_h) = (out.get("output").unwrap(), out.get("final_h").unwrap());
        assert_eq!(output.shape(), [BATCH, 2 * HIDDEN]);
        let per_state = BATCH * HIDDEN;
        for (b, row) in output.data().chunks(2 * HIDDEN).enumerate() {
            for d in 0..2 {
                let from = (2 + d) * per_state + b * HIDDEN;
                assert_eq!(row[d * HIDDEN..][..HIDDEN], final_h.data()[from..from + HIDDEN], "{device} {b} {d}");
            }
        }
    }
}

#[test]
fn weights_may_come_from_another_file_behind_a_prefix() {
    let folder = Folder::new();
    let case = cases().remove(4);
    let mut inputs = case.inputs.clone();
    inputs.input = inputs.input.permute(&[1, 0, 2]).unwrap();
    folder.tensors("in.safetensors", &add_inputs(Tensors::default(), &inputs));
    let model = add_weights(Tensors::default(), &case.stack, "model.encoder.");
    folder.tensors("model.safetensors", &model.f32("model.decoder.weight_ih_l0", &numbers(&[2, 2], 1)));
    let line = "encode in.safetensors -o out.safetensors --cell gru --weights model.safetensors --batch-first";
    for device in DEVICES {
        let ran = folder.run(&format!("{line} --prefix model.encoder. --device {device}")).ok();
        assert_eq!(ran.stderr, "");
        check(&case, &folder, true);
    }
    let ran = folder.run(&format!("{line} --device cpu"));
    let (error, hint) = ran.refusal();
    assert_eq!(ran.status, 2);
    assert!(error.contains("`weight_ih_l0`") && hint.unwrap().contains("`model."), "{}", ran.stderr);
}

#[test]
fn check_and_explain() {
    let folder = Folder::new();
    let case = cases().remove(1);
    let tensors = add_inputs(Tensors::default(), &case.inputs);
    folder.tensors("in.safetensors", &add_weights(tensors, &case.stack, ""));
    for device in DEVICES {
        let json = folder
            .run(&format!("encode in.safetensors --cell lstm --check --explain --json --device {device}"))
            .ok()
            .json();
        assert_eq!(json["check"]["passed"], true);
        assert_eq!((json["layers"].as_u64(), json["directions"].as_u64()), (Some(2), Some(2)));
        for name in ["output", "final_h", "final_c"] {
            assert!(json["check"]["outputs"][name]["max_abs_error"].as_f64().unwrap() < 1e-5);
        }
    }
    let ran = folder.run("encode in.safetensors --cell lstm --explain --device gpu").ok();
    assert!(ran.stderr.contains("T 6 · B 3 · I 4 · H 5 · 2 layers · 2 directions"), "{}", ran.stderr);
    for line in ["steps ", "wavefront  not possible: it runs one direction", "persistent ", "floor "] {
        assert!(ran.stderr.lines().any(|found| found.starts_with(line)), "no {line} in {}", ran.stderr);
    }
    assert!(ran.stderr.contains(", expected to be the fastest, in "), "{}", ran.stderr);
    // A projection is shown whatever its width.
    let projection = Extras { projection: Some(HIDDEN), ..Extras::default() };
    let tensors = add_inputs(Tensors::default(), &RnnInputs::new(numbers(&[STEPS, BATCH, WIDTH], 7)));
    folder.tensors("in.safetensors", &add_weights(tensors, &stack(&Rnn::new(Cell::Lstm), 1, projection), ""));
    let ran = folder.run("encode in.safetensors --cell lstm --explain --device gpu").ok();
    assert!(ran.stderr.contains("T 6 · B 3 · I 4 · H 5 · P 5 · 1 layer · 1 direction, f32"), "{}", ran.stderr);
}

#[test]
fn each_path_gives_the_same_answer_in_its_own_number_of_dispatches() {
    let folder = Folder::new();
    for (case, paths) in [
        (1, vec![("steps", 2 * STEPS), ("persistent", 2)]),
        (2, vec![("steps", 2 * STEPS), ("wavefront", STEPS + 1), ("persistent", 2)]),
    ] {
        let case = &cases()[case];
        let tensors = add_inputs(Tensors::default(), &case.inputs);
        folder.tensors("in.safetensors", &add_weights(tensors, &case.stack, ""));
        for (path, wanted) in paths {
            let line = format!("encode in.safetensors -o out.safetensors --explain --json --device gpu --path {path}");
            let json = folder.run(&format!("{line} {}", case.args)).ok().json();
            check(case, &folder, false);
            let fact = json["explain"]["facts"]["path"].as_str().unwrap();
            assert!(fact.starts_with(&format!("{path}, as asked, in {wanted} dispatches")), "{fact}");
            let dispatches = json["explain"]["dispatches"].as_array().unwrap().iter();
            let recurrent: u64 = dispatches
                .filter(|d| d["program"].as_str().unwrap().starts_with("recurrent"))
                .map(|d| d["count"].as_u64().unwrap())
                .sum();
            assert_eq!(recurrent, wanted as u64, "{path}");
        }
    }
    let ran = folder.run("encode in.safetensors --check --device gpu --cell lstm --path wavefront --layer-norm gates");
    assert_eq!(ran.status, 2);
    let wanted = "option `path`: wavefront cannot run this: a step of this cell takes 2 dispatches";
    assert!(ran.refusal().0.starts_with(wanted), "{}", ran.stderr);
}

#[test]
fn names_that_do_not_make_a_stack_are_refused() {
    let folder = Folder::new();
    let both = Rnn { direction: Direction::Bidirectional, ..Rnn::new(Cell::Lstm) };
    let input = numbers(&[STEPS, BATCH, WIDTH], 7);
    let whole = add_weights(Tensors::default().f32("input", &input), &stack(&both, 3, Extras::default()), "");
    let without = |part: &str| Tensors(whole.0.iter().filter(|(name, ..)| !name.contains(part)).cloned().collect());
    for (tensors, args, wanted) in [
        (without("_l1"), "", "`weight_ih_l1`: expected [gates · H, I], as the names go up to a layer 1 or higher"),
        (without("weight_hh_l0"), "", "`weight_hh_l0`: expected [gates · H, H]"),
        (without("weight_ih_l2_reverse"), "", "`weight_ih_l2_reverse`: expected [gates · H, I], as other names end"),
        (without("weight"), "", "`weight_ih_l0`"),
        (without("input"), "", "`input`: expected [T, B, I]"),
        (whole.clone(), "--reverse", "option `reverse`"),
        (
            whole.clone(),
            "--activations tanh",
            "option `activations`: expected 3 (f,g,h) or 5 (i,f,g,o,h) for LSTM, or twice that for both directions, \
             found 1",
        ),
        (whole.clone(), "--activations tanh,tanh,tanh,tanh,tanh,tanh,tanh,tanh", "both directions, found 8"),
        (whole.clone(), "--activations tanh,tanh,no", "option `activations`: `no` is not one of"),
        (whole.clone(), "--activations tanh:1,tanh,tanh", "expected at most 0 parameters, found 1"),
        (whole.clone(), "--activation relu", "option `activation`: is for `--cell rnn`"),
        (whole.clone(), "--reset before", "option `reset`"),
        (whole.clone(), "--clip 0", "option `clip`"),
        (whole.clone(), "--input-forget --forget-bias 1", "option `forget_bias`: has no effect with `input_forget`"),
        (whole.clone(), "--cell-clip -1", "option `cell_clip`: must be above 0 and finite, not -1"),
        (whole.clone(), "--projection-clip 0.5", "option `projection_clip`: needs a projection, `weight_hr`"),
        (whole.clone(), "--layer-norm-carry", "option `layer-norm-carry`: belongs to a layer normalisation"),
        (whole.clone(), "--layer-norm-epsilon 1", "option `layer-norm-epsilon`: belongs to a layer normalisation"),
        (
            whole.clone(),
            "--layer-norm gates --layer-norm-epsilon 0",
            "option `layer_norm`: epsilon must be above 0 and finite, not 0",
        ),
        (whole.clone(), "--path persistent", "option `path`: chooses among GPU kernels, which the CPU does not run"),
        (whole.clone(), "--path wavefront", "option `path`: a wavefront runs one direction"),
        (whole.clone().f32("norm_hh_l0", &numbers(&[2, 20], 1)), "", "option `norm_hh_l0`: is for layer normalisation"),
        (
            whole.clone().f32("norm_ih_l0", &numbers(&[2, 20], 1)),
            "--layer-norm gates",
            "option `norm_ih_l0`: is for layer normalisation over products",
        ),
        (
            whole.clone().f32("norm_c_l2_reverse", &numbers(&[2, 4], 1)),
            "--layer-norm gates",
            "`norm_c_l2_reverse` shape: expected [2, 5], found [2, 4]",
        ),
        (
            whole.clone().f32("weight_hr_l1", &numbers(&[5, 5], 1)),
            "",
            "option `weight_hr_l1`: the first layer has none",
        ),
        (
            whole.clone().f32("weight_hr_l0", &numbers(&[5, 5], 1)),
            "",
            "`weight_hr_l0_reverse`: expected [P, H], as the first layer has one, found none",
        ),
        (whole.clone().i64("lengths", &[1, 2, 7]), "", "`lengths` element 2: expected a whole number from 0 to 6"),
        (whole.clone().i64("lengths", &[1, -2, 3]), "", "`lengths` element 1: expected a whole number from 0 to 6"),
        (whole.clone().i64("lengths", &[1, 2]), "", "`lengths` axis 0 (batch): expected 3, found 2"),
        (whole.clone().f32("lengths", &numbers(&[3], 1)), "", "`lengths` dtype: expected I32 or I64, found F32"),
        (
            whole.clone().f32("initial_h", &numbers(&[6, 2, 5], 1)),
            "",
            "`initial_h` axis 1 (batch): expected 3, found 2",
        ),
        (whole.clone().f32("peephole_l9999", &input), "", "`peephole_l9999` layer: expected a layer below 1024"),
    ] {
        folder.tensors("in.safetensors", &tensors);
        let ran = folder.run(&format!("encode in.safetensors -o out.safetensors --cell lstm --device cpu {args}"));
        assert_eq!(ran.status, 2, "{wanted}: {}", ran.stderr);
        assert!(ran.refusal().0.starts_with(wanted) || ran.refusal().0.contains(wanted), "{wanted}: {}", ran.stderr);
        assert_eq!(folder.names(), ["in.safetensors"]);
    }
    folder.tensors("in.safetensors", &whole);
    let ran = folder.run("encode in.safetensors -o out.safetensors --cell gru --device cpu");
    assert_eq!(ran.status, 2);
    assert_eq!(ran.refusal().0, "`weight_ih_l0` axis 0 (gates · hidden): expected 15, found 20");
    let gru = Rnn::new(Cell::Gru { reset: Reset::After });
    let tensors = add_weights(Tensors::default().f32("input", &input), &stack(&gru, 1, Extras::default()), "");
    folder.tensors("in.safetensors", &tensors);
    for (args, wanted) in [
        ("--activations tanh", "option `activations`: expected 2 (f,g) or 3 (r,z,n) for GRU, found 1"),
        ("--activations tanh,tanh,tanh,tanh", "option `activations`: expected 2 (f,g) or 3 (r,z,n) for GRU, found 4"),
        ("--cell-clip 1", "option `cell_clip`: only an LSTM has a cell state"),
        ("--projection-clip 1", "option `projection_clip`: only an LSTM has a projection"),
        ("--layer-norm products", "option `layer_norm`: only an LSTM has layer normalisation"),
        ("--merge sum", "option `merge`: needs two directions"),
    ] {
        let ran = folder.run(&format!("encode in.safetensors -o out.safetensors --cell gru --device cpu {args}"));
        assert_eq!((ran.status, ran.refusal().0), (2, wanted));
    }
    let ran = folder.run("encode in.safetensors -o out.safetensors --cell gru --path fused");
    assert!(ran.status == 2 && ran.refusal().0.starts_with("invalid value 'fused' for '--path <PATH>'"));
    assert_eq!(folder.names(), ["in.safetensors"]);
}
