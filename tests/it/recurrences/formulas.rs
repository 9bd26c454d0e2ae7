//! Each cell's step against its formula, written out.

use regard::reference::activate;
use regard::rnn::{Activation, Activations, Cell, LayerNorm, NormOver, Reset, Rnn, RnnInputs, RnnWeights};
use regard::tensor::Array;

use super::{Tensor, run, same};

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// One unit, one step: weights and input of one number each, so that every formula is a line.
fn one_unit(options: &Rnn, w: &[f64], u: &[f64], peephole: Option<[f64; 3]>, [x, h, c]: [f64; 3]) -> [f64; 2] {
    let column = |x: &[f64]| Array::new(&[x.len(), 1], x.to_vec()).unwrap();
    let bias = |offset: f64| Some(Array::from_fn(&[w.len()], |k| offset + 0.1 * k as f64));
    let cell = RnnWeights {
        bias_ih: bias(0.2),
        bias_hh: bias(-0.3),
        peephole: peephole.map(|p| column(&p)),
        ..RnnWeights::new(column(w), column(u))
    };
    let one = |x: f64| Array::new(&[1, 1, 1], vec![x]).unwrap();
    let mut inputs = RnnInputs::new(one(x));
    inputs.initial_h = Some(one(h));
    inputs.initial_c = (options.cell == Cell::Lstm).then(|| one(c));
    let got = run(options, &vec![vec![cell]], &inputs);
    assert_eq!(got.output.data(), got.final_h.data());
    [got.final_h.data()[0], got.final_c.map_or(0.0, |c| c.data()[0])]
}

#[test]
fn an_lstm_with_everything_follows_its_formulas() {
    let (w, u, p) = ([0.5, -0.7, 1.1, 0.9], [0.3, 0.8, -0.6, 0.4], [0.6, -0.9, 0.7]);
    let (x, h, c) = (1.3, -0.4, 0.8);
    let bias = |k: usize| 0.2 + 0.1 * k as f64 - 0.3 + 0.1 * k as f64;
    let pre = |k: usize| w[k] * x + u[k] * h + bias(k);
    for clip in [None, Some(0.25f32)] {
        let limit = |x: f64| clip.map_or(x, |clip| x.clamp(-f64::from(clip), f64::from(clip)));
        for input_forget in [false, true] {
            for hard in [false, true] {
                let forget_bias = if input_forget { 0.0 } else { 0.75 };
                let mut options = Rnn { clip, input_forget, forget_bias, ..Rnn::new(Cell::Lstm) };
                if hard {
                    options.activations = Activations::onnx(
                        Cell::Lstm,
                        [
                            Activation::HardSigmoid { alpha: 0.25, beta: 0.5 },
                            Activation::Softsign,
                            Activation::Affine { alpha: 2.0, beta: 0.5 },
                        ],
                    );
                }
                let f = |x: f64| if hard { (0.25 * x + 0.5).clamp(0.0, 1.0) } else { sigmoid(x) };
                let g = |x: f64| if hard { x / (1.0 + x.abs()) } else { x.tanh() };
                let out = |x: f64| if hard { 2.0 * x + 0.5 } else { x.tanh() };
                let i = f(limit(pre(0) + p[0] * c));
                let forget = if input_forget { 1.0 - i } else { f(limit(pre(1) + p[1] * c + 0.75)) };
                let cell = forget * c + i * g(limit(pre(2)));
                let o = f(limit(pre(3) + p[2] * cell));
                let got = one_unit(&options, &w, &u, Some(p), [x, h, c]);
                assert!((got[0] - o * out(cell)).abs() < 1e-12 && (got[1] - cell).abs() < 1e-12, "{options:?}");
            }
        }
    }
}

