//! `regard encode` against the reference.

use regard::reference;
use regard::rnn::{Activation, Activations, Cell, Direction, Merge, Reset, Rnn, RnnInputs, RnnStack, RnnWeights};
use regard::tensor::Array;

use super::{DEVICES, Folder, Tensors, judge, numbers};

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

/// Weights of a stack, each number different.
fn stack(options: &Rnn, layers: usize, peephole: bool) -> RnnStack<Array> {
    let rows = options.cell.gates() * HIDDEN;
    let directions = options.direction.count();
    (0..layers)
        .map(|l| {
            let width = if l == 0 { WIDTH } else { options.output_width(HIDDEN) };
            (0..directions)
                .map(|d| {
                    let seed = (100 * l + 10 * d) as u32;
                    RnnWeights {
                        bias_ih: Some(numbers(&[rows], seed + 3)),
                        bias_hh: Some(numbers(&[rows], seed + 4)),
                        peephole: peephole.then(|| numbers(&[3, HIDDEN], seed + 5)),
                        ..RnnWeights::new(numbers(&[rows, width], seed + 1), numbers(&[rows, HIDDEN], seed + 2))
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
    inputs
        .try_map(|name, array| {
            let so_far = std::mem::take(&mut tensors);
            tensors = match name {
                "lengths" => so_far.i64(name, &array.data().iter().map(|&x| x as i64).collect::<Vec<_>>()),
                _ => so_far.f32(name, array),
            };
            Ok::<_, regard::Error>(())
        })
        .unwrap();
    tensors
}

fn cases() -> Vec<Case> {
    let case = |args, options: Rnn, layers, peephole, states: bool| {
        let mut inputs = RnnInputs::new(numbers(&[STEPS, BATCH, WIDTH], 7));
        let shape = [layers * options.direction.count(), BATCH, HIDDEN];
        if states {
            inputs.initial_h = Some(numbers(&shape, 8));
            inputs.initial_c = (options.cell == Cell::Lstm).then(|| numbers(&shape, 9));
            inputs.lengths = Some(Array::new(&[BATCH], vec![6.0, 2.0, 0.0]).unwrap());
        }
        Case { args, stack: stack(&options, layers, peephole), options, inputs }
    };
    let gru = |reset| Rnn::new(Cell::Gru { reset });
    let both = Direction::Bidirectional;
    let relu = Activations::all(Activation::Relu);
    let [affine, clipped, leaky] = [
        Activation::Affine { alpha: 0.5, beta: 0.1 },
        Activation::HardSigmoid { alpha: 0.3, beta: 0.5 },
        Activation::LeakyRelu { alpha: 0.1 },
    ];
    vec![
        case("--cell lstm", Rnn::new(Cell::Lstm), 1, false, false),
        case("--cell lstm", Rnn { direction: both, ..Rnn::new(Cell::Lstm) }, 2, true, true),
        case(
            "--cell lstm --forget-bias 1 --clip 0.8 --activations HardSigmoid:0.3,LeakyRelu:0.1,Affine:0.5:0.1",
            Rnn {
                forget_bias: 1.0,
                clip: Some(0.8),
                activations: Activations::onnx(Cell::Lstm, [clipped, leaky, affine]),
                ..Rnn::new(Cell::Lstm)
            },
            2,
            false,
            true,
        ),
        case("--cell lstm --input-forget", Rnn { input_forget: true, ..Rnn::new(Cell::Lstm) }, 1, false, false),
        case("--cell gru", Rnn { direction: both, ..gru(Reset::After) }, 2, false, true),
        case(
            "--cell gru --reset before --merge sum",
            Rnn { direction: both, merge: Merge::Sum, ..gru(Reset::Before) },
            2,
            false,
            false,
        ),
        case("--cell gru --reverse", Rnn { direction: Direction::Reverse, ..gru(Reset::After) }, 1, false, true),
        case("--cell rnn --activation relu", Rnn { activations: relu, ..Rnn::new(Cell::Rnn) }, 1, false, false),
        case(
            "--cell rnn --merge average",
            Rnn { direction: both, merge: Merge::Average, ..Rnn::new(Cell::Rnn) },
            1,
            false,
            true,
        ),
    ]
}

/// The file of results against the reference; with `batch_first` the output's first two axes are the other way round.
fn check(case: &Case, folder: &Folder, batch_first: bool) {
    let wide = case.stack.iter().map(|l| l.iter().map(|w| w.map(widen)).collect()).collect();
    let mut oracle = reference::rnn(&case.options, &wide, &case.inputs.map(widen)).unwrap();
    let mut baseline = reference::rnn(&case.options, &case.stack, &case.inputs).unwrap();
    if batch_first {
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
    for case in cases() {
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
        let steps = json["explain"]["dispatches"].as_array().unwrap().iter();
        let steps: u64 = steps
            .filter(|d| d["program"].as_str().unwrap().starts_with("recurrent"))
            .map(|d| d["count"].as_u64().unwrap())
            .sum();
        assert_eq!(steps, if device == "gpu" { 2 * STEPS as u64 } else { 0 });
    }
    let ran = folder.run("encode in.safetensors --cell lstm --explain --device gpu").ok();
    assert!(ran.stderr.contains("T 6 · B 3 · I 4 · H 5"), "{}", ran.stderr);
}

#[test]
fn names_that_do_not_make_a_stack_are_refused() {
    let folder = Folder::new();
    let both = Rnn { direction: Direction::Bidirectional, ..Rnn::new(Cell::Lstm) };
    let input = numbers(&[STEPS, BATCH, WIDTH], 7);
    let whole = add_weights(Tensors::default().f32("input", &input), &stack(&both, 3, false), "");
    let without = |part: &str| Tensors(whole.0.iter().filter(|(name, ..)| !name.contains(part)).cloned().collect());
    for (tensors, args, wanted) in [
        (without("_l1"), "", "`weight_ih_l1`: expected [gates · H, I], as the names go up to a layer 1 or higher"),
        (without("weight_hh_l0"), "", "`weight_hh_l0`: expected [gates · H, H]"),
        (without("weight_ih_l2_reverse"), "", "`weight_ih_l2_reverse`: expected [gates · H, I], as other names end"),
        (without("weight"), "", "`weight_ih_l0`"),
        (without("input"), "", "`input`: expected [T, B, I]"),
        (whole.clone(), "--reverse", "option `reverse`"),
        (whole.clone(), "--activations tanh", "option `activations`: expected 3 for LSTM, found 1"),
        (whole.clone(), "--activations tanh,tanh,no", "option `activations`: `no` is not one of"),
        (whole.clone(), "--activations tanh:1,tanh,tanh", "expected at most 0 parameters, found 1"),
        (whole.clone(), "--activation relu", "option `activation`: is for `--cell rnn`"),
        (whole.clone(), "--reset before", "option `reset`"),
        (whole.clone(), "--clip 0", "option `clip`"),
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
}
