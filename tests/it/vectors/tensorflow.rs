//! TensorFlow 1's cells under `dynamic_rnn`, and LSTMs with layer normalisation: TensorFlow 1's `contrib`, TensorFlow
//! Addons', Sketch-RNN's.

use regard::rnn::{Cell, LayerNorm, NormOver, Reset, Rnn, RnnInputs, RnnStack, RnnWeights};
use regard::tensor::Array;

use super::{Entry, RnnCase, Tensors, entries};

type Weights = RnnWeights<Array<f32>>;

const OPS: [&str; 6] =
    ["BasicLSTMCell", "LSTMCell", "GRUCell", "LayerNormBasicLSTMCell", "SketchLayerNormLSTMCell", "LayerNormLSTMCell"];

pub(super) fn rnn() -> Vec<RnnCase> {
    entries("tensorflow", &OPS).iter().map(case).collect()
}

fn case(entry: &Entry) -> RnnCase {
    let mut t = entry.tensors();
    let addons = entry.op == "LayerNormLSTMCell";
    let mut options = Rnn::new(match entry.op.as_str() {
        "GRUCell" => Cell::Gru { reset: Reset::Before },
        _ => Cell::Lstm,
    });
    if entry.flag("bidirectional") {
        options = options.bidirectional();
    }
    if options.cell == Cell::Lstm && !addons {
        options.forget_bias = entry.number("forget_bias").unwrap_or(1.0);
    }
    options.cell_clip = entry.number("cell_clip");
    options.projection_clip = entry.number("proj_clip");
    options.layer_norm = match entry.op.as_str() {
        "LayerNormBasicLSTMCell" => Some(LayerNorm { over: NormOver::Gates, carry: true, epsilon: 1e-12 }),
        "SketchLayerNormLSTMCell" => Some(LayerNorm { over: NormOver::Gates, carry: false, epsilon: 1e-3 }),
        "LayerNormLSTMCell" => {
            let epsilon = entry.number("norm_epsilon").unwrap();
            Some(LayerNorm { over: NormOver::Products, carry: true, epsilon })
        }
        _ => None,
    };
    let stack = if addons { keras_scopes(entry, &mut t) } else { checkpoint_scopes(entry, &mut t) };
    let time_major = |x: Array<f32>| if entry.flag("time_major") { x } else { x.permute(&[1, 0, 2]).unwrap() };
    let mut inputs = RnnInputs::new(time_major(t.take("in.x")));
    inputs.initial_h = t.get("in.h0");
    inputs.initial_c = t.get("in.c0");
    inputs.lengths = t.integers("in.lengths");
    let mut expect = vec![entry.expect("output", "out.y", time_major(t.take("out.y")))];
    for (tensor, stored) in [("final_h", "out.h"), ("final_c", "out.c")] {
        expect.extend(t.get(stored).map(|want| entry.expect(tensor, stored, want)));
    }
    t.finish();
    RnnCase { name: entry.name.clone(), options, stack, inputs, expect }
}