/// Every value of one step of two units over three inputs, written out: layer normalisation, peepholes, both clips, and a
/// projection to three.
#[test]
fn an_lstm_with_layer_normalisation_and_projection_follows_its_formulas() {
    let numbers = |shape: &[usize], seed: f64| super::numbers(shape, seed, 0.9);
    let (w, u) = (numbers(&[8, 3], 1.0), numbers(&[8, 3], 2.0));
    let (b, r, p) = (numbers(&[2, 8], 3.0), numbers(&[3, 2], 4.0), numbers(&[3, 2], 5.0));
    let (x, h, c) = ([1.3, -0.4, 0.8], [0.5, -1.1, 0.7], [0.9, -0.6]);
    let [norm_ih, norm_hh] = [6.0, 7.0].map(|seed| numbers(&[2, 8], seed));
    let norm_c = numbers(&[2, 2], 8.0);
    let epsilon = f64::from(1e-3f32);

    let times = |m: &Tensor, v: &[f64]| -> Vec<f64> {
        m.data().chunks(v.len()).map(|row| row.iter().zip(v).map(|(a, b)| a * b).sum()).collect()
    };
    let normal = |v: &[f64]| -> Vec<f64> {
        let n = v.len() as f64;
        let mean = v.iter().sum::<f64>() / n;
        let variance = v.iter().map(|x| x * x).sum::<f64>() / n - mean * mean;
        v.iter().map(|x| (x - mean) / (variance + epsilon).sqrt()).collect()
    };
    let affine = |v: &[f64], norm: &Tensor| -> Vec<f64> {
        let (gain, shift) = norm.data().split_at(v.len());
        (0..v.len()).map(|k| v[k] * gain[k] + shift[k]).collect()
    };
    let mut bites = [false; 4];
    for over in [NormOver::Products, NormOver::Gates] {
        for carry in [false, true] {
            for (cell_clip, projection_clip) in [(None, None), (Some(0.5f32), None), (Some(0.5), Some(0.25f32))] {
                let (wx, uh) = (times(&w, &x), times(&u, &h));
                let pre: Vec<f64> = match over {
                    NormOver::Products => {
                        let (a, b) = (affine(&normal(&wx), &norm_ih), affine(&normal(&uh), &norm_hh));
                        a.iter().zip(b).map(|(a, b)| a + b).collect()
                    }
                    NormOver::Gates => {
                        let sum: Vec<f64> = wx.iter().zip(&uh).map(|(a, b)| a + b).collect();
                        affine(&sum.chunks(2).map(normal).collect::<Vec<_>>().concat(), &norm_hh)
                    }
                };
                let pre =
                    |gate: usize, k: usize| pre[2 * gate + k] + b.data()[2 * gate + k] + b.data()[8 + 2 * gate + k];
                let peep = |row: usize, k: usize| p.data()[2 * row + k];
                let limit =
                    |x: f64, clip: Option<f32>| clip.map_or(x, |clip| x.clamp(-f64::from(clip), f64::from(clip)));
                let raw = [0, 1].map(|k| {
                    let i = sigmoid(pre(0, k) + peep(0, k) * c[k]);
                    let f = sigmoid(pre(1, k) + peep(1, k) * c[k] + 0.75);
                    f * c[k] + i * pre(2, k).tanh()
                });
                let clipped = raw.map(|c| limit(c, cell_clip));
                let seen = affine(&normal(&clipped), &norm_c);
                let carried = if carry { [seen[0], seen[1]] } else { clipped };
                let out = [0, 1].map(|k| sigmoid(pre(3, k) + peep(2, k) * carried[k]) * seen[k].tanh());
                let projected = times(&r, &out);
                let want: Vec<f64> = projected.iter().map(|&h| limit(h, projection_clip)).collect();
                for (k, &clip) in clipped.iter().enumerate() {
                    bites[usize::from(clip == raw[k])] |= cell_clip.is_some();
                }
                for (&clip, &h) in want.iter().zip(&projected) {
                    bites[2 + usize::from(clip == h)] |= projection_clip.is_some();
                }

                let layer_norm = Some(LayerNorm { over, carry, epsilon: 1e-3 });
                let options = Rnn { layer_norm, cell_clip, projection_clip, forget_bias: 0.75, ..Rnn::new(Cell::Lstm) };
                let bias = |row: usize| Some(Array::new(&[8], b.data()[8 * row..][..8].to_vec()).unwrap());
                let weights = RnnWeights {
                    bias_ih: bias(0),
                    bias_hh: bias(1),
                    peephole: Some(p.clone()),
                    weight_hr: Some(r.clone()),
                    norm_ih: (over == NormOver::Products).then(|| norm_ih.clone()),
                    norm_hh: Some(norm_hh.clone()),
                    norm_c: Some(norm_c.clone()),
                    ..RnnWeights::new(w.clone(), u.clone())
                };
                let row = |v: &[f64]| Array::new(&[1, 1, v.len()], v.to_vec()).unwrap();
                let mut inputs = RnnInputs::new(row(&x));
                (inputs.initial_h, inputs.initial_c) = (Some(row(&h)), Some(row(&c)));
                let got = run(&options, &vec![vec![weights]], &inputs);
                same("output", &got.output, &row(&want));
                same("final_h", &got.final_h, &row(&want));
                same("final_c", got.final_c.as_ref().unwrap(), &row(&carried));
            }
        }
    }
    assert_eq!(bites, [true; 4], "each clip holds some values and leaves others");
}

#[test]
fn grus_and_elman_cells_follow_their_formulas() {
    let (w, u, x, h) = ([0.5, -0.7, 1.1], [0.3, 0.8, -0.6], 1.3, -0.4);
    let (wb, ub) = (|k: usize| 0.2 + 0.1 * k as f64, |k: usize| -0.3 + 0.1 * k as f64);
    for clip in [None, Some(0.25f32)] {
        let limit = |x: f64| clip.map_or(x, |clip| x.clamp(-f64::from(clip), f64::from(clip)));
        let gate = |k: usize| sigmoid(limit(w[k] * x + wb(k) + u[k] * h + ub(k)));
        let (r, z) = (gate(0), gate(1));
        for reset in [Reset::After, Reset::Before] {
            let recurrent = match reset {
                Reset::After => r * (u[2] * h + ub(2)),
                Reset::Before => u[2] * (r * h) + ub(2),
            };
            let n = limit(w[2] * x + wb(2) + recurrent).tanh();
            let options = Rnn { clip, ..Rnn::new(Cell::Gru { reset }) };
            let got = one_unit(&options, &w, &u, None, [x, h, 0.0]);
            assert!((got[0] - ((1.0 - z) * n + z * h)).abs() < 1e-12, "{options:?}");
        }
        let options = Rnn { clip, ..Rnn::new(Cell::Rnn) };
        let got = one_unit(&options, &w[..1], &u[..1], None, [x, h, 0.0]);
        assert!((got[0] - limit(w[0] * x + wb(0) + u[0] * h + ub(0)).tanh()).abs() < 1e-12);
    }
}

#[test]
fn activations_follow_their_formulas() {
    type Formula = fn(f64) -> f64;
    let all: [(Activation, Formula); 11] = [
        (Activation::Sigmoid, sigmoid),
        (Activation::Tanh, f64::tanh),
        (Activation::Relu, |x| x.max(0.0)),
        (Activation::Affine { alpha: 0.5, beta: 2.0 }, |x| 0.5 * x + 2.0),
        (Activation::LeakyRelu { alpha: 0.25 }, |x| if x >= 0.0 { x } else { 0.25 * x }),
        (Activation::ThresholdedRelu { alpha: 0.5 }, |x| if x >= 0.5 { x } else { 0.0 }),
        (Activation::ScaledTanh { alpha: 2.0, beta: 0.5 }, |x| 2.0 * (0.5 * x).tanh()),
        (Activation::HardSigmoid { alpha: 0.25, beta: 0.5 }, |x| (0.25 * x + 0.5).clamp(0.0, 1.0)),
        (Activation::Elu { alpha: 0.5 }, |x| if x >= 0.0 { x } else { 0.5 * (x.exp() - 1.0) }),
        (Activation::Softsign, |x| x / (1.0 + x.abs())),
        (Activation::Softplus, |x| x.exp().ln_1p()),
    ];
    for (activation, formula) in all {
        for x in [-30.0, -1.5, -0.5, 0.0, 0.25, 0.5, 1.0, 3.0, 30.0] {
            let (got, want) = (activate(activation, x), formula(x));
            assert!((got - want).abs() <= 1e-12 * want.abs().max(1e-3), "{activation:?} of {x}: {got} for {want}");
        }
        assert!(activate(activation, f64::NAN).is_nan(), "{activation:?}");
        for x in [-1e4f32, 1e4] {
            assert!(activate(activation, x).is_finite(), "{activation:?} of {x}");
        }
    }
}