/// Weights by the names of a TensorFlow 1 checkpoint, in the scopes that the case lists.
fn checkpoint_scopes(entry: &Entry, t: &mut Tensors) -> RnnStack<Array<f32>> {
    let layers = entry.attribute("scopes").as_array().unwrap().iter();
    let mut direction = |scope: &serde_json::Value| {
        let scope = format!("w.{}", scope.as_str().unwrap());
        match entry.op.as_str() {
            "BasicLSTMCell" => {
                let [kernel, bias] = ["kernel", "bias"].map(|name| t.take(&format!("{scope}/{name}")));
                RnnWeights::from_tensorflow(&kernel, Some(&bias)).unwrap()
            }
            "LSTMCell" => {
                let [kernel, bias] = ["kernel", "bias"].map(|name| t.take(&format!("{scope}/{name}")));
                let diagonals = ["i", "f", "o"].map(|gate| t.get(&format!("{scope}/w_{gate}_diag")));
                let peepholes = diagonals[0].is_some().then(|| diagonals.each_ref().map(|row| row.as_ref().unwrap()));
                let projection = t.get(&format!("{scope}/projection/kernel"));
                RnnWeights::from_tensorflow_lstm(&kernel, Some(&bias), peepholes, projection.as_ref()).unwrap()
            }
            "GRUCell" => {
                let names = ["gates/kernel", "gates/bias", "candidate/kernel", "candidate/bias"];
                let [gates_kernel, gates_bias, kernel, bias] = names.map(|name| t.take(&format!("{scope}/{name}")));
                RnnWeights::from_tensorflow_gru(&gates_kernel, &gates_bias, &kernel, &bias).unwrap()
            }
            "LayerNormBasicLSTMCell" => {
                let kernel = t.take(&format!("{scope}/kernel"));
                let mut norm = |gate: &str| {
                    let [gain, shift] = ["gamma", "beta"].map(|name| t.take(&format!("{scope}/{gate}/{name}")));
                    rows(&[&gain, &shift])
                };
                // gates i, f, g, o: gains, then shifts
                let gates = ["input", "forget", "transform", "output"].map(&mut norm);
                let row = |k: usize| gates.each_ref().map(|norm| norm.data().chunks(norm.shape()[1]).nth(k).unwrap());
                let data = [row(0).concat(), row(1).concat()].concat();
                let norm_hh = Array::new(&[2, data.len() / 2], data).ok();
                let norm_c = Some(norm("state"));
                Weights { norm_hh, norm_c, ..RnnWeights::from_tensorflow(&kernel, None).unwrap() }
            }
            _ => {
                // kernels of their own; gates i, j, f, o in the norms too
                let [input, hidden] = ["W_xh", "W_hh"].map(|name| t.take(&format!("{scope}/{name}")));
                let kernel = [input.data(), hidden.data()].concat();
                let kernel = Array::new(&[input.shape()[0] + hidden.shape()[0], input.shape()[1]], kernel).unwrap();
                let mut norm = |of: &str| {
                    let [gain, shift] = ["ln_gamma", "ln_beta"].map(|name| t.take(&format!("{scope}/{of}/{name}")));
                    rows(&[&gain, &shift])
                };
                let (all, norm_c) = (norm("ln_all"), Some(norm("ln_c")));
                let units = all.shape()[1] / 4;
                let norm_hh = Some(Array::from_fn(all.shape(), |k| {
                    let (row, gate, unit) = (k / (4 * units), k / units % 4, k % units);
                    all.data()[(row * 4 + [0, 2, 1, 3][gate]) * units + unit]
                }));
                Weights { norm_hh, norm_c, ..RnnWeights::from_tensorflow(&kernel, None).unwrap() }
            }
        }
    };
    layers.map(|layer| layer.as_array().unwrap().iter().map(&mut direction).collect()).collect()
}

/// TensorFlow Addons' cell is a Keras `LSTMCell` with three norms, whose gates lie as Keras' and, so, as this crate's.
fn keras_scopes(entry: &Entry, t: &mut Tensors) -> RnnStack<Array<f32>> {
    let prefixes: &[&str] = if entry.flag("bidirectional") { &["forward.", "backward."] } else { &[""] };
    let direction = |prefix: &&str| {
        let [kernel, recurrent] = ["kernel", "recurrent_kernel"].map(|name| t.take(&format!("w.{prefix}{name}")));
        let bias = t.get(&format!("w.{prefix}bias"));
        let [norm_ih, norm_hh, norm_c] = ["kernel_norm", "recurrent_norm", "state_norm"].map(|of| {
            let [gain, shift] = ["gamma", "beta"].map(|name| t.take(&format!("w.{prefix}{of}.{name}")));
            Some(rows(&[&gain, &shift]))
        });
        let weights = RnnWeights::from_keras(Cell::Lstm, &kernel, &recurrent, bias.as_ref()).unwrap();
        Weights { norm_ih, norm_hh, norm_c, ..weights }
    };
    vec![prefixes.iter().map(direction).collect()]
}

/// Vectors as the rows of a matrix.
fn rows(vectors: &[&Array<f32>]) -> Array<f32> {
    let data: Vec<f32> = vectors.iter().flat_map(|vector| vector.data().to_vec()).collect();
    Array::new(&[vectors.len(), data.len() / vectors.len()], data).unwrap()
}
